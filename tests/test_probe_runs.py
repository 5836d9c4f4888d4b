"""Whole runs of a small recipe: repeatable, resumable, equal on two ranks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fake_encoder import FakeEncoder

from muselq_modules import baselines
from muselq_modules.preparation import read_csv, write_csv
from muselq_modules.probing import run_probe

PROJECT = Path(__file__).parents[1]
RECIPE = """
import sys
import speechbrain as sb
sys.path[:0] = [{project!r}, {tests!r}]
from fake_encoder import FakeEncoder
from muselq_modules import baselines
from muselq_modules.probing import run_probe
baselines.BASELINES["fake"] = FakeEncoder

@sb.utils.data_pipeline.takes("loudness")
@sb.utils.data_pipeline.provides("label")
def label_pipeline(loudness):
    return ["soft", "loud"].index(loudness)

def prepare(data_folder, manifest_folder):
    import shutil
    shutil.copytree(data_folder + "/manifests", manifest_folder,
                    dirs_exist_ok=True)

if __name__ == "__main__":
    run_probe(prepare, label_pipeline)
"""
YAML = """
seed: 1
__set_seed: !apply:speechbrain.utils.seed_everything [!ref <seed>]
data_folder: !PLACEHOLDER
pretrained: fake
output_folder: !PLACEHOLDER
dataset: noise
task: loudness
prepare: {}
n_outputs: 2
loss: cross_entropy
metrics: [accuracy, macro_f1, group_accuracy]
monitor: accuracy
window_s: 0.4
probe: !include:probe.yaml
    hidden: 16
    epochs: 5
    seeds: 2
    learning_rates: [0.001, 0.01]
    workers: 0
"""


@pytest.fixture
def recipe(tmp_path):
    """A recipe of 30 noises, loud and soft."""
    data = tmp_path / "data"
    (data / "manifests").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("train", 14), ("valid", 8), ("test", 8)):
        rows = []
        for i in range(size):
            path, loud = f"{name}{i}.wav", i % 2
            wav = rng.normal(scale=0.02 + 0.1 * loud, size=24000)
            soundfile.write(data / path, wav, 24000)
            label = "loud" if loud else "soft"
            rows.append([path, path, "1.0", label, str(i // 2 * 2 + loud)])
        fields = ["ID", "path", "duration", "loudness", "group"]
        rows = [dict(zip(fields, row, strict=True)) for row in rows]
        write_csv(data / "manifests" / f"{name}.csv", rows, fields)
    block = (PROJECT / "hparams/blocks/probe.yaml").read_text("utf-8")
    (tmp_path / "probe.yaml").write_text(block, "utf-8")
    (tmp_path / "noise.yaml").write_text(YAML, "utf-8")
    script = RECIPE.format(project=str(PROJECT), tests=str(PROJECT / "tests"))
    (tmp_path / "train.py").write_text(script, "utf-8")
    return tmp_path


def run(recipe, monkeypatch, *options, output="out", encoders=None):
    """Run the recipe in this process; returns its folder."""
    scope = {"__name__": "recipe"}
    # The script adds it, too: other tests count the baselines.
    monkeypatch.setitem(baselines.BASELINES, "fake", FakeEncoder)
    exec((recipe / "train.py").read_text("utf-8"), scope)

    def make():
        encoder = FakeEncoder()
        if encoders is not None:
            encoders.append(encoder)
        return encoder

    monkeypatch.setitem(baselines.BASELINES, "fake", make)
    argv = [
        str(recipe / "noise.yaml"),
        *("--data_folder", str(recipe / "data")),
        *("--output_folder", str(recipe / output)),
        *options,
    ]
    return run_probe(scope["prepare"], scope["label_pipeline"], argv=argv)


def results(folder):
    return json.loads((Path(folder) / "results.json").read_text("utf-8"))


def test_whole_run(recipe, monkeypatch, capsys):
    encoders = []
    folder = run(recipe, monkeypatch, encoders=encoders)
    assert folder == recipe / "out/noise_loudness/fake"
    found = results(folder)
    assert found["encoder"]["digest"] == FakeEncoder().digest()
    assert found["protocol"] == "paper" and found["layer"] == 2
    assert found["seeds"] == [1, 2]
    assert found["counts"]["train"] == {"rows": 14, "windows": 14}
    for value in found["test"].values():
        assert np.mean(value["per_seed"]) == pytest.approx(value["mean"])
        low, high = value["interval"]
        assert low <= value["mean"] <= high
    rows = read_csv(folder / "predictions.csv")
    assert len(rows) == 2 * 8
    assert np.mean([int(row["correct"]) for row in rows]) == pytest.approx(
        found["test"]["accuracy"]["mean"]
    )
    assert [row["label"] for row in read_csv(folder / "per_label.csv")] == (
        ["soft", "loud"]
    )
    confusion = read_csv(folder / "confusion.csv")
    assert (
        sum(int(row["0 soft"]) + int(row["1 loud"]) for row in confusion) == 16
    )
    assert (folder / "hyperparams.yaml").is_file()

    # A finished run is not repeated, other settings are.
    capsys.readouterr()
    run(recipe, monkeypatch)
    assert "is finished" in capsys.readouterr().out
    run(recipe, monkeypatch, "--probe", "{epochs: 4}")
    assert results(folder)["probe"]["epochs"] == 4
    # Repeated from the cache: no encoder call, identical metrics.
    encoders.clear()
    run(recipe, monkeypatch, "--probe", "{overwrite: True}", encoders=encoders)
    assert encoders[0].calls == 0
    assert results(folder)["test"] == found["test"]
    # And so is a run that embeds anew.
    run(recipe, monkeypatch, output="out2")
    assert results(recipe / "out2/noise_loudness/fake")["test"] == found["test"]


def test_marble_protocol(recipe, monkeypatch):
    folder = run(recipe, monkeypatch, "--probe", "{protocol: marble}")
    found = results(folder)
    assert found["counts"]["test"] == {"rows": 8, "windows": 24}
    assert [layer["layer"] for layer in found["layers"]] == [
        0,
        1,
        2,
        "weighted",
    ]
    best = max(layer["valid"] for layer in found["layers"])
    assert np.mean(found["valid"]["accuracy"]) == best


def test_finetuning_trains_the_encoder(recipe, monkeypatch):
    options = "{finetune: True, encoder_lr: 0.01, learning_rates: [0.01]}"
    encoders = []
    folder = run(recipe, monkeypatch, "--probe", options, encoders=encoders)
    assert results(folder)["probe"]["finetune"]
    # Copies were trained: the encoder itself is as it was.
    assert encoders[0].digest() == FakeEncoder().digest()
    assert results(folder)["test"]["accuracy"]["mean"] > 0.7


def test_mistakes_are_one_sentence(recipe, monkeypatch, capsys):
    for options, sentence in (
        (("--monitor", "acuracy"), "Unknown metric 'acuracy'"),
        (("--loss", "hinge"), "loss hinge does not exist"),
        (("--probe", "{layer: 9}"), "layer 9 does not exist"),
        (("--n_outputs", "1"), "test"),
        (("--pretrained", "./none"), "does not exist"),
    ):
        with pytest.raises(SystemExit) as end:
            run(recipe, monkeypatch, *options)
        assert end.value.code == 2
        errors = capsys.readouterr().err
        assert "Error: " in errors and "Traceback" not in errors
        if sentence != "test":
            assert sentence in errors


BOTH = """
import sys
from train import label_pipeline, prepare, run_probe

for number, probe in enumerate({probes!r}):
    folder = ["--output_folder", {output!r} + str(number), "--probe", probe]
    run_probe(prepare, label_pipeline, argv=sys.argv[1:] + folder)
"""


def test_two_processes_equal_one(recipe, monkeypatch):
    """Encoding shared out by two ranks; frozen probes, then fine-tuning."""
    probes = ["{}", "{finetune: True, seeds: 1}"]
    # One launch for both, for most of the time goes into starting it.
    script = BOTH.format(probes=probes, output=str(recipe / "two"))
    (recipe / "both.py").write_text(script, "utf-8")
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc_per_node", "2", str(recipe / "both.py")),
        *(str(recipe / "noise.yaml"), "--data_folder", str(recipe / "data")),
        *("--distributed_backend", "gloo", "--device", "cpu"),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for number, probe in enumerate(probes):
        folder = run(recipe, monkeypatch, "--probe", probe, output="one")
        single = results(folder)
        double = results(recipe / f"two{number}/noise_loudness/fake")
        assert double["test"] == single["test"]
        assert double["embeddings"] == single["embeddings"]
