"""MusicEncoder: waveform -> hidden states of every layer at 25 Hz."""

import hashlib
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


@dataclass
class EncoderOutput:
    """What an encoder gives for a batch of clips.

    Attributes
    ----------
    hidden_states : list of torch.Tensor
        n_layers + 1 tensors [batch, time, dim]: [0] after subsampling, [i]
        after layer i, [-1] the last one, normalised.
    lengths : torch.Tensor
        Valid tokens of each clip, int64 [batch].
    """

    hidden_states: list
    lengths: torch.Tensor


class MusicEncoder(nn.Module):
    """Log-mel, subsampling and a stack of Branchformer or Conformer layers.

    Padding never changes a valid frame: a clip alone and the same clip in a
    padded batch agree.

    Parameters
    ----------
    log_mel : LogMel
        Features; its sample rate is the encoder's.
    subsampling : callable
        Called with ``(n_mels, dim)``; builds the front end.
    layer : callable
        Called with ``(dim)``; builds one layer.
    dim : int
        Model dimension.
    n_layers : int
        Number of layers.
    layer_drop : float
        Probability that training skips a layer.
    checkpoint_activations : bool
        Recompute the layers in the backward pass instead of storing them:
        about a third more time, a fraction of the memory.

    Example
    -------
    >>> from functools import partial
    >>> from muselq_modules.branchformer import BranchformerLayer
    >>> from muselq_modules.features import LogMel
    >>> from muselq_modules.subsampling import ConvNeXtSubsampling
    >>> from muselq_modules.summary_mixing import SummaryMixing
    >>> encoder = MusicEncoder(
    ...     LogMel(),
    ...     ConvNeXtSubsampling,
    ...     partial(BranchformerLayer, mixer=SummaryMixing, cgmlp_dim=64),
    ...     dim=32,
    ...     n_layers=2,
    ... )
    >>> output = encoder(torch.randn(1, 48000))
    >>> len(output.hidden_states), output.hidden_states[-1].shape
    (3, torch.Size([1, 50, 32]))
    """

    def __init__(
        self,
        log_mel,
        subsampling,
        layer,
        dim,
        n_layers,
        layer_drop=0.0,
        checkpoint_activations=False,
    ):
        super().__init__()
        self.dim = dim
        self.n_layers = n_layers
        self.layer_drop = layer_drop
        self.checkpoint_activations = checkpoint_activations
        self.log_mel = log_mel
        self.subsampling = subsampling(log_mel.n_mels, dim)
        self.layers = nn.ModuleList(layer(dim) for _ in range(n_layers))
        self.norm = nn.LayerNorm(dim)

    @property
    def sample_rate(self):
        """Samples a second of the input."""
        return self.log_mel.sample_rate

    @property
    def token_samples(self):
        """Input samples a token: 960."""
        return self.log_mel.hop_samples * self.subsampling.factor

    @property
    def token_rate_hz(self):
        """Tokens a second: 25."""
        return self.sample_rate / self.token_samples

    def digest(self):
        """Hex sha256 of all that determines the features.

        The layers with their settings, and the names, types, shapes and
        values of the weights; not how training drops or recomputes layers.
        """
        digest = hashlib.sha256(str(self).encode())
        for name, tensor in sorted(self.state_dict().items()):
            tensor = tensor.detach().cpu().contiguous()
            header = f"{name} {tensor.dtype} {tuple(tensor.shape)}"
            digest.update(header.encode())
            digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def forward(self, wav, lengths=None):
        """Encode waveforms.

        Parameters
        ----------
        wav : torch.Tensor
            Waveforms [batch, samples] at :attr:`sample_rate`.
        lengths : torch.Tensor, optional
            Relative length of each clip in (0, 1] [batch] (SpeechBrain's
            convention); None when nothing is padded.

        Returns
        -------
        EncoderOutput
            Hidden states [batch, time, dim] and valid tokens. A clip shorter
            than a token still gives one.
        """
        samples = wav.shape[1]
        if lengths is None:
            n_samples = torch.full((len(wav),), samples, device=wav.device)
        else:
            n_samples = (lengths.double() * samples).round().long()
            n_samples = n_samples.to(wav.device)
            beyond = torch.arange(samples, device=wav.device)
            wav = wav.masked_fill(beyond >= n_samples.unsqueeze(1), 0.0)
        n_tokens = (n_samples // self.token_samples).clamp_min(1)
        if samples < self.token_samples:
            wav = nn.functional.pad(wav, (0, self.token_samples - samples))
        padding_mask = None
        if lengths is not None:
            time = wav.shape[1] // self.token_samples
            steps = torch.arange(time, device=wav.device)
            padding_mask = steps >= n_tokens.unsqueeze(1)
        states = self.encode(self.log_mel(wav), padding_mask, all_layers=True)
        return EncoderOutput(states, n_tokens)

    def encode(self, mels, padding_mask=None, all_layers=False):
        """Encode normalised log-mel frames.

        Parameters
        ----------
        mels : torch.Tensor
            Frames [batch, frames, n_mels] at 100 Hz.
        padding_mask : torch.Tensor, optional
            bool [batch, time] over tokens, True where padded.
        all_layers : bool
            Return a list of all hidden states instead of the last.

        Returns
        -------
        torch.Tensor or list of torch.Tensor
            [batch, time, dim]; see :class:`EncoderOutput`.
        """
        factor = self.subsampling.factor
        mels = mels[:, : mels.shape[1] // factor * factor]
        x = self.subsampling(mels, padding_mask)
        states = [x]
        for layer in self.layers:
            if self.training and torch.rand(()) < self.layer_drop:
                pass  # the layer is skipped; its input is its output
            elif self.training and self.checkpoint_activations:
                x = checkpoint(layer, x, padding_mask, use_reentrant=False)
            else:
                x = layer(x, padding_mask)
            if all_layers:
                states.append(x)
        x = self.norm(x)
        if not all_layers:
            return x
        states[-1] = x
        return states
