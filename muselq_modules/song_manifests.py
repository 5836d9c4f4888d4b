"""Manifests for pre-training: one row for each song, segments are virtual.

The paper cuts songs into segments of 30 s without overlap. Nothing is cut on
disk: train.csv and valid.csv list the songs with their decoded length, and the
data loader computes the segments, so that 200,000 hours need a table of a few
million rows and another segment length needs no new manifests.
"""

import argparse
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from muselq_modules.errors import CommandParser, UserError
from muselq_modules.files import write_json
from muselq_modules.locks import only_one
from muselq_modules.preparation import (
    count_reasons,
    require_folder,
    scan_audio,
    stable_fraction,
    summary,
    write_csv,
    write_skipped,
)
from muselq_modules.segment_index import count_segments
from muselq_modules.transcoding import transcode_all

FIELDS = ["path", "frames", "sample_rate", "channels"]
SPLITS = ("train", "valid")


@dataclass
class Songs:
    """The songs of a collection, before their audio is checked.

    Parameters
    ----------
    groups : dict
        Path of each song, relative to the data folder -> the name that decides
        its split: the path itself, or the artist, to keep artists apart.
    official_valid : set of str, optional
        Paths of an official validation set, used instead of the hash.
    skipped : list of tuple
        (path, reason) of songs that are left out already.
    """

    groups: dict
    official_valid: set = None
    skipped: list = field(default_factory=list)


def prepare_songs(
    name,
    find_songs,
    data_folder,
    manifest_folder,
    segment_s=30.0,
    min_tail_s=15.0,
    valid_fraction=0.02,
    workers=None,
    transcode_folder=None,
    refresh=False,
    find_options=None,
):
    """Find the songs of a collection, check them and write its manifests.

    Manifests that were made with the same options are used as they are.

    Parameters
    ----------
    name : str
        Of the collection.
    find_songs : callable
        Takes the data folder (Path) and `find_options`, returns `Songs`.
    data_folder : str or Path
        The collection; it is only read.
    manifest_folder : str or Path
        Receives train.csv, valid.csv, skipped.tsv, summary.json and the cache
        of the scan, by which an interrupted run continues.
    segment_s : float
        Length of the segments that training reads, in seconds.
    min_tail_s : float
        A last segment, or a song, shorter than this is left out, in seconds.
    valid_fraction : float
        Share of the groups for validation, where no split is official.
    workers : int, optional
        Number of processes, by default one for each available core.
    transcode_folder : str or Path, optional
        Receives a 24 kHz mono FLAC copy of each song, to train from.
    refresh : bool
        Whether to look again when the manifests are there already.
    find_options : dict, optional
        More arguments of `find_songs`.

    Returns
    -------
    dict
        The content of summary.json: `audio_root`, `files`, `hours` and
        `segments` of each split, `skipped` by reason, `digest` (SHA-256 of
        the manifests) and `options`.

    Raises
    ------
    UserError
        When an option makes no sense, or a split is left without a song.
    """
    options = {
        "collection": name,
        "data_folder": str(Path(data_folder).resolve()),
        "segment_s": segment_s,
        "min_tail_s": min_tail_s,
        "valid_fraction": valid_fraction,
        "transcode_folder": transcode_folder
        and str(Path(transcode_folder).resolve()),
        **(find_options or {}),
    }
    _check_options(options)
    record = None if refresh else _finished(manifest_folder, options)
    if record is None:
        root = require_folder(data_folder, name, "the audio to train on")
        with only_one(manifest_folder, "preparing"):
            # Another run may have prepared the same while this one waited.
            record = None if refresh else _finished(manifest_folder, options)
            if record is None:
                songs = find_songs(root, **(find_options or {}))
                record = _write(manifest_folder, songs, options, workers)
    _print_splits(manifest_folder, record)
    return record


def _write(manifest_folder, songs, options, workers):
    """Check songs, split them and write the manifests; returns the summary."""
    root, folder = Path(options["data_folder"]), Path(manifest_folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").unlink(missing_ok=True)
    segment_s, min_tail_s = options["segment_s"], options["min_tail_s"]
    files, unusable = scan_audio(
        root,
        sorted(songs.groups),
        workers=workers,
        min_duration_s=min(segment_s, min_tail_s),
        cache=folder / "scan.jsonl",
    )
    skipped = [*songs.skipped, *unusable]
    write_skipped(folder / "skipped.tsv", skipped)
    if not files:
        raise UserError(
            f"none of the {len(skipped):,} audio files in {root} is usable: "
            f"see the reasons in {folder / 'skipped.tsv'}"
        )
    valid = songs.official_valid
    if valid is None:
        groups = {file.path: songs.groups[file.path] for file in files}
        valid = choose_valid(groups, options["valid_fraction"])
    splits = {
        "train": [file for file in files if file.path not in valid],
        "valid": [file for file in files if file.path in valid],
    }
    for split, chosen in splits.items():
        if not chosen:
            raise UserError(
                f"no usable song for {split} in {root}: see the reasons in "
                f"{folder / 'skipped.tsv'}"
            )
    if options["transcode_folder"]:
        target = Path(options["transcode_folder"])
        for split, chosen in splits.items():
            splits[split] = transcode_all(root, target, chosen, workers)
        root = target

    digest = hashlib.sha256()
    record = {"audio_root": str(root), "files": {}, "hours": {}, "segments": {}}
    for split, chosen in splits.items():
        rows = ({key: getattr(song, key) for key in FIELDS} for song in chosen)
        write_csv(folder / f"{split}.csv", rows, FIELDS)
        digest.update((folder / f"{split}.csv").read_bytes())
        seconds = sum(song.duration for song in chosen)
        record["files"][split] = len(chosen)
        record["hours"][split] = round(seconds / 3600, 3)
        record["segments"][split] = sum(
            count_segments(song.frames, song.sample_rate, segment_s, min_tail_s)
            for song in chosen
        )
    record["skipped"] = count_reasons(skipped)
    record["digest"] = digest.hexdigest()
    record["options"] = options
    # Written last and moved into place: with it the manifests are complete.
    write_json(folder / "summary.json", record)
    summary(splits["train"] + splits["valid"], skipped)
    return record


def _finished(manifest_folder, options):
    """Return the summary of manifests made with the same options, or None.

    Manifests that were changed since raise `UserError`: a run that resumes
    would go on with other data.
    """
    record = read_summary(manifest_folder)
    if record is None or record["options"] != options:
        return None
    check_unchanged(manifest_folder, record)
    return record


def read_summary(manifest_folder):
    """Return summary.json of finished manifests; None where it is damaged."""
    path = Path(manifest_folder, "summary.json")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(record, dict) and {"options", "digest"} <= set(record)
    return record if whole else None


def check_unchanged(manifest_folder, record):
    """Raise `UserError` when the manifests differ from their summary."""
    folder = Path(manifest_folder)
    digest = hashlib.sha256()
    for split in SPLITS:
        path = folder / f"{split}.csv"
        digest.update(path.read_bytes() if path.is_file() else b"")
    if digest.hexdigest() != record["digest"]:
        raise UserError(
            f"the manifests in {folder} were changed by hand: prepare the "
            "data into another folder or delete this one"
        )


def choose_valid(groups, fraction):
    """Choose the songs for validation by the hash of their group.

    A song keeps its side when others are added. Tiny collections, where the
    hash leaves a side empty, give it the group of smallest or largest hash.

    Parameters
    ----------
    groups : dict
        Path -> group.
    fraction : float
        Share of groups for validation, in (0, 1).

    Returns
    -------
    set of str
        Paths.

    Raises
    ------
    UserError
        When there is only one group.

    Example
    -------
    >>> len(choose_valid({"a": "artist 1", "b": "artist 2"}, 0.02))
    1
    """
    ordered = sorted(set(groups.values()), key=stable_fraction)
    if len(ordered) < 2:
        raise UserError(
            "training and validation need one song each, of different artists "
            f"where these are known, and only {sorted(groups)} can be used: "
            "add another"
        )
    chosen = {name for name in ordered if stable_fraction(name) < fraction}
    chosen = (chosen | {ordered[0]}) - {ordered[-1]}
    return {path for path, name in groups.items() if name in chosen}


def _check_options(options):
    """Raise `UserError` for lengths and folders that make no sense."""
    if not options["segment_s"] > 0:
        raise UserError(
            f"segment_s is {options['segment_s']}: give a number of seconds "
            "above 0"
        )
    if not 0 < options["min_tail_s"] <= options["segment_s"]:
        raise UserError(
            f"min_tail_s is {options['min_tail_s']}: give a number of seconds "
            f"above 0, at most segment_s, {options['segment_s']}"
        )
    if not 0 < options["valid_fraction"] < 1:
        raise UserError(
            f"valid_fraction is {options['valid_fraction']}: give a share "
            "between 0 and 1"
        )
    target, data_folder = options["transcode_folder"], options["data_folder"]
    if target and Path(target).is_relative_to(data_folder):
        raise UserError(
            f"transcode_folder {target} is inside the data folder: give a "
            "folder elsewhere, or its files are taken for more songs"
        )


def song_parser(description):
    """Return an argument parser with the options of `prepare_songs`."""
    parser = CommandParser(
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data_folder", required=True, help="the audio; only read")
    add("--manifest_folder", required=True, help="receives the manifests")
    add("--segment_s", type=float, default=30.0, help="segment, in seconds")
    add("--min_tail_s", type=float, default=15.0, help="shortest last segment")
    add("--valid_fraction", type=float, default=0.02, help="validation share")
    add("--workers", type=int, help="processes, by default one for each core")
    add("--transcode_folder", help="write 24 kHz mono FLAC copies there, once")
    add("--refresh", action="store_true", help="look for added files")
    return parser


def _print_splits(folder, record):
    """Print what each split holds."""
    for split in SPLITS:
        print(
            f"{split}: {record['files'][split]:,} songs, "
            f"{record['hours'][split]:,.1f} hours, "
            f"{record['segments'][split]:,} segments: {Path(folder, split)}.csv"
        )
