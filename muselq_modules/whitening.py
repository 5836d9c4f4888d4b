"""Whitening of the targets: stacked mel frames -> equalised components.

Mel bins and neighbouring frames rise and fall together: on 4 hours of mixed
music 58 % of the variance of stacked, per-bin normalised frames is a single
direction, loudness. Random projections and squared errors see what varies
most, so that tokens and reconstruction would be about loudness and the
spectral envelope, and the model forgets the rest, pitch above all
(README, "Targets"). The principal components of the frames, brought to more
equal variance, give pitch and timbre their share. The paper leaves the
normalisation of the targets open; ``dim=512, power=0`` is the literal reading,
a rotation, which changes neither squared errors nor the law of the tokens.
"""

import torch
from torch import nn

from muselq_modules.tokenizer import full_precision

# Components with less than this share of the first one's variance are noise
# of the arithmetic, and must not be blown up by the division.
LEAST_SHARE = 1e-6


class TargetWhitening(nn.Module):
    r"""Project frames on principal components and equalise their variance.

        y = c \Lambda^{-power / 2} V^T (x - mean)

    V holds the first ``dim`` eigenvectors of the covariance of the training
    frames, \Lambda their eigenvalues; c makes the mean variance of the
    components 1, so that losses have the same scale for any ``power``.
    Mean and matrix are measured before the first step (:meth:`fit`) and are
    buffers: they travel in the checkpoint.

    Parameters
    ----------
    input_dim : int
        Size of a stacked frame.
    dim : int
        Number of components, at most ``input_dim``.
    power : float
        0 keeps the variances as they are, 1 makes them equal.

    Raises
    ------
    ValueError
        When ``dim`` or ``power`` is out of range.

    Example
    -------
    >>> whitening = TargetWhitening(input_dim=8, dim=2, power=1.0)
    >>> frames = torch.randn(1000, 8) * torch.arange(1, 9) + 5
    >>> whitening.fit(frames)
    >>> whitened = whitening(frames)
    >>> whitened.shape, whitened.var(dim=0).round(decimals=1).tolist()
    (torch.Size([1000, 2]), [1.0, 1.0])
    """

    def __init__(self, input_dim=512, dim=64, power=1.0):
        super().__init__()
        if not 1 <= dim <= input_dim:
            raise ValueError(
                f"target_dim is {dim}; it must be between 1 and the "
                f"{input_dim} values of a stacked frame"
            )
        if not 0.0 <= power <= 1.0:
            raise ValueError(
                f"whitening_power is {power}; it must be between 0 (variances "
                "as they are) and 1 (equal variances)"
            )
        self.power = power
        self.register_buffer("mean", torch.zeros(input_dim))
        self.register_buffer("matrix", torch.eye(input_dim, dim))

    def extra_repr(self):
        """Settings that the state_dict does not show."""
        input_dim, dim = self.matrix.shape
        return f"input_dim={input_dim}, dim={dim}, power={self.power}"

    @torch.no_grad()
    def fit(self, frames):
        """Measure mean and components.

        Parameters
        ----------
        frames : torch.Tensor
            Stacked frames of the training data [count, input_dim].
        """
        frames = frames.double()
        mean = frames.mean(dim=0)
        centred = frames - mean
        covariance = centred.T @ centred / len(frames)
        variances, directions = torch.linalg.eigh(covariance)
        dim = self.matrix.shape[1]
        variances = variances.flip(0)[:dim]
        directions = directions.flip(1)[:, :dim]
        # An eigenvector's sign is arbitrary; fixed, it does not depend on the
        # processor, and neither do the tokens.
        largest = directions.abs().argmax(dim=0, keepdim=True)
        directions = directions * directions.gather(0, largest).sign()
        least = LEAST_SHARE * variances[0].clamp_min(1e-12)
        scales = variances.clamp_min(least).pow(-self.power / 2)
        scales = scales / (variances * scales.square()).mean().sqrt()
        self.mean.copy_(mean)
        self.matrix.copy_(directions * scales)

    @torch.no_grad()
    def forward(self, frames):
        """[..., input_dim] -> [..., dim], in float32."""
        with full_precision(frames.device.type):
            return (frames.float() - self.mean) @ self.matrix
