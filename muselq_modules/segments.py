"""The pre-training manifest as 30 s segments, and the dataset that reads them.

A manifest has one row a file (see ``recipes/pretrain``); its segments are
virtual. Rows live in memory-mapped arrays, shared by ranks and loader workers:
200,000 hours of songs are 24 million segments and must not become 24 million
Python objects in every process.
"""

import signal
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchaudio
from torch.utils.data import Dataset, default_collate

from muselq_modules.audio_data import read_segment
from muselq_modules.checksums import file_digest
from muselq_modules.errors import UserError
from muselq_modules.masking import example_generator
from muselq_modules.segment_index import build_index

# What a 16-bit sample counts.
INT16_SCALE = 2.0**-15


class SegmentManifest:
    """Segments of the files of a manifest.

    Parameters
    ----------
    manifest : str or Path
        A csv with the columns path, frames, sample_rate.
    audio_root : str or Path
        What the paths are relative to.
    segment_s : float
        Length of a segment in seconds.
    min_tail_s : float
        The end of a file is a segment too when it is at least this long.

    Raises
    ------
    UserError
        When the manifest cannot be read or holds no segment.
    """

    # Of the waveforms that `read` returns.
    dtype = torch.float32

    def __init__(self, manifest, audio_root, segment_s=30.0, min_tail_s=15.0):
        self.path = Path(manifest)
        self.audio_root = Path(audio_root)
        self.segment_s = segment_s
        self.min_tail_s = min_tail_s
        if not self.path.is_file():
            raise UserError(
                f"{self.path} does not exist: run the prepare script first."
            )
        self.digest = file_digest(self.path)
        self._folder = build_index(
            self.path, self.digest, segment_s, min_tail_s
        )
        self._open()
        if len(self) == 0:
            raise UserError(
                f"{self.path} holds no segment of at least {min_tail_s:g} s: "
                "add longer files or lower min_tail_s."
            )

    def _open(self):
        self.rows = np.load(self._folder / "rows.npy", mmap_mode="r")
        self.names = np.memmap(self._folder / "paths.bin", np.uint8, "r")

    def __getstate__(self):
        # Loader workers map the files again instead of copying them.
        state = self.__dict__.copy()
        del state["rows"], state["names"]
        return state

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._open()

    def __len__(self):
        return int(self.rows["segments_end"][-1]) if len(self.rows) else 0

    @property
    def n_files(self):
        """Number of files."""
        return len(self.rows)

    @property
    def hours(self):
        """Hours of audio in the files."""
        seconds = self.rows["n_frames"] / self.rows["sample_rate"]
        return float(seconds.sum()) / 3600

    def find(self, segment, shift_s=0.0):
        """Row of a segment's file, and the segment's start in seconds.

        A segment that is shifted stays within its file.
        """
        # Not numpy's searchsorted, which would first copy the whole column.
        ends = self.rows["segments_end"]
        row = bisect_right(ends, segment)
        if row == len(ends):
            raise IndexError(segment)
        first = int(ends[row - 1]) if row else 0
        start_s = (segment - first) * self.segment_s
        if shift_s > 0:
            frames, rate = self.rows[["n_frames", "sample_rate"]][row].tolist()
            latest_s = max(start_s, frames / rate - self.segment_s)
            start_s = min(start_s + shift_s, latest_s)
        return row, start_s

    def locate(self, segment, shift_s=0.0):
        """Relative path and start in seconds of a segment."""
        row, start_s = self.find(segment, shift_s)
        begin = int(self.rows["path_end"][row - 1]) if row else 0
        end = int(self.rows["path_end"][row])
        path = self.names[begin:end].tobytes().decode("utf-8")
        return path, start_s

    def read(self, segment, sample_rate, shift_s=0.0):
        """Waveform of a segment [samples]; see `read_segment`."""
        path, start_s = self.locate(segment, shift_s)
        return read_segment(
            self.audio_root / path, start_s, self.segment_s, sample_rate
        )

    def name(self, segment):
        """How messages call a segment: ``song.mp3 at 60 s``."""
        path, start_s = self.locate(segment)
        return f"{path} at {start_s:g} s"


@dataclass
class SegmentBatch:
    """Segments of one micro-batch.

    Attributes
    ----------
    wav : torch.Tensor
        float32, or int16 from shards [batch, samples], zero beyond each
        segment's end.
    n_samples : torch.Tensor
        int64 [batch], valid samples; 0 where a file could not be read.
    epochs, examples : list of int
        Pass over the manifest, and number of the segment in it.
    errors : list of str
        What went wrong with unreadable files.
    """

    wav: torch.Tensor
    n_samples: torch.Tensor
    epochs: list
    examples: list
    errors: list

    def pin_memory(self):
        """Called by the loader, so that copies to the GPU are asynchronous."""
        self.wav = self.wav.pin_memory()
        return self

    def waveforms(self, device):
        """The waveforms on a device, float32 [batch, samples].

        16-bit samples travel as such, which takes half the time, and become
        numbers in [-1, 1) where they arrive.
        """
        wav = self.wav.to(device, non_blocking=True)
        return wav if wav.is_floating_point() else wav * INT16_SCALE


def ignore_stop_signals(worker_id):
    """Start of a loader worker: leave stopping to the main process.

    Ctrl-C and Slurm signal the whole process group. A worker that dies of it
    would end the run before the main process has saved the step.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class SegmentDataset(Dataset):
    """Reads segments by seek.

    Parameters
    ----------
    manifest : SegmentManifest
        The segments.
    sample_rate : int
        Rate of the waveforms.
    seed : int
        Of what follows, which is a pure function of (seed, epoch, segment):
        a few songs give many more different examples, and resume stays exact.
    shift : bool
        Whether every epoch begins each segment up to a segment later.
    speeds : sequence of float
        Each time, a segment is played at one of these: 1.25 is a quarter
        faster and 4 semitones higher, and leaves a fifth of it as padding.
    """

    def __init__(
        self, manifest, sample_rate=24000, seed=0, shift=False, speeds=(1.0,)
    ):
        self.manifest = manifest
        self.sample_rate = sample_rate
        self.seed = seed
        self.shift = shift
        self.speeds = speeds
        self.n_samples = round(manifest.segment_s * sample_rate)

    def __len__(self):
        return len(self.manifest)

    def __getitem__(self, key):
        """Segment of ``key = (epoch, number)``; never of a wrong length."""
        epoch, example = key
        # The trailing 2 keeps this stream apart from the masks'.
        draw = example_generator(self.seed, epoch, example, 2)
        shift_s = torch.rand((), generator=draw).item()
        shift_s *= self.manifest.segment_s * self.shift
        chosen = torch.randint(len(self.speeds), (), generator=draw).item()
        error = None
        try:
            wav = self.manifest.read(example, self.sample_rate, shift_s)
            wav = self._at_speed(wav, self.speeds[chosen])
        except UserError as fault:
            # A file that disappears in week two must not end the run; the
            # trainer counts these and stops when there are many.
            error, wav = str(fault), torch.zeros(0, dtype=self.manifest.dtype)
        n_samples = len(wav)
        if n_samples < self.n_samples:
            wav = torch.nn.functional.pad(wav, (0, self.n_samples - n_samples))
        return wav, n_samples, epoch, example, error

    def _at_speed(self, wav, speed):
        """At most a segment of samples, played faster or slower."""
        if speed == 1:
            return wav
        played = torchaudio.functional.resample(
            wav.float(), round(self.sample_rate * speed), self.sample_rate
        )
        if not wav.is_floating_point():
            played = played.round().clamp(-(2**15), 2**15 - 1)
        return played[: self.n_samples].to(wav.dtype)

    @staticmethod
    def collate(items):
        """Join items to a :class:`SegmentBatch`."""
        wavs, n_samples, epochs, examples, errors = zip(*items)
        return SegmentBatch(
            # In a worker it writes straight into the memory that is shared
            # with the main process.
            default_collate(list(wavs)),
            torch.tensor(n_samples),
            list(epochs),
            list(examples),
            [error for error in errors if error],
        )
