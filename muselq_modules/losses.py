"""Pre-training losses (paper, section 3.5).

    L = CE(l_token, t_token) + MSE(l_mel, t_mel)

over masked tokens only, in float32. The losses are sums: the mean is taken
once, over all masked tokens of the global batch, so that it does not depend
on how the batch is split over ranks and accumulation steps.
"""

import torch
from torch.nn import functional as F


def masked_losses(token_logits, tokens, mel_prediction, mels):
    """Sums of the two losses over the masked tokens of a micro-batch.

    Parameters
    ----------
    token_logits : torch.Tensor
        [count, codebook_size].
    tokens : torch.Tensor
        int64 [count].
    mel_prediction, mels : torch.Tensor
        Stacked normalised frames [count, mel_dim].

    Returns
    -------
    tuple of torch.Tensor
        Summed cross-entropy, summed squared error (a mean over the features
        of each token), number of correct tokens.

    Example
    -------
    >>> logits = torch.tensor([[0.0, 100.0]])
    >>> mels = torch.zeros(1, 4)
    >>> masked_losses(logits, torch.tensor([1]), mels + 2, mels)
    (tensor(0.), tensor(4.), tensor(1))
    """
    # Autocast off: sums over 8192 classes and squares need float32.
    with torch.autocast(token_logits.device.type, enabled=False):
        token_logits = token_logits.float()
        token_loss = F.cross_entropy(token_logits, tokens, reduction="sum")
        errors = (mel_prediction.float() - mels.float()).square()
        mel_loss = errors.mean(dim=-1).sum()
    with torch.no_grad():
        n_correct = (token_logits.argmax(dim=-1) == tokens).sum()
    return token_loss, mel_loss, n_correct
