"""The files of an embedding cache; see `muselq_modules.embeddings`."""

import json
import logging
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from tqdm import tqdm

from muselq_modules.errors import UserError
from muselq_modules.files import write_text

logger = logging.getLogger(__name__)


class EmbeddingCache:
    """Embeddings of many windows, read from disk on demand.

    Parameters
    ----------
    folder : Path
        Folder of a complete cache.
    windows : list of Window
        Its windows, in the order of the index.
    """

    def __init__(self, folder, windows):
        self.folder = Path(folder)
        self.values = np.load(self.folder / "values.npy", mmap_mode="r")
        self.tokens = np.load(self.folder / "tokens.npy")
        index = json.loads((self.folder / "index.json").read_text("utf-8"))
        self.layers = index["layers"]
        self.offsets = np.array(index["offsets"])
        self._number = {window: i for i, window in enumerate(windows)}

    def rows(self, windows):
        """Row numbers ``[window]`` of pooled windows in ``values``."""
        return np.array([self._number[w] for w in windows], dtype=np.int64)

    def frames(self, window):
        """Frame embeddings of one window, ``[time, layer, dim]``."""
        i = self._number[window]
        return self.values[self.offsets[i] :][: self.tokens[i]]


class CacheFiles:
    """The arrays of a cache, open for writing.

    Parameters
    ----------
    folder : Path
        Folder of a cache, complete or not.

    Raises
    ------
    ValueError, KeyError, TypeError, OSError
        The files are damaged.
    """

    def __init__(self, folder):
        self.index = json.loads((folder / "index.json").read_text("utf-8"))
        self.offsets = self.index["offsets"]
        self.values = open_memmap(folder / "values.npy", mode="r+")
        self.tokens = open_memmap(folder / "tokens.npy", mode="r+")
        self.sums = open_memmap(folder / "sums.npy", mode="r+")
        n = len(self.index["windows"])
        if not (
            self.values.dtype == np.float32
            and self.values.ndim == 3
            and len(self.values) == self.offsets[-1]
            and len(self.offsets) == n + 1
            and self.tokens.dtype == np.int64
            and self.sums.dtype == np.uint32
            and self.tokens.shape == self.sums.shape == (n,)
        ):
            raise ValueError("the arrays do not fit the index")
        self._unmarked = {}

    def write(self, number, value, n_tokens):
        """Store a window; it counts after the next `flush`.

        Parameters
        ----------
        number : int
            Of the window in the index.
        value : array ``[row, layer, dim]``
        n_tokens : int
            Valid tokens.
        """
        rows = self.values[self.offsets[number] : self.offsets[number + 1]]
        n_rows = min(len(value), len(rows))
        rows[:n_rows] = value[:n_rows]
        rows[n_rows:] = 0.0
        self._unmarked[number] = n_tokens, _checksum(rows, n_tokens)

    def flush(self):
        """Values reach the disk first, then their marks."""
        self.values.flush()
        for number, (n_tokens, checksum) in self._unmarked.items():
            self.sums[number] = checksum
            self.tokens[number] = n_tokens
        self.sums.flush()
        self.tokens.flush()
        self._unmarked.clear()

    def is_sound(self, number):
        """Whether a window is there, and as it was written."""
        if not self.tokens[number]:
            return False
        rows = self.values[self.offsets[number] : self.offsets[number + 1]]
        return _checksum(rows, self.tokens[number]) == self.sums[number]

    def forget_damaged(self):
        """Unmark windows that are not as they were written."""
        marked = np.flatnonzero(self.tokens)
        # Reading a cache of many gigabytes takes a while.
        checked = tqdm(marked, "Verifying embeddings", delay=5, leave=False)
        damaged = [number for number in checked if not self.is_sound(number)]
        if damaged:
            logger.warning(
                "%d windows of an embedding cache were damaged: they are "
                "embedded again",
                len(damaged),
            )
            self.tokens[damaged] = 0
            self.tokens.flush()


def _checksum(rows, n_tokens):
    start = zlib.crc32(int(n_tokens).to_bytes(8, "little", signed=True))
    return zlib.crc32(np.ascontiguousarray(rows), start)


def open_cache(folder, encoder, windows, index):
    """Make a cache ready to be filled: create, take over, repair.

    Parameters
    ----------
    folder : Path
        Folder of the cache.
    encoder : MusicEncoder or Baseline
    windows : list of Window
    index : dict
        What is embedded: format, encoder, layers, frames, windows.
    """
    if folder.is_dir():
        try:
            files = CacheFiles(folder)
            # Through JSON, as the file went: tuples become lists.
            offsets = row_offsets(encoder, windows, index["frames"])
            wanted = json.loads(json.dumps({**index, "offsets": offsets}))
            if {key: files.index[key] for key in wanted} == wanted:
                files.forget_damaged()
                return
            reason = "the index is not that of its name"
        except (ValueError, KeyError, TypeError, OSError, EOFError) as error:
            reason = error
        logger.warning("%s is damaged and made again: %s", folder, reason)
        shutil.rmtree(folder)
    create(folder, encoder, windows, index)
    copy_known(folder)


def create(folder, encoder, windows, index):
    """Write an empty cache; it appears under its name only when whole."""
    offsets = row_offsets(encoder, windows, index["frames"])
    dim = encoder.dim
    if not index["frames"]:
        dim = getattr(encoder, "pooled_dim", encoder.dim)
    building = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    shape = (offsets[-1], len(index["layers"]), dim)
    free = shutil.disk_usage(building).free
    if 4 * np.prod(shape) > free:
        raise UserError(
            f"The embeddings need {4 * np.prod(shape) / 1e9:.1f} GB but "
            f"{folder.parent} has {free / 1e9:.1f} GB left: free some or give "
            "another cache_folder."
        )
    _create_array(building / "values.npy", np.float32, shape)
    _create_array(building / "tokens.npy", np.int64, (len(windows),))
    _create_array(building / "sums.npy", np.uint32, (len(windows),))
    index = {**index, "offsets": offsets}
    write_text(building / "index.json", json.dumps(index))
    building.rename(folder)


def row_offsets(encoder, windows, frames):
    """First row of each window, and their number; a list of int."""
    rows = [1] * len(windows)
    if frames:
        token = encoder.sample_rate / encoder.token_rate_hz
        rows = [max(1, round(w.samples // token)) for w in windows]
    return [0, *np.cumsum(rows).tolist()]


def _create_array(path, dtype, shape):
    """An .npy file of zeros that has its place on the disk.

    A mapped file with holes kills its writer when the disk is full.
    """
    open_memmap(path, "w+", dtype, shape).flush()
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def copy_known(folder):
    """Take over the windows that other caches have already embedded."""
    mine = CacheFiles(folder)
    number = {tuple(key): i for i, key in enumerate(mine.index["windows"])}
    done = set()
    for path in sorted(folder.parent.glob("[!.]*/index.json")):
        try:
            other = CacheFiles(path.parent)
            if path.parent == folder or any(
                other.index[key] != mine.index[key]
                for key in ("format", "encoder", "layers", "frames")
            ):
                continue
        except (ValueError, KeyError, TypeError, OSError, EOFError):
            continue  # damaged, or of an earlier version
        for j, key in enumerate(other.index["windows"]):
            i = number.get(tuple(key))
            if i is None or i in done or not other.is_sound(j):
                continue
            start, stop = other.offsets[j : j + 2]
            mine.write(i, other.values[start:stop], other.tokens[j])
            done.add(i)
    mine.flush()
