r"""SummaryMixing: token mixing that is linear in length.

Written from the equations of Parcollet et al., arXiv:2307.07421:

    s_bar = 1/T sum_t s(x_t)          one summary for the whole clip
    h_t   = c(f(x_t), s_bar)          combined with each token

``local_function`` is f, ``summary_function`` s and ``combiner`` c. f and s are
two layers each, applied head by head; c is one dense layer over all heads;
every layer ends in a GELU.

Three rewritings leave the result as it is and save most of the time: the first
layers of f and s are one grouped product; W_c [f; s_bar] is split into
W_f f + W_s s_bar, the second term once a clip instead of once a token; and
without padding no mask is built.

``branches`` (f and s) and ``combine`` (c) look at one token each, and
``forward`` is made of them: on a CPU, without gradients, block by block on
clips that are too long for its caches, where time would grow faster than
length; and `full_context` calls them on recordings that do not fit into memory.
"""

import torch
from torch import nn
from torch.nn import functional as F

# The hidden features of a block stay in the caches of a core, and their memory
# is used again for the next block instead of being asked of the system.
CPU_BLOCK_TOKENS = 1024


def summarise(values, padding_mask=None):
    """Mean over the valid tokens: [batch, time, dim] -> [batch, 1, dim].

    Example
    -------
    >>> values = torch.tensor([[[1.0], [3.0], [100.0]]])
    >>> summarise(values, torch.tensor([[False, False, True]]))
    tensor([[[2.]]])
    """
    if padding_mask is None:
        return values.mean(dim=1, keepdim=True)
    valid = ~padding_mask
    # Counted in float32: bf16 cannot tell 750 tokens from 752.
    count = valid.sum(dim=1, keepdim=True).clamp_min(1).float()
    weights = (valid / count).to(values.dtype)
    return torch.bmm(weights.unsqueeze(1), values)


def summarise_branches(mixer, x, padding_mask=None):
    """f of each token, in blocks of time, and the mean of s of all.

    Parameters
    ----------
    mixer : SummaryMixing or SummaryMixingLite
        Its ``branches`` are taken.
    x : torch.Tensor
        Tokens [batch, time, dim].
    padding_mask : torch.Tensor, optional
        bool [batch, time], True where padded.

    Returns
    -------
    list, torch.Tensor
        Blocks of f [batch, block, local_dim], and [batch, 1, summary_dim].
    """
    # The length last: a graph that is traced has none to compare.
    if (
        torch.compiler.is_compiling()
        or torch.is_grad_enabled()
        or x.device.type != "cpu"
        or x.shape[1] <= CPU_BLOCK_TOKENS
    ):
        local, values = mixer.branches(x)
        return [local], summarise(values, padding_mask)
    blocks, total, count = [], 0.0, 0
    for start in range(0, x.shape[1], CPU_BLOCK_TOKENS):
        block, mask = slice(start, start + CPU_BLOCK_TOKENS), None
        local, values = mixer.branches(x[:, block])
        blocks.append(local)
        n_valid = values.shape[1]
        if padding_mask is not None:
            mask = padding_mask[:, block]
            n_valid = (~mask).sum(dim=1).view(-1, 1, 1)
        total = total + n_valid * summarise(values, mask).float()
        count = count + n_valid
    if padding_mask is not None:
        count = count.clamp_min(1)
    return blocks, (total / count).to(values.dtype)


class GroupedLinear(nn.Module):
    """Independent linear layers on the heads of the features.

    Parameters
    ----------
    n_heads : int
        Number of heads.
    in_dim, out_dim : int
        Total input and output features; multiples of ``n_heads``.

    Raises
    ------
    ValueError
        When a dimension is not a multiple of ``n_heads``.

    Example
    -------
    >>> GroupedLinear(4, 8, 16)(torch.randn(2, 3, 4, 2)).shape
    torch.Size([2, 3, 4, 4])
    """

    def __init__(self, n_heads, in_dim, out_dim):
        super().__init__()
        if in_dim % n_heads or out_dim % n_heads:
            raise ValueError(
                f"dimensions {in_dim} and {out_dim} are not multiples of "
                f"{n_heads} heads"
            )
        fan_in, fan_out = in_dim // n_heads, out_dim // n_heads
        bound = fan_in**-0.5
        self.weight = nn.Parameter(torch.empty(n_heads, fan_in, fan_out))
        self.bias = nn.Parameter(torch.empty(n_heads, fan_out))
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x):
        """[batch, time, heads, in] -> [batch, time, heads, out]."""
        if torch.compiler.is_exporting():
            # One plain product a head: what every runtime can quantise and,
            # unlike the einsum, what a graph can take for a batch of one.
            parts = x.flatten(2).chunk(len(self.weight), dim=-1)
            x = [
                part @ self.weight[i] + self.bias[i]
                for i, part in enumerate(parts)
            ]
            return torch.stack(x, dim=2)
        parts = x.flatten(0, 1).transpose(0, 1)
        # In one operation the bias costs no further pass, and under autocast
        # it does not turn the product into float32.
        product = torch.baddbmm(self.bias.unsqueeze(1), parts, self.weight)
        return product.transpose(0, 1).unflatten(0, x.shape[:2])


class SummaryMixing(nn.Module):
    """SummaryMixing with local branch and combiner.

    Parameters
    ----------
    dim : int
        Model dimension.
    n_heads : int
        Parts in which f and s work independently.
    local_dim : int, optional
        Width of both layers of f; default ``dim // 2``.
    summary_dim : int, optional
        Width of both layers of s; default ``dim``.

    Example
    -------
    >>> mixer = SummaryMixing(dim=16)
    >>> mixer(torch.randn(2, 9, 16)).shape
    torch.Size([2, 9, 16])
    """

    def __init__(self, dim, n_heads=4, local_dim=None, summary_dim=None):
        super().__init__()
        self.n_heads = n_heads
        self.local_dim = local_dim or dim // 2
        self.summary_dim = summary_dim or dim
        # The first layers of f and of s, side by side in each head.
        self.input = GroupedLinear(
            n_heads, dim, self.local_dim + self.summary_dim
        )
        self.local_function = GroupedLinear(
            n_heads, self.local_dim, self.local_dim
        )
        self.summary_function = GroupedLinear(
            n_heads, self.summary_dim, self.summary_dim
        )
        self.combiner = nn.Linear(self.local_dim + self.summary_dim, dim)

    def forward(self, x, padding_mask=None):
        """Mix the tokens of each clip.

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
        blocks, summary = summarise_branches(self, x, padding_mask)
        mixed = [self.combine(local, summary) for local in blocks]
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=1)

    def branches(self, x):
        """f and s of each token: [batch, time, local_dim and summary_dim]."""
        hidden = F.gelu(self.input(x.unflatten(-1, (self.n_heads, -1))))
        local, values = hidden.split(
            [self.local_dim // self.n_heads, self.summary_dim // self.n_heads],
            dim=-1,
        )
        local = F.gelu(self.local_function(local)).flatten(2)
        values = F.gelu(self.summary_function(values)).flatten(2)
        return local, values

    def combine(self, local, summary):
        """c of f [batch, time, local_dim] and the mean of s [batch, 1, .]."""
        weight, bias = self.combiner.weight, self.combiner.bias
        summary = F.linear(summary, weight[:, self.local_dim :], bias)
        return F.gelu(F.linear(local, weight[:, : self.local_dim]) + summary)


class SummaryMixingLite(nn.Module):
    """SummaryMixing-lite: the summary alone.

    For a Branchformer, whose convolutional branch already does what f does:
    the layer's own merge is the combiner. Returns one step, [batch, 1, dim],
    which broadcasts over time.

    Parameters
    ----------
    dim : int
        Model dimension.
    n_heads : int
        Parts in which s works independently.

    Example
    -------
    >>> SummaryMixingLite(dim=16)(torch.randn(2, 9, 16)).shape
    torch.Size([2, 1, 16])
    """

    def __init__(self, dim, n_heads=4):
        super().__init__()
        self.n_heads = n_heads
        self.input = GroupedLinear(n_heads, dim, dim)
        self.summary_function = GroupedLinear(n_heads, dim, dim)

    def forward(self, x, padding_mask=None):
        """[batch, time, dim] -> [batch, 1, dim]."""
        _, summary = summarise_branches(self, x, padding_mask)
        return self.combine(None, summary)

    def branches(self, x):
        """No f, and s of each token [batch, time, dim]."""
        hidden = F.gelu(self.input(x.unflatten(-1, (self.n_heads, -1))))
        return None, F.gelu(self.summary_function(hidden)).flatten(2)

    def combine(self, local, summary):
        """The summary itself [batch, 1, dim]."""
        return summary
