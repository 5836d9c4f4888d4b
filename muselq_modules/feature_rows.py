"""From the frames of a recording to the rows that are stored.

``--pool none`` stores every token. ``mean`` and ``mean+std`` (side by side in
the last dimension) store one row for the recording, or one for each window.
"""

import numpy as np

POOLS = ("none", "mean", "mean+std")
SPANS = ("file", "window")


class Moments:
    """Mean and deviation over time of frames that come in blocks.

    Example
    -------
    >>> moments = Moments()
    >>> for block in np.arange(8.0).reshape(2, 4, 1, 1):
    ...     moments.add(block)  # [time, layer, dim]
    >>> moments.row("mean+std").round(3).tolist()  # [layer, 2 * dim]
    [[3.5, 2.291]]
    """

    def __init__(self):
        self._n, self._mean, self._squares = 0, 0.0, 0.0

    def add(self, frames):
        """Add frames [time, layer, dim]."""
        frames = np.asarray(frames, np.float64)
        n, total = len(frames), self._n + len(frames)
        if n == 0:
            return
        mean = frames.mean(axis=0)
        # Two groups of values and the distance of their means: no small
        # difference of large sums.
        distance = mean - self._mean
        self._squares = (
            self._squares
            + np.square(frames - mean).sum(axis=0)
            + np.square(distance) * (self._n * n / total)
        )
        self._mean = self._mean + distance * (n / total)
        self._n = total

    def row(self, pool):
        """[layer, dim], or [layer, 2 * dim] with ``mean+std``."""
        if pool == "mean":
            return self._mean
        deviation = np.sqrt(self._squares / self._n)
        return np.concatenate([self._mean, deviation], axis=-1)


class Rows:
    """Turns frames or windows into rows of a writer.

    Parameters
    ----------
    writer : NpyWriter
        Or another of `feature_files.WRITERS`.
    pool : str
        One of `POOLS`.
    per : str
        One of `SPANS`: what is pooled.
    token_rate_hz : float
        Tokens a second.

    Attributes
    ----------
    n_tokens : int
        Tokens of the recording so far.
    first_s : float
        Centre of the first token, in seconds.
    """

    def __init__(self, writer, pool, per, token_rate_hz):
        self.writer, self.pool, self.per = writer, pool, per
        self.token_rate_hz = token_rate_hz
        self.n_tokens, self.first_s = 0, 0.5 / token_rate_hz
        self._moments = Moments()

    @property
    def by_window(self):
        """Whether `add_window` is wanted, and not `add_frames`."""
        return self.pool != "none" and self.per == "window"

    def add_frames(self, frames):
        """The next frames [time, layer, dim], each token once."""
        if self.pool == "none":
            tokens = np.arange(self.n_tokens, self.n_tokens + len(frames))
            times = self.first_s + tokens / self.token_rate_hz
            if len(frames):
                self.writer.append(frames, times)
        else:
            self._moments.add(frames)
        self.n_tokens += len(frames)

    def add_window(self, start, frames):
        """A window's frames [time, layer, dim] from token ``start`` on."""
        moments = Moments()
        moments.add(frames)
        self.n_tokens = start + len(frames)
        span = [start / self.token_rate_hz, self.n_tokens / self.token_rate_hz]
        self.writer.append(moments.row(self.pool)[None], [span])

    def finish(self):
        """Complete the file."""
        if self.pool != "none" and self.per == "file":
            self.writer.append(self._moments.row(self.pool)[None], None)
        self.writer.close()
