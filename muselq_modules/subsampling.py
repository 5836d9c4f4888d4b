"""Front ends: log-mel frames at 100 Hz -> tokens at 25 Hz.

The paper names a convolutional subsampling and fixes no more. Two are here
behind one YAML key. Both are safe under padding: no BatchNorm, and what lies
beyond a clip's end is set to zero before every convolution over time.
"""

import torch
from torch import nn

from muselq_modules.depthwise import depthwise_conv


def mask_padding(frames, padding_mask):
    """Zero the padded steps of [batch, time, ...]; no copy without a mask."""
    if padding_mask is None:
        return frames
    padding_mask = padding_mask.reshape(
        padding_mask.shape + (1,) * (frames.dim() - 2)
    )
    return frames.masked_fill(padding_mask, 0.0)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then an inverted bottleneck.

    Parameters
    ----------
    dim : int
        Model dimension.
    kernel_size : int
        Tokens seen by the depthwise convolution; odd.
    expansion : int
        Width of the bottleneck, in multiples of ``dim``.

    Example
    -------
    >>> ConvNeXtBlock(8)(torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, dim, kernel_size=31, expansion=4):
        super().__init__()
        self.depthwise = nn.Conv1d(
            dim, dim, kernel_size, padding=kernel_size // 2, groups=dim
        )
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, expansion * dim)
        self.activation = nn.GELU()
        self.project = nn.Linear(expansion * dim, dim)

    def forward(self, x, padding_mask=None):
        """[batch, time, dim] -> [batch, time, dim]."""
        mixed = depthwise_conv(mask_padding(x, padding_mask), self.depthwise)
        return x + self.project(self.activation(self.expand(self.norm(mixed))))


class ConvNeXtSubsampling(nn.Module):
    """A linear patch embedding followed by 1-d ConvNeXt blocks at 25 Hz.

    Patches of 8 frames overlap by half. With as many parameters as
    :class:`ResidualConvSubsampling` it needs a twentieth of its
    multiplications, because nothing runs at 100 Hz or over frequency.

    Parameters
    ----------
    n_mels : int
        Mel bins of a frame.
    dim : int
        Model dimension.
    n_blocks, kernel_size, expansion : int
        Number and shape of the ConvNeXt blocks.

    Example
    -------
    >>> front_end = ConvNeXtSubsampling(n_mels=128, dim=16)
    >>> front_end(torch.randn(2, 3000, 128)).shape
    torch.Size([2, 750, 16])
    """

    factor = 4

    def __init__(self, n_mels, dim, n_blocks=3, kernel_size=31, expansion=4):
        super().__init__()
        self.patches = nn.Conv1d(
            n_mels, dim, 2 * self.factor, self.factor, self.factor // 2
        )
        self.norm = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(dim, kernel_size, expansion) for _ in range(n_blocks)
        )

    @property
    def halo(self):
        """Tokens to either side that a token's value depends on."""
        reach = (block.depthwise.kernel_size[0] // 2 for block in self.blocks)
        return 1 + sum(reach)

    def forward(self, frames, padding_mask=None):
        """Subsample by 4.

        Parameters
        ----------
        frames : torch.Tensor
            Normalised log-mel frames [batch, 4 * time, n_mels].
        padding_mask : torch.Tensor, optional
            bool [batch, time], True where padded.

        Returns
        -------
        torch.Tensor
            Tokens [batch, time, dim].
        """
        if padding_mask is not None:
            per_frame = padding_mask.repeat_interleave(self.factor, dim=1)
            frames = mask_padding(frames, per_frame)
        x = self.patches(frames.transpose(1, 2)).transpose(1, 2)
        x = self.norm(x)
        for block in self.blocks:
            x = block(x, padding_mask)
        return x


class ResidualConvBlock(nn.Module):
    """Two 3x3 convolutions with a strided 3x3 shortcut, halving both axes.

    Parameters
    ----------
    in_channels, channels : int
        Input and output channels.

    Example
    -------
    >>> ResidualConvBlock(1, 4)(torch.randn(2, 1, 8, 6)).shape
    torch.Size([2, 4, 4, 3])
    """

    def __init__(self, in_channels, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1)
        self.norm1 = ChannelNorm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = ChannelNorm(channels)
        self.shortcut = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1)
        self.norm3 = ChannelNorm(channels)
        self.activation = nn.ReLU()

    def forward(self, x, padding_mask=None):
        """[batch, channels, time, bins]; mask [batch, time / 2]."""
        hidden = self.activation(self.norm1(self.conv1(x)))
        if padding_mask is not None:
            padding_mask = padding_mask[:, None, :, None]
            hidden = hidden.masked_fill(padding_mask, 0.0)
        hidden = self.norm2(self.conv2(hidden))
        hidden = self.activation(hidden + self.norm3(self.shortcut(x)))
        if padding_mask is not None:
            hidden = hidden.masked_fill(padding_mask, 0.0)
        return hidden


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of [batch, channels, time, bins].

    Unlike BatchNorm it looks at one position only, so neither padding nor
    the other clips of a batch change a frame.

    Example
    -------
    >>> ChannelNorm(4)(torch.randn(2, 4, 3, 5)).shape
    torch.Size([2, 4, 3, 5])
    """

    def __init__(self, channels):
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x):
        """Normalise over dimension 1."""
        # In channels-last memory this permutation moves no data.
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ResidualConvSubsampling(nn.Module):
    """Two residual 2-d convolution blocks and a linear layer.

    The front end of the literature's music models (512 channels). 26.2 M
    parameters at dimension 1024, and four fifths of the multiplications of
    the whole 164 M model.

    Parameters
    ----------
    n_mels : int
        Mel bins of a frame; a multiple of 4.
    dim : int
        Model dimension.
    channels : int
        Channels of the convolutions.

    Example
    -------
    >>> front_end = ResidualConvSubsampling(n_mels=128, dim=16, channels=4)
    >>> front_end(torch.randn(2, 100, 128)).shape
    torch.Size([2, 25, 16])
    """

    factor = 4
    # Tokens to either side that a token's value depends on: 9 frames.
    halo = 3

    def __init__(self, n_mels, dim, channels=512):
        super().__init__()
        self.block1 = ResidualConvBlock(1, channels)
        self.block2 = ResidualConvBlock(channels, channels)
        self.project = nn.Linear(channels * (n_mels // 4), dim)

    def forward(self, frames, padding_mask=None):
        """Subsample by 4, as :meth:`ConvNeXtSubsampling.forward`."""
        half_mask = None
        if padding_mask is not None:
            half_mask = padding_mask.repeat_interleave(2, dim=1)
            frames = mask_padding(frames, half_mask.repeat_interleave(2, dim=1))
        x = frames.unsqueeze(1)
        if not torch.compiler.is_exporting():  # a graph fixes no strides
            x = x.to(memory_format=torch.channels_last)
        x = self.block1(x, half_mask)
        x = self.block2(x, padding_mask)
        return self.project(x.permute(0, 2, 3, 1).flatten(2))
