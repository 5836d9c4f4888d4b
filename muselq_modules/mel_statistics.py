"""Mean and deviation of each mel bin, measured before the first step.

Tokens come from normalised frames: without it the random projection sees
little but the overall level and a few codes take everything.
"""

import json
import os
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from muselq_modules.errors import UserError
from muselq_modules.segments import SegmentDataset


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
    dataset = SegmentDataset(manifest, log_mel.sample_rate)
    chosen = [(0, i) for i in spread_over(len(manifest), n_segments)]
    loader = DataLoader(
        dataset,
        sampler=chosen,
        batch_size=1,
        num_workers=n_workers,
        collate_fn=SegmentDataset.collate,
    )
    total = torch.zeros(log_mel.n_mels, dtype=torch.float64)
    squares, n_frames = total.clone(), 0
    for batch in tqdm(loader, desc="Mel statistics", unit="segment"):
        wav = batch.wav[:, : int(batch.n_samples)]
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


def load_or_measure(path, log_mel, manifest, **options):
    """Statistics of a run, measured once and kept in its folder.

    Parameters
    ----------
    path : str or Path
        A JSON file, written atomically.
    log_mel, manifest
        As in :func:`measure_statistics`, with its other ``options``.

    Returns
    -------
    dict
        As :func:`measure_statistics`.
    """
    path = Path(path)
    if path.is_file():
        statistics = json.loads(path.read_text(encoding="utf-8"))
        if statistics["manifest_digest"] == manifest.digest:
            return statistics
    statistics = measure_statistics(log_mel, manifest, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(statistics), encoding="utf-8")
    os.replace(unfinished, path)
    return statistics
