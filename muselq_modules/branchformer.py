"""Branchformer layer (Peng et al., 2022) with a pluggable mixer.

SpeechBrain's layer, changed in four places, each shown by a test:

* the global branch is any ``mixer``, given by constructor;
* the convolution of the gating unit sees zeros beyond a clip's end, not its
  padding (upstream, padding changes valid frames by up to 0.6) nor a mirror
  image (upstream raises on clips of 15 tokens or fewer);
* that convolution starts with weights that see the clip (``gate_scale``);
* the merge of the two branches is two products instead of a concatenation, so
  that a mixer may return one step for the whole clip.
"""

from speechbrain.lobes.models.transformer.Branchformer import (
    BranchformerEncoderLayer,
)
from torch import nn
from torch.nn import functional as F

from muselq_modules.depthwise import depthwise_conv
from muselq_modules.subsampling import mask_padding


class BranchformerLayer(BranchformerEncoderLayer):
    """Global and local branch in parallel.

    Parameters
    ----------
    dim : int
        Model dimension.
    mixer : callable
        Called with ``dim``; builds the global branch, a module
        ``(x [batch, time, dim], padding_mask) -> [batch, time or 1, dim]``.
    cgmlp_dim : int
        Hidden width of the convolutional gating MLP, the local branch.
    kernel_size : int
        Tokens seen by its depthwise convolution; odd.
    gate_scale : float
        Deviation of the gate around 1 before the first step. Upstream starts
        with a gate of 1 (0 here), blind to all but its own token, and learns
        from masked input more slowly: where the input is masked, only other
        tokens say anything.
    dropout : float
        Dropout after each branch and after the merge.

    Example
    -------
    >>> import torch
    >>> from muselq_modules.summary_mixing import SummaryMixing
    >>> layer = BranchformerLayer(16, mixer=SummaryMixing, cgmlp_dim=32)
    >>> layer(torch.randn(2, 9, 16)).shape
    torch.Size([2, 9, 16])
    """

    def __init__(
        self,
        dim,
        mixer,
        cgmlp_dim=4096,
        kernel_size=31,
        gate_scale=1.0,
        dropout=0.0,
    ):
        # An attention type that SpeechBrain does not know builds none; its
        # place is taken by the mixer.
        super().__init__(
            d_model=dim,
            nhead=1,
            kernel_size=kernel_size,
            activation=nn.GELU,
            dropout=dropout,
            attention_type="none",
            csgu_linear_units=cgmlp_dim,
        )
        if gate_scale > 0:
            # The gate's input is normalised: variances of its taps add up.
            nn.init.normal_(
                self.convolution_branch.csgu.conv.conv.weight,
                std=gate_scale * kernel_size**-0.5,
            )
        self.mixer = mixer(dim)

    def forward(self, x, padding_mask=None):
        """One layer.

        Parameters
        ----------
        x : torch.Tensor
            Tokens [batch, time, dim].
        padding_mask : torch.Tensor, optional
            bool [batch, time], True where padded.

        Returns
        -------
        torch.Tensor
            [batch, time, dim].
        """
        mixed = self.mixer(self.mixer_input(x), padding_mask)
        return self.leave(x, mixed, padding_mask)

    @property
    def halo(self):
        """Tokens to either side that :meth:`leave` sees."""
        return self.convolution_branch.csgu.conv.conv.kernel_size[0] // 2

    def mixer_input(self, x):
        """What the mixer is given, token by token."""
        return self.norm_mhsa(x)

    def leave(self, x, mixed, padding_mask=None):
        """The layer's output from its input and what the mixer gave."""
        mixed = self.dropout(mixed)
        local = self.dropout(self._local(self.norm_conv(x), padding_mask))
        weight, dim = self.merge_proj.weight, x.shape[-1]
        merged = F.linear(local, weight[:, dim:], self.merge_proj.bias)
        merged = merged + F.linear(mixed, weight[:, :dim])
        return x + self.dropout(merged)

    def _local(self, x, padding_mask):
        """Convolutional gating MLP, safe under padding."""
        branch, gating = self.convolution_branch, self.convolution_branch.csgu
        x = branch.activation(branch.pre_channel_proj(x))
        content, gate = x.chunk(2, dim=-1)
        gate = mask_padding(gating.norm(gate), padding_mask)
        gate = depthwise_conv(gate, gating.conv.conv)
        gated = gating.dropout(content * gating.activation(gate))
        return branch.post_channel_proj(gated)
