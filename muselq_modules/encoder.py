"""MusicEncoder: waveform -> hidden states of every layer at 25 Hz."""

import hashlib

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from muselq_modules.bounds import require_size
from muselq_modules.hidden_states import EncoderOutput, choose_layers
from muselq_modules.pretrained import load_encoder
from muselq_modules.waveforms import as_waveforms
from muselq_modules.whitening import Whitening


def digest_of(module, text):
    """Hex sha256 of a text and of the weights of a module.

    Parameters
    ----------
    module : torch.nn.Module
        Names, types, shapes and values of its parameters and buffers count.
    text : str
        Whatever else determines the features.

    Returns
    -------
    str
    """
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(module.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        header = f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        digest.update(header.encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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
    input_whitening : float
        Power of the whitening of the mel frames (:class:`Whitening`), 1 for
        equal variances; 0 leaves it out.
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
    >>> output = encoder(torch.randn(1, 48000), sample_rate=24000)
    >>> len(output.hidden_states), output.hidden_states[-1].shape
    (3, torch.Size([1, 50, 32]))
    >>> output.token_rate_hz, output.times[:3].tolist()
    (25.0, [0.02, 0.06, 0.1])
    """

    def __init__(
        self,
        log_mel,
        subsampling,
        layer,
        dim,
        n_layers,
        input_whitening=0.0,
        layer_drop=0.0,
        checkpoint_activations=False,
    ):
        super().__init__()
        require_size("dim", dim, 1, 2**16)
        require_size("n_layers", n_layers, 0, 512)
        self.dim = dim
        self.n_layers = n_layers
        self.layer_drop = layer_drop
        self.checkpoint_activations = checkpoint_activations
        self.log_mel = log_mel
        self.whitening = None
        if input_whitening > 0:
            self.whitening = Whitening(
                log_mel.n_mels,
                power=input_whitening,
                shrinkage=1e-3,
                rotate_back=True,
            )
        self.subsampling = subsampling(log_mel.n_mels, dim)
        self.layers = nn.ModuleList(layer(dim) for _ in range(n_layers))
        self.norm = nn.LayerNorm(dim)
        # Where the weights come from, set by from_pretrained.
        self.source = None

    @classmethod
    def from_pretrained(
        cls, spec, revision=None, device=None, dtype=torch.float32
    ):
        """Load an encoder, frozen and in evaluation mode.

        Nothing in a folder or on the Hub can run, so that one from anywhere
        is safe to try; SpeechBrain's ``from_hparams`` is not.

        Parameters
        ----------
        spec : str or Path
            Run folder, exported folder, or Hub id ``org/name`` or
            ``org/name@revision``.
        revision : str, optional
            Branch, tag or commit of a Hub id.
        device : str or torch.device, optional
            Default: CUDA or MPS where there is one, else the CPU. Waveforms
            are moved there by the call.
        dtype : torch.dtype or str
            ``fp32`` or ``bf16``: type of the weights and hidden states.

        Returns
        -------
        MusicEncoder
            Its ``source`` names the folder, or ``org/name@commit``.

        Raises
        ------
        UserError
            One sentence when there is no encoder, or one that does not fit.
        """
        return load_encoder(spec, device, revision=revision, dtype=dtype)

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
        return digest_of(self, str(self))

    def forward(
        self, wav, sample_rate=None, lengths=None, layers=None, resample=False
    ):
        """Encode waveforms.

        Parameters
        ----------
        wav : torch.Tensor or numpy.ndarray
            Mono waveforms [batch, samples] between -1 and 1, or one clip
            [samples]; see :func:`~muselq_modules.waveforms.as_waveforms`.
        sample_rate : int
            Rate of ``wav`` in Hz. Another one than :attr:`sample_rate` is
            refused.
        lengths : torch.Tensor, optional
            Relative length of each clip in (0, 1] [batch] (SpeechBrain's
            convention); None when nothing is padded.
        layers : list of int, optional
            Hidden states to return, 0 = after subsampling ... n_layers =
            last, negative numbers from the end; all by default. Layers above
            the highest are not computed.
        resample : bool
            Resample ``wav`` when its rate is another, instead of refusing.

        Returns
        -------
        EncoderOutput
            Hidden states [batch, time, dim] and valid tokens. A clip shorter
            than a token still gives one.

        Raises
        ------
        UserError
            For a missing or another sample rate, and what is no audio.
        """
        chosen = choose_layers(layers, self.n_layers)
        wav, n_samples = as_waveforms(
            wav,
            sample_rate,
            self.sample_rate,
            lengths,
            resample,
            self.norm.weight.device,
        )
        n_tokens = (n_samples // self.token_samples).clamp_min(1)
        if lengths is not None and not torch.compiler.is_compiling():
            if int(n_samples.min()) == wav.shape[1]:
                lengths = None  # nothing is padded: no mask
        if wav.shape[1] < self.token_samples:
            missing = self.token_samples - wav.shape[1]
            wav = nn.functional.pad(wav, (0, missing))
        padding_mask = None
        if lengths is not None:
            time = wav.shape[1] // self.token_samples
            steps = torch.arange(time, device=wav.device)
            padding_mask = steps >= n_tokens.unsqueeze(1)
        states = self.encode(self.log_mel(wav), padding_mask, chosen)
        return EncoderOutput(states, chosen, n_tokens, self.token_rate_hz)

    def subsample(self, mels, padding_mask=None):
        """Tokens [batch, time, dim] of mel frames [batch, frames, n_mels]."""
        if self.whitening is not None:
            mels = self.whitening(mels)
        # Features are float32 whatever the weights are.
        mels = mels.to(self.norm.weight.dtype)
        return self.subsampling(mels, padding_mask)

    def encode(self, mels, padding_mask=None, layers=None):
        """Encode normalised log-mel frames.

        Parameters
        ----------
        mels : torch.Tensor
            Frames [batch, frames, n_mels] at 100 Hz.
        padding_mask : torch.Tensor, optional
            bool [batch, time] over tokens, True where padded.
        layers : list of int, optional
            Return a list of these hidden states instead of the last one.

        Returns
        -------
        torch.Tensor or list of torch.Tensor
            [batch, time, dim]; see :class:`EncoderOutput`.
        """
        wanted = [self.n_layers] if layers is None else layers
        factor = self.subsampling.factor
        mels = mels[:, : mels.shape[1] // factor * factor]
        x = self.subsample(mels, padding_mask)
        states = {0: x}
        for number, layer in enumerate(self.layers, start=1):
            if number > max(wanted):
                break
            if self.training and torch.rand(()) < self.layer_drop:
                pass  # the layer is skipped; its input is its output
            elif self.training and self.checkpoint_activations:
                x = checkpoint(layer, x, padding_mask, use_reentrant=False)
            else:
                x = layer(x, padding_mask)
            if number in wanted:
                states[number] = x
        if self.n_layers in wanted:
            states[self.n_layers] = self.norm(x)
        if layers is None:
            return states[self.n_layers]
        return [states[number] for number in layers]
