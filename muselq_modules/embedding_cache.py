"""The files of an embedding cache; see `muselq_modules.embeddings`."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from muselq_modules.errors import UserError


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


def create(folder, encoder, windows, index):
    """Write an empty cache; it appears under its name only when whole."""
    token = encoder.sample_rate / encoder.token_rate_hz
    rows = [1] * len(windows)
    if index["frames"]:
        rows = [max(1, round(w.samples // token)) for w in windows]
    offsets = np.concatenate([[0], np.cumsum(rows)]).astype(int)
    dim = encoder.dim
    if not index["frames"]:
        dim = getattr(encoder, "pooled_dim", encoder.dim)
    building = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    shape = (int(offsets[-1]), len(index["layers"]), dim)
    free = shutil.disk_usage(building).free
    if 4 * np.prod(shape) > free:
        raise UserError(
            f"The embeddings need {4 * np.prod(shape) / 1e9:.1f} GB but "
            f"{folder.parent} has {free / 1e9:.1f} GB left: free some or give "
            "another cache_folder."
        )
    open_memmap(building / "values.npy", "w+", np.float32, shape).flush()
    open_memmap(
        building / "tokens.npy", "w+", np.int64, (len(windows),)
    ).flush()
    index = {**index, "offsets": offsets.tolist()}
    (building / "index.json").write_text(json.dumps(index), "utf-8")
    try:
        building.rename(folder)
    except OSError:
        # Another run made the same cache in the meantime: share it.
        shutil.rmtree(building)


def copy_known(folder):
    """Take over the windows that other caches have already embedded."""
    mine = json.loads((folder / "index.json").read_text("utf-8"))
    values = open_memmap(folder / "values.npy", mode="r+")
    tokens = open_memmap(folder / "tokens.npy", mode="r+")
    number = {tuple(key): i for i, key in enumerate(mine["windows"])}
    done = np.zeros_like(tokens)
    for path in sorted(folder.parent.glob("[!.]*/index.json")):
        other = json.loads(path.read_text("utf-8"))
        if path.parent == folder or any(
            other[key] != mine[key]
            for key in ("format", "encoder", "layers", "frames")
        ):
            continue
        other_values = np.load(path.with_name("values.npy"), mmap_mode="r")
        other_tokens = np.load(path.with_name("tokens.npy"))
        for j, key in enumerate(other["windows"]):
            i = number.get(tuple(key))
            if i is not None and other_tokens[j] and not done[i]:
                start, stop = mine["offsets"][i : i + 2]
                at = other["offsets"][j]
                values[start:stop] = other_values[at : at + stop - start]
                done[i] = other_tokens[j]
    values.flush()
    tokens[:] = done
    tokens.flush()
