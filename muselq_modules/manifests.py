"""From a dataset's rows to train.csv, valid.csv and test.csv

Every downstream `*_prepare.py` parses its own annotations into rows, one for
each track, and hands them to `write_manifests`, which checks the audio, leaves
out what cannot be read, verifies that no song, recording or artist (the
column `group`) stands in two splits, and writes the manifests.
`options.json` is written last: where it matches, the work is done already.
"""

import json
from pathlib import Path

from muselq_modules.checksums import file_digest
from muselq_modules.errors import UserError
from muselq_modules.files import write_json, write_text
from muselq_modules.locks import only_one
from muselq_modules.preparation import (
    check_counts,
    scan_audio,
    summary,
    write_csv,
    write_skipped,
)

SPLITS = ("train", "valid", "test")


def is_prepared(manifest_folder, options):
    """Whether the manifests of these options are there already

    Parameters
    ----------
    manifest_folder : str or Path
        Where train.csv, valid.csv and test.csv belong.
    options : dict
        Everything the manifests depend on; values that JSON can hold.

    Returns
    -------
    bool

    Raises
    ------
    UserError
        When one of them was changed since.

    Example
    -------
    >>> is_prepared("no/such/folder", {"data_folder": "/data"})
    False
    """
    folder = Path(manifest_folder)
    try:
        text = (folder / "options.json").read_text(encoding="utf-8")
        found = dict(json.loads(text))
    except (OSError, TypeError, ValueError):
        return False  # not there, or damaged: prepared anew
    digests = found.pop("sha256", None)
    if found != options or not isinstance(digests, dict):
        return False
    there = _digests(folder)
    changed = [name for name in there if there[name] != digests.get(name)]
    if any(there[name] is None for name in changed):
        return False
    if changed:
        raise UserError(
            f"{folder / changed[0]} was changed since it was prepared: delete "
            f"{folder} to prepare the data again"
        )
    return True


def _digests(folder):
    """Hex sha256 of each table by its name; None where there is none."""
    names = [*(f"{split}.csv" for split in SPLITS), "labels.txt"]
    return {
        name: file_digest(folder / name) if (folder / name).is_file() else None
        for name in names
    }


def write_manifests(
    manifest_folder,
    data_folder,
    rows,
    options,
    name,
    labels=None,
    expected=None,
    scan_cache=None,
    skipped=(),
):
    """Checks the audio of all rows and writes a manifest for each split

    Parameters
    ----------
    manifest_folder : str or Path
        Receives {train,valid,test}.csv, skipped.tsv, options.json and, with
        `labels`, labels.txt.
    data_folder : str or Path
        Paths of the rows are relative to it.
    rows : list of dict
        Each holds `split`, `path`, the label columns and `group`; a row that
        is a part of a file has its own `ID`, `start`, `stop` and `duration`.
    options : dict
        See `is_prepared`.
    name : str
        The dataset's name, for messages.
    labels : list of str, optional
        Written one a line, in this order, to labels.txt.
    expected : dict, optional
        Official number of rows of each split; a difference is a warning.
    scan_cache : str or Path, optional
        Where the checks of the audio are kept, so that an interrupted run
        goes on and tasks of the same audio share them. By default
        scan.jsonl beside the manifests.
    skipped : list of tuple
        (path, reason) of entries that the caller has left out.

    Raises
    ------
    UserError
        If a group stands in two splits, or a split is left without a row.
    """
    folder = Path(manifest_folder)
    check_groups(rows, name)
    with only_one(folder, "preparing"):
        if is_prepared(folder, options):
            return  # by another run, while this one waited
        (folder / "options.json").unlink(missing_ok=True)
        # Silence is an answer in a labelled set: MagnaTagATune has a tag.
        files, unreadable = scan_audio(
            data_folder,
            list(dict.fromkeys(row["path"] for row in rows)),
            allow_silence=True,
            description=f"Checking {name}",
            cache=scan_cache or folder / "scan.jsonl",
        )
        durations = {file.path: file.duration for file in files}
        skipped = [*skipped, *unreadable]
        write_skipped(folder / "skipped.tsv", skipped)

        fields = ["ID", "path", "duration"]
        columns = rows[0] if rows else {}
        fields += [key for key in columns if key not in {"split", *fields}]
        counts = {}
        for split in SPLITS:
            chosen = [
                {"ID": row["path"], "duration": f"{durations[row['path']]:.3f}"}
                | {key: row[key] for key in row if key != "split"}
                for row in rows
                if row["split"] == split and row["path"] in durations
            ]
            if not chosen:
                raise UserError(
                    f"{name}: no readable audio for the {split} split in "
                    f"{data_folder}: see {folder / 'skipped.tsv'} and compare "
                    "the folder with the layout in the recipe's README"
                )
            write_csv(folder / f"{split}.csv", chosen, fields)
            counts[split] = len(chosen)

        if labels is not None:
            text = "".join(f"{label}\n" for label in labels)
            write_text(folder / "labels.txt", text)
        if expected is not None:
            check_counts(name, counts, expected)
        summary(files, skipped)
        digests = _digests(folder)
        write_json(folder / "options.json", {**options, "sha256": digests})


def check_groups(rows, name):
    """Raises UserError if a group of rows stands in two splits

    Parameters
    ----------
    rows : list of dict
        Each with `split` and `group`.
    name : str
        The dataset's name, for the message.

    Example
    -------
    >>> check_groups([{"split": "train", "group": "song 1"}], "demo")
    """
    split_of = {}
    for row in rows:
        first = split_of.setdefault(row["group"], row["split"])
        if first != row["split"]:
            raise UserError(
                f"{name}: group '{row['group']}' is in both {first} and "
                f"{row['split']}: correct the split so that none straddles"
            )
