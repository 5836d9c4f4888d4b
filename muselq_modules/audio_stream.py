"""Decode and resample a recording of any length, block by block.

One decoder runs from the first frame to the last: blocks have no seam, and a
ten-hour file costs ten hours of decoding and the memory of one block.
`read_segment` gives the same samples, for training, which wants pieces from
anywhere.
"""

import math
import os
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio

from muselq_modules.audio_checks import (
    CODEC_SUFFIXES,
    UNKNOWN_FRAMES,
    AudioFault,
    NotReached,
    audio_decoder,
    check_length,
    check_name,
    check_promise,
    check_rate,
    one_line,
)
from muselq_modules.audio_data import filter_frames
from muselq_modules.audio_scan import quiet_decoders
from muselq_modules.waveforms import MAX_PEAK

BLOCK_S = 10.0
# torchcodec starts at the first frame again when a block begins within a
# frame of the codec. A multiple of what codecs use (1024, 2048, 1536, 1152,
# 960, 4096) avoids that in most files; in others it costs time.
CODEC_BLOCK_FRAMES = 16 * 184_320


class AudioStream:
    """Mono blocks of a file at a chosen rate.

    Parameters
    ----------
    path : str or Path
        Any file that `read_segment` reads, of any rate.
    sample_rate : int
        Rate of the blocks in Hz.

    Attributes
    ----------
    source_rate, channels : int
        Rate of the file in Hz and its number of channels.
    duration_s : float
        What the header promises; 0.0 when it does not say. After the last
        block, what there was.

    Raises
    ------
    AudioFault
        With the reason, when the file is no audio, unreadable, truncated or
        not finite: at once, or when the fault is met.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "stereo.wav"
    ...     soundfile.write(path, np.zeros((441000, 2)), 44100)
    ...     stream = AudioStream(path, 24000)
    ...     print(stream.channels, stream.duration_s)
    ...     sum(len(block) for block in stream.blocks())
    2 10.0
    240000
    """

    def __init__(self, path, sample_rate):
        path = Path(path)
        check_name(path)
        try:
            os.fspath(path).encode()
        except UnicodeEncodeError as error:
            reason = "file name: not valid text, rename it"
            raise AudioFault(reason) from error
        self.sample_rate = sample_rate
        self._source = _open(path)
        self.source_rate = self._source.rate
        self.channels = self._source.channels
        self.duration_s = self._source.duration_s

    def blocks(self):
        """Yield float32 tensors [samples], of about ten seconds or more."""
        frames = 0

        def checked():
            nonlocal frames
            for block in self._source.blocks():
                frames += len(block)
                yield _mix_down(block)

        yield from resample_blocks(
            checked(), self.source_rate, self.sample_rate
        )
        if frames == 0:
            raise AudioFault("empty: the header is there, the audio is not")
        self.duration_s = frames / self.source_rate


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
        check_rate(rate)
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


def _mix_down(block):
    """The mean of the channels of an array [frames, channels], checked."""
    wav = torch.from_numpy(block).mean(dim=1)
    peak = float(wav.abs().max()) if len(wav) else 0.0
    if not math.isfinite(peak):
        raise AudioFault("not finite: holds NaN or infinite samples")
    if peak > MAX_PEAK:
        raise AudioFault(f"too loud: reaches {peak:g}, scale it to -1 .. 1")
    return wav


def _open(path):
    """A source of blocks, by libsndfile where it can."""
    try:
        if path.stat().st_size == 0:
            raise AudioFault("empty: 0 bytes")
        try:
            with quiet_decoders():
                return _SndfileSource(path)
        except soundfile.SoundFileError as error:
            return _open_with_torchcodec(path, error)
    except OSError as error:
        raise NotReached(f"cannot be opened: {error.strerror}") from error


def _open_with_torchcodec(path, first_error):
    """Open what libsndfile refused with `first_error`."""
    try:
        return _CodecSource(path)
    except NotReached as missing:
        if path.suffix.lower() in CODEC_SUFFIXES:
            raise
        reason = f"unreadable: {one_line(first_error)}"
        raise AudioFault(reason) from missing


class _SndfileSource:
    """Blocks [frames, channels] of a file that libsndfile reads."""

    def __init__(self, path):
        self._path = path
        self._file = soundfile.SoundFile(str(path))
        self.rate, self.channels = self._file.samplerate, self._file.channels
        if self._file.frames > UNKNOWN_FRAMES:
            raise AudioFault("no length: its header gives none, re-encode it")
        self.duration_s = self._file.frames / self.rate

    def blocks(self):
        """Yield arrays; raises `AudioFault` where the file is damaged."""
        frames, length = 0, round(BLOCK_S * self.rate)
        with self._file as file:
            while True:
                try:
                    with quiet_decoders():
                        block = file.read(length, "float32", always_2d=True)
                except soundfile.SoundFileError as error:
                    raise AudioFault(
                        f"truncated or corrupt: {one_line(error)} after "
                        f"{frames / self.rate:.1f} s"
                    ) from error
                if not len(block):
                    break
                frames += len(block)
                yield block
            check_length(self._path, file, frames)


class _CodecSource:
    """Blocks [frames, channels] of a file that torchcodec reads."""

    def __init__(self, path):
        self._decoder = audio_decoder(path)
        facts = self._decoder.metadata
        self.rate, self.channels = int(facts.sample_rate), facts.num_channels
        self.duration_s = facts.duration_seconds_from_header or 0.0

    def blocks(self):
        """Yield arrays; raises `AudioFault` where the file is damaged."""
        frames = 0
        while True:
            stop = frames + CODEC_BLOCK_FRAMES
            try:
                audio = self._decoder.get_samples_played_in_range(
                    frames / self.rate, stop / self.rate
                )
            except (OSError, RuntimeError, ValueError) as error:
                if frames == 0:
                    reason = f"unreadable: {one_line(error)}"
                    raise AudioFault(reason) from error
                break  # there is no frame behind the last
            block = audio.data.numpy().T
            frames += len(block)
            yield block
            if len(block) < CODEC_BLOCK_FRAMES:
                break
        check_promise(frames, self.duration_s * self.rate, self.rate)
