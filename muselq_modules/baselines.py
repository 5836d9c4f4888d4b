"""Encoders without a network: what a probe reaches on plain features.

`mel`, `mfcc` and `chroma` behave as a `MusicEncoder` with no layer: one
hidden state, the frames themselves. Their `pool` gives the mean and the
standard deviation over time, where a network gives the mean alone. A number
of a trained encoder means little without these rows beside it.
"""

import hashlib

import torch
from torch import nn
from torchaudio.functional import create_dct

from muselq_modules.features import LogMel
from muselq_modules.hidden_states import EncoderOutput, choose_layers
from muselq_modules.waveforms import as_waveforms


class Baseline(nn.Module):
    """Frame features behind the interface of an encoder.

    Subclasses define ``name``, ``dim``, ``hop_samples`` and ``frames(wav)``.

    Example
    -------
    >>> encoder = MelBaseline()
    >>> out = encoder(torch.randn(2, 24000), 24000, torch.tensor([1.0, 0.5]))
    >>> out.hidden_states[-1].shape, out.lengths.tolist()
    (torch.Size([2, 100, 128]), [100, 50])
    >>> encoder.pool(out).shape
    torch.Size([2, 1, 256])
    """

    sample_rate = 24000
    n_layers = 0

    @property
    def token_rate_hz(self):
        """Frames a second."""
        return self.sample_rate / self.hop_samples

    @property
    def pooled_dim(self):
        """Size of a pooled embedding: mean and standard deviation."""
        return 2 * self.dim

    def digest(self):
        """Hex sha256 of everything that determines the features."""
        settings = f"{self.name} {self.dim} {self.sample_rate} version 1"
        return hashlib.sha256(settings.encode()).hexdigest()

    def forward(
        self, wav, sample_rate=None, lengths=None, layers=None, resample=False
    ):
        """Frames of ``wav`` ``[batch, samples]``; as `MusicEncoder.forward`."""
        chosen = choose_layers(layers, self.n_layers)
        device = next(self.buffers()).device
        wav, n_samples = as_waveforms(
            wav, sample_rate, self.sample_rate, lengths, resample, device
        )
        if wav.shape[1] < self.hop_samples:
            wav = nn.functional.pad(wav, (0, self.hop_samples - wav.shape[1]))
        n_frames = (n_samples // self.hop_samples).clamp_min(1)
        frames = self.frames(wav)
        # Frame i is that of a window around sample i * hop_samples.
        times = torch.arange(frames.shape[1]).double() / self.token_rate_hz
        return EncoderOutput(
            [frames for _ in chosen],
            chosen,
            n_frames,
            self.token_rate_hz,
            times,
        )

    def pool(self, out):
        """Mean and deviation over valid frames, ``[batch, 1, 2 * dim]``."""
        x = out.hidden_states[0]
        steps = torch.arange(x.shape[1], device=x.device)
        valid = (steps < out.lengths[:, None]).unsqueeze(-1)
        n = out.lengths[:, None].to(x.dtype)
        mean = (x * valid).sum(1) / n
        centred = (x - mean.unsqueeze(1)) * valid
        std = (centred.square().sum(1) / n).sqrt()
        return torch.cat([mean, std], -1).unsqueeze(1)


class MelBaseline(Baseline):
    """Log-mel spectrogram in dB, 128 bins at 100 Hz."""

    name, dim, hop_samples = "mel", 128, 240

    def __init__(self):
        super().__init__()
        self.log_mel = LogMel(self.sample_rate, hop_samples=self.hop_samples)

    def frames(self, wav):
        """``[batch, samples]`` -> ``[batch, frames, 128]``."""
        return self.log_mel.decibels(wav)


class MfccBaseline(MelBaseline):
    """20 cepstral coefficients with first and second differences."""

    name, dim, n_mfcc = "mfcc", 60, 20

    def __init__(self):
        super().__init__()
        dct = create_dct(self.n_mfcc, self.log_mel.n_mels, norm="ortho")
        self.register_buffer("dct", dct, persistent=False)

    def frames(self, wav):
        """``[batch, samples]`` -> ``[batch, frames, 60]``."""
        mfcc = super().frames(wav) @ self.dct
        first = mfcc.diff(dim=1, prepend=mfcc[:, :1])
        second = first.diff(dim=1, prepend=first[:, :1])
        return torch.cat([mfcc, first, second], -1)


class ChromaBaseline(Baseline):
    """Energy of the 12 pitch classes (C first) at 10 Hz.

    The window of 8192 samples separates semitones from 55 Hz up. Each bin
    feeds the pitch classes near its frequency; a frame is scaled so that its
    loudest class is 1, which leaves loudness out.
    """

    name, dim, hop_samples, n_fft = "chroma", 12, 2400, 8192

    def __init__(self):
        super().__init__()
        hz = torch.arange(self.n_fft // 2 + 1) * self.sample_rate / self.n_fft
        pitch = 12 * torch.log2(hz.clamp_min(1.0) / 440.0) + 69
        distance = pitch[:, None] - torch.arange(12)
        distance = (distance + 6) % 12 - 6  # to the nearest octave
        weights = torch.exp(-0.5 * (distance / 0.5) ** 2)
        # Below 55 Hz a bin is wider than a semitone, above 5 kHz there are
        # overtones and noise rather than notes.
        weights[(hz < 55) | (hz > 5000)] = 0.0
        self.register_buffer("weights", weights, persistent=False)
        window = torch.hann_window(self.n_fft)
        self.register_buffer("window", window, persistent=False)

    def frames(self, wav):
        """``[batch, samples]`` -> ``[batch, frames, 12]``."""
        spectrum = torch.stft(
            wav,
            self.n_fft,
            self.hop_samples,
            window=self.window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        n_frames = wav.shape[1] // self.hop_samples
        chroma = spectrum[..., :n_frames].abs().mT @ self.weights
        return chroma / chroma.amax(-1, keepdim=True).clamp_min(1e-5)


BASELINES = {
    encoder.name: encoder
    for encoder in (MelBaseline, MfccBaseline, ChromaBaseline)
}


def load_any_encoder(spec, device="cpu"):
    """The encoder of whatever can be given as `--pretrained`.

    Parameters
    ----------
    spec : str or Path
        ``mel``, ``mfcc``, ``chroma``, a run folder, an exported folder, a Hub
        id ``org/name`` or ``org/name@revision``, ``random:`` and one of these
        three, an ``.onnx`` file of `export_graph`, ``mert:95M``,
        ``mert:330M``, ``mert:<folder>`` or ``python:my_module.my_encoder``,
        which runs the code of my_module.
    device : str or torch.device

    Returns
    -------
    Encoder in evaluation mode.

    Example
    -------
    >>> load_any_encoder("chroma").pooled_dim
    24
    """
    if str(spec) in BASELINES:
        return BASELINES[str(spec)]().to(device).eval()
    # Imported here, for a baseline needs nothing of it.
    scheme, _, name = str(spec).partition(":")
    if scheme == "mert":
        from muselq_modules.mert import load_mert

        encoder = load_mert(name)
    elif scheme == "python":
        from muselq_modules.adapters import load_adapter

        encoder = load_adapter(name)
    elif str(spec).endswith(".onnx"):
        from muselq_modules.onnx_encoder import OnnxEncoder

        encoder = OnnxEncoder(spec)
    else:
        from muselq_modules.pretrained import load_encoder

        encoder = load_encoder(str(spec), device)
    return encoder.requires_grad_(False).to(device).eval()
