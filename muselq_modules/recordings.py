"""Audio files of files and folders, and their place in an output."""

import os
from dataclasses import dataclass
from pathlib import Path

from muselq_modules.audio_scan import find_audio
from muselq_modules.errors import UserError


@dataclass(frozen=True, eq=False)
class Recording:
    """An input file.

    Attributes
    ----------
    path : str
        Where it is.
    name : str
        Its place in the output, with forward slashes.
    stamp : list of int
        Bytes and modification time in nanoseconds; None if it is gone.
    """

    path: str
    name: str
    stamp: list = None


def find_recordings(inputs):
    """The audio files of files and folders.

    Parameters
    ----------
    inputs : list of str or Path
        Files, taken whatever their suffix, and folders, searched with all
        that is in them.

    Returns
    -------
    list of Recording
        Each file once. Names are relative to the folder, or to what several
        inputs have in common.

    Raises
    ------
    UserError
        When an input does not exist or nothing is found.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.wav", "a.mp3"):
    ...         Path(folder, name).touch()
    ...     [r.name for r in find_recordings([folder])]
    ...     [r.name for r in find_recordings([Path(folder, "b.wav")])]
    ['a.mp3', 'b.wav']
    ['b.wav']
    """
    paths, roots = [], []
    for given in inputs:
        path = os.path.abspath(given)
        if os.path.isdir(path):
            roots.append(path)
            paths += [os.path.join(path, name) for name in find_audio(path)]
        elif os.path.isfile(path):
            roots.append(os.path.dirname(path))
            paths.append(path)
        else:
            raise UserError(f"{given} does not exist: check the path")
    if not paths:
        shown = ", ".join(map(str, inputs))
        raise UserError(f"{shown} holds no audio file: check the path")
    try:
        root = os.path.commonpath(roots)
    except ValueError as error:  # Windows
        raise UserError(
            "the inputs are on several drives: extract them one by one"
        ) from error
    return [
        Recording(path, Path(path).relative_to(root).as_posix(), _stamp(path))
        for path in dict.fromkeys(map(os.path.normpath, paths))
    ]


def _stamp(path):
    """What tells a changed file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]
