"""Resample audio that comes in blocks, without a seam between them."""

import math

import numpy as np
import torch
import torchaudio

from muselq_modules.audio_data import filter_frames
from muselq_modules.audio_formats import AudioFault, NotReached, check_rate


def resample_blocks(blocks, rate, sample_rate):
    """Resample audio that comes in blocks; the seams leave no trace.

    Parameters
    ----------
    blocks : iterable of torch.Tensor
        float32 [frames] at ``rate``.
    rate, sample_rate : int
        In Hz. Rates without a common divisor, such as 44,101 and 24,000 Hz,
        need the extra `resample`: torchaudio's filter would take gigabytes.

    Yields
    ------
    torch.Tensor
        [samples]. All of them together are those of
        ``torchaudio.functional.resample``.

    Example
    -------
    >>> wav = torch.randn(100_000)
    >>> blocks = list(resample_blocks(wav.split(44100), 44100, 24000))
    >>> expected = torchaudio.functional.resample(wav, 44100, 24000)
    >>> torch.allclose(torch.cat(blocks), expected, atol=1e-6)
    True
    """
    if rate == sample_rate:
        yield from blocks
        return
    try:
        check_rate(rate, sample_rate)
    except AudioFault:
        yield from _resample_with_soxr(blocks, rate, sample_rate)
        return
    resample = torchaudio.transforms.Resample(
        rate, sample_rate, dtype=torch.float32
    )
    # Whole steps of both rates: each block starts on a sample of the result.
    step = rate // math.gcd(rate, sample_rate)
    margin = math.ceil(filter_frames(rate, sample_rate) / step) * step
    waiting, lead = torch.zeros(0), 0  # frames in front that are done

    for block in blocks:
        waiting = torch.cat([waiting, block])
        ready = (len(waiting) - lead - margin) // step * step
        if ready <= 0:
            continue
        stop = lead + ready
        result = resample(waiting[: stop + margin])
        yield result[lead * sample_rate // rate : stop * sample_rate // rate]
        first = max(0, stop - margin)
        waiting, lead = waiting[first:], stop - first
    if len(waiting) > lead:
        yield resample(waiting)[lead * sample_rate // rate :]


def _resample_with_soxr(blocks, rate, sample_rate):
    """For rates whose ratio is no fraction of small numbers."""
    try:
        from soxr import ResampleStream
    except ImportError as error:
        raise NotReached(
            f"unusual sample rate: {rate} Hz needs the extra `resample`, "
            "install soxr, or convert the file"
        ) from error
    stream = ResampleStream(rate, sample_rate, 1, dtype="float32")
    frames = samples = 0
    for block in blocks:
        frames += len(block)
        result = stream.resample_chunk(block.numpy())
        samples += len(result)
        yield torch.from_numpy(result)
    rest = stream.resample_chunk(np.zeros(0, np.float32), last=True)
    wanted = max(0, math.ceil(frames * sample_rate / rate) - samples)
    yield torch.from_numpy(
        np.pad(rest, (0, max(0, wanted - len(rest))))[:wanted]
    )
