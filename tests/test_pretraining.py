"""End to end: the shipped recipe resumes exactly, spreads over ranks, and
survives what is not finite."""

import json
import math
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from matplotlib.axes import Axes
from pretrain_runs import ROOT, command_line, run, start, trace

from muselq_modules.errors import UserError
from muselq_modules.experiment import load_experiment, start_experiment
from muselq_modules.pretrained import load_encoder
from muselq_modules.pretraining import PretrainBrain
from muselq_modules.training_log import plot_curves

RANDOM_LAYERS = "{dim: 16, n_layers: 2, layer_drop: 0.3}"


@pytest.fixture(scope="module")
def manifests(tmp_path_factory):
    """Manifests of the samples, made once."""
    return tmp_path_factory.mktemp("manifests")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, manifests):
    """A finished run and its folder."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    code, output = run(
        folder,
        manifest_folder=manifests,
        encoder=RANDOM_LAYERS,
        tensorboard=True,
    )
    assert code == 0, output
    return folder


def wait_for_step(process, folder, step):
    """Wait until a run has logged ``step``."""
    log = Path(folder) / "train_log.jsonl"
    for _ in range(1200):
        if log.exists() and f'"step": {step},' in log.read_text():
            return
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    raise AssertionError(f"step {step} was never reached")


def test_run_folder_holds_the_record(uninterrupted):
    names = {path.name for path in uninterrupted.iterdir()}
    assert names >= {
        "hyperparams.yaml",
        "env.log",
        "run.json",
        "data.json",
        "train.py",
        "statistics.safetensors",
        "train_log.jsonl",
        "curves.png",
        "encoder",
        "save",
        "tensorboard",
    }
    assert list((uninterrupted / "tensorboard").glob("events*"))
    steps = [r["step"] for r in trace(uninterrupted) if r["kind"] == "train"]
    assert steps == list(range(1, 9))
    valid = [r["step"] for r in trace(uninterrupted) if r["kind"] == "valid"]
    assert valid == [4, 8]
    encoder = load_encoder(uninterrupted)
    states = encoder(torch.zeros(1, 24000), 24000).hidden_states
    assert [tuple(s.shape) for s in states] == [(1, 25, 16)] * 3
    assert float(encoder.log_mel.std.mean()) != 1.0


def test_losses_are_those_of_independent_guessing_at_first(uninterrupted):
    first = trace(uninterrupted)[0]
    assert abs(first["token_loss"] - math.log(8192)) < 0.5
    assert first["token_perplexity"] > 20


@pytest.mark.parametrize("kill_at", random.Random(0).sample(range(1, 8), 2))
def test_sigkill_and_resume_is_bit_exact(
    tmp_path, manifests, uninterrupted, kill_at
):
    options = {"manifest_folder": manifests, "encoder": RANDOM_LAYERS}
    process = start(tmp_path, **options)
    wait_for_step(process, tmp_path, kill_at)
    process.send_signal(signal.SIGKILL)
    process.wait()
    code, output = run(tmp_path, **options)
    assert code == 0, output
    assert trace(tmp_path) == trace(uninterrupted)
    weights = "encoder/model.safetensors"
    assert (tmp_path / weights).read_bytes() == (
        uninterrupted / weights
    ).read_bytes()


def test_sigterm_saves_and_resumes(tmp_path, manifests, uninterrupted):
    options = {
        "manifest_folder": manifests,
        "encoder": RANDOM_LAYERS,
        "ckpt_interval_steps": 0,
        "n_workers": 1,
    }
    process = start(tmp_path, **options)
    wait_for_step(process, tmp_path, 1)
    # As Slurm and Ctrl-C do: the whole group, loader workers too.
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "run the same command to continue" in output
    assert list((tmp_path / "save").glob("CKPT+*"))
    assert run(tmp_path, **options)[0] == 0
    assert trace(tmp_path) == trace(uninterrupted)


def test_damaged_checkpoint_falls_back(tmp_path, manifests, uninterrupted):
    options = {"manifest_folder": manifests, "encoder": RANDOM_LAYERS}
    process = start(tmp_path, **options)
    wait_for_step(process, tmp_path, 7)
    process.send_signal(signal.SIGKILL)
    process.wait()
    newest = sorted((tmp_path / "save").glob("CKPT+*"))[-1]
    weights = (newest / "model.ckpt").read_bytes()
    (newest / "model.ckpt").write_bytes(weights[: len(weights) // 2])
    code, output = run(tmp_path, **options)
    assert code == 0, output
    assert newest.name in output
    assert trace(tmp_path) == trace(uninterrupted)


def test_two_ranks_follow_the_curve_of_one(tmp_path, manifests):
    options = {"manifest_folder": manifests, "n_steps": 6}
    code, output = run(tmp_path / "one", **options)
    assert code == 0, output
    # Two ranks, accumulation 1, against one rank and then against two ranks
    # of one clip each with accumulation 2.
    for name, local_batch in (("two", 2), ("accumulated", 1)):
        code, output = run(
            tmp_path / name, n_ranks=2, local_batch=local_batch, **options
        )
        assert code == 0, output
        for one, two in zip(
            trace(tmp_path / "one"), trace(tmp_path / name), strict=True
        ):
            for key, value in one.items():
                if isinstance(value, float):
                    assert two[key] == pytest.approx(value, rel=1e-4), key
                else:
                    assert two[key] == value, key


def test_changed_seed_or_batch_is_refused_on_resume(
    tmp_path, manifests, uninterrupted
):
    code, output = run(
        uninterrupted,
        manifest_folder=manifests,
        encoder=RANDOM_LAYERS,
        seed=1,
        n_steps=10,
    )
    assert code == 2
    assert "seed 1234, not 1" in output


def test_impossible_split_names_what_works(tmp_path):
    code, output = run(tmp_path, local_batch=3)
    assert code == 2
    assert "Error: global_batch 4 is not a multiple of" in output
    assert "local_batch 2" in output
    assert "Traceback" not in output


# ------------------------------------------------------- in this process


@pytest.fixture
def make_brain(tmp_path, manifests, monkeypatch):
    """Builds the recipe's brain in this process."""
    monkeypatch.syspath_prepend(str(ROOT / "recipes" / "pretrain"))

    def make(brain_class=PretrainBrain, **options):
        import train as recipe

        options = {"output_folder": tmp_path, **options}
        argv = command_line(manifest_folder=manifests, **options)
        experiment = load_experiment(argv)
        start_experiment(experiment)
        return recipe.make_brain(experiment, brain_class)

    yield make
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


class PoisonedBrain(PretrainBrain):
    """Plants a NaN in the loss or an infinity in a gradient."""

    poison = {}

    def compute_objectives(self, predictions, batch, stage):
        loss = super().compute_objectives(predictions, batch, stage)
        step = self.optimizer_step + 1
        if self.poison.get(step) == "loss" and self.modules.training:
            self.sums.values[0] += math.nan
            loss = loss * math.nan
        return loss

    def optimizers_step(self):
        if self.poison.get(self.optimizer_step + 1) == "gradient":
            next(self.model.parameters()).grad[0] = math.inf
        before = [p.detach().clone() for p in self.model.parameters()]
        super().optimizers_step()
        same = all(
            torch.equal(a, b) for a, b in zip(before, self.model.parameters())
        )
        assert same == (self.optimizer_step in self.poison)


def test_non_finite_steps_are_skipped(make_brain, tmp_path, capfd):
    class Brain(PoisonedBrain):
        poison = {2: "loss", 3: "gradient", 6: "loss"}

    brain, loaders = make_brain(Brain, n_steps=7)
    brain.fit(brain.rounds(), *loaders)
    records = [r for r in trace(tmp_path) if r["kind"] == "train"]
    assert [r["step"] for r in records if r["skipped"]] == [2, 3, 6]
    assert all(torch.isfinite(p).all() for p in brain.model.parameters())
    warnings = [
        line
        for line in capfd.readouterr().out.splitlines()
        if "is skipped: loss or gradient" in line
    ]
    assert len(warnings) == 3
    assert all(".ogg at " in line for line in warnings)


def test_too_many_non_finite_steps_stop_with_advice(make_brain, tmp_path):
    class Brain(PoisonedBrain):
        poison = dict.fromkeys(range(3, 9), "loss")

    brain, loaders = make_brain(Brain, nonfinite_patience=2)
    with pytest.raises(UserError, match="3 steps in a row.*lower peak_lr"):
        brain.fit(brain.rounds(), *loaders)
    state = torch.load(
        sorted((tmp_path / "save").glob("CKPT+*/model.ckpt"))[-1]
    )
    assert all(torch.isfinite(value).all() for value in state.values())


def test_a_notice_during_validation_is_acted_on_at_once(make_brain, tmp_path):
    class Brain(PretrainBrain):
        evaluated = 0

        def evaluate_batch(self, batch, stage):
            self.evaluated += 1
            self.stop_signal = signal.SIGTERM
            return super().evaluate_batch(batch, stage)

    brain, loaders = make_brain(Brain, ckpt_interval_steps=0)
    with pytest.raises(SystemExit) as end:
        brain.fit(brain.rounds(), *loaders)
    assert end.value.code == 128 + signal.SIGTERM
    assert brain.evaluated == 1 and len(loaders[1]) == 2
    assert [r["kind"] for r in trace(tmp_path)] == ["train"] * 4
    assert (tmp_path / "save" / "CKPT+000000004").is_dir()
    # The resumed run begins with the validation.
    brain, loaders = make_brain(n_steps=6)
    brain.fit(brain.rounds(), *loaders)
    kinds = [(r["kind"], r["step"]) for r in trace(tmp_path)]
    assert kinds[4:6] == [("valid", 4), ("train", 5)]


def test_bf16_follows_fp32(make_brain, tmp_path):
    losses = {}
    for precision in ("fp32", "bf16"):
        folder = tmp_path / precision
        brain, loaders = make_brain(
            output_folder=folder, precision=precision, n_steps=4
        )
        brain.fit(brain.rounds(), *loaders)
        losses[precision] = [r["loss"] for r in trace(folder)]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=5e-3)
    assert losses["bf16"] != losses["fp32"]


def test_unreadable_segments_are_left_out_up_to_a_limit(make_brain):
    brain, loaders = make_brain(bad_segments_limit=3)
    brain.manifest.audio_root = Path("nowhere")
    loaders[0].dataset.manifest.audio_root = Path("nowhere")
    with pytest.raises(UserError, match="more than bad_segments_limit 3"):
        brain.fit(brain.rounds(), *loaders)


def test_nothing_masked_is_a_step_without_gradient(make_brain, monkeypatch):
    brain, loaders = make_brain(n_steps=3, valid_interval=3)
    masking = brain.masker.masking
    draw = masking.draw
    monkeypatch.setattr(masking, "draw", lambda *a: torch.zeros_like(draw(*a)))
    brain.fit(brain.rounds(), *loaders)
    assert brain.record["masked_tokens"] == 0
    assert not brain.record["skipped"]


def test_curves_of_a_long_run_are_thinned(tmp_path, monkeypatch):
    """Otherwise the memory for drawing them grows with the run."""
    record = {"kind": "train", "skipped": False, "token_loss": 1.0}
    with open(tmp_path / "train_log.jsonl", "w") as log:
        for step in range(1, 9002):
            log.write(json.dumps({**record, "step": step}) + "\n")
        log.write(json.dumps({**record, "kind": "valid", "step": 9001}) + "\n")
    drawn = []
    plot = Axes.plot

    def count(axes, steps, *arguments, **options):
        drawn.append((len(steps), max(steps, default=0)))
        return plot(axes, steps, *arguments, **options)

    monkeypatch.setattr(Axes, "plot", count)
    assert plot_curves(tmp_path).is_file()
    lengths, last = zip(*(pair for pair in drawn if pair[0]))
    assert max(lengths) <= 2000 and min(lengths) == 1
    assert min(last) > 8990
