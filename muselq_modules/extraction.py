"""Windows of many recordings, encoded together.

Windows of equal length make a batch, whichever recordings they come from:
nothing is padded, and a batch gives what its windows alone give, for every
encoder. Their frames go back to their `Track`.
"""

import collections
from dataclasses import dataclass

import torch

from muselq_modules.crossfade import OverlappingWindows
from muselq_modules.errors import UserError
from muselq_modules.full_context import FullContext, check_encoder

CONTEXTS = ("windows", "full")
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# Windows that wait for others of their length, in batches.
WAITING_BATCHES = 4


@dataclass
class Plan:
    """How recordings are encoded.

    Attributes
    ----------
    layers : list of int
        Hidden states to give.
    context : str
        One of `CONTEXTS`: windows, or one exact pass over each recording.
    window_s, overlap_s : float
        Length of a window and what it shares with the next, in seconds.
    precision : str
        One of `PRECISIONS`.
    batch : int
        Windows encoded together.
    memory_gb : float
        Of `FullContext`.
    """

    layers: list
    context: str = "windows"
    window_s: float = 30.0
    overlap_s: float = 5.0
    precision: str = "fp32"
    batch: int = 1
    memory_gb: float = 1.0


class Extraction:
    """An encoder at work on several recordings.

    Parameters
    ----------
    encoder : MusicEncoder or another encoder
        In evaluation mode, on its device.
    plan : Plan

    Attributes
    ----------
    scratch : str or Path
        Folder for temporary files, None for none.

    Raises
    ------
    UserError
        For numbers that make no sense, and for full context with an encoder
        that has none.
    """

    def __init__(self, encoder, plan):
        if plan.context == "full":
            check_encoder(encoder)
        self.encoder, self.plan, self.scratch = encoder, plan, None
        tensors = [*encoder.parameters(), *encoder.buffers()]
        self.device = tensors[0].device
        rate = encoder.token_rate_hz
        self.token_samples = round(encoder.sample_rate / rate)
        self.window, overlap = (
            round(seconds * rate) if 0 <= seconds < 1e9 else -1
            for seconds in (plan.window_s, plan.overlap_s)
        )
        self.hop = self.window - overlap
        if self.window < 1 or not 0 < self.hop <= self.window:
            raise UserError(
                f"--window_s {plan.window_s} and --overlap_s {plan.overlap_s} "
                f"do not go together at {rate:g} tokens a second: a window "
                "holds a token or more, and less than a window overlaps"
            )
        if plan.batch < 1 or not plan.memory_gb > 0:
            raise UserError(
                f"--batch {plan.batch} and --memory_gb {plan.memory_gb}: give "
                "a batch of 1 or more, and some memory"
            )
        self._waiting = collections.defaultdict(collections.deque)

    def windows(self, unit):
        """Cuts into windows what has ``unit`` steps a token."""
        return OverlappingWindows(self.window * unit, self.hop * unit, unit)

    def full_pass(self, duration_s, advance):
        """A pass over one recording."""
        return FullContext(
            self.encoder,
            self.plan.layers,
            self.scratch,
            duration_s,
            self.plan.memory_gb,
            PRECISIONS[self.plan.precision],
            advance=advance,
        )

    def add(self, track, start, wav):
        """Encode a window of a track, at once or with others, later."""
        # What an encoder does with less than a token.
        missing = max(0, self.token_samples - len(wav))
        wav = torch.nn.functional.pad(wav, (0, missing))
        self._waiting[len(wav)].append((track, start, wav))
        if len(self._waiting[len(wav)]) >= self.plan.batch:
            self._encode(len(wav))
        waiting = sum(n * len(group) for n, group in self._waiting.items())
        limit = WAITING_BATCHES * self.plan.batch * self.window
        while waiting > limit * self.token_samples:
            fullest = max(
                self._waiting, key=lambda n: n * len(self._waiting[n])
            )
            waiting -= fullest * len(self._waiting[fullest])
            self._encode(fullest)

    def flush(self):
        """Encode all that waits."""
        for length in list(self._waiting):
            self._encode(length)

    @torch.inference_mode()
    def _encode(self, length):
        """Encode the windows of one length, and hand out their frames."""
        group = self._waiting.pop(length)
        group = [entry for entry in group if entry[0].fault is None]
        if not group:
            return
        wavs = torch.stack([wav for _, _, wav in group]).to(self.device)
        dtype = PRECISIONS[self.plan.precision]
        try:
            with torch.autocast(self.device.type, dtype, dtype is not None):
                out = self.encoder(
                    wavs, self.encoder.sample_rate, layers=self.plan.layers
                )
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{len(group)} windows of {self.plan.window_s:g} s do not fit "
                "into the memory of the device: lower --batch or --window_s"
            ) from error
        # [window, time, layer, dim]
        states = [state.float().cpu() for state in out.hidden_states]
        frames = torch.stack(states, 2)[:, : int(out.lengths[0])]
        for (track, start, _), window in zip(group, frames):
            first_s = float(out.times[0])
            track.add_window(start // self.token_samples, window, first_s)
