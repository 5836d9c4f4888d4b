"""An encoder whose tokens are means over cells of a second.

A page about 5,000 songs needs their course, not 25 tokens a second. Behind the
interface of an encoder the means go through the embedding cache as they are:
embedded once, resumed where a run was stopped, a fraction of the disk.
"""

import hashlib

import torch
from torch import nn

from muselq_modules.hidden_states import EncoderOutput


class CellAverages(nn.Module):
    """Means of an encoder's hidden states over consecutive cells.

    Parameters
    ----------
    encoder : MusicEncoder
        Or any other with its interface.
    cell_s : float
        Length of a cell in seconds; at least a token is in each.

    Example
    -------
    >>> from muselq_modules.baselines import ChromaBaseline
    >>> cells = CellAverages(ChromaBaseline(), cell_s=1.0)
    >>> out = cells(torch.randn(2, 72000), 24000, torch.tensor([1.0, 0.5]))
    >>> out.hidden_states[-1].shape, out.lengths.tolist()
    (torch.Size([2, 3, 12]), [3, 2])
    """

    def __init__(self, encoder, cell_s=1.0):
        super().__init__()
        self.encoder = encoder
        self.cell_s = max(cell_s, 1 / encoder.token_rate_hz)
        self.sample_rate = encoder.sample_rate
        self.token_rate_hz = 1 / self.cell_s
        self.n_layers = encoder.n_layers
        self.dim = encoder.dim

    def digest(self):
        """Hex sha256 of the cells and of the encoder."""
        text = f"cells of {self.cell_s} s, {self.encoder.digest()}"
        return hashlib.sha256(text.encode()).hexdigest()

    def forward(
        self, wav, sample_rate=None, lengths=None, layers=None, resample=False
    ):
        """Means of the valid tokens of each cell; as `MusicEncoder`'s."""
        out = self.encoder(wav, sample_rate, lengths, layers, resample)
        # A token belongs to the cell that holds its centre.
        cell = (out.times * self.token_rate_hz + 1e-9).long()
        cell = cell.to(out.lengths.device)
        n_cells = cell[out.lengths - 1] + 1
        tokens = torch.arange(len(cell), device=cell.device)
        valid = (tokens < out.lengths[:, None]).to(out.hidden_states[0].dtype)
        member = nn.functional.one_hot(cell).to(valid.dtype)
        # [batch, cell, token]: rows sum to 1, or to 0 beyond the clip.
        weights = member.T * valid[:, None]
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(1)
        states = [weights @ state for state in out.hidden_states]
        return EncoderOutput(states, out.layers, n_cells, self.token_rate_hz)
