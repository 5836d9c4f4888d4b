"""What every prepare script shares: checked audio, tables, stable splits.

A prepare script turns a download into manifests. `scan_audio` decodes all of
the audio once; the parts here write tables that survive any file name, compare
counts with the official ones, and split by a hash, so that a song stays where
it is when others are added.
"""

import collections
import contextlib
import csv
import hashlib
import logging
import unicodedata
from pathlib import Path

from muselq_modules.audio_scan import AudioFile, find_audio, scan_audio
from muselq_modules.errors import UserError
from muselq_modules.files import whole_file

__all__ = [
    "AudioFile",
    "check_counts",
    "count_reasons",
    "find_audio",
    "read_csv",
    "require_file",
    "require_folder",
    "scan_audio",
    "stable_fraction",
    "summary",
    "telling_damage",
    "write_csv",
    "write_skipped",
]

logger = logging.getLogger(__name__)


def write_csv(path, rows, fields):
    """Write a table, whole or not at all.

    Parameters
    ----------
    path : str or Path
        The `.csv` file.
    rows : iterable of dict
        Each has a value for every field, and no other.
    fields : list of str
        The columns in order; they make the header.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "train.csv")
    ...     write_csv(path, [{"path": 'a, "b" $c {d}.mp3'}], ["path"])
    ...     read_csv(path)
    [{'path': 'a, "b" $c {d}.mp3'}]
    """
    _write_table(path, fields, (map(row.__getitem__, fields) for row in rows))


def read_csv(path):
    """Return the rows of a table as a list of dict of str; see `write_csv`.

    Raises
    ------
    UserError
        When it is no such table, for example because it was edited.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            table = csv.DictReader(file, strict=True)
            rows = list(table)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise UserError(
                f"{path}, row {number} ({next(iter(row.values()))}), has more "
                "or fewer cells than the header: prepare the data again"
            )
    return rows


def write_skipped(path, skipped):
    """Write (path, reason) pairs to a tab-separated table, atomically.

    Parameters
    ----------
    path : str or Path
        The `.tsv` file.
    skipped : iterable of tuple
        As `scan_audio` returns them.
    """
    _write_table(path, ["path", "reason"], skipped, delimiter="\t")


def _write_table(path, fields, rows, delimiter=","):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Names that are no valid text reach skipped.tsv with their bytes escaped.
    with whole_file(path, newline="", errors="backslashreplace") as file:
        table = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        table.writerow(fields)
        table.writerows(rows)


def check_counts(name, found, expected):
    """Warn, in one line, when counts differ from the official ones.

    Parameters
    ----------
    name : str
        What was counted, for the message.
    found, expected : dict
        Numbers by split or kind.

    Returns
    -------
    bool
        Whether all of them agree.

    Example
    -------
    >>> check_counts("GTZAN", {"train": 443}, {"train": 443})
    True
    """
    different = [
        f"{key} {found.get(key, 0):,} instead of {number:,}"
        for key, number in expected.items()
        if found.get(key, 0) != number
    ]
    if different:
        logger.warning(
            "%s: %s: results are not comparable with those of the full set",
            name,
            ", ".join(different),
        )
    return not different


def require_folder(folder, what, layout_hint):
    """Return a folder as Path, or raise `UserError` when nothing is in it.

    Parameters
    ----------
    folder : str or Path
        The folder.
    what : str
        What it should hold, for the message.
    layout_hint : str
        How it should look, or where it comes from.

    Returns
    -------
    Path

    Example
    -------
    >>> require_folder(".", "music", "a folder of songs").is_dir()
    True
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{what}: no folder {folder}: expected {layout_hint}")
    if not any(folder.iterdir()):
        raise UserError(f"{what}: {folder} is empty: expected {layout_hint}")
    return folder


def require_file(path, what, remedy):
    """Return a file as Path, or raise `UserError` that tells the remedy."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{what}: no file {path}: {remedy}")
    return path


@contextlib.contextmanager
def telling_damage(path, remedy):
    """Turn whatever reading a damaged table raises into a `UserError`.

    Parameters
    ----------
    path : str or Path
        The table.
    remedy : str
        What the user can do.

    Example
    -------
    >>> with telling_damage("labels.csv", "download it again"):
    ...     ["a"].index("b")
    Traceback (most recent call last):
        ...
    muselq_modules.errors.UserError: labels.csv is damaged ('b' is not in ...
    """
    try:
        yield
    except (
        AttributeError,
        LookupError,
        OSError,
        TypeError,
        ValueError,
        csv.Error,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is damaged ({reason}): {remedy}") from error


def stable_fraction(text):
    """Map a text to a fixed number in [0, 1), the same on every machine.

    Example
    -------
    >>> stable_fraction("artist/song.mp3") == stable_fraction("artist/song.mp3")
    True
    >>> 0 <= stable_fraction("another") < 1
    True
    """
    # macOS stores accents apart from their letters.
    text = unicodedata.normalize("NFC", text)
    digest = hashlib.blake2b(
        text.encode("utf-8", "surrogateescape"), digest_size=8
    ).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def count_reasons(skipped):
    """Count skipped files by the category of their reason, most first.

    Example
    -------
    >>> count_reasons([("a", "too short: 1 s"), ("b", "too short: 2 s")])
    {'too short': 2}
    """
    reasons = (reason.partition(":")[0] for _, reason in skipped)
    return dict(collections.Counter(reasons).most_common())


def summary(files, skipped):
    """Print how much audio is ready and how much was left out.

    Parameters
    ----------
    files : list of AudioFile
        The usable ones.
    skipped : list of tuple
        (path, reason).

    Example
    -------
    >>> summary([AudioFile("a.wav", 86400000, 24000, 1)], [("b", "silent")])
    1 file, 1.0 hours ready; 1 skipped (see skipped.tsv): 1 silent
    """
    hours = sum(file.duration for file in files) / 3600
    text = f"{len(files):,} file{'s' * (len(files) != 1)}, {hours:,.1f} hours"
    text += f" ready; {len(skipped):,} skipped"
    if skipped:
        reasons = count_reasons(skipped).items()
        text += " (see skipped.tsv): "
        text += ", ".join(f"{number:,} {reason}" for reason, number in reasons)
    print(text)
