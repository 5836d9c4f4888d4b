"""The same log-mel frames from matrix products, for exported graphs.

Few runtimes have an FFT. A discrete Fourier transform of n_fft real samples
is also a product with a matrix of cosines and sines, and two symmetries halve
the work twice: cos is even and sin is odd about n_fft / 2, and both are so
again, with a sign for odd frequencies, about n_fft / 4. What is left costs
2.1 MFLOP a frame, and is closer to the exact value: errors of the products do
not spread over the bins.

The matrices are looked up in a table of n_fft cosines while a graph is
loaded, so that they take no room in a file.
"""

import math

import torch
from torch import nn

from muselq_modules.errors import UserError
from muselq_modules.features import to_decibels


class PortableLogMel(nn.Module):
    """A :class:`LogMel` without Fourier transform, complex numbers or blocks.

    Parameters
    ----------
    log_mel : LogMel
        Its settings and statistics are used.

    Raises
    ------
    UserError
        When its ``n_fft`` is no multiple of 4.

    Example
    -------
    >>> from muselq_modules.features import LogMel
    >>> log_mel, wav = LogMel(), torch.randn(2, 24000)
    >>> frames = PortableLogMel(log_mel)(wav)
    >>> torch.allclose(frames, log_mel(wav), atol=1e-3)
    True
    """

    def __init__(self, log_mel):
        super().__init__()
        self.log_mel = log_mel
        self.n_fft = log_mel.n_fft
        if self.n_fft % 4:
            raise UserError(
                f"n_fft {self.n_fft} of log_mel cannot be exported: it must be "
                "a multiple of 4."
            )
        steps = torch.arange(self.n_fft, dtype=torch.float64)
        turns = 2 * math.pi * steps / self.n_fft
        self.register_buffer("cosines", turns.cos().float())
        self.register_buffer("sines", turns.sin().float())

    def forward(self, wav):
        """Normalised frames, as :meth:`LogMel.forward`.

        Parameters
        ----------
        wav : torch.Tensor
            Waveforms [batch, samples].

        Returns
        -------
        torch.Tensor
            Frames [batch, samples // hop_samples, n_mels].
        """
        log_mel = self.log_mel
        even, odd = self._power(self._windows(wav))
        mels = even @ log_mel.filters[0::2] + odd @ log_mel.filters[1::2]
        return log_mel.normalise(to_decibels(mels))

    def _windows(self, wav):
        """Overlapping windows [batch, frames, n_fft or a little more].

        Neighbouring pieces of one hop, side by side: a gather of single
        samples, which ``unfold`` becomes in a graph, takes longer.
        """
        hop, samples = self.log_mel.hop_samples, wav.shape[1]
        frames, pieces = samples // hop, -(-self.n_fft // hop)
        left = self.n_fft // 2
        right = (frames + pieces - 1) * hop - left - samples
        rows = nn.functional.pad(wav, (left, right)).unflatten(1, (-1, hop))
        shifted = [rows[:, i : i + frames] for i in range(pieces)]
        return torch.cat(shifted, dim=-1)

    def _power(self, x):
        """Power at even and at odd frequencies, each [batch, frames, bins].

        Parameters
        ----------
        x : torch.Tensor
            Samples of each window [batch, frames, n_fft or more].
        """
        half, quarter = self.n_fft // 2, self.n_fft // 4
        # x[n] +- x[n_fft - n]: only cosines see the sum (n = 0 ... half),
        # only sines the difference (n = 1 ... half - 1). The window of the
        # analysis is symmetric, so it can be applied to them.
        head, tail = x[..., 1:half], x[..., half + 1 : self.n_fft].flip(-1)
        first, middle = x[..., :1], x[..., half : half + 1]
        window = self.log_mel.window[: half + 1]
        cosine = torch.cat([first, head + tail, middle], dim=-1) * window
        sine = (head - tail) * window[1:half]
        # The same about n = quarter, where signs depend on the frequency.
        head, tail = cosine[..., :quarter], cosine[..., quarter + 1 :].flip(-1)
        middle = cosine[..., quarter : quarter + 1]
        cosine_even = torch.cat([head + tail, middle], dim=-1)
        cosine_odd = head - tail
        head, tail = sine[..., : quarter - 1], sine[..., quarter:].flip(-1)
        middle = sine[..., quarter - 1 : quarter]
        sine_even = head - tail
        sine_odd = torch.cat([head + tail, middle], dim=-1)
        n = torch.arange(quarter + 1, device=x.device)
        k = torch.arange(half + 1, device=x.device)
        angles = n.unsqueeze(1) * k % self.n_fft
        even, odd = angles[:, 0::2], angles[:, 1::2]
        return (
            (cosine_even @ self.cosines[even]).square()
            + (sine_even @ self.sines[even[1:-1]]).square(),
            (cosine_odd @ self.cosines[odd[:-1]]).square()
            + (sine_odd @ self.sines[odd[1:]]).square(),
        )
