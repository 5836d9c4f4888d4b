"""The embedding cache: a frozen encoder sees every window exactly once.

A cache is a folder named after the sha256 of all that determines its values
(encoder weights and configuration, layers, the windows, size and time stamp
of every audio file), so it can be absent but never stale:

* ``values.npy`` float32 ``[row, layer, dim]``, memory-mapped. Pooled, a
  window is one row: its mean over valid tokens (or the encoder's own
  ``pool``). With ``frames=True`` a window is as many rows as it has tokens.
* ``tokens.npy`` int64 ``[window]``: valid tokens, 0 = not embedded yet. It is
  written after the values have reached the disk: a killed run, at whatever
  moment, continues where it stopped.
* ``sums.npy`` uint32 ``[window]``: CRC-32 of the values, verified whenever the
  cache is opened: what a disk has damaged is embedded again.
* ``index.json``: what was embedded.

A new cache first copies the windows that another cache of the same encoder
and layers already has: tasks that share audio encode it once, and a changed
file costs that file alone. Values are float32. Half precision would halve the
disk, but on 1,200 notes it moved logits by up to 3e-3 and, through the choice
of epoch and learning rate, flipped up to 5 % of the predictions: a cached run
must give what an uncached one gives.

Under torchrun the ranks share the windows out; they write disjoint rows of
the same files.
"""

import hashlib
import json
import os
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from speechbrain.utils.distributed import ddp_barrier
from torch.utils.data import DataLoader
from tqdm import tqdm

from muselq_modules.embedding_cache import (
    CacheFiles,
    EmbeddingCache,
    open_cache,
)
from muselq_modules.errors import UserError
from muselq_modules.loaders import read_batches
from muselq_modules.locks import only_one
from muselq_modules.ranks import raise_together
from muselq_modules.waveforms import BadClip
from muselq_modules.windows import WindowReader, equal_length_batches

FORMAT = 2
FLUSH_SECONDS = 10.0


def embed(
    encoder,
    windows,
    data_folder,
    cache_folder,
    layers,
    frames=False,
    batch_s=240.0,
    workers=0,
    device="cpu",
):
    """Embed windows, or find that they are embedded already.

    Parameters
    ----------
    encoder : MusicEncoder or Baseline
    windows : iterable of Window
        Duplicates are embedded once.
    data_folder : str or Path
        The paths of the windows are relative to it.
    cache_folder : str or Path
        Caches live in sub-folders of it.
    layers : list of int
        Hidden states to keep, 0 = after subsampling ... n_layers = last.
    frames : bool
        Keep every token instead of the mean over time.
    batch_s : float
        Seconds of audio encoded together.
    workers : int
        Processes that read audio.
    device : str or torch.device

    Returns
    -------
    EmbeddingCache

    Raises
    ------
    UserError
        When an audio file is missing or unreadable.
    """
    windows = sorted(set(windows))
    digest, index = _describe(encoder, windows, data_folder, layers, frames)
    folder = Path(cache_folder) / digest[:16]
    encoder.eval()
    rank, n_ranks = _rank()
    work = f"embedding-{folder.name}"
    # Another run may want the same: it waits, and finds everything done.
    main = only_one(cache_folder, work) if rank == 0 else nullcontext()
    with main:
        if rank == 0:
            open_cache(folder, encoder, windows, index)
        ddp_barrier()
        files = CacheFiles(folder)
        todo = np.flatnonzero(files.tokens == 0)
        # No rank may mark windows before every rank has seen what is to do.
        ddp_barrier()
        problem = None
        if len(todo):
            max_samples = batch_s * encoder.sample_rate
            batches = equal_length_batches(windows, todo, max_samples)
            loader = DataLoader(
                WindowReader(windows, data_folder, encoder.sample_rate),
                batch_size=None,
                sampler=batches[rank::n_ranks],
                num_workers=min(workers, os.cpu_count() or 1),
            )
            try:
                _encode_all(encoder, loader, files, device, rank)
            except UserError as error:
                problem = str(error)
        del files
        raise_together(problem)
    return EmbeddingCache(folder, windows)


def cache_digest(encoder, windows, data_folder, layers, frames=False):
    """Hex sha256 that names the cache of `embed` with these arguments."""
    windows = sorted(set(windows))
    return _describe(encoder, windows, data_folder, layers, frames)[0]


def _describe(encoder, windows, data_folder, layers, frames):
    """Digest and index of a cache."""
    stamps = _file_stamps(data_folder, windows)
    index = {
        "format": FORMAT,
        "encoder": encoder.digest(),
        "layers": list(layers),
        "frames": frames,
        "windows": [
            [w.path, *stamps[w.path], w.start_s, w.samples] for w in windows
        ],
    }
    text = json.dumps(index, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest(), index


def pool(encoder, out):
    """Pooled hidden states of an output, ``[batch, layer, dim]``.

    The mean over valid tokens, unless the encoder has a ``pool`` of its own.
    """
    if hasattr(encoder, "pool"):
        return encoder.pool(out)
    steps = torch.arange(
        out.hidden_states[0].shape[1], device=out.lengths.device
    )
    valid = (steps < out.lengths[:, None]).unsqueeze(-1)
    n = out.lengths[:, None]
    means = [(x * valid).sum(1) / n for x in out.hidden_states]
    return torch.stack(means, 1)


def _rank():
    """Rank and number of ranks; more than one machine is refused."""
    n_ranks = int(os.environ.get("WORLD_SIZE", 1))
    if n_ranks != int(os.environ.get("LOCAL_WORLD_SIZE", n_ranks)):
        # Memory-mapped files are not coherent between machines.
        raise UserError(
            "Probes run on one machine: start torchrun with --nnodes=1."
        )
    return int(os.environ.get("RANK", 0)), n_ranks


def _file_stamps(data_folder, windows):
    """Size and modification time of each file, by path."""
    stamps = {}
    for path in {window.path for window in windows}:
        try:
            stat = (Path(data_folder) / path).stat()
        except FileNotFoundError:
            raise UserError(
                f"{Path(data_folder) / path} is in the manifest but not on "
                "disk: delete the manifest folder to prepare the data again."
            ) from None
        stamps[path] = (stat.st_size, stat.st_mtime_ns)
    return stamps


def _encode_all(encoder, loader, files, device, rank):
    """Encode what the loader reads."""
    last_flush = time.monotonic()
    total = sum(len(batch) for batch in loader.sampler)
    with tqdm(total=total, desc="Embedding", disable=rank > 0) as bar:
        # In order, for the loader follows its sampler.
        batches = zip(loader.sampler, read_batches(loader), strict=True)
        for numbers, batch in batches:
            if isinstance(batch, UserError):
                files.flush()
                raise batch
            try:
                embedded, lengths = _encode(
                    encoder, *batch, files.index, device
                )
            except BadClip as error:
                files.flush()
                window = loader.dataset.windows[numbers[error.clip]]
                raise UserError(f"{window.path} {error.fault}") from error
            for window in zip(numbers, embedded, lengths, strict=True):
                files.write(*window)
            bar.update(len(numbers))
            if time.monotonic() - last_flush > FLUSH_SECONDS:
                files.flush()
                last_flush = time.monotonic()
    files.flush()


@torch.inference_mode()
def _encode(encoder, wavs, n_samples, index, device):
    """Embeddings ``[window, row, layer, dim]`` and tokens of a batch."""
    lengths = None
    if not (n_samples == wavs.shape[1]).all():
        lengths = n_samples / wavs.shape[1]
    out = encoder(
        wavs.to(device), encoder.sample_rate, lengths, index["layers"]
    )
    if index["frames"]:
        states = torch.stack(out.hidden_states, 2)
    else:
        states = pool(encoder, out).unsqueeze(1)
    return states.float().cpu().numpy(), out.lengths.cpu().numpy()
