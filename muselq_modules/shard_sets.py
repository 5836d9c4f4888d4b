"""Write all shards of a manifest in parallel, and verify them.

What was written is noted in `.parts` until the index stands, so that a command
that was interrupted goes on with the shards that are missing.
"""

import functools
import json
import shutil
from pathlib import Path

import numpy as np

from muselq_modules.checksums import file_digest, unseal
from muselq_modules.errors import UserError
from muselq_modules.files import whole_file, write_json
from muselq_modules.locks import lock_folder
from muselq_modules.parallel import Crashed, run_parallel
from muselq_modules.preparation import read_csv, write_csv
from muselq_modules.shard_writing import (
    note_path,
    plan_shards,
    write_shard,
)
from muselq_modules.shards import (
    PLACE,
    SPLITS,
    digest_if_there,
    read_index,
)
from muselq_modules.song_manifests import (
    FIELDS,
    check_unchanged,
    read_summary,
)
from muselq_modules.transcoding import SAMPLE_RATE

# What a job that was killed at its start may have left.
OURS = {".parts", ".lock"}


def write_all(manifest_folder, shard_folder, shard_gb=2.0, workers=None):
    """Write the shards of a manifest, or what is missing of them.

    Parameters
    ----------
    manifest_folder : str or Path
        Prepared songs; see `prepare_songs`.
    shard_folder : str or Path
        Receives the shards and their index.
    shard_gb : float
        Size of a shard in GB.
    workers : int, optional
        Number of processes, by default one for each available core.

    Returns
    -------
    dict
        The content of index.json.

    Raises
    ------
    UserError
        When there is no manifest, the folder holds other shards, or a song
        cannot be read.
    """
    folder, manifests = Path(shard_folder), Path(manifest_folder)
    summary = read_summary(manifests)
    if summary is None:
        raise UserError(
            f"{manifests} holds no finished manifest: run "
            "recipes/pretrain/folder_prepare.py first."
        )
    check_unchanged(manifests, summary)
    options = {"manifest": summary["digest"], "shard_gb": shard_gb}
    _claim(folder, options)
    if not (folder / "index.json").is_file():
        lock_folder(folder)
    if (folder / "index.json").is_file():
        shutil.rmtree(folder / ".parts", ignore_errors=True)
        return read_index(folder)
    splits = {}
    for split in SPLITS:
        rows = read_csv(manifests / f"{split}.csv")
        shards = plan_shards(split, rows, shard_gb * 1e9)
        notes = _write_shards(folder, summary["audio_root"], shards, workers)
        splits[split] = _write_tables(folder, split, rows, shards, notes)
    index = {"sample_rate": SAMPLE_RATE, "splits": splits, "options": options}
    # Written last: with it the shards are complete.
    write_json(folder / "index.json", index)
    shutil.rmtree(folder / ".parts", ignore_errors=True)
    return index


def _claim(folder, options):
    """Make the folder, or raise `UserError` when it is another job's."""
    parts = folder / ".parts"
    found = None
    if (folder / "index.json").is_file():
        found = read_index(folder)["options"]
    elif (parts / "options.json").is_file():
        try:
            found = json.loads((parts / "options.json").read_text("utf-8"))
        except ValueError:
            found = "damaged"
    elif folder.is_dir() and {path.name for path in folder.iterdir()} - OURS:
        raise UserError(
            f"{folder} holds something else than shards: give an empty folder."
        )
    if found is not None and found != options:
        raise UserError(
            f"{folder} holds shards of another manifest or size: give another "
            "folder, or delete it."
        )
    if found is None:
        # A job that was killed may have come as far as this.
        parts.mkdir(parents=True, exist_ok=True)
        write_json(parts / "options.json", options)


def _write_shards(folder, root, shards, workers):
    """Return {name: note} of all shards, writing those without a note."""
    notes = {}
    for shard in shards:
        note = _read_note(folder, shard)
        if note is not None:
            notes[shard.name] = note
    missing = [shard for shard in shards if shard.name not in notes]
    write = functools.partial(write_shard, root, str(folder))
    for shard, note in run_parallel(write, missing, workers, "Shards"):
        if isinstance(note, Crashed):
            raise UserError(
                f"a song of {shard.name} kills the decoder: prepare the data "
                "again into a new manifest folder, which finds and skips it."
            )
        notes[shard.name] = note
    return notes


def _read_note(folder, shard):
    """Return the note of a shard that is complete, or None."""
    try:
        line = note_path(folder, shard).read_text("utf-8", errors="replace")
        size = (folder / shard.name).stat().st_size
    except OSError:
        return None
    text = unseal(line)
    if text is None:
        return None
    note = json.loads(text)
    complete = note["plan"] == shard.digest and note["bytes"] == size
    return note if complete else None


def _write_tables(folder, split, rows, shards, notes):
    """Write the manifest and the places; returns the split's index."""
    frames = np.zeros(len(rows), np.int64)
    places = np.zeros(len(rows), PLACE)
    for number, shard in enumerate(shards):
        for row, n_frames, byte in notes[shard.name]["songs"]:
            frames[row] = n_frames
            places[row] = number, byte
    table = folder / f"{split}.csv"
    converted = (
        dict(zip(FIELDS, (row["path"], n, SAMPLE_RATE, 1)))
        for row, n in zip(rows, frames.tolist())
    )
    write_csv(table, converted, FIELDS)
    with whole_file(folder / f"{split}.places.npy", "wb") as file:
        np.save(file, places)
    return {
        "songs": len(rows),
        "hours": round(float(frames.sum()) / SAMPLE_RATE / 3600, 3),
        "bytes": sum(note["bytes"] for note in notes.values()),
        "digest": file_digest(table),
        "places": file_digest(folder / f"{split}.places.npy"),
        "shards": [
            {
                "name": shard.name,
                "songs": len(shard.songs),
                "seconds": round(
                    sum(n for _, n, _ in notes[shard.name]["songs"])
                    / SAMPLE_RATE,
                    3,
                ),
                "bytes": notes[shard.name]["bytes"],
                "sha256": notes[shard.name]["sha256"],
            }
            for shard in shards
        ],
    }


def verify_all(shard_folder, workers=None):
    """Read all shards and tables, and compare their digests with the index.

    Parameters
    ----------
    shard_folder : str or Path
        Finished shards.
    workers : int, optional
        Number of processes, by default one for each available core.

    Returns
    -------
    list of str
        Names of shards and tables that are absent or differ.
    """
    index, folder = read_index(shard_folder), Path(shard_folder)
    expected = {}
    for name, split in index["splits"].items():
        expected[str(folder / f"{name}.csv")] = split["digest"]
        expected[str(folder / f"{name}.places.npy")] = split["places"]
        for shard in split["shards"]:
            expected[str(folder / shard["name"])] = shard["sha256"]
    found = run_parallel(digest_if_there, expected, workers, "Verifying")
    return sorted(
        Path(path).name for path, digest in found if digest != expected[path]
    )
