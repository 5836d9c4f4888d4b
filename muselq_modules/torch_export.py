"""One graph for waveform -> hidden states, of any batch and any length.

What `torch.export` records is a list of tensor operations, without Python.
:func:`trace_encoder` makes it from an encoder; `onnx_export` turns it into an
ONNX file, :func:`save_program` stores it as it is, for PyTorch programs that
do not install this package.
"""

import json
import os
import warnings
from pathlib import Path

import torch
from torch import nn

from muselq_modules.hidden_states import choose_layers
from muselq_modules.portable_log_mel import PortableLogMel

POOLS = ("none", "mean")


class EncoderGraph(nn.Module):
    """What is exported: an encoder's call without its checks.

    Parameters
    ----------
    encoder : MusicEncoder
        In evaluation mode.
    layers : list of int
        Hidden states to return, 0 = after subsampling ... n_layers = last.
    pool : str
        ``none``, or ``mean`` over the valid tokens of each clip.
    log_mel : torch.nn.Module, optional
        Makes the frames in place of the encoder's own.

    Example
    -------
    >>> from muselq_modules.encoder import MusicEncoder
    >>> from muselq_modules.features import LogMel
    >>> from muselq_modules.subsampling import ConvNeXtSubsampling
    >>> encoder = MusicEncoder(LogMel(), ConvNeXtSubsampling, None, 16, 0)
    >>> graph = EncoderGraph(encoder, [0], "mean")
    >>> (states,) = graph(torch.randn(2, 24000))
    >>> states.shape
    torch.Size([2, 16])
    >>> states, n_tokens = graph(torch.zeros(2, 9600), torch.tensor([9600, 9]))
    >>> n_tokens.tolist()
    [10, 1]
    """

    def __init__(self, encoder, layers, pool="none", log_mel=None):
        super().__init__()
        self.encoder = encoder
        self.layers = layers
        self.pool = pool
        self.log_mel = log_mel or encoder.log_mel

    def forward(self, wav, n_samples=None):
        """Encode waveforms.

        Parameters
        ----------
        wav : torch.Tensor
            float32 [batch, samples] at the encoder's rate, between -1 and 1.
            Samples that fill no whole token are seen by the last windows but
            give no token; a clip shorter than a token is padded to one.
        n_samples : torch.Tensor, optional
            Samples of each clip, int64 [batch], where clips are padded.

        Returns
        -------
        tuple of torch.Tensor
            A hidden state [batch, time, dim], or [batch, dim] when pooled,
            for each layer; with ``n_samples`` also the valid tokens of each
            clip, int64 [batch].
        """
        token = self.encoder.token_samples
        short = torch.sym_max(token - wav.shape[1], 0)
        # Numbers of which a trace knows a lower bound only. With the shape
        # itself it would decide that neither is 1, and take far longer.
        sizes = torch.tensor([wav.shape[0], (wav.shape[1] + short) // token])
        batch, time = sizes.tolist()
        torch._check(batch >= 1)
        torch._check(time >= 1)
        rows = batch - wav.shape[0]  # none, which a trace does not know
        wav = nn.functional.pad(wav, (0, short, 0, rows))
        padding_mask = n_tokens = None
        if n_samples is not None:
            n_samples = nn.functional.pad(n_samples, (0, rows))
            samples = torch.arange(wav.shape[1], device=wav.device)
            wav = wav.masked_fill(samples >= n_samples.unsqueeze(1), 0.0)
            n_tokens = (n_samples // token).clamp_min(1)
            steps = torch.arange(time, device=wav.device)
            padding_mask = steps >= n_tokens.unsqueeze(1)
        mels = self.log_mel(wav)
        # Cuts the frames that fill no token: a slice could not be traced.
        missing = time * self.encoder.subsampling.factor - mels.shape[1]
        mels = nn.functional.pad(mels, (0, 0, 0, missing))
        states = self.encoder.encode(mels, padding_mask, self.layers)
        if self.pool == "mean":
            states = [self._mean(x, padding_mask, n_tokens) for x in states]
        if n_tokens is None:
            return tuple(states)
        return (*states, n_tokens)

    @staticmethod
    def _mean(states, padding_mask, n_tokens):
        if padding_mask is None:
            return states.mean(1)
        states = states.masked_fill(padding_mask.unsqueeze(-1), 0.0)
        return states.sum(1) / n_tokens.unsqueeze(1).to(states.dtype)


def trace_encoder(
    encoder, layers=(-1,), pool="none", padded=False, portable=False
):
    """Record an encoder as a graph of dynamic batch and length.

    Parameters
    ----------
    encoder : MusicEncoder
        Traced as it is in evaluation mode, on its device.
    layers : list of int or None
        Hidden states to return; negative numbers from the end, None is all.
    pool : str
        ``none`` or ``mean``.
    padded : bool
        Takes ``n_samples`` as a second input, see
        :meth:`EncoderGraph.forward`. Without it every sample counts.
    portable : bool
        Frames from matrix products instead of an FFT, see
        `portable_log_mel`.

    Returns
    -------
    torch.export.ExportedProgram

    Raises
    ------
    UserError
        For a layer that the encoder does not have.
    """
    chosen = choose_layers(layers, encoder.n_layers)
    log_mel = PortableLogMel(encoder.log_mel) if portable else None
    training = encoder.training
    graph = EncoderGraph(encoder, chosen, pool, log_mel).eval()
    # Neither size of the example is special: they become variables.
    device = encoder.norm.weight.device
    samples = 50 * encoder.token_samples + 1
    inputs = {"wav": torch.zeros(2, samples, device=device)}
    if padded:
        inputs["n_samples"] = torch.tensor([samples, samples // 2]).to(device)
    shapes = {
        name: dict.fromkeys(range(x.dim()), torch.export.Dim.AUTO)
        for name, x in inputs.items()
    }
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(graph, (), inputs, dynamic_shapes=shapes)
    finally:
        encoder.train(training)


def graph_facts(encoder, layers=(-1,), pool="none"):
    """What a program must know to use an exported file.

    Parameters
    ----------
    encoder : MusicEncoder
    layers : list of int or None
    pool : str

    Returns
    -------
    dict of str
    """
    layers = choose_layers(layers, encoder.n_layers)
    facts = {
        "sample_rate_hz": encoder.sample_rate,
        "token_rate_hz": encoder.token_rate_hz,
        "token_samples": encoder.token_samples,
        "n_layers": encoder.n_layers,
        "dim": encoder.dim,
        "layers": ",".join(map(str, layers)),
        "pool": pool,
        "encoder_digest": encoder.digest(),
    }
    return {name: str(value) for name, value in facts.items()}


def save_program(
    encoder, path, layers=(-1,), pool="none", padded=False, **facts
):
    """Write an encoder as a ``.pt2`` file of `torch.export`.

    Parameters
    ----------
    encoder : MusicEncoder
    path : str or Path
        Loaded by ``torch.export.load(path).module()``.
    layers, pool, padded
        As for `trace_encoder`.
    **facts : str
        Stored with those of `graph_facts` in its ``facts.json``.

    Returns
    -------
    Path
    """
    path = Path(path)
    program = trace_encoder(encoder, layers, pool, padded)
    facts = {**graph_facts(encoder, layers, pool), **facts}
    building = path.with_name(f".{path.stem}.{os.getpid()}.pt2")
    try:
        torch.export.save(
            program, building, extra_files={"facts.json": json.dumps(facts)}
        )
        os.replace(building, path)
    finally:
        building.unlink(missing_ok=True)
    return path
