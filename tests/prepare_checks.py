"""What holds of the output of every downstream prepare script."""

import csv
from collections import Counter
from pathlib import Path

from muselq_modules.preparation import read_csv

SPLITS = ("train", "valid", "test")


def manifests(folder):
    """{split: rows}, checked for what holds of every recipe"""
    rows = {split: read_csv(folder / f"{split}.csv") for split in SPLITS}
    everything = sum(rows.values(), [])
    ids = Counter(row["ID"] for row in everything)
    assert max(ids.values()) == 1
    groups = [{row["group"] for row in rows[split]} for split in SPLITS]
    assert all(groups)
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert not any(Path(row["path"]).is_absolute() for row in everything)
    assert all(float(row["duration"]) >= 1 for row in everything)
    return rows


def read_tsv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def skipped(folder):
    """{path: reason} of skipped.tsv"""
    rows = read_tsv(folder / "skipped.tsv")
    return {row["path"]: row["reason"] for row in rows}


def one_sentence(error, *parts):
    """The message is one line that names these parts"""
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert str(part) in text
