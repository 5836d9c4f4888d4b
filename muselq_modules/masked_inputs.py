"""From a batch of segments to what the model sees and what it must predict."""

from dataclasses import dataclass

import torch

from muselq_modules.errors import UserError
from muselq_modules.masking import masked_frames


@dataclass
class MaskedInputs:
    """Inputs and targets of a micro-batch.

    Attributes
    ----------
    mels : torch.Tensor
        Normalised log-mel frames of the masked waveform
        [batch, frames, n_mels].
    padding_mask : torch.Tensor or None
        bool [batch, time], True where padded; None when nothing is.
    masked : torch.Tensor
        Masked positions, indices into [batch * time], [count].
    tokens : torch.Tensor
        Their tokens in the clean waveform [count].
    targets : torch.Tensor
        Their stacked mel frames in the clean waveform [count, mel_dim].
    """

    mels: torch.Tensor
    padding_mask: torch.Tensor
    masked: torch.Tensor
    tokens: torch.Tensor
    targets: torch.Tensor


class InputMasker:
    """Masks segments and makes their targets.

    Parameters
    ----------
    masking : RandomTimeMasking
        Chooses and hides windows.
    log_mel : LogMel
        The encoder's features.
    stacking : FrameStacking
        Makes the frames of a token.
    tokenizer : RandomProjectionTokenizer
        Makes tokens of stacked frames.
    token_samples : int
        Samples a token of the encoder.

    Raises
    ------
    UserError
        When masking and encoder disagree about the length of a token.

    Example
    -------
    >>> from muselq_modules.features import FrameStacking, LogMel
    >>> from muselq_modules.masking import RandomTimeMasking
    >>> from muselq_modules.segments import SegmentBatch
    >>> from muselq_modules.tokenizer import RandomProjectionTokenizer
    >>> masker = InputMasker(
    ...     RandomTimeMasking(),
    ...     LogMel(),
    ...     FrameStacking(),
    ...     RandomProjectionTokenizer(),
    ...     token_samples=960,
    ... )
    >>> batch = SegmentBatch(
    ...     torch.randn(1, 48000), torch.tensor([48000]), [0], [7], []
    ... )
    >>> inputs = masker(batch, "cpu")
    >>> inputs.mels.shape, len(inputs.tokens) == len(inputs.targets)
    (torch.Size([1, 200, 128]), True)
    """

    def __init__(self, masking, log_mel, stacking, tokenizer, token_samples):
        if masking.token_samples != token_samples:
            raise UserError(
                f"masking has {masking.token_samples} samples a token and the "
                f"encoder {token_samples}: set token_samples in "
                "hparams/blocks/time_masking.yaml."
            )
        self.masking = masking
        self.log_mel = log_mel
        self.stacking = stacking
        self.tokenizer = tokenizer
        self.token_samples = token_samples

    @torch.no_grad()
    def __call__(self, batch, device):
        """Inputs and targets of a SegmentBatch, on ``device``."""
        n_tokens = batch.n_samples // self.token_samples
        time = batch.wav.shape[1] // self.token_samples
        # Masks and indices are made on the CPU: a boolean index on the GPU
        # would make the host wait for it.
        token_mask = self.masking.draw(
            n_tokens, batch.epochs, batch.examples, time
        )
        clips, frames = masked_frames(
            token_mask,
            self.log_mel.n_fft,
            self.log_mel.hop_samples,
            self.token_samples,
        )
        masked = token_mask.flatten().nonzero().squeeze(1)
        padding_mask = None
        if int(n_tokens.min()) < time:
            padding_mask = torch.arange(time) >= n_tokens.unsqueeze(1)
            padding_mask = padding_mask.to(device, non_blocking=True)
        token_mask, masked, clips, frames = (
            tensor.to(device, non_blocking=True)
            for tensor in (token_mask, masked, clips, frames)
        )
        wav = batch.waveforms(device)
        mels = self.log_mel(wav)
        hidden = self.masking(wav, token_mask, batch.epochs, batch.examples)
        # Only the frames that meet a mask differ from the clean ones.
        masked_mels = self.log_mel.refresh(mels, hidden, clips, frames)
        targets = self.stacking(mels).flatten(0, 1).index_select(0, masked)
        return MaskedInputs(
            masked_mels, padding_mask, masked, self.tokenizer(targets), targets
        )
