"""The model that is pre-trained: encoder, token head and mel head."""

from torch import nn


class MaskedPredictor(nn.Module):
    """Predict the tokens and the mel frames of masked positions.

    Paper, section 3.5. The heads run on masked positions only.

    Parameters
    ----------
    encoder : MusicEncoder
        Kept after pre-training.
    codebook_size : int
        Number of tokens.
    target_dim : int
        Size of a whitened mel frame.

    Example
    -------
    >>> import torch
    >>> from muselq_modules.subsampling import ConvNeXtSubsampling
    >>> from muselq_modules.encoder import MusicEncoder
    >>> from muselq_modules.features import LogMel
    >>> encoder = MusicEncoder(LogMel(), ConvNeXtSubsampling, None, 32, 0)
    >>> model = MaskedPredictor(encoder, codebook_size=100)
    >>> masked = torch.tensor([0, 1, 25])  # positions in [batch * time]
    >>> logits, mels = model(torch.randn(2, 80, 128), None, masked)
    >>> logits.shape, mels.shape
    (torch.Size([3, 100]), torch.Size([3, 64]))
    """

    def __init__(self, encoder, codebook_size=8192, target_dim=64):
        super().__init__()
        self.encoder = encoder
        self.token_head = nn.Linear(encoder.dim, codebook_size)
        self.mel_head = nn.Linear(encoder.dim, target_dim)

    def forward(self, mels, padding_mask, masked):
        """Predictions at some positions.

        Parameters
        ----------
        mels : torch.Tensor
            Normalised log-mel frames of the masked waveform
            [batch, frames, n_mels].
        padding_mask : torch.Tensor or None
            bool [batch, time], True where padded.
        masked : torch.Tensor
            Positions to predict, indices into [batch * time], [count].

        Returns
        -------
        tuple of torch.Tensor
            Token logits [count, codebook_size], mel frames
            [count, target_dim].
        """
        hidden = self.encoder.encode(mels, padding_mask)
        hidden = hidden.flatten(0, 1).index_select(0, masked)
        return self.token_head(hidden), self.mel_head(hidden)
