"""Log-mel features: waveform -> decibels -> normalised -> stacked tokens.

Paper, section 4.3: 24 kHz audio, an FFT of 2048 samples, a hop of 240 samples
and 128 mel bins give 100 frames a second; stacking 4 of them gives 25 Hz.
"""

import torch
import torchaudio
from torch import nn

from muselq_modules.bounds import require_size

# Frames whose windows are transformed together. On a CPU a block that fits
# the cache is 3-4 times faster than one STFT over the whole batch; on an
# accelerator larger blocks keep the device busy.
CPU_BLOCK_FRAMES = 512
DEVICE_BLOCK_FRAMES = 65536


class Float32Module(nn.Module):
    """A module whose tensors stay in float32 when a whole model is cast.

    Example
    -------
    >>> nn.Sequential(Float32Module(), nn.Linear(1, 1)).bfloat16()[1].bias.dtype
    torch.bfloat16
    """

    def _apply(self, fn, recurse=True):
        def keep_type(tensor):
            changed = fn(tensor)
            if changed.dtype == tensor.dtype:
                return changed
            return tensor.to(changed.device)

        return super()._apply(keep_type, recurse)


def to_decibels(mels):
    """Decibels of mel energies, not below -100."""
    return 10.0 * torch.log10(mels.clamp_min(1e-10))


class LogMel(Float32Module):
    """Log-mel spectrogram in decibels, normalised per mel bin.

    A clip of ``samples`` gives ``samples // hop_samples`` frames (30 s at
    24 kHz are exactly 3000: the last, half-empty frame is dropped). The
    signal is extended with zeros on both sides, never mirrored, so that a
    clip alone and the same clip in a zero-padded batch have equal frames.
    There is no floor relative to the loudest frame: a frame depends on its
    own window only. Always computed in float32.

    Parameters
    ----------
    sample_rate : int
        Samples a second of the waveform.
    n_fft : int
        Length of the analysis window in samples.
    hop_samples : int
        Distance between frames in samples.
    n_mels : int
        Number of mel bins between 0 Hz and half the sample rate.
    floor : float, optional
        Least normalised value, in deviations below the mean (negative).
        Digital silence and the empty bands of low-rate sources lie at -100 dB,
        far from anything else in training but where masked frames lie: without
        a floor an encoder takes them for masks.

    Example
    -------
    >>> log_mel = LogMel()
    >>> log_mel(torch.randn(2, 720000)).shape
    torch.Size([2, 3000, 128])
    """

    def __init__(
        self,
        sample_rate=24000,
        n_fft=2048,
        hop_samples=240,
        n_mels=128,
        floor=None,
    ):
        super().__init__()
        require_size("sample_rate", sample_rate, 1000, 2**20)
        require_size("n_fft", n_fft, 2, 2**16)
        require_size("hop_samples", hop_samples, 1, 2**16)
        require_size("n_mels", n_mels, 1, 2**10)
        self.sample_rate = sample_rate
        self.n_fft = n_fft
        self.hop_samples = hop_samples
        self.n_mels = n_mels
        self.floor = floor
        filters = torchaudio.functional.melscale_fbanks(
            n_fft // 2 + 1, 0.0, sample_rate / 2, n_mels, sample_rate
        )
        self.register_buffer("window", torch.hann_window(n_fft), False)
        self.register_buffer("filters", filters, False)
        # Measured over the training manifest before the first step and
        # stored with the model (see set_statistics).
        self.register_buffer("mean", torch.zeros(n_mels))
        self.register_buffer("std", torch.ones(n_mels))

    def extra_repr(self):
        """Settings that the state_dict does not show."""
        return (
            f"sample_rate={self.sample_rate}, n_fft={self.n_fft}, "
            f"hop_samples={self.hop_samples}, n_mels={self.n_mels}, "
            f"floor={self.floor}"
        )

    def set_statistics(self, mean, std):
        """Set the per-bin mean and standard deviation, in decibels [mel]."""
        self.mean.copy_(torch.as_tensor(mean))
        # A bin that never varies (e.g. above the band of low-rate sources)
        # must not be blown up by the division.
        self.std.copy_(torch.as_tensor(std).clamp_min(1e-3))

    def forward(self, wav):
        """Normalised log-mel frames.

        Parameters
        ----------
        wav : torch.Tensor
            Waveforms [batch, samples].

        Returns
        -------
        torch.Tensor
            Frames [batch, samples // hop_samples, n_mels].
        """
        return self.normalise(self.decibels(wav))

    def normalise(self, decibels):
        """Deviations from the mean of each bin, not below the floor."""
        normalised = (decibels - self.mean) / self.std
        if self.floor is None:
            return normalised
        return normalised.clamp_(min=self.floor)

    def decibels(self, wav):
        """Un-normalised log-mel frames in dB [batch, frames, n_mels]."""
        windows = self._windows(wav)
        batch, frames = windows.shape[:2]
        if torch.compiler.is_exporting():
            return self._spectrum(windows)
        if wav.device.type != "cpu":
            step = max(1, DEVICE_BLOCK_FRAMES // max(1, batch))
            blocks = windows.split(step, dim=1) if frames > step else [windows]
            return torch.cat([self._spectrum(b) for b in blocks], dim=1)
        result = wav.new_empty(batch, frames, self.n_mels)
        for clip in range(batch):
            for start in range(0, frames, CPU_BLOCK_FRAMES):
                block = slice(start, start + CPU_BLOCK_FRAMES)
                result[clip, block] = self._spectrum(windows[clip, block])
        return result

    def refresh(self, mels, wav, clips, frames):
        """Recompute some normalised frames of ``mels`` from another waveform.

        A mask touches about a quarter of the frames of a clip; the rest of
        the masked clip's spectrogram is that of the clean one.

        Parameters
        ----------
        mels : torch.Tensor
            Frames of the clean waveform [batch, frames, n_mels].
        wav : torch.Tensor
            The masked waveform [batch, samples].
        clips, frames : torch.Tensor
            Where they differ: index of the clip and of the frame [count].

        Returns
        -------
        torch.Tensor
            A new tensor [batch, frames, n_mels].

        Example
        -------
        >>> log_mel, wav = LogMel(), torch.randn(1, 24000)
        >>> masked = wav.clone()
        >>> masked[:, 9600:10560] = 0
        >>> frames = torch.arange(36, 49)  # windows that meet those samples
        >>> partial = log_mel.refresh(
        ...     log_mel(wav), masked, torch.zeros_like(frames), frames
        ... )
        >>> torch.allclose(partial, log_mel(masked), atol=1e-4)
        True
        """
        windows = self._windows(wav)
        result = mels.clone()
        if len(frames) == 0:  # an FFT of no window raises
            return result
        step = (
            CPU_BLOCK_FRAMES
            if wav.device.type == "cpu"
            else DEVICE_BLOCK_FRAMES
        )
        for clip, frame in zip(clips.split(step), frames.split(step)):
            spectrum = self._spectrum(windows[clip, frame])
            result[clip, frame] = self.normalise(spectrum)
        return result

    def _windows(self, wav):
        """Overlapping windows, a view [batch, frames, n_fft]."""
        half = self.n_fft // 2
        padded = nn.functional.pad(wav.float(), (half, half))
        windows = padded.unfold(-1, self.n_fft, self.hop_samples)
        return windows[:, : wav.shape[-1] // self.hop_samples]

    def _spectrum(self, windows):
        """Decibels of some windows [..., n_fft] -> [..., n_mels]."""
        # Autocast off: bf16 mel energies are wrong by up to 0.04 dB.
        with torch.autocast(windows.device.type, enabled=False):
            spectrum = torch.fft.rfft(windows * self.window)
            power = spectrum.real.square() + spectrum.imag.square()
            mels = torch.matmul(power, self.filters)
            return to_decibels(mels)


class FrameStacking(nn.Module):
    """Stack neighbouring frames: 4 x 128 bins at 100 Hz -> 512 at 25 Hz.

    Paper, section 4.3. Frames that do not fill a last stack are dropped.

    Parameters
    ----------
    factor : int
        Number of frames in a stack.

    Example
    -------
    >>> FrameStacking(4)(torch.zeros(1, 3000, 128)).shape
    torch.Size([1, 750, 512])
    """

    def __init__(self, factor=4):
        super().__init__()
        require_size("factor", factor, 1, 64)
        self.factor = factor

    def forward(self, frames):
        """Stack [batch, frames, n_mels] -> [batch, time, factor * n_mels]."""
        batch, n_frames, n_mels = frames.shape
        time = n_frames // self.factor
        frames = frames[:, : time * self.factor]
        return frames.reshape(batch, time, self.factor * n_mels)
