"""Sums over the micro-batches and ranks of a step.

They stay on the device and are reduced in one operation, so that the host
waits for the device once a step and not once a micro-batch.
"""

from dataclasses import dataclass

import torch
from torch import distributed

from muselq_modules.tokenizer import token_health

TOKEN_LOSS, MEL_LOSS, N_CORRECT, N_MASKED, AUDIO_S, N_BAD = range(6)
N_SUMS = 6


@dataclass
class StepTotals:
    """Sums over all ranks.

    Attributes
    ----------
    token_loss, mel_loss : float
        Summed losses; not finite when any micro-batch's was not.
    n_correct, n_masked : float
        Correct predictions and masked tokens.
    audio_s : float
        Seconds of audio.
    n_bad : float
        Segments that could not be read.
    requests : list of bool
        What any rank asked for.
    health : dict
        See :func:`muselq_modules.tokenizer.token_health`.
    majority_share : float
        Accuracy of always guessing the most frequent token of the training
        data.
    """

    token_loss: float
    mel_loss: float
    n_correct: float
    n_masked: float
    audio_s: float
    n_bad: float
    requests: list
    health: dict
    majority_share: float

    @property
    def loss(self):
        """Summed loss."""
        return self.token_loss + self.mel_loss

    def as_record(self):
        """Means over the masked tokens, for the log."""
        count = max(1.0, self.n_masked)
        return {
            "loss": self.loss / count,
            "token_loss": self.token_loss / count,
            "mel_loss": self.mel_loss / count,
            "masked_accuracy": self.n_correct / count,
            "majority_baseline": self.majority_share,
            "token_perplexity": self.health["perplexity"],
            "token_top1_share": self.health["top1_share"],
            "masked_tokens": int(self.n_masked),
            "bad_segments": int(self.n_bad),
        }


class StepSums:
    """Accumulates what a step or a validation needs to know.

    Parameters
    ----------
    codebook_size : int
        Number of tokens.
    device : str or torch.device
        Where the sums live.
    majority_token : int
        The most frequent token of the training data.

    Example
    -------
    >>> from muselq_modules.segments import SegmentBatch
    >>> sums = StepSums(4, "cpu", majority_token=3)
    >>> batch = SegmentBatch(None, torch.tensor([48000]), [0], [7], [])
    >>> one = torch.tensor(1.0)
    >>> sums.add(torch.tensor([3, 3]), 2 * one, 4 * one, one, batch)
    >>> totals, norm = sums.reduce([False, True], torch.tensor(0.5))
    >>> record = totals.as_record()
    >>> record["loss"], record["masked_accuracy"], norm
    (3.0, 0.5, 0.5)
    """

    def __init__(
        self, codebook_size, device, majority_token, sample_rate=24000
    ):
        self.majority_token = majority_token
        self.sample_rate = sample_rate
        self.values = torch.zeros(N_SUMS, device=device)
        self.tokens = torch.zeros(codebook_size, device=device)
        self.reset()

    def reset(self):
        """Start again at zero."""
        self.values.zero_()
        self.tokens.zero_()
        self._audio_s, self._n_bad = 0.0, 0
        self._micro_batches = []

    def add(self, tokens, token_loss, mel_loss, n_correct, batch):
        """Add a micro-batch.

        Parameters
        ----------
        tokens : torch.Tensor
            Targets [count].
        token_loss, mel_loss, n_correct : torch.Tensor
            Sums over the micro-batch, scalars.
        batch : SegmentBatch
            Where they come from.
        """
        self.values[TOKEN_LOSS] += token_loss
        self.values[MEL_LOSS] += mel_loss
        self.values[N_CORRECT] += n_correct
        self.values[N_MASKED] += len(tokens)
        # Not bincount, which makes the host wait for the device.
        ones = torch.ones_like(tokens, dtype=self.tokens.dtype)
        self.tokens.scatter_add_(0, tokens, ones)
        self._audio_s += int(batch.n_samples.sum()) / self.sample_rate
        self._n_bad += len(batch.errors)
        self._micro_batches.append((token_loss + mel_loss, batch.examples))

    def suspects(self):
        """Examples of this rank's non-finite micro-batches, or all of them."""
        bad = [
            example
            for loss, examples in self._micro_batches
            if not torch.isfinite(loss)
            for example in examples
        ]
        return bad or [e for _, batch in self._micro_batches for e in batch]

    def reduce(self, requests, common=0.0):
        """Sum over the ranks, and give the host what it asks for.

        Parameters
        ----------
        requests : list of bool
            What this rank asks all ranks to do.
        common : torch.Tensor or float
            A number that all ranks have, which travels with the sums.

        Returns
        -------
        StepTotals, float
            The sums, and ``common``.
        """
        self.values[AUDIO_S] = self._audio_s
        self.values[N_BAD] = self._n_bad
        asked = self.values.new_tensor([float(r) for r in requests])
        everything = torch.cat([self.values, asked, self.tokens])
        if distributed.is_initialized():
            distributed.all_reduce(everything)
        common = torch.as_tensor(common).to(everything).reshape(1)
        everything = torch.cat([everything, common]).cpu()
        sums = everything[:N_SUMS].tolist()
        stop = N_SUMS + len(requests)
        tokens = everything[stop:-1]
        totals = StepTotals(
            *sums,
            requests=[value > 0 for value in everything[N_SUMS:stop].tolist()],
            health=token_health(tokens),
            majority_share=float(tokens[self.majority_token])
            / max(1.0, float(tokens.sum())),
        )
        return totals, float(everything[-1])
