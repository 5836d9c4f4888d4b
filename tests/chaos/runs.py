"""Runs of the shipped recipes, small, and what they must leave behind."""

import csv
import json
from pathlib import Path

from pretrain_runs import ROOT, SCRIPT, command_line, trace
from safetensors import safe_open

SHARD = ROOT / "recipes" / "pretrain" / "shard.py"
PREPARE = ROOT / "recipes" / "pretrain" / "folder_prepare.py"
TEMPLATE = ROOT / "recipes" / "template"
STOPPED = (-9, 143)
# Sentences of a fault that the user is told; a traceback is never one.
MISTAKE = "Error: "


def songs(place):
    """A folder of ten songs of the samples."""

    def make(folder):
        samples = sorted((ROOT / "tests" / "samples").rglob("*.ogg"))
        for path in samples[:10]:
            (folder / path.name).write_bytes(path.read_bytes())
        return folder

    return place.once("songs", make)


def pretraining(place, folder, **options):
    """Script and command line of a small pre-training."""
    values = {
        "data_folder": songs(place),
        "manifest_folder": place.root / "manifests",
        "ckpt_interval_steps": 1,
        **options,
    }
    return SCRIPT, command_line(folder, **values)


def reference(place):
    """The folder of a pre-training that nothing disturbed."""

    def make(folder):
        finish(place, *pretraining(place, folder))
        return folder

    return place.once("reference", make)


def finish(place, script, arguments, **options):
    """Run to the end, which must be a good one."""
    code, output = place.server.run(script, arguments, **options)
    assert code == 0, f"exit code {code}:\n{output}"
    return output


def assert_one_sentence(code, output):
    """A fault was told as a mistake is: exit code 2, no traceback."""
    assert "Traceback" not in output, output
    assert code == 2 and MISTAKE in output, f"exit code {code}:\n{output}"


def assert_same_training(folder, expected):
    """Log and weights are those of the undisturbed run."""
    assert trace(folder) == trace(expected)
    weights = "encoder/model.safetensors"
    same = (Path(folder) / weights).read_bytes()
    assert same == (expected / weights).read_bytes(), weights
    assert_whole(folder)


def assert_whole(folder):
    """No file of a folder is half-written, whenever a run was killed.

    Files under a temporary name do not count, nor do checkpoints, which have
    checksums.
    """
    for path in sorted(Path(folder).rglob("*")):
        hidden = any(p.startswith(".") for p in path.relative_to(folder).parts)
        temporary = path.name.endswith(".tmp") or "unfinished" in str(path)
        if hidden or temporary or not path.is_file() or "save" in path.parts:
            continue
        try:
            _read(path)
        except Exception as error:
            raise AssertionError(f"{path} is half-written: {error}") from error


def _read(path):
    if path.suffix == ".json":
        json.loads(path.read_text("utf-8"))
    elif path.name == "train_log.jsonl":
        *lines, _ = path.read_text("utf-8").split("\n")
        assert all(json.loads(line) for line in lines)
    elif path.suffix in (".csv", ".tsv"):
        text = path.read_text("utf-8")
        assert text.endswith("\n"), "the last line has no end"
        delimiter = "\t" if path.suffix == ".tsv" else ","
        rows = list(csv.reader(text.splitlines(), delimiter=delimiter))
        assert len({len(row) for row in rows}) == 1
    elif path.suffix == ".safetensors":
        with safe_open(path, "pt") as tensors:
            assert list(tensors.keys())
    elif path.suffix == ".png":
        assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
