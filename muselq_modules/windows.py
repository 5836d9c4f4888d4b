"""Which pieces of which audio files are embedded, and how they are read.

A manifest row is the unit that is scored: a track, a clip, or a chunk with
its own ``start`` and ``stop``. It is cut into windows:

* ``marble``: consecutive windows over the whole row; the last, shorter one
  counts when it is at least half a window long or the only one. Very long
  tracks give `MAX_WINDOWS`, evenly spaced.
* ``paper``: one window from the centre.

Rows shorter than a window give one window of their own length, unpadded.
"""

import math
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from muselq_modules.audio_data import read_segment
from muselq_modules.errors import UserError

PROTOCOLS = ("paper", "marble")
# 20 minutes in windows of 30 s; the longest track of MTG-Jamendo has 138.
MAX_WINDOWS = 40


@dataclass(frozen=True, order=True)
class Window:
    """A piece of an audio file.

    Attributes
    ----------
    path : str
        Relative to the data folder, posix.
    start_s : float
        Where the piece starts, in seconds.
    samples : int
        Its length at the rate of the encoder.
    """

    path: str
    start_s: float
    samples: int


def row_span(row):
    """Start and length in seconds of a manifest row (a dict of strings).

    Example
    -------
    >>> row_span({"start": "3.0", "stop": "5.5", "duration": "20.0"})
    (3.0, 2.5)
    """
    if row.get("stop"):
        start = float(row["start"])
        return start, float(row["stop"]) - start
    return 0.0, float(row["duration"])


def plan_windows(row, window_s, protocol, encoder):
    """Windows of one manifest row.

    Parameters
    ----------
    row : dict
        Manifest row with ``path``, ``duration`` and perhaps ``start`` and
        ``stop``, in seconds.
    window_s : float
        Length of a window in seconds.
    protocol : str
        ``paper`` or ``marble``.
    encoder : object
        Its ``sample_rate`` and ``token_rate_hz``: a window holds whole
        tokens, so that clips of nearly equal length share a batch.

    Returns
    -------
    list of Window

    Example
    -------
    >>> from types import SimpleNamespace
    >>> encoder = SimpleNamespace(sample_rate=24000, token_rate_hz=25.0)
    >>> row = {"path": "a.wav", "duration": "75.1"}
    >>> [(w.start_s, w.samples / 24000)
    ...  for w in plan_windows(row, 30.0, "marble", encoder)]
    [(0.0, 30.0), (30.0, 30.0), (60.0, 15.08)]
    >>> plan_windows(row, 30.0, "paper", encoder)
    [Window(path='a.wav', start_s=22.55, samples=720000)]
    """
    start, duration = row_span(row)
    if duration <= 0:
        raise UserError(
            f"{row['path']} has a duration of {duration} s in the manifest: "
            "delete the manifest folder to prepare the data again."
        )
    if protocol == "paper":
        length = min(duration, window_s)
        pieces = [(start + (duration - length) / 2, length)]
    else:
        # Durations are decimal fractions: 1.0 - 2 * 0.4 is a little below 0.2.
        slack = 1e-6
        n = max(1, math.floor(duration / window_s + slack))
        rest = duration - n * window_s
        if duration > window_s and rest >= window_s / 2 - slack:
            n += 1
        pieces = [
            (start + i * window_s, min(window_s, duration - i * window_s))
            for i in range(n)
        ]
        if n > MAX_WINDOWS:
            kept = np.linspace(0, n - 1, MAX_WINDOWS).round().astype(int)
            pieces = [pieces[i] for i in kept]
    return [
        Window(row["path"], round(at, 6), _whole_tokens(length, encoder))
        for at, length in pieces
    ]


def _whole_tokens(length_s, encoder):
    """Samples of a window, a whole number of tokens if it has any."""
    token = round(encoder.sample_rate / encoder.token_rate_hz)
    samples = max(1, round(length_s * encoder.sample_rate))
    return max(samples // token * token, min(samples, token))


def equal_length_batches(windows, numbers, max_samples):
    """Group windows of one length into batches.

    Parameters
    ----------
    windows : list of Window
        Sorted, so that a batch follows the order of the files on disk.
    numbers : iterable of int
        Which of the windows to group.
    max_samples : float
        Samples of a batch; a longer window makes a batch of its own.

    Returns
    -------
    list of lists of int

    Example
    -------
    >>> windows = [Window("a", 0.0, 4), Window("b", 0.0, 2), Window("c", 0., 4)]
    >>> equal_length_batches(windows, range(3), 8)
    [[1], [0, 2]]
    """

    def samples(number):
        return windows[number].samples

    batches = []
    for length, group in groupby(sorted(numbers, key=samples), key=samples):
        group = [int(number) for number in group]
        size = max(1, int(max_samples // length))
        batches += [group[i : i + size] for i in range(0, len(group), size)]
    return batches


class WindowReader(Dataset):
    """Reads a batch of windows in a DataLoader worker.

    Parameters
    ----------
    windows : list of Window
    data_folder : str or Path
        The paths are relative to it.
    sample_rate : int
        Rate of the waveforms in Hz.
    """

    def __init__(self, windows, data_folder, sample_rate):
        self.windows = windows
        self.data_folder = Path(data_folder)
        self.sample_rate = sample_rate

    def __len__(self):
        return len(self.windows)

    def __getitem__(self, numbers):
        """Waveforms of the windows with these numbers.

        Returns
        -------
        wavs ``[batch, samples]``, padded with zeros, and samples of each
        ``[batch]``; or the UserError that reading gave: raised here, it would
        leave the worker wrapped in a traceback.
        """
        wavs = []
        for number in numbers:
            window = self.windows[number]
            duration_s = window.samples / self.sample_rate
            try:
                wav = read_segment(
                    self.data_folder / window.path,
                    window.start_s,
                    duration_s,
                    self.sample_rate,
                )
            except UserError as error:
                return error
            wavs.append(wav)
        # A file may end a few samples before its manifest says.
        n_samples = torch.tensor([len(wav) for wav in wavs])
        return torch.nn.utils.rnn.pad_sequence(wavs, True), n_samples
