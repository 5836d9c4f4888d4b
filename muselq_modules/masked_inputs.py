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
        Their whitened mel frames in the clean waveform [count, target_dim].
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
    pipeline : TargetPipeline
        Makes targets; its ``log_mel`` is the encoder's.
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
    >>> from muselq_modules.training_statistics import TargetPipeline
    >>> from muselq_modules.whitening import Whitening
    >>> pipeline = TargetPipeline(
    ...     LogMel(),
    ...     FrameStacking(),
    ...     Whitening(512, 64),
    ...     RandomProjectionTokenizer(64),
    ... )
    >>> masker = InputMasker(RandomTimeMasking(), pipeline, 960)
    >>> batch = SegmentBatch(
    ...     torch.randn(1, 48000), torch.tensor([48000]), [0], [7], []
    ... )
    >>> inputs = masker(batch, "cpu")
    >>> inputs.mels.shape, len(inputs.tokens) == len(inputs.targets)
    (torch.Size([1, 200, 128]), True)
    """

    def __init__(self, masking, pipeline, token_samples):
        if masking.token_samples != token_samples:
            raise UserError(
                f"masking has {masking.token_samples} samples a token and the "
                f"encoder {token_samples}: set token_samples in "
                "hparams/blocks/time_masking.yaml."
            )
        self.masking = masking
        self.pipeline = pipeline
        self.token_samples = token_samples

    @torch.no_grad()
    def __call__(self, batch, device):
        """Inputs and targets of a SegmentBatch, on ``device``."""
        log_mel = self.pipeline.log_mel
        n_tokens = batch.n_samples // self.token_samples
        time = batch.wav.shape[1] // self.token_samples
        # Masks and indices are made on the CPU: a boolean index on the GPU
        # would make the host wait for it.
        token_mask = self.masking.draw(
            n_tokens, batch.epochs, batch.examples, time
        )
        clips, frames = masked_frames(
            token_mask,
            log_mel.n_fft,
            log_mel.hop_samples,
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
        mels = log_mel(wav)
        hidden = self.masking(wav, token_mask, batch.epochs, batch.examples)
        # Only the frames that meet a mask differ from the clean ones.
        masked_mels = log_mel.refresh(mels, hidden, clips, frames)
        stacked = self.pipeline.stacking(mels).flatten(0, 1)
        targets = self.pipeline.whitening(stacked.index_select(0, masked))
        tokens = self.pipeline.tokenizer(targets)
        return MaskedInputs(masked_mels, padding_mask, masked, tokens, targets)
