"""A tiny encoder with the interface of MusicEncoder, which counts its calls."""

import hashlib

import torch

from muselq_modules.hidden_states import EncoderOutput, choose_layers
from muselq_modules.waveforms import as_waveforms


class FakeEncoder(torch.nn.Module):
    """Mean and power of each token of 960 samples, through random layers."""

    sample_rate, token_rate_hz, dim, n_layers = 24000, 25.0, 8, 2

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(3, 2, self.dim, generator=generator)
        self.weight = torch.nn.Parameter(weight)
        self.calls = 0

    def digest(self):
        """Hex sha256 of the weights."""
        values = self.weight.detach().cpu().numpy().tobytes()
        return hashlib.sha256(values).hexdigest()

    def forward(
        self, wav, sample_rate=None, lengths=None, layers=None, resample=False
    ):
        """Hidden states and valid tokens; nothing crosses tokens."""
        self.calls += 1
        chosen = choose_layers(layers, self.n_layers)
        device = self.weight.device
        wav, n = as_waveforms(
            wav, sample_rate, self.sample_rate, lengths, resample, device
        )
        tokens = (n // 960).clamp_min(1)
        wav = torch.nn.functional.pad(wav, (0, max(0, 960 - wav.shape[1])))
        frames = wav[:, : wav.shape[1] // 960 * 960].unflatten(1, (-1, 960))
        parts = torch.stack([frames.mean(-1), frames.square().mean(-1)], -1)
        return EncoderOutput(
            [torch.tanh(parts @ self.weight[i]) for i in chosen],
            chosen,
            tokens,
            self.token_rate_hz,
        )
