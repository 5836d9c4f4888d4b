"""Numbers that are not finite, silence, half precision, nothing masked."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import soundfile
import torch

from chaos import runs
from chaos.registry import fault

STEPS = 200


def train_with(brain_class, arguments):
    """Train in this process; returns the brain."""
    from muselq_modules.experiment import load_experiment, start_experiment

    # Its helpers beside it; there are other modules called train.
    sys.path.insert(0, str(runs.SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("recipe", runs.SCRIPT)
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    experiment = load_experiment([str(a) for a in arguments])
    start_experiment(experiment)
    brain, loaders = recipe.make_brain(
        experiment, brain_class or recipe.PretrainBrain
    )
    brain.fit(brain.rounds(), *loaders)
    return brain


# The second, fourth and so on do not make a step a bad one.
KINDS = ("loss", "silence", "gradient", "masks", "waveforms")


def planted(*arguments):
    """Train with something of every kind in every ten steps, see `steps_of`."""
    from muselq_modules.pretraining import PretrainBrain

    class Brain(PretrainBrain):
        def _poison(self, kind):
            step = self.optimizer_step + 1
            due = step % 10 == KINDS.index(kind) and self.modules.training
            return (math.nan, math.inf)[step // 10 % 2] if due else 0.0

        def compute_forward(self, batch, stage):
            draw = self.masker.masking.draw
            if self._poison("waveforms"):
                batch.wav[0, 1000:1100] = self._poison("waveforms")
            if self._poison("silence"):
                batch.wav.zero_()
            if self._poison("masks"):
                self.masker.masking.draw = lambda *a: draw(*a) & False
            try:
                return super().compute_forward(batch, stage)
            finally:
                self.masker.masking.draw = draw

        def compute_objectives(self, predictions, batch, stage):
            loss = super().compute_objectives(predictions, batch, stage)
            poison = self._poison("loss")
            if poison:
                self.sums.values[0] += poison
                loss = loss * poison
            return loss

        def optimizers_step(self):
            poison = self._poison("gradient")
            if poison:
                next(self.model.parameters()).grad[0] = poison
            super().optimizers_step()

    brain = train_with(Brain, list(arguments))
    assert all(torch.isfinite(p).all() for p in brain.model.parameters())
    state = brain.optimizer.state_dict()["state"].values()
    assert all(torch.isfinite(v["exp_avg"]).all() for v in state)


def steps_of(kind):
    """Steps in which something of this kind is planted."""
    return [s for s in range(1, STEPS + 1) if s % 10 == KINDS.index(kind)]


def options(place, folder, **more):
    """A command line of 200 steps."""
    values = {
        "n_steps": STEPS,
        "warmup_steps": 20,
        "valid_interval": 100,
        "ckpt_interval_steps": 50,
        **more,
    }
    _, arguments = runs.pretraining(place, folder, **values)
    return arguments


def log_of(folder):
    """Records of the steps."""
    lines = (Path(folder) / "train_log.jsonl").read_text().splitlines()
    records = map(json.loads, lines)
    return [r for r in records if r["kind"] == "train"]


def records_of(place, kind):
    """Records of the 200 steps, made once, with a kind planted."""

    def make(folder):
        arguments = options(place, folder)
        runs.finish(place, "chaos.arithmetic:planted", arguments)
        return log_of(folder)

    records = place.once("planted", make)
    assert len(records) == STEPS
    bad = {step for name in KINDS[::2] for step in steps_of(name)}
    assert {r["step"] for r in records if r["skipped"]} == bad
    return [records[step - 1] for step in steps_of(kind)]


@fault("NaN and infinity in the loss, in 200 steps", times=1, quick=0)
def nan_loss(place, folder, number, total, kind="loss"):
    """Each is skipped; weights and moments stay finite."""
    assert all(r["skipped"] for r in records_of(place, kind))


@fault("NaN and infinity in a gradient, in 200 steps", times=1, quick=0)
def nan_gradient(place, folder, number, total):
    """As in the loss."""
    nan_loss(place, folder, number, total, "gradient")


@fault("NaN and infinity in waveforms, in 200 steps", times=1, quick=0)
def nan_waveforms(place, folder, number, total):
    """Past all that looks at audio: as in the loss."""
    nan_loss(place, folder, number, total, "waveforms")


@fault("batches of nothing but silence, in 200 steps", times=1, quick=0)
def silence(place, folder, number, total):
    """Losses stay finite."""
    for record in records_of(place, "silence"):
        assert not record["skipped"] and math.isfinite(record["loss"])


@fault("batches in which nothing is masked, in 200 steps", times=1, quick=0)
def nothing_masked(place, folder, number, total):
    """Steps without a gradient, not failures."""
    for record in records_of(place, "masks"):
        assert not record["skipped"] and record["masked_tokens"] == 0


@fault("NaN and infinity in audio files, 200 steps", times=1, quick=1)
def nan_audio(place, folder, number, total):
    """Files that were replaced after they were checked are left out."""
    music, steps = folder / "music", STEPS if total == 1 else 20
    music.mkdir()
    for path in runs.songs(place).iterdir():
        wav, rate = soundfile.read(path, dtype="float32")
        target = music / f"{path.stem}.wav"
        soundfile.write(target, wav[: 8 * rate], rate, subtype="FLOAT")
    arguments = options(
        place,
        folder / "run",
        data_folder=music,
        manifest_folder=folder / "manifests",
        valid_fraction=0.3,
        n_steps=steps,
        warmup_steps=2,
    )
    prepared = ["--data_folder", music, "--min_tail_s", 1, "--segment_s", 2.0]
    place_ = ["--manifest_folder", folder / "manifests", "--workers", 1]
    fraction = ["--valid_fraction", 0.3]
    runs.finish(place, runs.PREPARE, [*prepared, *place_, *fraction])
    values = [math.nan, math.inf, -math.inf]
    for path, value in zip(sorted(music.iterdir())[::3], values * 2):
        wav, rate = soundfile.read(path, dtype="float32")
        wav[:: rate // 2] = np.float32(value)
        soundfile.write(path, wav, rate, subtype="FLOAT")
    output = runs.finish(place, runs.SCRIPT, arguments)
    records = log_of(folder / "run")
    assert len(records) == steps
    assert not any(r["skipped"] for r in records), output
    assert sum(r["bad_segments"] for r in records) > 0, output
    assert "NaN or infinite samples" in output


@fault("bf16 beside fp32, 200 steps: losses within 2 %", times=1, quick=0)
def half_precision(place, folder, number, total):
    """The same curve."""
    losses = {}
    for precision in ("fp32", "bf16"):
        arguments = options(place, folder / precision, precision=precision)
        runs.finish(place, runs.SCRIPT, arguments)
        losses[precision] = [r["loss"] for r in log_of(folder / precision)]
    pairs = zip(losses["bf16"], losses["fp32"], strict=True)
    worst = max(abs(low / full - 1) for low, full in pairs)
    assert worst < 0.02, worst
