"""One recording on its way from blocks of audio to rows on disk."""

import torch

from muselq_modules.crossfade import CrossFade
from muselq_modules.feature_files import NotFinite
from muselq_modules.full_context import TooLong


class Track:
    """Cuts audio into windows, and joins what the encoder made of them.

    With full context, a recording longer than a window takes one exact pass
    of its own; a shorter one is a window, and its own full context.

    Parameters
    ----------
    recording : Recording
    facts : dict
        Of the file: ``duration_s`` as its header promises, and others.
    extraction : Extraction
        Encodes the windows of all tracks.
    rows : Rows
        Where the frames go.
    advance : callable
        Told, piece by piece, which share of the recording is done.

    Attributes
    ----------
    fault : str or None
        Why the recording was given up.
    """

    def __init__(self, recording, facts, extraction, rows, advance):
        self.recording, self.facts = recording, facts
        self.extraction, self.rows, self.advance = extraction, rows, advance
        self.n_waiting = 0  # windows that are not encoded yet
        self.ended, self.fault = False, None
        hop_s = extraction.hop / extraction.encoder.token_rate_hz
        self._window_share = hop_s / max(hop_s, facts["duration_s"])
        self._windows = extraction.windows(extraction.token_samples)
        self._fade = CrossFade()
        self._full = None
        self._start = []  # audio, until it is longer than a window

    @property
    def complete(self):
        """Whether nothing more will come."""
        return self.ended and (self.fault is not None or self.n_waiting == 0)

    def add_audio(self, wav):
        """The next samples [samples]."""
        if self.fault is not None:
            return
        if self.extraction.plan.context == "windows":
            self._cut(self._windows.add(wav))
        elif self._full is not None:
            self._full.add(wav)
        else:
            self._start.append(wav)
            window = self.extraction.window * self.extraction.token_samples
            if sum(map(len, self._start)) > window:
                self._full = self.extraction.full_pass(
                    self.facts["duration_s"], self.advance
                )
                self._full.add(torch.cat(self._start))
                self._start = []

    def end_audio(self):
        """There is no more audio."""
        self.ended = True
        if self.fault is not None:
            return
        if self._full is not None:
            self._finish_full()
        elif self._start:
            self._cut([(0, torch.cat(self._start))])
        else:
            self._cut(self._windows.finish())

    def _cut(self, windows):
        for start, wav in windows:
            self.n_waiting += 1
            self.extraction.add(self, start, wav)

    def _finish_full(self):
        windows = self.extraction.windows(unit=1)
        try:
            for frames in self._full.frames():
                if self.rows.by_window:
                    self._add_rows(windows.add(frames))
                else:
                    self.rows.add_frames(frames)
            if self.rows.by_window:
                self._add_rows(windows.finish())
        except (NotFinite, TooLong) as fault:
            self.give_up(str(fault))

    def _add_rows(self, windows):
        for start, frames in windows:
            self.rows.add_window(start, frames)

    def add_window(self, start, frames, first_s):
        """What the encoder made of a window.

        Parameters
        ----------
        start : int
            Token that the window starts with.
        frames : torch.Tensor
            [time, layer, dim]
        first_s : float
            Centre of the window's first token, from its start on.
        """
        self.n_waiting -= 1
        if self.fault is not None:
            return
        if start == 0:
            self.rows.first_s = first_s
        try:
            if self.rows.by_window:
                self.rows.add_window(start, frames)
            else:
                self.rows.add_frames(self._fade.add(start, frames))
        except NotFinite as fault:
            self.give_up(str(fault))
        self.advance(self._window_share)

    def finish(self):
        """Write what is left."""
        try:
            if self._full is None and not self.rows.by_window:
                self.rows.add_frames(self._fade.finish())
            self.rows.finish()
        except NotFinite as fault:
            self.give_up(str(fault))

    def give_up(self, reason):
        """Drop the recording; its windows that wait are not encoded."""
        if self.fault is None:
            self.fault = reason
            self.rows.writer.abandon()
