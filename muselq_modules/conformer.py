"""Conformer layer (Gulati et al., 2020) with a pluggable mixer.

SpeechBrain's layer, changed in two places, each shown by a test: the
self-attention is any ``mixer``, given by constructor; and the depthwise
convolution sees zeros beyond a clip's end (upstream masks its output only, so
padding changes valid frames by up to 0.8).
"""

from speechbrain.lobes.models.transformer.Conformer import (
    ConformerEncoderLayer,
)

from muselq_modules.depthwise import depthwise_conv
from muselq_modules.subsampling import mask_padding


class ConformerLayer(ConformerEncoderLayer):
    """Half feed-forward, mixer, convolution, half feed-forward.

    Parameters
    ----------
    dim : int
        Model dimension.
    mixer : callable
        Called with ``dim``; builds a module
        ``(x [batch, time, dim], padding_mask) -> [batch, time or 1, dim]``.
    d_ffn : int
        Hidden width of the two feed-forward modules.
    kernel_size : int
        Tokens seen by the depthwise convolution; odd.
    dropout : float
        Dropout of every module.

    Example
    -------
    >>> import torch
    >>> from muselq_modules.attention import RotarySelfAttention
    >>> layer = ConformerLayer(64, mixer=RotarySelfAttention, d_ffn=32)
    >>> layer(torch.randn(2, 9, 64)).shape
    torch.Size([2, 9, 64])
    """

    def __init__(self, dim, mixer, d_ffn=4096, kernel_size=31, dropout=0.0):
        # An attention type that SpeechBrain does not know builds none; its
        # place is taken by the mixer.
        super().__init__(
            d_model=dim,
            d_ffn=d_ffn,
            nhead=1,
            kernel_size=kernel_size,
            dropout=dropout,
            attention_type="none",
        )
        self.mixer = mixer(dim)

    def forward(self, x, padding_mask=None):
        """One layer, as :meth:`BranchformerLayer.forward`."""
        x = self.enter(x)
        mixed = self.mixer(self.mixer_input(x), padding_mask)
        return self.leave(x, mixed, padding_mask)

    @property
    def halo(self):
        """Tokens to either side that :meth:`leave` sees."""
        return self.convolution_module.kernel_size // 2

    def enter(self, x):
        """The first half feed-forward, token by token."""
        return x + 0.5 * self._feed_forward(self.ffn_module1, x)

    def mixer_input(self, x):
        """What the mixer is given, token by token."""
        return self.norm1(x)

    def leave(self, x, mixed, padding_mask=None):
        """The layer's output from :meth:`enter`'s and what the mixer gave."""
        x = x + self.drop(mixed)
        x = x + self._convolution(x, padding_mask)
        return self.norm2(x + 0.5 * self._feed_forward(self.ffn_module2, x))

    @staticmethod
    def _feed_forward(module, x):
        # SpeechBrain's wrapper swaps batch and time around the layers, two
        # copies that a position-wise network does not need.
        norm, feed_forward, dropout = module
        return dropout(feed_forward.ffn(norm(x)))

    def _convolution(self, x, padding_mask):
        """Convolution module, safe under padding."""
        module = self.convolution_module
        x = module.bottleneck(module.layer_norm(x).transpose(1, 2))
        x = mask_padding(x.transpose(1, 2), padding_mask)
        return module.after_conv(depthwise_conv(x, module.conv))
