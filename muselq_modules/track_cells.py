"""From a folder of music to the cells of each of its tracks."""

import hashlib
import os

import numpy as np

from muselq_modules.audio_scan import find_audio, scan_audio
from muselq_modules.chunks import cut_into_chunks
from muselq_modules.embeddings import embed
from muselq_modules.errors import UserError
from muselq_modules.preparation import count_reasons, require_folder
from muselq_modules.windows import plan_windows

WINDOW_S = 30.0
MIN_DURATION_S = 0.1


def find_tracks(folder, cache_folder, workers=None):
    """Tracks that decode, and the files that do not.

    Parameters
    ----------
    folder : str or Path
    cache_folder : Path
        Keeps what was checked, so that nothing is decoded twice.
    workers : int, optional
        Processes, by default one for each available core.

    Returns
    -------
    files : list of AudioFile
    skipped : list of tuple
        (path, reason).

    Raises
    ------
    UserError
        When there are fewer than two tracks.
    """
    folder = require_folder(folder, "explore", "a folder of music")
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    files, skipped = scan_audio(
        folder,
        find_audio(folder),
        workers,
        min_duration_s=MIN_DURATION_S,
        cache=cache_folder / f"scan-{name}.jsonl",
    )
    if len(files) < 2:
        reasons = ", ".join(count_reasons(skipped)) or "no others"
        raise UserError(
            f"{folder} holds {len(files)} readable audio files, and a map "
            f"takes two: give another folder ({len(skipped)} skipped: "
            f"{reasons})."
        )
    return files, skipped


def track_windows(file, encoder):
    """Windows that cover a whole track, in order.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> encoder = SimpleNamespace(sample_rate=24000, token_rate_hz=1.0)
    >>> file = SimpleNamespace(path="a.wav", duration=61.5)
    >>> [(w.start_s, w.samples / 24000) for w in track_windows(file, encoder)]
    [(0.0, 30.0), (30.0, 30.0), (60.0, 1.0)]
    """
    chunks = cut_into_chunks(
        0.0, file.duration, WINDOW_S, 1 / encoder.token_rate_hz
    )
    row = {"path": file.path, "duration": file.duration}
    return [
        window
        for start, stop in chunks
        for window in plan_windows(
            row | {"start": start, "stop": stop}, WINDOW_S, "paper", encoder
        )
    ]


def embed_tracks(encoder, files, folder, cache_folder, layer, **options):
    """Cells of each track, read from the embedding cache when they are needed.

    Parameters
    ----------
    encoder : CellAverages
    files : list of AudioFile
    folder : str or Path
        Their paths are relative to it.
    cache_folder : Path
    layer : int
        Hidden state to keep.
    **options
        ``workers`` and ``device`` of `embeddings.embed`.

    Returns
    -------
    list of callable
        Each returns float32 [cell, dim].
    """
    windows = [track_windows(file, encoder) for file in files]
    cache = embed(
        encoder,
        [window for of_track in windows for window in of_track],
        folder,
        cache_folder,
        [layer],
        frames=True,
        **options,
    )

    def read(of_track):
        return np.concatenate([cache.frames(w)[:, 0] for w in of_track])

    return [lambda w=w: read(w) for w in windows]
