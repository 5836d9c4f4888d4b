"""The commands of the project, small: how each is run and what it must give."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chaos import runs


@dataclass(frozen=True)
class Job:
    """A command that leaves a folder.

    Attributes
    ----------
    name : str
        What is done, as the table says it.
    command : callable
        ``command(place, folder)`` -> script and arguments.
    result : callable
        ``result(folder)`` -> what every run must have in common.
    is_state : callable
        ``is_state(path, how)``: whether its next call reads this file, and has
        to notice that it was ``cut`` or has a flipped bit (``flip``). What a
        command has handed over is the reader's.
    """

    name: str
    command: callable
    result: callable
    is_state: callable = lambda path, how: True


def pretraining(place, folder):
    """Eight steps, each of them saved."""
    runs.reference(place)  # prepares the manifests
    return runs.pretraining(place, folder)


def pretraining_result(folder):
    """The log, and the bytes of the encoder."""
    weights = Path(folder, "encoder", "model.safetensors")
    return runs.trace(folder), weights.read_bytes()


def preparation(place, folder):
    """Ten songs, with copies in FLAC."""
    arguments = ["--data_folder", runs.songs(place), "--min_tail_s", "5"]
    target = ["--manifest_folder", folder, "--workers", "1"]
    flac = ["--transcode_folder", folder / "flac"]
    return runs.PREPARE, [*arguments, *target, *flac]


def preparation_result(folder):
    """Manifests and copies."""
    tables = [folder / name for name in ("train.csv", "valid.csv")]
    tables += [folder / "skipped.tsv"]
    copies = sorted(Path(folder, "flac").rglob("*"))
    return [(path.name, path.read_bytes()) for path in [*tables, *copies]]


def sharding(place, folder):
    """Shards of two songs."""
    runs.reference(place)
    target = ["--shard_folder", folder, "--shard_gb", "0.002"]
    manifests = ["--manifest_folder", place.root / "manifests"]
    return runs.SHARD, [*manifests, *target, "--workers", "1"]


def sharding_result(folder):
    """All files; those that are left over would be among them."""
    return {
        path.name: path.read_bytes()
        for path in sorted(Path(folder).iterdir())
        if path.name != ".lock"
    }


def probing(place, folder):
    """A probe on tones, with two seeds."""
    tones = place.once("tones", lambda folder: folder / "data")
    yaml = runs.TEMPLATE / "hparams" / "timbre.yaml"
    probe = "{seeds: 2, epochs: 3, workers: 0, learning_rates: [0.01]}"
    return runs.TEMPLATE / "train.py", [
        *(yaml, "--data_folder", tones, "--pretrained", "mel"),
        *("--output_folder", folder, "--probe", probe),
    ]


def probing_result(folder):
    """What it has found, without the time it took, and the predictions."""
    (path,) = Path(folder).glob("*/*/results.json")
    result = json.loads(path.read_text("utf-8"))
    with open(path.with_name("predictions.csv"), newline="") as table:
        rows = list(csv.reader(table))
    return {**result, "seconds": None}, rows


def extraction(place, folder):
    """Log-mels of ten songs."""
    return "muselq_modules.extract:main", [
        [*map(str, (runs.songs(place), folder))]
        + ["--pretrained", "mel", "--workers", "0"]
    ]


def extraction_result(folder):
    """All features, and what the index says of them."""
    features = {
        str(path.relative_to(folder)): np.load(path).tobytes()
        for path in sorted(Path(folder).rglob("*.npy"))
    }
    assert len(features) == 10
    lines = Path(folder, "index.jsonl").read_text("utf-8").splitlines()
    return features, sorted(lines)


def export(place, folder):
    """A folder that anybody can load."""
    run = str(runs.reference(place))
    return "muselq_modules.export:main", [[run, str(folder / "exported")]]


def export_result(folder):
    """All files."""
    return {p.name: p.read_bytes() for p in Path(folder, "exported").iterdir()}


def is_pretraining_state(path, how):
    """All but the log, whose numbers are for the reader."""
    return path.name != "train_log.jsonl"


def is_preparation_state(path, how):
    """Manifests and the scan; copies of songs have checksums of their own."""
    return path.suffix != ".flac" and path.name != "skipped.tsv"


def is_sharding_state(path, how):
    """Notes of a job under way; `--verify` is for what is finished."""
    return path.parent.name == ".parts"


def is_probing_state(path, how):
    """Embeddings and manifests; of a result only that it is whole."""
    if path.parent.parent.name == "embeddings":
        return True
    tables = ("train.csv", "valid.csv", "test.csv")
    return path.name in ("scan.jsonl", "options.json", *tables) or (
        how == "cut" and path.name == "results.json"
    )


def is_extraction_state(path, how):
    """Settings; that index and features are whole."""
    return path.name == "settings.json" or (
        how == "cut" and path.suffix in (".npy", ".jsonl")
    )


JOBS = (
    Job("pre-training", pretraining, pretraining_result, is_pretraining_state),
    Job("preparation", preparation, preparation_result, is_preparation_state),
    Job("sharding", sharding, sharding_result, is_sharding_state),
    Job("embedding and probing", probing, probing_result, is_probing_state),
    Job("extraction", extraction, extraction_result, is_extraction_state),
    Job("export", export, export_result),
)
