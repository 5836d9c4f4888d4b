"""The files of a pre-training manifest as memory-mapped arrays.

Rows live in files that ranks and loader workers map together: 200,000 hours of
songs are 24 million segments and must not become 24 million Python objects in
every process. The files lie in `.segments/` beside the manifest and are made
again when their checksums tell that they were damaged.
"""

import csv
import hashlib
import json
import logging
import os
import shutil

import numpy as np

from muselq_modules.checksums import (
    find_fault,
    write_checksums,
)
from muselq_modules.errors import UserError
from muselq_modules.locks import only_one
from muselq_modules.paths import leaves_folder

logger = logging.getLogger(__name__)
ROW = np.dtype(
    [
        ("path_end", np.uint64),
        ("n_frames", np.uint64),
        ("sample_rate", np.uint32),
        ("segments_end", np.uint64),
    ]
)
ROWS_PER_WRITE = 100_000


def count_segments(n_frames, sample_rate, segment_s, min_tail_s):
    """Segments without overlap in a file; a tail counts if long enough.

    Example
    -------
    >>> [count_segments(s * 100, 100, 30, 15) for s in (10, 20, 44, 45, 75)]
    [0, 1, 1, 2, 3]
    """
    whole, tail = divmod(n_frames, round(segment_s * sample_rate))
    return whole + int(tail >= round(min_tail_s * sample_rate))


def build_index(manifest, digest, segment_s, min_tail_s):
    """Memory-mappable arrays beside a manifest, made once.

    Parameters
    ----------
    manifest : Path
        The csv.
    digest : str
        Its `file_digest`.
    segment_s, min_tail_s : float
        See `count_segments`.

    Returns
    -------
    Path
        A folder with rows.npy (of type `ROW`, one for each file) and
        paths.bin (their paths, UTF-8).

    Raises
    ------
    UserError
        When a line of the manifest cannot be used.
    """
    policy = {"segment_s": segment_s, "min_tail_s": min_tail_s}
    key = hashlib.sha256(
        json.dumps([digest, policy], sort_keys=True).encode()
    ).hexdigest()[:16]
    folder = manifest.parent / ".segments" / f"{manifest.stem}-{key}"
    if find_fault(folder) is None:
        return folder
    with only_one(folder.parent, "indexing"):
        fault = find_fault(folder)  # another process may have been faster
        if fault is not None:
            if folder.is_dir():
                logger.warning("%s is made again: %s", folder, fault)
            shutil.rmtree(folder, ignore_errors=True)
            _write_index(manifest, folder, policy)
    return folder


def _write_index(manifest, folder, policy):
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a killed process
    unfinished.mkdir()
    rows, path_end, segments_end = [], 0, 0
    with (
        open(manifest, encoding="utf-8", newline="") as stream,
        open(unfinished / "paths.bin", "wb") as names,
        open(unfinished / "rows.bin", "wb") as table,
    ):
        reader = csv.DictReader(stream)
        try:
            for row in reader:
                path, n_frames, rate = _parse(row)
                path_end += names.write(path)
                segments_end += count_segments(n_frames, rate, **policy)
                rows.append((path_end, n_frames, rate, segments_end))
                if len(rows) == ROWS_PER_WRITE:
                    table.write(np.array(rows, dtype=ROW).tobytes())
                    rows.clear()
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            shutil.rmtree(unfinished)
            raise UserError(
                f"{manifest}, line {reader.line_num}, is not path, frames, "
                "sample_rate: run the prepare script again."
            ) from error
        table.write(np.array(rows, dtype=ROW).tobytes())
        if path_end == 0:
            names.write(b"\0")  # an empty file cannot be mapped
    _to_npy(unfinished / "rows.bin", unfinished / "rows.npy")
    write_checksums(unfinished)
    os.replace(unfinished, folder)


def _parse(row):
    """Path in UTF-8, frames and sample rate of a row of a manifest."""
    n_frames, rate = int(row["frames"]), int(row["sample_rate"])
    if not 0 <= n_frames < 2**48 or not 0 < rate < 2**31 or not row["path"]:
        raise ValueError("out of range")
    if leaves_folder(row["path"]):
        raise ValueError("not a path within the audio folder")
    return row["path"].encode("utf-8"), n_frames, rate


def _to_npy(raw, target):
    """Put the header of an .npy before the rows, without holding them."""
    n_rows = raw.stat().st_size // ROW.itemsize
    header = {
        "descr": np.lib.format.dtype_to_descr(ROW),
        "fortran_order": False,
        "shape": (n_rows,),
    }
    with open(raw, "rb") as source, open(target, "wb") as stream:
        np.lib.format.write_array_header_2_0(stream, header)
        shutil.copyfileobj(source, stream, 1 << 20)
    raw.unlink()
