"""Whitening of mel frames, as targets and as inputs.

Mel bins and neighbouring frames rise and fall together: on 4 hours of mixed
music 55 % of the variance of stacked, per-bin normalised frames is a single
direction, loudness. What varies little is easily lost, pitch above all:

* Targets. Random projections and squared errors see what varies most, so
  that tokens and reconstruction would be about loudness. Principal
  components of equal variance give pitch and timbre their share.
* Inputs. A component with a thousandth of the variance reaches the first
  layers as a thirtieth of the amplitude, and takes as much longer to learn.

README, "Targets and inputs", has the measurements. The paper leaves the
normalisation open: ``dim=512, power=0`` for the targets and no whitening of
the inputs is the literal reading.
"""

import torch

from muselq_modules.features import Float32Module
from muselq_modules.tokenizer import full_precision


class Whitening(Float32Module):
    r"""Project frames on principal components and equalise their variance.

        y = c (\Lambda + s \lambda_1 I)^{-power / 2} V^T (x - mean)

    V holds the first ``dim`` eigenvectors of the covariance of the training
    frames, \Lambda their eigenvalues; c makes the mean variance of the
    components 1, so that losses have the same scale for any ``power``.
    Mean and matrix are measured before the first step (:meth:`fit`) and are
    buffers: they travel in the checkpoint.

    Parameters
    ----------
    input_dim : int
        Size of a frame.
    dim : int, optional
        Number of components; default all.
    power : float
        0 keeps the variances as they are, 1 makes them equal.
    shrinkage : float
        s, a share of the largest variance: components far below it are noise
        and are amplified no further.
    rotate_back : bool
        Multiply by V again, so that an output stands for the input of the
        same number: whitened mel frames are still in order of frequency.

    Raises
    ------
    ValueError
        When ``dim`` or ``power`` is out of range.

    Example
    -------
    >>> whitening = Whitening(input_dim=8, dim=2)
    >>> frames = torch.randn(1000, 8) * torch.arange(1, 9) + 5
    >>> whitening.fit(frames)
    >>> whitened = whitening(frames)
    >>> whitened.shape, whitened.var(dim=0).round(decimals=1).tolist()
    (torch.Size([1000, 2]), [1.0, 1.0])
    """

    def __init__(
        self,
        input_dim,
        dim=None,
        power=1.0,
        shrinkage=1e-6,
        rotate_back=False,
    ):
        super().__init__()
        dim = input_dim if dim is None else dim
        if not 1 <= dim <= input_dim:
            raise ValueError(
                f"{dim} whitened components are asked for; a frame has "
                f"between 1 and {input_dim}"
            )
        if not 0.0 <= power <= 1.0:
            raise ValueError(
                f"the whitening power is {power}; it must be between 0 "
                "(variances as they are) and 1 (equal variances)"
            )
        self.dim = dim
        self.power = power
        self.shrinkage = shrinkage
        self.rotate_back = rotate_back
        output_dim = input_dim if rotate_back else dim
        self.register_buffer("mean", torch.zeros(input_dim))
        self.register_buffer("matrix", torch.eye(input_dim, output_dim))

    def extra_repr(self):
        """Settings that the state_dict does not show."""
        return (
            f"{len(self.mean)}, dim={self.dim}, power={self.power}, "
            f"shrinkage={self.shrinkage}, rotate_back={self.rotate_back}"
        )

    @torch.no_grad()
    def fit(self, frames):
        """Measure mean and components.

        Parameters
        ----------
        frames : torch.Tensor
            Frames of the training data [count, input_dim].
        """
        frames = frames.double()
        mean = frames.mean(dim=0)
        centred = frames - mean
        covariance = centred.T @ centred / len(frames)
        variances, directions = torch.linalg.eigh(covariance)
        variances = variances.flip(0)[: self.dim].clamp_min(0.0)
        directions = directions.flip(1)[:, : self.dim]
        # An eigenvector's sign is arbitrary; fixed, it does not depend on the
        # processor, and neither do the tokens.
        largest = directions.abs().argmax(dim=0, keepdim=True)
        directions = directions * directions.gather(0, largest).sign()
        least = self.shrinkage * variances[0].clamp_min(1e-12)
        scales = (variances + least).pow(-self.power / 2)
        scales = scales / (variances * scales.square()).mean().sqrt()
        matrix = directions * scales
        if self.rotate_back:
            matrix = matrix @ directions.T
        self.mean.copy_(mean)
        self.matrix.copy_(matrix)

    def forward(self, frames):
        """[..., input_dim] -> [..., dim or input_dim], in float32."""
        with full_precision(frames.device.type):
            return (frames.float() - self.mean) @ self.matrix
