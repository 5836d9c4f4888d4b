"""Random-projection tokenizer: the targets of BEST-RQ (paper, section 3.3).

    y = argmin_i || norm(c_i) - norm(A x) ||

A and the codebook are random and never trained. Between unit vectors the
smallest distance is the largest dot product, so tokens are the argmax of a
matrix product, taken in chunks: the distances to all codes at once would need
gigabytes.
"""

from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from muselq_modules.bounds import require_size


@contextmanager
def full_precision(device_type):
    """Run a block in true float32: no autocast and no TF32.

    Low precision moves a few per cent of the frames to another code.
    """
    matmul = torch.backends.cuda.matmul
    allowed = matmul.allow_tf32
    matmul.allow_tf32 = False
    # Shapes alone, on the meta device, have no precision.
    autocast = nullcontext()
    if torch.amp.is_autocast_available(device_type):
        autocast = torch.autocast(device_type, enabled=False)
    try:
        with autocast:
            yield
    finally:
        matmul.allow_tf32 = allowed


class RandomProjectionTokenizer(nn.Module):
    """Nearest code of a random codebook after a random projection.

    The projection (Xavier) and the codebook (standard normal, stored
    normalised) come from a generator of their own: they are the same on all
    ranks and do not change when a layer is added to the model. They are
    buffers, so they travel in the checkpoint.

    Parameters
    ----------
    input_dim : int
        Size of a stacked frame.
    codebook_size : int
        Number of codes.
    codebook_dim : int
        Size of a code.
    seed : int
        Seed of the projection and the codebook.
    chunk : int
        Tokens compared with the codebook at a time.

    Example
    -------
    >>> tokenizer = RandomProjectionTokenizer()
    >>> tokenizer(torch.randn(2, 750, 512)).shape
    torch.Size([2, 750])
    """

    def __init__(
        self,
        input_dim=512,
        codebook_size=8192,
        codebook_dim=16,
        seed=1234,
        chunk=256,
    ):
        super().__init__()
        require_size("input_dim", input_dim, 1, 2**16)
        require_size("codebook_size", codebook_size, 2, 2**20)
        require_size("codebook_dim", codebook_dim, 1, 2**12)
        generator = torch.Generator().manual_seed(seed)
        bound = (6.0 / (input_dim + codebook_dim)) ** 0.5
        projection = torch.rand(input_dim, codebook_dim, generator=generator)
        codebook = torch.randn(codebook_size, codebook_dim, generator=generator)
        self.register_buffer("projection", (2 * projection - 1) * bound)
        self.register_buffer("codebook", nn.functional.normalize(codebook))
        self.codebook_size = codebook_size
        self.chunk = chunk

    @torch.no_grad()
    def forward(self, frames):
        """Tokens of stacked, normalised frames.

        Parameters
        ----------
        frames : torch.Tensor
            [..., input_dim].

        Returns
        -------
        torch.Tensor
            int64 [...], in [0, codebook_size).
        """
        flat = frames.reshape(-1, frames.shape[-1]).float()
        # On an accelerator larger chunks keep the device busy.
        chunk = self.chunk if flat.device.type == "cpu" else 64 * self.chunk
        with full_precision(flat.device.type):
            # The length of A x does not change which code is nearest, so it
            # is not divided out.
            projected = flat @ self.projection
            tokens = flat.new_empty(len(flat), dtype=torch.long)
            # One piece of memory for all chunks: with a new one for each, most
            # of the time would go into asking the system for it.
            products = flat.new_empty(min(chunk, len(flat)), self.codebook_size)
            for part, chosen in zip(
                projected.split(chunk), tokens.split(chunk)
            ):
                product = products[: len(part)]
                torch.mm(part, self.codebook.T, out=product)
                torch.argmax(product, dim=-1, out=chosen)
        return tokens.reshape(frames.shape[:-1])


def token_health(counts):
    """How evenly tokens are used, from their histogram.

    Parameters
    ----------
    counts : torch.Tensor
        Number of times each token occurred [codebook_size].

    Returns
    -------
    dict
        ``perplexity`` (the number of equally likely tokens with the same
        entropy) and ``top1_share`` (share of the most frequent token).

    Example
    -------
    >>> token_health(torch.tensor([2.0, 2.0, 0.0, 0.0]))
    {'perplexity': 2.0, 'top1_share': 0.5}
    """
    counts = counts.double()
    total = counts.sum().clamp_min(1.0)
    shares = counts / total
    entropy = -(shares * shares.clamp_min(1e-12).log()).sum()
    return {
        "perplexity": round(float(entropy.exp()), 4),
        "top1_share": round(float(shares.max()), 6),
    }
