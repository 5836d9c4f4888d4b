"""Self-attention with rotary positions (Su et al., arXiv:2104.09864).

PyTorch's fused scaled-dot-product attention, logits scaled by
1/sqrt(head_dim). SpeechBrain's ``RoPEMHA`` is not used: the Branchformer
cannot take it, and it scales by 1/sqrt(embed_dim).
"""

import torch
from torch import nn
from torch.nn import functional as F


def rotate(x, base=10000.0):
    """Rotate pairs of features by an angle that grows with time.

    The dot product of a rotated query and a rotated key depends on their
    distance in time only. Feature i is paired with feature i + dim / 2.

    Parameters
    ----------
    x : torch.Tensor
        Queries or keys [batch, heads, time, head_dim].
    base : float
        The slowest pair turns once in about ``2 pi base`` steps.

    Returns
    -------
    torch.Tensor
        As ``x``.

    Example
    -------
    >>> x = torch.ones(1, 1, 3, 4)
    >>> rotated = rotate(x)
    >>> torch.equal(rotated[:, :, 0], x[:, :, 0])
    True
    >>> torch.allclose(rotated.norm(dim=-1), x.norm(dim=-1))
    True
    """
    time, half = x.shape[-2], x.shape[-1] // 2
    # Positions and angles are float32: bf16 cannot tell 1000 from 1001.
    positions = torch.arange(time, device=x.device, dtype=torch.float32)
    steps = torch.arange(half, device=x.device, dtype=torch.float32)
    angles = positions.unsqueeze(1) * base ** (-steps / half)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat(
        [first * cos - second * sin, second * cos + first * sin], dim=-1
    )


class RotarySelfAttention(nn.Module):
    """Multi-head self-attention with rotary positions.

    Parameters
    ----------
    dim : int
        Model dimension.
    head_dim : int
        Size of a head.
    dropout : float
        Dropout of the attention weights.

    Raises
    ------
    ValueError
        When ``dim`` is not a multiple of ``head_dim``, or that is odd.

    Example
    -------
    >>> RotarySelfAttention(dim=16, head_dim=8)(torch.randn(2, 9, 16)).shape
    torch.Size([2, 9, 16])
    """

    def __init__(self, dim, head_dim=64, dropout=0.0):
        super().__init__()
        if dim % head_dim or head_dim % 2:
            raise ValueError(
                f"dim {dim} is not a multiple of an even head_dim {head_dim}"
            )
        self.head_dim = head_dim
        self.dropout = dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)

    def extra_repr(self):
        """Settings that the state_dict does not show."""
        return f"head_dim={self.head_dim}, dropout={self.dropout}"

    def forward(self, x, padding_mask=None):
        """Mix the tokens of each clip.

        Parameters
        ----------
        x : torch.Tensor
            Tokens [batch, time, dim].
        padding_mask : torch.Tensor, optional
            bool [batch, time], True where padded. Without it the flash
            kernels are eligible.

        Returns
        -------
        torch.Tensor
            [batch, time, dim].
        """
        qkv = self.qkv(x).unflatten(-1, (3, -1, self.head_dim))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        query, key = rotate(query), rotate(key)
        if padding_mask is not None and torch.compiler.is_exporting():
            # The fused call cannot be traced: its mask may be of one clip.
            scores = query @ key.transpose(2, 3) * self.head_dim**-0.5
            padded = padding_mask[:, None, None, :]
            weights = scores.masked_fill(padded, -torch.inf).softmax(-1)
            return self.output((weights @ value).transpose(1, 2).flatten(2))
        allowed = None
        if padding_mask is not None:
            allowed = ~padding_mask[:, None, None, :]
        mixed = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=allowed,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.output(mixed.transpose(1, 2).flatten(2))
