"""Read a piece of an audio file: mono, resampled, of exactly the length asked.

SpeechBrain's `read_audio` neither resamples nor mixes down, and beyond the end
of a file it returns an empty tensor without a word. Training on the wrong crop
is worse than an error, so `read_segment` counts what it gets.
"""

import math
from pathlib import Path

import soundfile
import torch
import torchaudio

from muselq_modules.audio_checks import (
    audio_decoder,
    held_frames,
    is_short,
)
from muselq_modules.audio_formats import (
    AUDIO_SUFFIXES,
    CODEC_SUFFIXES,
    AudioFault,
    check_format,
    check_rate,
    one_line,
)
from muselq_modules.errors import UserError

__all__ = ["AUDIO_SUFFIXES", "read_segment"]

# The resampling filter spans fewer frames than this to either side.
FILTER_FRAMES = 64
# MP3 frames borrow bits from earlier ones: the first after a seek are wrong.
MP3_PREROLL = 12 * 1152
# Read and mixed down together, all channels counted: 16 MiB.
BLOCK_SAMPLES = 2**22
# Read at once; resampling two hours takes 5 GB.
MAX_HOURS = 2.0


def read_segment(path, start_s=0.0, duration_s=None, sample_rate=24000):
    """Read a segment of an audio file without decoding what precedes it.

    Parameters
    ----------
    path : str or Path
        Any file that libsndfile reads (WAV, FLAC, MP3, Ogg, AIFF, AU, ...);
        M4A and other formats need the extra `codecs`.
    start_s : float
        Where the segment starts, in seconds.
    duration_s : float, optional
        Length in seconds; None reads to the end of the file.
    sample_rate : int
        Rate of the result in Hz; the file is resampled when it has another.

    Returns
    -------
    torch.Tensor
        float32 `[samples]`, the mean of the channels. Exactly
        `round(duration_s * sample_rate)` samples, or fewer where the file ends
        before; never empty. A segment equals the same piece of the whole
        file, resampled.

    Raises
    ------
    UserError
        When the file cannot be read, when `start_s` is not inside it, when it
        holds less audio than its header promises, or samples that are not
        finite, or when more than two hours are asked for.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "stereo.wav"
    ...     soundfile.write(path, torch.zeros(88200, 2).numpy(), 44100)
    ...     read_segment(path, start_s=0.5, duration_s=1.0).shape
    ...     read_segment(path, start_s=1.75, duration_s=1.0).shape
    torch.Size([24000])
    torch.Size([6000])
    """
    if duration_s is not None and round(duration_s * sample_rate) < 1:
        raise UserError(
            f"{path}: a segment of {duration_s} s holds no sample: ask for a "
            "longer one"
        )
    try:
        wav, rate, lead, n_frames = _read_frames(
            path, start_s, duration_s, sample_rate
        )
    except soundfile.SoundFileError as error:
        if not Path(path).is_file():
            sentence = f"{path} does not exist: check the path"
            raise UserError(sentence) from error
        wav, rate, lead, n_frames = _read_with_torchcodec(
            path, start_s, duration_s, sample_rate, error
        )
    n_frames = min(n_frames, len(wav) - lead)
    if not torch.isfinite(wav.sum()):
        raise UserError(
            f"{path} holds NaN or infinite samples: leave it out by preparing "
            "the data again"
        )
    if rate != sample_rate:
        wav = torchaudio.functional.resample(wav, rate, sample_rate)
    first = lead * sample_rate // rate
    n_samples = math.ceil(n_frames * sample_rate / rate)
    if duration_s is not None:
        n_samples = min(n_samples, round(duration_s * sample_rate))
    return wav[first : first + n_samples].contiguous()


def _read_frames(path, start_s, duration_s, sample_rate):
    """Read frames with libsndfile, and a few around for the resampler.

    Returns
    -------
    wav : torch.Tensor
        float32 `[frames]`, the mean of the channels.
    rate : int
        In Hz.
    lead : int
        Frames in `wav` before the segment; they make a whole number of
        samples at `sample_rate`.
    n_frames : int
        Frames of the segment.
    """
    with soundfile.SoundFile(str(path)) as file:
        rate = file.samplerate
        _refuse_format(path, rate, file.channels, sample_rate)
        start = round(start_s * rate)
        if not 0 <= start < file.frames:
            raise UserError(_outside(path, start_s, file.frames / rate))
        stop = file.frames
        if duration_s is not None:
            n_samples = round(duration_s * sample_rate)
            stop = min(stop, start + math.ceil(n_samples * rate / sample_rate))
        _refuse_hours(path, (stop - start) / rate)
        lead = margin = 0
        if rate != sample_rate:
            step = rate // math.gcd(rate, sample_rate)
            margin = math.ceil(filter_frames(rate, sample_rate) / step) * step
            lead = min(margin, start // step * step)
        preroll = MP3_PREROLL if file.format == "MP3" else 0
        begin = max(0, start - lead - preroll)
        file.seek(begin)
        end = min(stop + margin, file.frames)
        wav = _read_mono(file, end - begin)
        # Less is right at the end of the audio, and nowhere else.
        end = begin + len(wav)
        if (
            end <= start
            or end < stop
            and is_short(end, held_frames(path, file), rate)
        ):
            raise UserError(
                f"{path} ends at {end / rate:.2f} s, before its header says: "
                "leave it out by preparing the data again"
            )
    return wav[start - lead - begin :], rate, lead, stop - start


def _read_mono(file, n_frames):
    """Read up to `n_frames` of an open file, mixed down `[frames]`."""
    step = BLOCK_SAMPLES // file.channels
    blocks = []
    while n_frames > 0:
        block = file.read(min(step, n_frames), "float32", always_2d=True)
        blocks.append(torch.from_numpy(block).mean(dim=1))
        n_frames -= step
        if len(block) < step:
            break
    return torch.cat(blocks)


def filter_frames(rate, sample_rate):
    """Return how many frames at `rate` the resampling filter reaches."""
    return math.ceil(FILTER_FRAMES * max(1.0, rate / sample_rate))


def _read_with_torchcodec(path, start_s, duration_s, sample_rate, first_error):
    """Read what libsndfile refused; returns as `_read_frames`."""
    try:
        decoder = audio_decoder(path)
    except AudioFault as fault:
        reason = one_line(first_error)
        if Path(path).suffix.lower() in CODEC_SUFFIXES:
            reason = str(fault)
        raise UserError(f"{path} cannot be read: {reason}") from fault
    facts = decoder.metadata
    _refuse_format(path, facts.sample_rate, facts.num_channels, sample_rate)
    length_s = facts.duration_seconds_from_header or math.inf
    if not 0 <= start_s < length_s:
        raise UserError(_outside(path, start_s, length_s))
    stop_s = math.inf if duration_s is None else start_s + duration_s
    _refuse_hours(path, min(stop_s, length_s) - start_s)
    try:
        audio = decoder.get_samples_played_in_range(
            start_s, None if stop_s >= length_s else stop_s
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    wav, rate = audio.data.mean(dim=0), int(audio.sample_rate)
    expected_s = min(stop_s, length_s) - start_s
    if math.isfinite(expected_s) and len(wav) < (expected_s - 0.1) * rate:
        raise UserError(
            f"{path} gives {len(wav) / rate:.2f} s of {expected_s:.2f} s "
            f"from {start_s} s on: leave it out by preparing the data again"
        )
    return wav, rate, 0, len(wav)


def _refuse_format(path, rate, channels, sample_rate):
    """Raise `UserError` for a format that takes gigabytes to read."""
    try:
        check_format(rate, channels)
        check_rate(rate, sample_rate)
    except AudioFault as fault:
        raise UserError(f"{path} has an {fault}") from fault


def _refuse_hours(path, seconds):
    """Raise `UserError` for more than a tensor should hold."""
    if MAX_HOURS * 3600 < seconds < math.inf:
        raise UserError(
            f"{path}: {seconds / 3600:.0f} hours do not fit in memory at once: "
            f"read pieces of at most {MAX_HOURS:g} hours"
        )


def _outside(path, start_s, length_s):
    """Return the sentence for a start outside the file."""
    return (
        f"{path} lasts {length_s:.2f} s, so that no segment starts at "
        f"{start_s} s: prepare the data again"
    )
