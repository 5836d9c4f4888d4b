"""The paper's probe, and many of them trained in one matrix product.

A probe is a dense layer of 512 units, ReLU, dropout 0.25 and an output layer
(section 4.2). One task trains seeds x learning rates of them on the same
embeddings. Alone, a probe is too small to keep a processor busy, so
`ProbeStack` holds their weights side by side and a step is two `torch.bmm`.
No probe notices its neighbours: initialisation and dropout come from its
seed, and `HeadwiseAdam` updates each with its own learning rate.
"""

import torch
from torch import nn


class ProbeHead(nn.Module):
    """One dense layer of 512 units and an output layer.

    Parameters
    ----------
    dim : int
        Size of an embedding.
    n_outputs : int
        Classes, tags or regression columns.
    hidden : int
        Units of the dense layer.
    dropout : float
        Share of them dropped in training.

    Example
    -------
    >>> ProbeHead(dim=64, n_outputs=10)(torch.randn(4, 64)).shape
    torch.Size([4, 10])
    """

    def __init__(self, dim, n_outputs, hidden=512, dropout=0.25):
        super().__init__()
        self.dense = nn.Linear(dim, hidden)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, n_outputs)

    def forward(self, x):
        """Embeddings ``[batch, dim]`` -> logits ``[batch, output]``."""
        return self.output(self.dropout(torch.relu(self.dense(x))))


class ProbeStack(nn.Module):
    """Independent `ProbeHead` s, one for each (seed, learning rate).

    Parameters
    ----------
    dim, n_outputs, hidden, dropout
        As in `ProbeHead`.
    seeds : list of int
        Seed of each head. Heads of one seed start equal and drop the same
        units, so that learning rates are compared on equal terms.
    n_layers : int, optional
        When given, inputs hold this many layers and each head learns a
        softmax-weighted sum of them, equal weights at the start.

    Example
    -------
    >>> stack = ProbeStack(64, 10, seeds=[0, 0, 1])
    >>> stack(torch.randn(3, 8, 64)).shape  # [head, batch, dim]
    torch.Size([3, 8, 10])
    """

    def __init__(
        self, dim, n_outputs, seeds, hidden=512, dropout=0.25, n_layers=None
    ):
        super().__init__()
        self.seeds = list(seeds)
        self.dropout = dropout
        heads = {s: _seeded_head(s, dim, n_outputs, hidden) for s in set(seeds)}

        def stacked(get):
            tensors = [get(heads[s]).detach() for s in seeds]
            return nn.Parameter(torch.stack(tensors))

        # Transposed to [head, in, out], the layout of torch.baddbmm.
        self.dense_weight = stacked(lambda head: head.dense.weight.T)
        self.dense_bias = stacked(lambda head: head.dense.bias[None])
        self.output_weight = stacked(lambda head: head.output.weight.T)
        self.output_bias = stacked(lambda head: head.output.bias[None])
        self.layer_weights = None
        if n_layers is not None:
            weights = torch.zeros(len(self.seeds), n_layers)
            self.layer_weights = nn.Parameter(weights)
        self._generators = {s: torch.Generator().manual_seed(s) for s in heads}

    def forward(self, x):
        """Logits of every head.

        Parameters
        ----------
        x : torch.Tensor
            ``[head, batch, dim]``, or ``[head, batch, layer, dim]`` with
            ``n_layers``.

        Returns
        -------
        torch.Tensor ``[head, batch, output]``
        """
        if self.layer_weights is not None:
            weights = self.layer_weights.softmax(-1)
            x = torch.einsum("hl,hbld->hbd", weights, x)
        x = torch.baddbmm(self.dense_bias, x, self.dense_weight).relu()
        if self.training and self.dropout > 0:
            x = x * self._dropout_mask(x)
        return torch.baddbmm(self.output_bias, x, self.output_weight)

    def _dropout_mask(self, x):
        """One mask a seed, drawn on the CPU: the same on every device."""
        keep = 1 - self.dropout
        masks = {
            s: torch.rand(x.shape[1:], generator=g) < keep
            for s, g in self._generators.items()
        }
        mask = torch.stack([masks[s] for s in self.seeds])
        return mask.to(x.device, x.dtype) / keep

    def snapshot(self):
        """A copy of the parameters, for `keep` to update."""
        return {k: p.detach().clone() for k, p in self.named_parameters()}

    def keep(self, best, improved):
        """Copy the heads where ``improved`` ``[head]`` into ``best``."""
        for name, parameter in self.named_parameters():
            best[name][improved] = parameter.detach()[improved]


def _seeded_head(seed, dim, n_outputs, hidden):
    """A head initialised from ``seed``; the global state is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ProbeHead(dim, n_outputs, hidden)


class HeadwiseAdam(torch.optim.Adam):
    """Adam with a learning rate for each head of a stack.

    Parameters have the heads as their first dimension; each head is a
    parameter group of its own, made of views, so that its update is that of
    `torch.optim.Adam` on it alone. The fused update goes over a head's
    weights once while they are in the cache.

    Parameters
    ----------
    params : iterable of torch.nn.Parameter
        ``[head, ...]``
    lrs : list of float
        Learning rate of each head; later ``param_groups[head]["lr"]``.

    Example
    -------
    >>> stack = ProbeStack(4, 2, seeds=[0, 0])
    >>> optimizer = HeadwiseAdam(stack.parameters(), [1e-3, 0.0])
    >>> stack(torch.randn(2, 8, 4)).sum().backward()
    >>> before = stack.dense_weight.detach().clone()
    >>> optimizer.step()
    >>> (stack.dense_weight != before).flatten(1).any(1).tolist()
    [True, False]
    """

    def __init__(self, params, lrs):
        self.stacked = list(params)
        groups = [
            {"params": [p.detach()[head] for p in self.stacked], "lr": lr}
            for head, lr in enumerate(lrs)
        ]
        super().__init__(groups, fused=True)

    @torch.no_grad()
    def step(self, closure=None):
        """One update of every head."""
        for head, group in enumerate(self.param_groups):
            for view, p in zip(group["params"], self.stacked, strict=True):
                view.grad = p.grad[head]
        return super().step(closure)

    def zero_grad(self, set_to_none=True):
        """Forget the gradients."""
        for p in self.stacked:
            p.grad = None
        super().zero_grad(set_to_none)
