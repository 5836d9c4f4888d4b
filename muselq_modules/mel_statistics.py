"""What is measured over the training manifest before the first step.

The mean and deviation of each mel bin: tokens come from normalised frames,
without which the random projection sees little but the overall level and a few
codes take everything. And the tokens themselves: how many are really used,
and which is the most frequent, the guess that a model must beat.
"""

import json
import os
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from muselq_modules.errors import UserError
from muselq_modules.segments import SegmentDataset, ignore_stop_signals
from muselq_modules.tokenizer import token_health


def spread_over(n_examples, count):
    """At most ``count`` numbers below ``n_examples``, evenly spread.

    Example
    -------
    >>> spread_over(10, 4), spread_over(2, 4)
    ([0, 2, 5, 7], [0, 1])
    """
    count = min(count, n_examples)
    return [index * n_examples // count for index in range(count)]


@torch.no_grad()
def measure_statistics(log_mel, manifest, n_segments=1000, n_workers=0):
    """Per-bin mean and standard deviation in dB over a manifest.

    Parameters
    ----------
    log_mel : LogMel
        The features; not changed.
    manifest : SegmentManifest
        Training segments; an even spread of ``n_segments`` is read.
    n_segments, n_workers : int
        Segments to read, and loader processes.

    Returns
    -------
    dict
        ``mean`` and ``std`` (lists [n_mels]), ``n_frames``, and
        ``manifest_digest``.

    Raises
    ------
    UserError
        When none of the segments can be read.
    """
    total = torch.zeros(log_mel.n_mels, dtype=torch.float64)
    squares, n_frames = total.clone(), 0
    for batch in _read(
        log_mel, manifest, n_segments, n_workers, "Mel statistics"
    ):
        wav = batch.waveforms("cpu")[:, : int(batch.n_samples)]
        decibels = log_mel.decibels(wav).flatten(0, 1).double()
        total += decibels.sum(dim=0)
        squares += decibels.square().sum(dim=0)
        n_frames += len(decibels)
    if n_frames == 0:
        raise UserError(
            f"no segment of {manifest.path} can be read: check audio_root "
            f"{manifest.audio_root} and prepare the data again."
        )
    mean = total / n_frames
    variance = (squares / n_frames - mean.square()).clamp_min(0.0)
    return {
        "mean": mean.tolist(),
        "std": variance.sqrt().tolist(),
        "n_frames": n_frames,
        "manifest_digest": manifest.digest,
    }


@torch.no_grad()
def measure_targets(
    log_mel, stacking, tokenizer, manifest, n_segments=200, n_workers=0
):
    """Health of the tokens of the training data.

    Parameters
    ----------
    log_mel, stacking, tokenizer
        Make tokens of waveforms; the statistics of ``log_mel`` are set.
    manifest : SegmentManifest
        Training segments; an even spread of ``n_segments`` is read.
    n_segments, n_workers : int
        Segments to read, and loader processes.

    Returns
    -------
    dict
        ``perplexity`` and ``top1_share`` of all tokens,
        ``majority_token`` (the most frequent), ``n_tokens`` and
        ``manifest_digest``.
    """
    counts = torch.zeros(tokenizer.codebook_size)
    for batch in _read(log_mel, manifest, n_segments, n_workers, "Tokens"):
        wav = batch.waveforms("cpu")[:, : int(batch.n_samples)]
        tokens = tokenizer(stacking(log_mel(wav))).flatten()
        counts += torch.bincount(tokens, minlength=len(counts))
    return {
        **token_health(counts),
        "majority_token": int(counts.argmax()),
        "n_tokens": int(counts.sum()),
        "manifest_digest": manifest.digest,
    }


def _read(log_mel, manifest, n_segments, n_workers, description):
    """Batches of one segment each, with a progress bar."""
    loader = DataLoader(
        SegmentDataset(manifest, log_mel.sample_rate),
        sampler=[(0, i) for i in spread_over(len(manifest), n_segments)],
        batch_size=1,
        num_workers=n_workers,
        collate_fn=SegmentDataset.collate,
        worker_init_fn=ignore_stop_signals,
    )
    return tqdm(loader, desc=description, unit="segment")


def load_or_measure(path, measure, manifest, **options):
    """What ``measure`` gives, measured once and kept in the run folder.

    Parameters
    ----------
    path : str or Path
        A JSON file, written atomically.
    measure : callable
        :func:`measure_statistics` or :func:`measure_targets`, called with
        ``manifest`` and ``options``.
    manifest : SegmentManifest
        A file of another manifest is not used.

    Returns
    -------
    dict
        As ``measure``.
    """
    path = Path(path)
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["manifest_digest"] == manifest.digest:
            return found
    found = measure(manifest=manifest, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(found), encoding="utf-8")
    os.replace(unfinished, path)
    return found
