"""Short previews of tracks as MP3 data URIs, which every browser plays."""

import base64
import functools
import io

import soundfile

from muselq_modules.audio_data import read_segment
from muselq_modules.errors import UserError
from muselq_modules.parallel import Crashed, run_parallel

# Mono at 24 kHz and about 28 kbit/s: 50 kB for 15 s.
SAMPLE_RATE = 24000
QUALITY = {"bitrate_mode": "VARIABLE", "compression_level": 0.9}


def preview_span(duration_s, preview_s):
    """Start and length in seconds: the middle of a track.

    Example
    -------
    >>> preview_span(100.0, 15.0), preview_span(3.0, 15.0)
    ((42.5, 15.0), (0.0, 3.0))
    """
    length_s = min(duration_s, preview_s)
    return (duration_s - length_s) / 2, length_s


def make_previews(folder, files, preview_s, workers=None):
    """Previews of many files, in parallel.

    Parameters
    ----------
    folder : str or Path
        The paths of the files are relative to it.
    files : list of AudioFile
    preview_s : float
        Longest preview in seconds.
    workers : int, optional
        Processes, by default one for each available core.

    Returns
    -------
    dict
        Path -> data URI; None for a file that could not be read.
    """
    items = [(file.path, file.duration) for file in files]
    encode = functools.partial(_encode, str(folder), preview_s)
    made = run_parallel(encode, items, workers, "Previews")
    return {
        path: None if isinstance(uri, Crashed) else uri
        for (path, _), uri in made
    }


def _encode(folder, preview_s, item):
    """The data URI of one file; runs in a process."""
    path, duration_s = item
    start_s, length_s = preview_span(duration_s, preview_s)
    try:
        wav = read_segment(f"{folder}/{path}", start_s, length_s, SAMPLE_RATE)
    except UserError:
        return None
    buffer = io.BytesIO()
    peak = max(1.0, float(wav.abs().max()))  # resampling may overshoot
    soundfile.write(
        buffer, (wav / peak).numpy(), SAMPLE_RATE, format="MP3", **QUALITY
    )
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:audio/mpeg;base64,{encoded}"
