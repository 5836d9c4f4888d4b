"""Random time masking of the waveform (paper, section 3.4).

The waveform is split into 400 ms windows and each is masked with a
probability of 20 %. A mask is a pure function of (seed, epoch, example): it
needs no stored state, so a resumed run draws the masks of the uninterrupted
one, every epoch and every rank draws its own, and any split of a batch over
ranks sees the same masks.
"""

import hashlib

import torch
from torch import nn


def example_generator(*key):
    """Random generator that depends on ``key`` alone.

    Example
    -------
    >>> a = torch.rand(1, generator=example_generator(1234, 0, 7))
    >>> b = torch.rand(1, generator=example_generator(1234, 0, 7))
    >>> bool(a == b)
    True
    """
    text = "/".join(str(int(part)) for part in key).encode()
    seed = hashlib.blake2b(text, digest_size=8).digest()
    # Torch generators take a signed 64-bit seed.
    seed = int.from_bytes(seed, "little") >> 1
    return torch.Generator().manual_seed(seed)


class RandomTimeMasking(nn.Module):
    """Choose windows of each clip and hide them in the waveform.

    Parameters
    ----------
    mask_ms : int
        Length of a window in milliseconds; a whole number of tokens.
    probability : float
        Probability that a window is masked, in (0, 1].
    fill : str
        What the hidden samples become: ``zeros`` (the paper's definition of
        masking) or ``noise`` from N(0, noise_std).
    noise_std : float
        Standard deviation of the noise, in full scale.
    sample_rate : int
        Samples a second.
    token_samples : int
        Samples a token: 960 at 24 kHz and 25 Hz.
    seed : int
        Seed of all masks.

    Raises
    ------
    ValueError
        When ``mask_ms`` is not a whole number of tokens, or an argument is
        out of range.

    Example
    -------
    >>> masking = RandomTimeMasking(seed=1234)
    >>> mask = masking.draw(torch.tensor([750, 300]), [0, 0], [17, 18])
    >>> mask.shape, bool(mask[1, 300:].any())
    (torch.Size([2, 750]), False)
    >>> masked = masking(torch.ones(2, 720000), mask, [0, 0], [17, 18])
    >>> bool((masked[0, ::960] == 0).eq(mask[0]).all())
    True
    """

    def __init__(
        self,
        mask_ms=400,
        probability=0.2,
        fill="zeros",
        noise_std=0.1,
        sample_rate=24000,
        token_samples=960,
        seed=1234,
    ):
        super().__init__()
        mask_samples = mask_ms * sample_rate / 1000
        if mask_ms <= 0 or mask_samples % token_samples:
            token_ms = 1000 * token_samples / sample_rate
            raise ValueError(
                f"mask_ms is {mask_ms}; it must be a positive multiple of "
                f"the {token_ms:g} ms of a token"
            )
        if not 0.0 < probability <= 1.0:
            raise ValueError(
                f"masking probability is {probability}; it must be above 0 "
                "and at most 1"
            )
        if fill not in ("zeros", "noise"):
            raise ValueError(f"masking fill is {fill!r}; choose zeros or noise")
        self.window_tokens = int(mask_samples // token_samples)
        self.probability = probability
        self.fill = fill
        self.noise_std = noise_std
        self.token_samples = token_samples
        self.seed = seed

    def draw(self, n_tokens, epochs, examples, time=None):
        """Draw the token masks of some clips, on the CPU.

        Parameters
        ----------
        n_tokens : torch.Tensor
            Valid tokens of each clip, an int tensor [batch]; padding is
            never masked. A clip of no valid tokens gets no mask.
        epochs, examples : sequence of int
            Epoch and number of each example [batch].
        time : int, optional
            Tokens of the padded batch; default the longest clip's.

        Returns
        -------
        torch.Tensor
            bool [batch, time], True where masked.
        """
        if time is None:
            time = int(n_tokens.max())
        mask = torch.zeros(len(n_tokens), time, dtype=torch.bool)
        for row, valid, epoch, example in zip(
            mask, n_tokens.tolist(), epochs, examples
        ):
            if valid == 0:
                continue
            generator = example_generator(self.seed, epoch, example)
            n_windows = -(-valid // self.window_tokens)
            chosen = (
                torch.rand(n_windows, generator=generator) < self.probability
            )
            # A clip without a masked window would teach nothing.
            spare = torch.randint(n_windows, (1,), generator=generator)
            if not chosen.any():
                chosen[spare] = True
            tokens = chosen.repeat_interleave(self.window_tokens)
            row[:valid] = tokens[:valid]
        return mask

    def forward(self, wav, token_mask, epochs, examples):
        """Hide the masked tokens' samples.

        Parameters
        ----------
        wav : torch.Tensor
            Waveforms [batch, samples].
        token_mask : torch.Tensor
            bool [batch, time] on the waveform's device.
        epochs, examples : sequence of int
            As in :meth:`draw`; they seed the noise.

        Returns
        -------
        torch.Tensor
            Masked waveforms [batch, samples].
        """
        hidden = token_mask.repeat_interleave(self.token_samples, dim=1)
        hidden = hidden[:, : wav.shape[1]]
        hidden = nn.functional.pad(hidden, (0, wav.shape[1] - hidden.shape[1]))
        if self.fill == "zeros":
            return wav.masked_fill(hidden, 0.0)
        noise = torch.stack(
            [
                torch.randn(
                    wav.shape[1],
                    # The trailing 1 keeps this stream apart from draw's.
                    generator=example_generator(self.seed, epoch, example, 1),
                )
                for epoch, example in zip(epochs, examples)
            ]
        )
        noise = noise.to(wav.device, wav.dtype) * self.noise_std
        return torch.where(hidden, noise, wav)


def masked_frames(token_mask, n_fft=2048, hop_samples=240, token_samples=960):
    """Spectrogram frames whose window meets a masked token.

    Parameters
    ----------
    token_mask : torch.Tensor
        bool [batch, time].
    n_fft, hop_samples, token_samples : int
        Window, hop and token in samples.

    Returns
    -------
    tuple of torch.Tensor
        Index of the clip and of the frame [count] of each such frame.

    Example
    -------
    >>> mask = torch.zeros(1, 5, dtype=torch.bool)
    >>> mask[0, 2] = True
    >>> masked_frames(mask)[1].tolist()
    [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
    """
    per_token = token_samples // hop_samples
    frames = token_mask.repeat_interleave(per_token, dim=1)
    # Frame f sees the samples [f * hop - n_fft / 2, f * hop + n_fft / 2).
    before = (n_fft // 2 - 1) // hop_samples
    after = (n_fft // 2 + hop_samples - 1) // hop_samples
    spread = nn.functional.pad(frames.float(), (after, before))
    spread = nn.functional.max_pool1d(spread, before + after + 1, stride=1)
    clips, frames = spread.bool().nonzero(as_tuple=True)
    return clips, frames
