"""Many recordings through an encoder into a folder of features."""

import contextlib
import time
from dataclasses import dataclass

import torch
from tqdm import tqdm

from muselq_modules.decoding import decode_all
from muselq_modules.extraction import Extraction
from muselq_modules.feature_files import WRITERS
from muselq_modules.feature_rows import Rows
from muselq_modules.tracks import Track

# Changes when the same settings give other values.
VERSION = 1


@dataclass
class Storage:
    """What is stored of each recording.

    Attributes
    ----------
    format : str
        One of `WRITERS`.
    pool, per : str
        One of `POOLS` and of `SPANS`.
    dtype : str
        ``float32`` or ``float16``.
    """

    format: str = "npy"
    pool: str = "none"
    per: str = "file"
    dtype: str = "float32"


class Progress:
    """A bar over files and fractions of them, with seconds of audio a second.

    Parameters
    ----------
    total, done : int
        Files, and those of them that an earlier call did.
    """

    def __init__(self, total, done):
        self._bar = tqdm(
            total=total,
            initial=done,
            desc="Extracting",
            bar_format=(
                "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} files "
                "[{elapsed}<{remaining}{postfix}]"
            ),
            mininterval=0.5,
        )
        self._since, self._audio_s = time.perf_counter(), 0.0
        self._done, self._shares = done, {}

    def advance(self, recording, share, duration_s):
        """A further share of a recording is done."""
        former = self._shares.get(recording, 0.0)
        # Lengths are promises: a file counts as one, neither less nor more.
        share = min(share, 1.0 - former)
        self._shares[recording] = former + share
        self._audio_s += share * duration_s
        speed = self._audio_s / (time.perf_counter() - self._since)
        text = f"{speed:,.0f} s of audio a second"
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.n = self._done + sum(self._shares.values())
        self._bar.update(0)

    def finish(self, recording, duration_s=0.0):
        """The recording is done, or skipped."""
        self.advance(recording, 1.0, duration_s)
        self._done += 1
        del self._shares[recording]

    def close(self):
        """Leave the bar as it is."""
        self._bar.n = self._done
        self._bar.close()


class ExtractionRun:
    """Extracts what a folder does not hold yet.

    Parameters
    ----------
    encoder : MusicEncoder or another encoder
        In evaluation mode, on its device.
    plan : Plan
        How to encode.
    storage : Storage
        What to store.

    Raises
    ------
    UserError
        When encoder and plan do not go together.
    """

    def __init__(self, encoder, plan, storage):
        self.encoder, self.plan, self.storage = encoder, plan, storage
        self.digest = encoder.digest()
        self.extraction = Extraction(encoder, plan)
        self.folder = self.progress = None
        self._tracks, self._n_opened = {}, 0

    def settings(self):
        """All that determines the features, as JSON values."""
        plan, storage = self.plan, self.storage
        return {
            "version": VERSION,
            "encoder": self.digest,
            "layers": plan.layers,
            "context": plan.context,
            "window_s": float(plan.window_s),
            "overlap_s": float(plan.overlap_s),
            "precision": plan.precision,
            "pool": storage.pool,
            "per": storage.per,
            "format": storage.format,
            "dtype": storage.dtype,
        }

    def run(self, folder, recordings, workers):
        """Extract features.

        Parameters
        ----------
        folder : FeatureFolder
            Where they go.
        recordings : list of Recording
        workers : int
            Processes that decode; 0 for none.
        """
        self.folder, self.extraction.scratch = folder, folder.scratch
        todo = {r.path: r for r in recordings if not self.folder.is_done(r)}
        self.progress = Progress(len(recordings), len(recordings) - len(todo))
        try:
            with contextlib.closing(folder), contextlib.closing(self.progress):
                self._run(todo, workers)
        except OSError as error:
            raise folder.write_error(error) from error

    def _run(self, todo, workers):
        messages = decode_all(list(todo), self.encoder.sample_rate, workers)
        with contextlib.closing(messages):
            for path, kind, payload in messages:
                self._take(todo[path], kind, payload)
                self._put_away()
        self.extraction.flush()
        self._put_away()

    def _take(self, recording, kind, payload):
        """What the decoder says of a recording; see `decode`."""
        track = self._tracks.get(recording)
        if kind == "opened":
            self._open(recording, payload)
        elif track is None:  # skipped before it was opened
            self.folder.skip(recording, payload)
            self.progress.finish(recording)
        elif kind == "audio":
            track.add_audio(torch.from_numpy(payload))
        elif kind == "ended":
            track.end_audio()
            track.facts["duration_s"] = round(payload, 6)
        else:
            track.give_up(payload)
            track.end_audio()

    def _open(self, recording, facts):
        storage, layers = self.storage, self.plan.layers
        rate = self.encoder.token_rate_hz
        self._n_opened += 1
        writer = WRITERS[storage.format](
            self.folder.scratch / str(self._n_opened),
            layers,
            self.encoder.dim * (2 if storage.pool == "mean+std" else 1),
            storage.dtype,
            {
                "encoder": self.digest,
                "layers": ",".join(map(str, layers)),
                "token_rate_hz": str(rate),
                "pool": storage.pool,
            },
        )

        def advance(share, duration_s=facts["duration_s"]):
            self.progress.advance(recording, share, duration_s)

        self._tracks[recording] = Track(
            recording,
            facts,
            self.extraction,
            Rows(writer, storage.pool, storage.per, rate),
            advance,
        )

    def _put_away(self):
        """Finish the recordings that are complete."""
        for track in [t for t in self._tracks.values() if t.complete]:
            if track.fault is None:
                track.finish()
            if track.fault is None:
                self._index(track)
            else:
                self.folder.skip(track.recording, track.fault)
            duration_s = track.facts["duration_s"]
            self.progress.finish(track.recording, duration_s)
            del self._tracks[track.recording]

    def _index(self, track):
        rows = track.rows
        self.folder.add(
            track.recording,
            rows.writer.files,
            {
                **track.facts,
                "tokens": rows.n_tokens,
                "rows": rows.writer.n_rows,
                "layers": self.plan.layers,
                "token_rate_hz": self.encoder.token_rate_hz,
                "first_s": rows.first_s,
                "encoder": self.digest,
            },
        )
