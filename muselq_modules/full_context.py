"""One exact pass of an encoder over a recording of any length.

Nothing in an encoder with SummaryMixing looks further than a few tokens
around, except the mean of s(x_t) over the recording. So one layer is two
passes over its tokens, block by block:

1. sum s(x_t), in float64;
2. with the mean known, compute the layer on each block and, for its
   convolution, a halo of tokens to either side.

The front end needs a halo alone. Between the passes the tokens lie in a
`TokenStore`: memory stays bounded, and the result is that of one call of
`MusicEncoder.forward` up to rounding. A mixer that is no mean, such as
self-attention, takes all tokens at once where they fit.
"""

import math

import torch

from muselq_modules.encoder import MusicEncoder
from muselq_modules.errors import UserError
from muselq_modules.token_store import TokenStore

# Blocks that fit the cache are fastest on a CPU; longer ones keep an
# accelerator busy. The halo of 15 tokens is computed for each.
CPU_BLOCK_TOKENS = 750
DEVICE_BLOCK_TOKENS = 8192
GIB = 2**30


class TooLong(UserError):
    """The recording does not fit into memory."""


class FullContext:
    """Feed a recording with :meth:`add`, then read :meth:`frames`.

    Parameters
    ----------
    encoder : MusicEncoder
        In evaluation mode.
    layers : list of int
        Hidden states to compute, 0 = after subsampling ... n_layers = last.
    folder : str or Path
        For temporary files, where a long recording's hidden states lie.
    duration_s : float
        Length of the recording as far as known; it decides between memory
        and files.
    memory_gb : float
        What the hidden states may take in memory, and what a layer may take
        that cannot be computed in blocks.
    autocast : torch.dtype, optional
        Precision of the arithmetic, such as ``torch.bfloat16``.
    block_tokens : int, optional
        Tokens computed together.
    advance : callable, optional
        Called with the share of the work that a block was, all of them about
        1 together.

    Raises
    ------
    TooLong
        When a layer cannot be computed in blocks and does not fit.
    UserError
        When the encoder is none of this project.

    Example
    -------
    >>> from functools import partial
    >>> from muselq_modules.branchformer import BranchformerLayer
    >>> from muselq_modules.features import LogMel
    >>> from muselq_modules.subsampling import ConvNeXtSubsampling
    >>> from muselq_modules.summary_mixing import SummaryMixing
    >>> layer = partial(BranchformerLayer, mixer=SummaryMixing, cgmlp_dim=64)
    >>> encoder = MusicEncoder(LogMel(), ConvNeXtSubsampling, layer, 32, 2)
    >>> wav = torch.randn(24000 * 60) * 0.1
    >>> full = FullContext(encoder.eval(), layers=[2], block_tokens=300)
    >>> for second in wav.split(24000):
    ...     full.add(second)
    >>> frames = torch.cat(list(full.frames()))
    >>> frames.shape  # [time, layer, dim]
    torch.Size([1500, 1, 32])
    >>> expected = encoder(wav, 24000, layers=[2]).hidden_states[0]
    >>> torch.allclose(frames[:, 0], expected[0], atol=1e-4)
    True
    """

    def __init__(
        self,
        encoder,
        layers,
        folder=None,
        duration_s=0.0,
        memory_gb=1.0,
        autocast=None,
        block_tokens=None,
        advance=lambda share: None,
    ):
        check_encoder(encoder)
        self.encoder, self.layers = encoder, list(layers)
        self.memory_bytes = memory_gb * GIB
        self.device = encoder.norm.weight.device
        self.dtype = encoder.norm.weight.dtype
        self.autocast = autocast
        on_cpu = self.device.type == "cpu"
        self.block_tokens = block_tokens or (
            CPU_BLOCK_TOKENS if on_cpu else DEVICE_BLOCK_TOKENS
        )
        # The hidden states that exist at the same time.
        n_stores = 3 + len(set(self.layers))
        n_tokens = max(1, duration_s * encoder.token_rate_hz)
        # The front end counts as one pass, a layer as two.
        self._advance, self._share = advance, 1 / (1 + 2 * max(self.layers))
        self._expected_tokens = n_tokens
        n_bytes = n_stores * 4 * encoder.dim * n_tokens
        self.folder = folder if n_bytes > self.memory_bytes else None
        self._tokens = self._store()
        token = encoder.token_samples
        mel_halo = math.ceil(encoder.log_mel.n_fft / 2 / token)
        self._halo_samples = (mel_halo + encoder.subsampling.halo) * token
        self._lead = 0  # samples of the halo in front of the next token
        self._wav = torch.zeros(0, device=self.device)

    def add(self, wav):
        """Take the next samples [samples] through the front end."""
        self._wav = torch.cat([self._wav, wav.to(self.device)])
        step = self.block_tokens * self.encoder.token_samples
        while len(self._wav) >= self._lead + step + self._halo_samples:
            stop = self._lead + step
            self._front_end(
                self._wav[: stop + self._halo_samples], self.block_tokens
            )
            first = max(0, stop - self._halo_samples)
            self._wav, self._lead = self._wav[first:], stop - first

    def frames(self):
        """Compute the layers; yields blocks [time, layer, dim] in order."""
        self._flush()
        chosen = self._run_layers()
        last = self.encoder.n_layers
        for start, stop in self._spans(len(self._tokens)):
            states = []
            for number in self.layers:
                state = chosen[number].read(start, stop)
                if number == last:
                    state = self._norm(state)
                states.append(state.cpu())
            yield torch.stack(states, 1)

    def _store(self):
        return TokenStore(self.encoder.dim, self.folder)

    def _spans(self, n_tokens):
        """First and last token of each block."""
        for start in range(0, n_tokens, self.block_tokens):
            yield start, min(start + self.block_tokens, n_tokens)

    def _context(self):
        """Autocast as asked for."""
        return torch.autocast(
            self.device.type, self.autocast, self.autocast is not None
        )

    @torch.inference_mode()
    def _front_end(self, wav, n_tokens):
        """Append the first tokens behind the halo."""
        factor = self.encoder.subsampling.factor
        with self._context():
            mels = self.encoder.log_mel(wav.unsqueeze(0))
            mels = mels[:, : mels.shape[1] // factor * factor]
            tokens = self.encoder.subsample(mels)[0]
        first = self._lead // self.encoder.token_samples
        self._tokens.append(tokens[first : first + n_tokens])
        self._advance(self._share * n_tokens / self._expected_tokens)

    def _flush(self):
        """The samples that are left; a clip shorter than a token gives one."""
        token = self.encoder.token_samples
        n_tokens = (len(self._wav) - self._lead) // token
        if not len(self._tokens) and not n_tokens:
            missing = token - len(self._wav)
            self._wav = torch.nn.functional.pad(self._wav, (0, missing))
            n_tokens = 1
        if n_tokens:
            self._front_end(self._wav, n_tokens)
        self._wav = None

    def _run_layers(self):
        """Stores of the hidden states that are asked for, by number."""
        tokens = self._tokens
        stores = {0: tokens}
        for number, layer in enumerate(self.encoder.layers, start=1):
            if number > max(self.layers):
                break
            run = self._in_blocks if streams(layer) else self._in_one_piece
            tokens = run(layer, tokens)
            stores = {n: s for n, s in stores.items() if n in self.layers}
            stores[number] = tokens
        return stores

    @torch.inference_mode()
    def _in_blocks(self, layer, tokens):
        """A layer whose mixer needs no more than a mean."""
        n_tokens = len(tokens)
        total = 0.0
        # What precedes the mixer is stored, not computed twice.
        entered = self._store() if hasattr(layer, "enter") else tokens
        for start, stop in self._spans(n_tokens):
            x = self._read(tokens, start, stop)
            with self._context():
                if entered is not tokens:
                    x = layer.enter(x)
                    entered.append(x[0])
                _, values = layer.mixer.branches(layer.mixer_input(x))
            # Not every device knows float64.
            total += values.float().sum(1, keepdim=True).cpu().double()
            self._advance(self._share * (stop - start) / n_tokens)
        summary = (total / n_tokens).to(self.dtype).to(self.device)
        result = self._store()
        for start, stop in self._spans(n_tokens):
            first = max(0, start - layer.halo)
            x = self._read(entered, first, min(stop + layer.halo, n_tokens))
            with self._context():
                local, _ = layer.mixer.branches(layer.mixer_input(x))
                x = layer.leave(x, layer.mixer.combine(local, summary))
            result.append(x[0, start - first : stop - first])
            self._advance(self._share * (stop - start) / n_tokens)
        return result

    @torch.inference_mode()
    def _in_one_piece(self, layer, tokens):
        """Any other layer."""
        name = type(getattr(layer, "mixer", layer)).__name__
        widest = max(max(p.shape) for p in layer.parameters())
        needed = 4 * len(tokens) * 4 * (self.encoder.dim + widest)
        if needed > self.memory_bytes:
            minutes = len(tokens) / self.encoder.token_rate_hz / 60
            raise TooLong(
                f"too long for one pass: {name} over "
                f"{minutes:.1f} minutes needs about {needed / GIB:.1f} GB: "
                "raise --memory_gb or leave --context full out"
            )
        with self._context():
            x = layer(self._read(tokens, 0, len(tokens)))
        result = self._store()
        result.append(x[0])
        return result

    @torch.inference_mode()
    def _norm(self, state):
        with self._context():
            return self.encoder.norm(state.to(self.device, self.dtype)).float()

    def _read(self, tokens, start, stop):
        x = tokens.read(start, stop).unsqueeze(0)
        return x.to(self.device, self.dtype)


def streams(layer):
    """Whether a layer can be computed in blocks."""
    return hasattr(layer, "leave") and hasattr(layer.mixer, "branches")


def check_encoder(encoder):
    """Refuse an encoder whose parts are not known."""
    if not isinstance(encoder, MusicEncoder) or not hasattr(
        encoder.subsampling, "halo"
    ):
        raise UserError(
            f"--context full needs a MusicEncoder with one of the project's "
            f"front ends, not {type(encoder).__name__}: leave it out."
        )
