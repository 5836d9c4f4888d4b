"""Decode and resample a recording of any length, block by block.

One decoder runs from the first frame to the last: blocks have no seam, and a
ten-hour file costs ten hours of decoding and the memory of one block.
`read_segment` gives the same samples, for training, which wants pieces from
anywhere.
"""

import math
import os
from pathlib import Path

import soundfile
import torch

from muselq_modules.audio_checks import (
    BLOCK_SAMPLES,
    UNKNOWN_FRAMES,
    audio_decoder,
    check_length,
    check_promise,
)
from muselq_modules.audio_formats import (
    CODEC_SUFFIXES,
    AudioFault,
    NotReached,
    check_format,
    check_hours,
    check_name,
    one_line,
)
from muselq_modules.audio_scan import quiet_decoders
from muselq_modules.resampling import resample_blocks
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
    ...     soundfile.write(path, torch.zeros(441000, 2).numpy(), 44100)
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
        check_format(self.source_rate, self.channels)
        check_hours(self.duration_s)

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
        length = min(length, BLOCK_SAMPLES // self.channels)
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
