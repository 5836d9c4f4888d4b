"""Convert songs once to 24 kHz mono FLAC, which trains faster than MP3.

Resampling 30 s costs more than decoding it, and seeking in MP3 is slow. A
collection that is read for hundreds of epochs pays for one conversion.
"""

import functools
import math
import os
from pathlib import Path

import numpy as np
import soundfile

from muselq_modules.audio_scan import AudioFile
from muselq_modules.errors import UserError
from muselq_modules.parallel import Crashed, run_parallel

SAMPLE_RATE = 24000
CHUNK_S = 60  # whole seconds, so that chunks join without a seam


def transcode_all(root, target, songs, workers=None):
    """Write a FLAC copy of every song; those that exist already are kept.

    Parameters
    ----------
    root, target : str or Path
        Folders of the songs and of the copies.
    songs : list of AudioFile
        From `scan_audio`.
    workers : int, optional
        Number of processes, by default one for each available core.

    Returns
    -------
    list of AudioFile
        The copies in the same order: `album/song.mp3` becomes
        `album/song.mp3.flac`, since another `album/song.wav` may exist.

    Raises
    ------
    UserError
        When a copy cannot be written.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as root:
    ...     soundfile.write(Path(root, "a.wav"), np.zeros(44100), 44100)
    ...     song = AudioFile("a.wav", 44100, 44100, 1)
    ...     transcode_all(root, Path(root, "flac"), [song], workers=1)
    [AudioFile(path='a.wav.flac', frames=24000, sample_rate=24000, channels=1)]
    """
    copies = {}
    function = functools.partial(transcode, str(root), str(target))
    for song, copy in run_parallel(function, songs, workers, "Transcoding"):
        if isinstance(copy, Crashed):
            raise UserError(
                f"{Path(root, song.path)} kills the decoder: remove the file"
            )
        copies[song] = copy
    return [copies[song] for song in songs]


def transcode(root, target, song):
    """Write one FLAC copy; see `transcode_all`."""
    source, path = Path(root, song.path), Path(target, f"{song.path}.flac")
    frames = math.ceil(song.frames * SAMPLE_RATE / song.sample_rate)
    copy = AudioFile(f"{song.path}.flac", frames, SAMPLE_RATE, 1)
    if _is_current(path, source, frames):
        return copy
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.tmp")
    try:
        convert(source, str(partial), song.duration, "FLAC")
        written = soundfile.info(str(partial)).frames
        if abs(written - frames) > 1:
            raise UserError(
                f"{path}: {written} of {frames} samples written: check the "
                "space left on the disk"
            )
        os.replace(partial, path)
    except (OSError, soundfile.SoundFileError) as error:
        raise UserError(f"{path} cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return AudioFile(copy.path, written, SAMPLE_RATE, 1)


def convert(source, target, duration_s, container):
    """Decode a song, resample it and write it as 16-bit integers.

    Parameters
    ----------
    source : str or Path
        The song.
    target : Path or file
        Written in chunks: a song may last ten hours.
    duration_s : float
        Length of the song in seconds.
    container : str
        ``FLAC`` or ``WAV``; the samples are the same.
    """
    # Workers that only check audio start without torch.
    import torch

    from muselq_modules.audio_data import read_segment

    torch.set_num_threads(1)
    with soundfile.SoundFile(
        target, "w", SAMPLE_RATE, 1, "PCM_16", format=container
    ) as file:
        for start_s in range(0, math.ceil(duration_s), CHUNK_S):
            length_s = min(CHUNK_S, duration_s - start_s)
            wav = read_segment(source, start_s, length_s, SAMPLE_RATE)
            file.write(_to_int16(wav.numpy()))


def _to_int16(wav):
    """Round to 16 bits; what was read from 16 bits comes back unchanged."""
    # Float files go beyond 1, where integers would wrap around. Not left to
    # libsndfile, which scales and rounds differently for each container.
    return np.clip(np.rint(wav * 2.0**15), -(2**15), 2**15 - 1).astype(np.int16)


def _is_current(path, source, frames):
    """Whether a complete copy, newer than its source, is there."""
    try:
        newer = os.stat(path).st_mtime_ns >= os.stat(source).st_mtime_ns
        return newer and abs(soundfile.info(str(path)).frames - frames) <= 1
    except (OSError, soundfile.SoundFileError):
        return False
