"""What may be given to an encoder as audio, and what is refused.

A wrong rate, integers that were never scaled or swapped axes give features
that look right and are not. So every call names its sample rate, and each of
these is one sentence.
"""

import math
import numbers

import numpy as np
import torch
import torchaudio

from muselq_modules.audio_formats import AudioFault, check_rate
from muselq_modules.errors import UserError

# Audio lies between -1 and 1, hot masters a little beyond.
MAX_PEAK = 100.0
# Fewer samples than this, and more clips than samples: swapped axes.
FEW_SAMPLES = 64


class BadClip(UserError):
    """One clip of a batch is no audio.

    Attributes
    ----------
    clip : int
        Its place in the batch.
    fault : str
        What is wrong with it, for callers who know its name.
    """

    def __init__(self, clip, fault):
        super().__init__(f"clip {clip} of wav {fault}")
        self.clip, self.fault = clip, fault


def as_waveforms(
    wav, sample_rate, encoder_rate, lengths=None, resample=False, device="cpu"
):
    """Check audio and bring it to the rate and the device of an encoder.

    Parameters
    ----------
    wav : torch.Tensor or numpy.ndarray
        Waveforms [batch, samples], or one clip [samples]; floats between -1
        and 1, or signed 16 or 32-bit integers, which are scaled to that.
    sample_rate : int
        Rate of ``wav`` in Hz.
    encoder_rate : int
        Rate of the encoder in Hz.
    lengths : torch.Tensor, optional
        Relative length of each clip in (0, 1] [batch]; None when nothing is
        padded. float64 where a clip is longer than 16 million samples.
    resample : bool
        Resample when the rates differ, instead of refusing.
    device : str or torch.device
        Where the result shall be.

    Returns
    -------
    wav : torch.Tensor
        float32 [batch, samples], zeros beyond the end of each clip.
    n_samples : torch.Tensor
        Samples of each clip, int64 [batch].

    Raises
    ------
    UserError
        One sentence for whatever is no audio of that rate.

    Example
    -------
    >>> wav, n = as_waveforms(np.zeros(44100), 44100, 24000, resample=True)
    >>> wav.shape, n.tolist()
    (torch.Size([1, 24000]), [24000])
    >>> as_waveforms(np.zeros(44100), 44100, 24000)
    Traceback (most recent call last):
        ...
    muselq_modules.errors.UserError: wav has 44100 Hz but the encoder takes ...
    """
    rate = _checked_rate(sample_rate, encoder_rate, resample)
    wav = _as_batch(wav).to(device)
    samples = wav.shape[1]
    n_samples = torch.full((len(wav),), samples, device=device)
    if lengths is not None:
        n_samples = _count_samples(lengths, *wav.shape).to(device)
        wav = zero_beyond(wav, n_samples)
    # The peak would end a traced graph.
    if not torch.compiler.is_compiling():
        _check_values(wav)
    if rate != encoder_rate:
        wav = torchaudio.functional.resample(wav, rate, encoder_rate)
        n_samples = -(n_samples * encoder_rate // -rate)  # rounded up
        if lengths is not None:
            wav = zero_beyond(wav, n_samples)
    return wav, n_samples


def zero_beyond(wav, n_samples):
    """Set [batch, samples] to zero beyond ``n_samples`` [batch]."""
    beyond = torch.arange(wav.shape[1], device=wav.device)
    return wav.masked_fill(beyond >= n_samples.unsqueeze(1), 0.0)


def _checked_rate(sample_rate, encoder_rate, resample):
    """The rate as an int."""
    if sample_rate is None:
        raise UserError(
            "sample_rate is missing: say at how many Hz wav was sampled, such "
            f"as encoder(wav, {encoder_rate})."
        )
    if isinstance(sample_rate, torch.Tensor | np.ndarray):
        if sample_rate.ndim == 0:
            sample_rate = sample_rate.item()
    if not isinstance(sample_rate, numbers.Real) or not 0 < sample_rate < 1e9:
        shown = " ".join(str(sample_rate).split())[:40]
        raise UserError(
            f"sample_rate {shown} is no rate in Hz: give a number such as "
            f"{encoder_rate}; lengths come after it."
        )
    if sample_rate == encoder_rate:
        return encoder_rate
    if not resample:
        raise UserError(
            f"wav has {sample_rate:g} Hz but the encoder takes {encoder_rate} "
            "Hz: resample it before, or pass resample=True."
        )
    try:
        if int(sample_rate) != sample_rate:
            raise AudioFault("a fraction")
        check_rate(int(sample_rate))
    except AudioFault as fault:
        raise UserError(
            f"wav has {sample_rate} Hz, which cannot be resampled to "
            f"{encoder_rate} Hz in one step: bring it to a usual rate first."
        ) from fault
    return int(sample_rate)


def _as_batch(wav):
    """float32 [batch, samples] of a tensor or an array."""
    if isinstance(wav, np.ndarray) and wav.dtype.kind in "fi":
        # Native byte order, and no negative stride: torch has neither.
        wav = np.ascontiguousarray(wav, wav.dtype.newbyteorder("="))
        wav = torch.from_numpy(wav if wav.flags.writeable else wav.copy())
    if not isinstance(wav, torch.Tensor):
        kind = getattr(wav, "dtype", type(wav).__name__)
        raise UserError(
            f"wav is {kind}: give a tensor or an array of floats "
            "[batch, samples], shorter clips padded, and their lengths."
        )
    if wav.dtype in (torch.int16, torch.int32):
        wav = wav.float() / -float(torch.iinfo(wav.dtype).min)
    elif not wav.is_floating_point():
        raise UserError(
            f"wav is {wav.dtype}: give floats between -1 and 1, or signed 16 "
            "or 32-bit integers."
        )
    shape = list(wav.shape)
    if wav.dim() == 1:
        wav = wav.unsqueeze(0)
    if wav.dim() != 2:
        raise UserError(
            f"wav has the shape {shape} instead of [batch, samples]: mix the "
            "channels of each clip down to their mean."
        )
    batch, samples = wav.shape
    if wav.numel() == 0:
        raise UserError(f"wav has the shape {shape}, which holds no sample.")
    if samples < min(batch, FEW_SAMPLES):
        raise UserError(
            f"wav has the shape {shape}, which looks like [samples, channels]: "
            "give mono clips [batch, samples], such as wav.mean(1)."
        )
    return wav.float()


def _count_samples(lengths, batch, samples):
    """Samples of each clip, int64 [batch], from relative lengths."""
    lengths = torch.as_tensor(lengths)
    if lengths.shape != (batch,):
        raise UserError(
            f"lengths has the shape {list(lengths.shape)} but wav holds "
            f"{batch} clips: give one relative length for each."
        )
    # MPS has no float64; the rest is counted on the CPU.
    n_samples = (lengths.detach().cpu().double() * samples).round()
    # A little above 1 is the rounding of a division.
    wrong = ~((n_samples >= 1) & (lengths.detach().cpu() <= 1 + 1e-5))
    if wrong.any():
        clip = int(wrong.nonzero()[0])
        raise UserError(
            f"lengths[{clip}] is {lengths[clip].item():g}: lengths are "
            "relative, above 0 and at most 1, samples of the clip divided by "
            "those of wav, and a clip has a sample or more."
        )
    return n_samples.long().clamp_max(samples)


def _check_values(wav):
    """Refuse what is no audio; a padded clip is zero beyond its end."""
    peaks = wav.detach().abs().amax(dim=1).cpu()
    for clip, peak in enumerate(peaks.tolist()):
        if not math.isfinite(peak):
            raise BadClip(clip, "holds NaN or infinite samples: leave it out.")
        if peak > MAX_PEAK:
            raise BadClip(
                clip,
                f"reaches {peak:g}: scale it to lie between -1 and 1 (16-bit "
                "integers are divided by 32768).",
            )
