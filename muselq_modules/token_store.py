"""Tokens of one recording, kept in memory or in an unnamed temporary file."""

import tempfile

import numpy as np
import torch


class TokenStore:
    """Hidden states that are written once, in order, and read in pieces.

    The file has no name where the system allows that, and vanishes with the
    process. It is read and written, not memory-mapped: what a process maps
    counts as its memory.

    Parameters
    ----------
    dim : int
        Features of a token.
    folder : str or Path, optional
        Where the temporary file goes; None keeps the tokens in memory, on the
        device that they come from.

    Example
    -------
    >>> for folder in (None, tempfile.gettempdir()):
    ...     store = TokenStore(dim=2, folder=folder)
    ...     store.append(torch.zeros(3, 2))
    ...     store.append(torch.ones(2, 2))
    ...     len(store), store.read(2, 4).tolist()
    (5, [[0.0, 0.0], [1.0, 1.0]])
    (5, [[0.0, 0.0], [1.0, 1.0]])
    """

    def __init__(self, dim, folder=None):
        self.dim = dim
        self._n_tokens = 0
        self._blocks = []  # (first token, block)
        self._file = None
        if folder is not None:
            self._file = tempfile.TemporaryFile(dir=folder)

    def __len__(self):
        return self._n_tokens

    def append(self, block):
        """Add tokens [time, dim]; kept as float32."""
        block = block.float().contiguous()
        if self._file is None:
            self._blocks.append((self._n_tokens, block))
        else:
            self._file.seek(4 * self.dim * self._n_tokens)
            self._file.write(memoryview(block.cpu().numpy()))
        self._n_tokens += len(block)

    def read(self, start, stop):
        """Tokens [stop - start, dim], from a file on the CPU."""
        if self._file is None:
            pieces = [
                block[max(0, start - first) : stop - first]
                for first, block in self._blocks
                if first < stop and start < first + len(block)
            ]
            return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        self._file.seek(4 * self.dim * start)
        values = np.empty((stop - start, self.dim), np.float32)
        self._file.readinto(memoryview(values).cast("B"))
        return torch.from_numpy(values)
