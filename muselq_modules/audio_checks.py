"""Decide whether an audio file is fit for training, by decoding all of it.

A header is a promise. Cut downloads, MP3 files without a frame count and
damaged streams promise one length and hold another, and a data loader finds
out after a day of training. `check_audio` decodes the file once, compares, and
answers in one sentence. It needs no torch: the processes that run it start
fast.
"""

from pathlib import Path

import numpy as np
import soundfile

from muselq_modules.audio_formats import (
    CODEC_SUFFIXES,
    AudioFault,
    NotReached,
    check_format,
    check_hours,
    check_name,
    check_rate,
    one_line,
)
from muselq_modules.containers import chunks_are_cut, ogg_is_cut
from muselq_modules.mp3_frames import count_mp3_frames

# -80 dB full scale: below it there is nothing but dither.
SILENCE_RMS = 1e-4
# Decoded together, all channels counted: 16 MiB.
BLOCK_SAMPLES = 2**22
# torchcodec starts at the first frame again when a block begins within a
# frame of the codec; this is a multiple of what codecs use.
CODEC_BLOCK_FRAMES = 184_320
# Encoders pad and decoders drop damaged frames, so that a sound MP3 or Ogg
# file may decode to slightly less than its header says.
TOLERANCE_S = 0.25
UNKNOWN_FRAMES = 2**62


def check_audio(path):
    """Decode a file from its first to its last frame and report on it.

    Parameters
    ----------
    path : str or Path
        The audio file.

    Returns
    -------
    dict
        `frames` (decoded, for one channel), `sample_rate` in Hz, `channels`,
        and `silent`: whether the down-mixed signal stays below -80 dB full
        scale around its mean.

    Raises
    ------
    AudioFault
        With the reason, when the file is hidden, empty, of an unsupported
        format, unreadable, truncated or not finite.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "tone.wav"
    ...     soundfile.write(path, 0.1 * np.sin(np.arange(8000)), 8000)
    ...     check_audio(path)
    {'frames': 8000, 'sample_rate': 8000, 'channels': 1, 'silent': False}
    """
    path = Path(path)
    check_name(path)
    try:
        if path.stat().st_size == 0:
            raise AudioFault("empty: 0 bytes")
        try:
            return _check_with_soundfile(path)
        except soundfile.SoundFileError as error:
            return _check_with_torchcodec(path, error)
    except OSError as error:
        raise NotReached(f"cannot be opened: {error.strerror}") from error


def audio_decoder(path):
    """Open a file with the optional torchcodec.

    Parameters
    ----------
    path : str or Path
        A file that libsndfile cannot read, such as M4A.

    Returns
    -------
    torchcodec.decoders.AudioDecoder

    Raises
    ------
    AudioFault
        When torchcodec, or the FFmpeg it needs, is not installed, or when the
        file cannot be opened. The first names the remedy.
    """
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, OSError, RuntimeError) as error:
        # torchcodec raises RuntimeError when it finds no FFmpeg.
        raise NotReached(
            f"codec missing: '{Path(path).suffix.lower()}' files need the "
            "extra `codecs`, install torchcodec and FFmpeg"
        ) from error
    try:
        return AudioDecoder(str(path))
    except (OSError, RuntimeError, ValueError) as error:
        raise AudioFault(f"unreadable: {one_line(error)}") from error


def _check_with_soundfile(path):
    """Check a file that libsndfile opens."""
    with soundfile.SoundFile(str(path)) as file:
        facts = {
            "frames": 0,
            "sample_rate": file.samplerate,
            "channels": file.channels,
        }
        if file.frames == 0:
            raise AudioFault("empty: the header is there, the audio is not")
        check_format(file.samplerate, file.channels)
        check_rate(file.samplerate)
        if file.frames > UNKNOWN_FRAMES:
            raise AudioFault("no length: its header gives none, re-encode it")
        check_hours(file.frames / file.samplerate)
        meter = _LevelMeter()
        n_frames = BLOCK_SAMPLES // file.channels
        try:
            while len(block := file.read(n_frames, "float32", True)):
                meter.add(block)
        except soundfile.SoundFileError as error:
            read_s = meter.frames / file.samplerate
            raise AudioFault(
                f"truncated or corrupt: {one_line(error)} after {read_s:.1f} s"
            ) from error
        facts["frames"] = meter.frames
        check_length(path, file, meter.frames)
        _check_seek(file, meter.frames)
    facts["silent"] = meter.silent
    return facts


def _check_with_torchcodec(path, first_error):
    """Check a file that libsndfile refused with `first_error`."""
    try:
        decoder = audio_decoder(path)
    except AudioFault as fault:
        if path.suffix.lower() in CODEC_SUFFIXES:
            raise
        reason = f"unreadable: {one_line(first_error)}"
        raise AudioFault(reason) from fault
    facts = decoder.metadata
    if not facts.sample_rate or not facts.num_channels:
        raise AudioFault("empty: the header is there, the audio is not")
    check_format(facts.sample_rate, facts.num_channels)
    check_rate(facts.sample_rate)
    promised_s = facts.duration_seconds_from_header or 0.0
    check_hours(promised_s)
    meter = _LevelMeter()
    for samples in _codec_blocks(decoder, facts.sample_rate):
        meter.add(samples)
        check_hours(meter.frames / facts.sample_rate)
    if not meter.frames:
        raise AudioFault("empty: the header is there, the audio is not")
    check_promise(
        meter.frames, promised_s * facts.sample_rate, facts.sample_rate
    )
    return {
        "frames": meter.frames,
        "sample_rate": int(facts.sample_rate),
        "channels": int(facts.num_channels),
        "silent": meter.silent,
    }


def _codec_blocks(decoder, rate):
    """Yield blocks `[frames, channels]` to the end of an open file."""
    frames = 0
    while True:
        start_s, stop_s = frames / rate, (frames + CODEC_BLOCK_FRAMES) / rate
        try:
            audio = decoder.get_samples_played_in_range(start_s, stop_s)
        except (OSError, RuntimeError, ValueError) as error:
            if frames and "No audio frames" in str(error):
                return  # the end fell on that of a block
            raise AudioFault(f"unreadable: {one_line(error)}") from error
        samples = audio.data.numpy().T
        frames += len(samples)
        yield samples
        if len(samples) < CODEC_BLOCK_FRAMES:
            return


class _LevelMeter:
    """Counts frames and measures the level of the down-mixed signal."""

    def __init__(self):
        self.frames, self.total, self.power = 0, 0.0, 0.0

    def add(self, block):
        """Add a block `[frames, channels]`; it must be finite."""
        if not np.isfinite(block).all():
            raise AudioFault("not finite: holds NaN or infinite samples")
        # The model hears the mean of the channels, so that a stereo file of
        # opposite channels is silence.
        mono = block.mean(axis=1, dtype=np.float64)
        self.frames += len(mono)
        self.total += mono.sum()
        self.power += np.square(mono).sum()

    @property
    def silent(self):
        """Whether nothing but a constant and dither was heard."""
        mean = self.total / self.frames
        variance = self.power / self.frames - mean**2
        return bool(variance < SILENCE_RMS**2)


def held_frames(path, file):
    """Return how many frames an open file should hold.

    Parameters
    ----------
    path : str or Path
        The file.
    file : soundfile.SoundFile
        The same, open.

    Returns
    -------
    int
        What the header says. For an MP3 file without a frame count, where
        libsndfile guesses, the frames are counted.
    """
    if file.format == "MP3":
        held, has_count = count_mp3_frames(path)
        if held and not has_count:
            return held
    return file.frames


def is_short(frames, held, sample_rate):
    """Whether `frames` falls short of `held` by more than padding."""
    return frames < held - TOLERANCE_S * sample_rate


def check_length(path, file, frames):
    """Raise `AudioFault` when an open file held fewer `frames` than it should.

    `frames` were decoded, from the first to the last.
    """
    held = held_frames(path, file)
    if held > file.frames and is_short(frames, held, file.samplerate):
        # libsndfile stops where it guessed the end, whatever music follows.
        raise AudioFault(
            f"MP3 without a frame count: {frames / file.samplerate:.1f} s of "
            f"{held / file.samplerate:.1f} s can be read, re-encode it"
        )
    if file.format == "OGG" and ogg_is_cut(path):
        raise AudioFault("truncated: the Ogg stream has no last page")
    if chunks_are_cut(file.extra_info):
        raise AudioFault("truncated: a chunk is longer than the file")
    check_promise(frames, held, file.samplerate)


def check_promise(frames, promised, sample_rate):
    """Raise `AudioFault` when fewer frames were decoded than promised."""
    if is_short(frames, promised, sample_rate):
        raise AudioFault(
            f"truncated: {frames / sample_rate:.1f} s decoded, the header "
            f"promises {promised / sample_rate:.1f} s"
        )


def _check_seek(file, frames):
    """Read the last second by seeking to it, as the data loader does."""
    wanted = min(frames, file.samplerate)
    try:
        file.seek(frames - wanted)
        read = len(file.read(wanted, "float32", True))
    except soundfile.SoundFileError as error:
        raise AudioFault(f"cannot seek: {one_line(error)}") from error
    if read != wanted:
        raise AudioFault(f"cannot seek: {read} of {wanted} frames read there")
