"""Overlapping windows over a long sequence, and their results without seams.

An encoder sees little to the left of a window's first tokens and little to
the right of its last ones. Where two windows overlap, each token is a blend
of both: the weight of the earlier window falls linearly while that of the
later one rises, and both sum to 1.
"""

import torch

from muselq_modules.errors import UserError


class OverlappingWindows:
    """Cut a sequence that comes in blocks into windows of equal length.

    The last window is moved back to end with the sequence, so that it is as
    long as the others and overlaps more. A sequence shorter than a window
    is one window of its own length.

    Parameters
    ----------
    window : int
        Length of a window, in steps of the sequence.
    hop : int
        Steps from one window to the next; at most ``window``.
    unit : int
        The last window starts at a multiple of this and is followed by fewer
        steps than this: the samples of a token.

    Example
    -------
    >>> windows = OverlappingWindows(window=4, hop=3)
    >>> for block in torch.arange(9).split(5):
    ...     for start, piece in windows.add(block):
    ...         print(start, piece.tolist())
    0 [0, 1, 2, 3]
    3 [3, 4, 5, 6]
    >>> [(start, piece.tolist()) for start, piece in windows.finish()]
    [(5, [5, 6, 7, 8])]
    """

    def __init__(self, window, hop, unit=1):
        self.window, self.hop, self.unit = window, hop, unit
        self._start = 0  # of the next window
        self._first = 0  # step that the buffer starts with
        self._buffer = None

    def add(self, block):
        """Windows that are complete with this block, as (start, piece)."""
        if self._buffer is not None:
            block = torch.cat([self._buffer, block])
        complete = []
        while self._start + self.window <= self._first + len(block):
            at = self._start - self._first
            complete.append((self._start, block[at : at + self.window]))
            self._start += self.hop
        # The last window starts behind the start of the one before it.
        keep = max(self._first, self._start - self.hop)
        self._buffer = block[keep - self._first :].clone()
        self._first = keep
        return complete

    def finish(self):
        """The last window, if anything is left for it."""
        if self._buffer is None:
            return []
        if self._start == 0:
            return [(0, self._buffer)]
        stop = (self._first + len(self._buffer)) // self.unit * self.unit
        start = stop - self.window
        if start <= self._start - self.hop:
            return []
        at = start - self._first
        return [(start, self._buffer[at : at + self.window])]


class CrossFade:
    """Join the frames of overlapping windows, in their order.

    Example
    -------
    >>> fade = CrossFade()
    >>> fade.add(0, torch.tensor([0.0, 0.0, 0.0, 0.0])).tolist()
    []
    >>> fade.add(2, torch.tensor([1.0, 1.0, 1.0])).tolist()
    [0.0, 0.0]
    >>> fade.finish().tolist()
    [0.25, 0.75, 1.0]
    """

    def __init__(self):
        self._start = 0  # token that the tail starts with
        self._tail = None

    def add(self, start, frames):
        """Frames [time, ...] of the window that starts with token ``start``.

        Returns
        -------
        torch.Tensor
            The frames that no later window changes.

        Raises
        ------
        UserError
            When a token is in no window.
        """
        if self._tail is None:
            self._start, self._tail = start, frames
            return frames[:0]
        n_done = start - self._start
        overlap = len(self._tail) - n_done
        if overlap < 0:
            raise UserError(
                f"the encoder gives {len(self._tail)} tokens of a window of "
                f"{n_done}: let windows overlap, such as --overlap_s 1"
            )
        done, tail = self._tail.split([n_done, overlap])
        ramp = (torch.arange(overlap, device=tail.device) + 0.5) / overlap
        ramp = ramp.reshape(-1, *[1] * (frames.dim() - 1))
        blend = torch.lerp(tail, frames[:overlap], ramp.to(tail.dtype))
        self._tail = torch.cat([blend, frames[overlap:]])
        self._start = start
        return done

    def finish(self):
        """The frames that are left."""
        return self._tail
