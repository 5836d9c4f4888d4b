"""Recordings cut into chunks, for tasks that score a part of a file.

A prepare script writes one manifest row for each chunk, with ``start`` and
``stop`` in seconds and the recording as ``group``.
"""

import numpy as np
import soundfile as sf


def cut_into_chunks(start, stop, chunk_s, shortest_s):
    """Consecutive chunks of a span of time.

    Parameters
    ----------
    start, stop : float
        The span in seconds.
    chunk_s : float
        Length of a chunk in seconds.
    shortest_s : float
        The last chunk is kept if it is at least this long, or the only one.

    Returns
    -------
    list of tuple
        (start, stop) of each chunk, in seconds.

    Example
    -------
    >>> cut_into_chunks(0.5, 4.75, chunk_s=3.0, shortest_s=1.0)
    [(0.5, 3.5), (3.5, 4.75)]
    >>> cut_into_chunks(0.0, 3.75, chunk_s=3.0, shortest_s=1.0)
    [(0.0, 3.0)]
    >>> cut_into_chunks(0.0, 0.75, chunk_s=3.0, shortest_s=1.0)
    [(0.0, 0.75)]
    """
    chunks = []
    while stop - start >= shortest_s or not chunks:
        chunks.append((start, min(start + chunk_s, stop)))
        start += chunk_s
    return chunks


def find_sound(path, threshold_db=-40.0, frame_s=0.02):
    """From the first to the last loud frame of a file: no silence around it.

    Parameters
    ----------
    path : str or Path
        A file that soundfile reads.
    threshold_db : float
        A frame is loud if its power is above this, in dB relative to the
        loudest frame.
    frame_s : float
        Length of a frame in seconds.

    Returns
    -------
    start, stop : float
        Seconds.

    Example
    -------
    >>> import tempfile
    >>> wav = np.concatenate([np.zeros(8000), np.ones(4000), np.zeros(4000)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sf.write(f"{folder}/note.wav", wav, 8000)
    ...     find_sound(f"{folder}/note.wav")
    (1.0, 1.5)
    """
    wav, sample_rate = sf.read(path, dtype="float32", always_2d=True)
    wav = wav.mean(axis=1)
    frame = max(1, min(int(frame_s * sample_rate), len(wav)))
    frames = wav[: len(wav) // frame * frame].reshape(-1, frame)
    power = np.square(frames).mean(axis=1)
    loud = np.flatnonzero(power >= power.max() * 10 ** (threshold_db / 10))
    start, stop = loud[0] * frame, (loud[-1] + 1) * frame
    return float(start / sample_rate), float(stop / sample_rate)
