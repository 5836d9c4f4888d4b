"""What an audio file may be: its name, format and length, and its faults."""

import math

SNDFILE_SUFFIXES = frozenset(
    ".wav .flac .mp3 .ogg .oga .opus .aif .aiff .aifc .au .snd .caf .w64 "
    ".rf64".split()
)
# Formats that libsndfile does not read; the optional torchcodec does.
CODEC_SUFFIXES = frozenset(".m4a .aac .mp4 .wma .ac3 .webm".split())
AUDIO_SUFFIXES = SNDFILE_SUFFIXES | CODEC_SUFFIXES

# Beyond these a header is damaged or hostile: a few kilobytes of FLAC can
# promise gigabytes of silence.
RATES_HZ = (1000, 768000)
MAX_CHANNELS = 64  # ambisonics of seventh order
MAX_HOURS = 100.0


class AudioFault(Exception):
    """The reason why an audio file cannot be used."""


class NotReached(AudioFault):
    """A fault of this machine at this time, not of the file."""


def check_name(path):
    """Raise `AudioFault` for a file that is no audio by its name."""
    if path.name.startswith("."):
        raise AudioFault("hidden file")
    if path.suffix.lower() not in AUDIO_SUFFIXES:
        raise AudioFault(f"unsupported format: '{path.suffix}'")


def check_format(sample_rate, channels):
    """Raise `AudioFault` for a rate or channels that no recording has."""
    lowest, highest = RATES_HZ
    if not lowest <= sample_rate <= highest:
        raise AudioFault(f"unusual sample rate: {sample_rate} Hz, convert it")
    if channels > MAX_CHANNELS:
        raise AudioFault(f"unusual format: {channels} channels, convert it")


def check_rate(sample_rate, target_rate=24000):
    """Raise `AudioFault` for a rate that takes gigabytes to resample.

    The polyphase filter of the resampler has a row for each phase; a rate such
    as 44,101 Hz, without a common divisor with 24 kHz, has 24,000 of them.
    """
    if math.gcd(sample_rate, target_rate) < 5:
        raise AudioFault(f"unusual sample rate: {sample_rate} Hz, convert it")


def check_hours(seconds):
    """Raise `AudioFault` for a length that no recording has."""
    if seconds > 3600 * MAX_HOURS:
        raise AudioFault(f"too long: {seconds / 3600:.0f} hours, split it")


def one_line(error):
    """Return the message of an exception without paths and line breaks."""
    text = getattr(error, "error_string", None) or str(error)
    if "not a regular file" in text:
        text = "no audio found in it"  # what libsndfile means by it
    return " ".join(text.replace("Error : ", "").split()).rstrip(".")
