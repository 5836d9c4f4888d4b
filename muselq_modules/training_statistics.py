"""What is measured over the training manifest before the first step.

In one pass over some segments: the mean and deviation of each mel bin, the
principal components of stacked frames that whiten the targets, and the tokens:
how many are really used, and which is the most frequent, the guess that a
model must beat.
"""

import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from tqdm import tqdm

from muselq_modules.checksums import file_digest
from muselq_modules.errors import UserError
from muselq_modules.files import write_json
from muselq_modules.loaders import read_batches
from muselq_modules.segments import SegmentDataset, ignore_stop_signals
from muselq_modules.tokenizer import token_health

# Stacked frames kept for the components and the tokens, evenly spread over
# the segments: 200 MB, and many for each of the 512 x 512 covariances.
KEPT_FRAMES = 100_000


def spread_over(n_examples, count):
    """At most ``count`` numbers below ``n_examples``, evenly spread.

    Example
    -------
    >>> spread_over(10, 4), spread_over(2, 4)
    ([0, 2, 5, 7], [0, 1])
    """
    count = min(count, n_examples)
    return [index * n_examples // count for index in range(count)]


class TargetPipeline:
    """The modules that turn a waveform into targets, in their order.

    Parameters
    ----------
    log_mel : LogMel
        Decibels, normalised per bin.
    stacking : FrameStacking
        Makes the frames of a token.
    whitening : Whitening
        Equalises their components.
    tokenizer : RandomProjectionTokenizer
        Makes tokens of whitened frames.
    input_whitening : Whitening, optional
        The encoder's, which is measured with the others.
    """

    def __init__(
        self, log_mel, stacking, whitening, tokenizer, input_whitening=None
    ):
        self.log_mel = log_mel
        self.stacking = stacking
        self.whitening = whitening
        self.tokenizer = tokenizer
        self.input_whitening = input_whitening

    def identity(self):
        """Hex sha256 of the settings that decide what is measured."""
        digest = hashlib.sha256()
        modules = (
            self.log_mel,
            self.stacking,
            self.whitening,
            self.input_whitening,
        )
        for module in modules:
            digest.update(str(module).encode())
        for buffer in self.tokenizer.buffers():
            digest.update(buffer.cpu().numpy().tobytes())
        return digest.hexdigest()

    def state(self):
        """The measured buffers, by name."""
        state = {
            "mel_mean": self.log_mel.mean,
            "mel_std": self.log_mel.std,
            "whitening_mean": self.whitening.mean,
            "whitening_matrix": self.whitening.matrix,
        }
        if self.input_whitening is not None:
            state["input_whitening_mean"] = self.input_whitening.mean
            state["input_whitening_matrix"] = self.input_whitening.matrix
        return state

    def set_state(self, state):
        """Put measured buffers in their places."""
        for name, buffer in self.state().items():
            buffer.copy_(state[name])


@torch.no_grad()
def measure(pipeline, manifest, n_segments=1000, n_workers=0):
    """Measure the buffers of a pipeline, and the health of its tokens.

    Parameters
    ----------
    pipeline : TargetPipeline
        Its buffers are set.
    manifest : SegmentManifest
        Training segments; an even spread of ``n_segments`` is read.
    n_segments, n_workers : int
        Segments to read, and loader processes.

    Returns
    -------
    dict
        ``perplexity`` and ``top1_share`` of the tokens, ``majority_token``
        (the most frequent), ``n_tokens``, ``loudness_share`` (of the variance
        of stacked frames, the first component's share) and ``n_frames``.

    Raises
    ------
    UserError
        When none of the segments can be read.
    """
    log_mel = pipeline.log_mel
    total = torch.zeros(log_mel.n_mels, dtype=torch.float64)
    squares, n_frames, kept = total.clone(), 0, []
    numbers = spread_over(len(manifest), n_segments)
    loader = DataLoader(
        SegmentDataset(manifest, log_mel.sample_rate),
        sampler=[(0, number) for number in numbers],
        batch_size=1,
        num_workers=n_workers,
        collate_fn=SegmentDataset.collate,
        worker_init_fn=ignore_stop_signals,
    )
    batches = tqdm(
        read_batches(loader), "Statistics", total=len(loader), unit="segment"
    )
    for batch in batches:
        wav = batch.waveforms("cpu")[:, : int(batch.n_samples)]
        decibels = log_mel.decibels(wav)
        total += decibels.sum(dim=(0, 1), dtype=torch.float64)
        squares += decibels.double().square().sum(dim=(0, 1))
        n_frames += decibels.shape[1]
        stacked = pipeline.stacking(decibels)[0]
        chosen = spread_over(len(stacked), -(-KEPT_FRAMES // len(numbers)))
        kept.append(stacked[chosen])
    if n_frames == 0:
        raise UserError(
            f"no segment of {manifest.path} can be read: check audio_root "
            f"{manifest.audio_root} and prepare the data again."
        )
    mean = total / n_frames
    variance = (squares / n_frames - mean.square()).clamp_min(0.0)
    log_mel.set_statistics(mean, variance.sqrt())
    frames = torch.cat(kept).unflatten(1, (-1, log_mel.n_mels))
    frames = log_mel.normalise(frames)
    if pipeline.input_whitening is not None:
        pipeline.input_whitening.fit(frames.flatten(0, 1))
    frames = frames.flatten(1)
    pipeline.whitening.fit(frames)
    tokens = pipeline.tokenizer(pipeline.whitening(frames))
    counts = torch.bincount(tokens, minlength=pipeline.tokenizer.codebook_size)
    return {
        **token_health(counts),
        "majority_token": int(counts.argmax()),
        "n_tokens": len(tokens),
        "loudness_share": _first_share(frames),
        "n_frames": n_frames,
    }


def _first_share(frames):
    """Share of the first principal component in the variance of frames."""
    variances = torch.linalg.eigvalsh(torch.cov(frames.double().T))
    return round(float(variances[-1] / variances.sum().clamp_min(1e-12)), 4)


def load_or_measure(folder, pipeline, manifest, n_segments=1000, n_workers=0):
    """Set a pipeline's buffers, measured once and kept in the run folder.

    Parameters
    ----------
    folder : str or Path
        ``statistics.safetensors`` (the buffers) and ``targets.json`` (the
        health of the tokens) are there afterwards, written atomically.
    pipeline : TargetPipeline
        Its buffers are set.
    manifest : SegmentManifest
        Files of another manifest, or of other settings, are not used.
    n_segments, n_workers : int
        As in :func:`measure`.

    Returns
    -------
    dict
        As :func:`measure`.
    """
    folder = Path(folder)
    tensors, health = (
        folder / "statistics.safetensors",
        folder / "targets.json",
    )
    identity = {
        "manifest_digest": manifest.digest,
        "settings_digest": pipeline.identity(),
        "n_segments": n_segments,
    }
    try:
        found = json.loads(health.read_text(encoding="utf-8"))
        sound = found.get("statistics_sha256") == file_digest(tensors)
        if sound and {name: found.get(name) for name in identity} == identity:
            pipeline.set_state(load_file(tensors))
            return found
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError):
        pass  # absent or damaged: measured again
    found = {**measure(pipeline, manifest, n_segments, n_workers), **identity}
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: buffer.cpu().contiguous().clone()
        for name, buffer in pipeline.state().items()
    }
    # The tensors first: whoever reads targets.json finds them.
    save_file(state, tensors.with_suffix(".tmp"))
    os.replace(tensors.with_suffix(".tmp"), tensors)
    found["statistics_sha256"] = file_digest(tensors)
    write_json(health, found)
    return found
