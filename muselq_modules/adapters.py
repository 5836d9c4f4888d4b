"""Other people's encoders behind the interface of MusicEncoder.

Whatever turns waveforms into ``[layers, batch, time, dim]`` becomes a row of
the table, a `--pretrained` of every recipe and of extract::

    # my_module.py
    import torch
    from muselq_modules.adapters import CallableEncoder

    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = torch.jit.load("their_model.pt")

        def forward(self, wav):  # [batch, samples] at their rate
            return torch.stack(self.model(wav))  # [layers, batch, time, dim]

    my_encoder = CallableEncoder(
        Theirs(),
        sample_rate=16000,  # audio is read at this rate
        token_rate_hz=50.0,
        dim=768,
        n_layers=12,  # 13 hidden states, the first before layer 1
        name="theirs",
    )

and ``--pretrained python:my_module.my_encoder``, from the folder that holds
my_module.py. That runs the code of my_module: it is the one spec that runs
code, and it does so because its user names it.
"""

import importlib
import os
import sys

import torch
from torch import nn

from muselq_modules.encoder import digest_of
from muselq_modules.errors import UserError
from muselq_modules.hidden_states import EncoderOutput, choose_layers
from muselq_modules.waveforms import as_waveforms

INTERFACE = ("sample_rate", "token_rate_hz", "n_layers", "dim", "digest")


class ForeignEncoder(nn.Module):
    """An encoder that is not ours, called as ours.

    Few encoders know of padding: group normalisation over time, a convolution
    or attention lets it into valid frames. Clips of one length are therefore
    encoded together and never padded, so that a batch gives what its clips
    alone give. The embedding cache groups windows by length anyway.

    Subclasses set ``sample_rate``, ``token_rate_hz``, ``dim`` and
    ``n_layers``, and define ``hidden_states(wav, layers)`` and ``digest()``.
    """

    min_samples = 1  # shorter clips are padded with zeros to this length

    def __init__(self):
        super().__init__()
        # Follows .to(device), whether or not there are weights.
        self.register_buffer("_anchor", torch.empty(0), persistent=False)

    def hidden_states(self, wav, layers):
        """Hidden states of clips of one length.

        Parameters
        ----------
        wav : torch.Tensor
            float32 [batch, samples] at ``sample_rate``.
        layers : list of int
            Numbers from 0 to ``n_layers``.

        Returns
        -------
        torch.Tensor
            [layers, batch, time, dim].
        """
        raise NotImplementedError

    def times(self, n_tokens):
        """Seconds of the token centres, float64 [time]."""
        return (torch.arange(n_tokens).double() + 0.5) / self.token_rate_hz

    def forward(
        self, wav, sample_rate=None, lengths=None, layers=None, resample=False
    ):
        """Hidden states of ``wav`` [batch, samples]; as `MusicEncoder`'s."""
        chosen = choose_layers(layers, self.n_layers)
        wav, n_samples = as_waveforms(
            wav,
            sample_rate,
            self.sample_rate,
            lengths,
            resample,
            self._anchor.device,
        )
        groups = []
        for length in n_samples.unique().tolist():
            rows = (n_samples == length).nonzero().flatten()
            clips = wav[rows, :length]
            missing = max(0, self.min_samples - length)
            clips = nn.functional.pad(clips, (0, missing))
            groups.append((rows, self.hidden_states(clips, chosen)))
        time = max(states.shape[2] for _, states in groups)
        shape = (len(chosen), len(wav), time, self.dim)
        padded = groups[0][1].new_zeros(shape)
        n_tokens = torch.zeros_like(n_samples)
        for rows, states in groups:
            padded[:, rows, : states.shape[2]] = states
            n_tokens[rows] = states.shape[2]
        return EncoderOutput(
            list(padded),
            chosen,
            n_tokens,
            self.token_rate_hz,
            self.times(time),
        )


class CallableEncoder(ForeignEncoder):
    """Any ``waveform -> [layers, batch, time, dim]`` as an encoder.

    Parameters
    ----------
    function : callable
        Takes float32 [batch, samples] of clips of one length, returns
        ``n_layers + 1`` hidden states: a tensor [layers, batch, time, dim]
        or a list of [batch, time, dim].
    sample_rate : int
        Rate that it takes, in Hz.
    token_rate_hz : float
        Time steps a second of what it returns.
    dim : int
        Last dimension of what it returns.
    n_layers : int
        Number of hidden states less one: 0 for one that gives a single one.
    name : str
        Part of the digest that names its embeddings in a cache.
    version : str, optional
        Also part of it. Required unless ``function`` is a module, whose
        weights are digested; to be changed when the code changes.
    min_samples : int
        Shorter clips are padded with zeros to this length.

    Raises
    ------
    UserError
        Without a version; and in a call, when ``function`` returns another
        shape or number of time steps than was said.

    Example
    -------
    >>> def loudness(wav):  # one state: the power of 10 ms
    ...     return wav.unfold(1, 160, 160).square().mean(-1)[None, ..., None]
    >>> encoder = CallableEncoder(
    ...     loudness, 16000, 100.0, dim=1, n_layers=0, name="loudness",
    ...     version="1", min_samples=160,
    ... )
    >>> out = encoder(torch.randn(2, 16000), 16000)
    >>> out.hidden_states[-1].shape, out.lengths.tolist()
    (torch.Size([2, 100, 1]), [100, 100])
    """

    def __init__(
        self,
        function,
        sample_rate,
        token_rate_hz,
        dim,
        n_layers,
        name,
        version=None,
        min_samples=1,
    ):
        super().__init__()
        if version is None and not isinstance(function, nn.Module):
            raise UserError(
                f"the adapter {name} needs a version: a function has no "
                "weights to tell one from another, so pass version='...' and "
                "change it whenever its features change."
            )
        self.function = function
        self.sample_rate = sample_rate
        self.token_rate_hz = token_rate_hz
        self.dim = dim
        self.n_layers = n_layers
        self.name = name
        self.version = version
        self.min_samples = min_samples

    def digest(self):
        """Hex sha256 of the name, the version, the rates and the weights."""
        parts = [self.name, self.version, self.sample_rate, self.token_rate_hz]
        parts += [self.dim, self.n_layers, self.min_samples]
        if isinstance(self.function, nn.Module):
            parts += [type(self.function).__qualname__, self.function]
        return digest_of(self, "\n".join(map(str, parts)))

    def hidden_states(self, wav, layers):
        """The chosen ones of those that the function returns, checked."""
        states = self.function(wav)
        if not isinstance(states, torch.Tensor):
            states = _stacked(states)
        shape = list(states.shape) if states is not None else "mixed shapes"
        wanted = [self.n_layers + 1, len(wav), *shape[2:3], self.dim]
        if shape != wanted or not shape[2]:
            raise UserError(
                f"the adapter {self.name} returned {shape}: expected "
                f"[{self.n_layers + 1}, {len(wav)}, time, {self.dim}] "
                "(n_layers + 1, batch, time, dim)."
            )
        expected = wav.shape[1] / self.sample_rate * self.token_rate_hz
        # Encoders round up or down, and lose some at the borders.
        if abs(shape[2] - expected) > 2 + 0.02 * expected:
            raise UserError(
                f"the adapter {self.name} returned {shape[2]} time steps for "
                f"{wav.shape[1] / self.sample_rate:g} s, which are "
                f"{expected:.0f} at token_rate_hz {self.token_rate_hz:g}: "
                "correct token_rate_hz or the order of the dimensions."
            )
        return states[layers]


def _stacked(states):
    """One tensor of a list of hidden states, None where that is impossible."""
    try:
        return torch.stack(list(states))
    except (TypeError, RuntimeError):
        return None


def load_adapter(path):
    """The encoder that ``python:<path>`` names; runs the code of its module.

    Parameters
    ----------
    path : str
        ``my_module.my_encoder``: an encoder, or a class or function without
        arguments that makes one. The module is looked for on Python's path
        and in the current folder.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    UserError
        When there is no such module or attribute, or it is no encoder.
    """
    module_name, _, attribute = path.rpartition(".")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # torchrun has the script's folder only
    sentence = (
        f"python:{path} does not exist: name an attribute of a module, such "
        "as python:my_module.my_encoder, and run from the folder that holds "
        "my_module.py."
    )
    if not module_name or module_name.startswith("."):
        raise UserError(sentence)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise  # a module that the user's own module needs
        raise UserError(sentence) from error
    if not hasattr(module, attribute):
        raise UserError(sentence)
    found = getattr(module, attribute)
    if isinstance(found, type) or not isinstance(found, nn.Module):
        found = found() if callable(found) else found
    lacking = [name for name in INTERFACE if not hasattr(found, name)]
    if lacking or not isinstance(found, nn.Module):
        raise UserError(
            f"python:{path} is no encoder, it lacks "
            f"{', '.join(lacking) or 'the base class torch.nn.Module'}: wrap "
            "it in muselq_modules.adapters.CallableEncoder."
        )
    found.source = f"python:{path}"
    return found
