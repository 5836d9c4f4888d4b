"""The pre-training manifest as 30 s segments, and the dataset that reads them.

A manifest has one row a file (see ``recipes/pretrain``); its segments are
virtual. Rows live in memory-mapped arrays, shared by ranks and loader workers:
200,000 hours of songs are 24 million segments and must not become 24 million
Python objects in every process.
"""

import csv
import hashlib
import json
import os
import shutil
import signal
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from muselq_modules.audio_data import read_segment
from muselq_modules.errors import UserError

ROW = np.dtype(
    [
        ("path_end", np.uint64),
        ("n_frames", np.uint64),
        ("sample_rate", np.uint32),
        ("segments_end", np.uint64),
    ]
)
ROWS_PER_WRITE = 100_000


def count_segments(n_frames, sample_rate, segment_s, min_tail_s):
    """Segments without overlap in a file; a tail counts if long enough.

    Example
    -------
    >>> [count_segments(s * 100, 100, 30, 15) for s in (10, 20, 44, 45, 75)]
    [0, 1, 1, 2, 3]
    """
    whole, tail = divmod(n_frames, round(segment_s * sample_rate))
    return whole + int(tail >= round(min_tail_s * sample_rate))


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

    def __init__(self, manifest, audio_root, segment_s=30.0, min_tail_s=15.0):
        self.path = Path(manifest)
        self.audio_root = Path(audio_root)
        self.segment_s = segment_s
        self.min_tail_s = min_tail_s
        if not self.path.is_file():
            raise UserError(
                f"{self.path} does not exist: run the prepare script first."
            )
        self.digest = _digest(self.path)
        self._folder = _build_index(self.path, self.digest, self._policy)
        self._open()
        if len(self) == 0:
            raise UserError(
                f"{self.path} holds no segment of at least {min_tail_s:g} s: "
                "add longer files or lower min_tail_s."
            )

    @property
    def _policy(self):
        return {"segment_s": self.segment_s, "min_tail_s": self.min_tail_s}

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

    def locate(self, segment):
        """Relative path and start in seconds of a segment."""
        # Not numpy's searchsorted, which would first copy the whole column.
        ends = self.rows["segments_end"]
        row = bisect_right(ends, segment)
        first = int(ends[row - 1]) if row else 0
        begin = int(self.rows["path_end"][row - 1]) if row else 0
        end = int(self.rows["path_end"][row])
        path = self.names[begin:end].tobytes().decode("utf-8")
        return path, (segment - first) * self.segment_s

    def name(self, segment):
        """How messages call a segment: ``song.mp3 at 60 s``."""
        path, start_s = self.locate(segment)
        return f"{path} at {start_s:g} s"


def _digest(path):
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _build_index(manifest, digest, policy):
    """Memory-mappable arrays beside the manifest, made once."""
    key = hashlib.sha256(
        json.dumps([digest, policy], sort_keys=True).encode()
    ).hexdigest()[:16]
    folder = manifest.parent / ".segments" / f"{manifest.stem}-{key}"
    if folder.is_dir():
        return folder
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
    unfinished.mkdir(parents=True)
    rows, path_end, segments_end = [], 0, 0
    with (
        open(manifest, encoding="utf-8", newline="") as stream,
        open(unfinished / "paths.bin", "wb") as names,
        open(unfinished / "rows.bin", "wb") as table,
    ):
        reader = csv.DictReader(stream)
        try:
            for row in reader:
                path, n_frames, rate = _parse(row)
                path_end += names.write(path)
                segments_end += count_segments(n_frames, rate, **policy)
                rows.append((path_end, n_frames, rate, segments_end))
                if len(rows) == ROWS_PER_WRITE:
                    table.write(np.array(rows, dtype=ROW).tobytes())
                    rows.clear()
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            shutil.rmtree(unfinished)
            raise UserError(
                f"{manifest}, line {reader.line_num}, is not path, frames, "
                "sample_rate: run the prepare script again."
            ) from error
        table.write(np.array(rows, dtype=ROW).tobytes())
        if path_end == 0:
            names.write(b"\0")  # an empty file cannot be mapped
    _to_npy(unfinished / "rows.bin", unfinished / "rows.npy")
    try:
        os.replace(unfinished, folder)
    except OSError:  # another process was faster
        shutil.rmtree(unfinished)
    return folder


def _parse(row):
    """Path in UTF-8, frames and sample rate of a row of a manifest."""
    n_frames, rate = int(row["frames"]), int(row["sample_rate"])
    if not 0 <= n_frames < 2**63 or not 0 < rate < 2**31 or not row["path"]:
        raise ValueError("out of range")
    return row["path"].encode("utf-8"), n_frames, rate


def _to_npy(raw, target):
    """Put the header of an .npy before the rows, without holding them."""
    n_rows = raw.stat().st_size // ROW.itemsize
    header = {
        "descr": np.lib.format.dtype_to_descr(ROW),
        "fortran_order": False,
        "shape": (n_rows,),
    }
    with open(raw, "rb") as source, open(target, "wb") as stream:
        np.lib.format.write_array_header_2_0(stream, header)
        shutil.copyfileobj(source, stream, 1 << 20)
    raw.unlink()


@dataclass
class SegmentBatch:
    """Segments of one micro-batch.

    Attributes
    ----------
    wav : torch.Tensor
        float32 [batch, samples], zero beyond each segment's end.
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
    """

    def __init__(self, manifest, sample_rate=24000):
        self.manifest = manifest
        self.sample_rate = sample_rate
        self.n_samples = round(manifest.segment_s * sample_rate)

    def __len__(self):
        return len(self.manifest)

    def __getitem__(self, key):
        """Segment of ``key = (epoch, number)``; never of a wrong length."""
        epoch, example = key
        path, start_s = self.manifest.locate(example)
        wav, error = torch.zeros(self.n_samples), None
        n_samples = 0
        try:
            segment = read_segment(
                self.manifest.audio_root / path,
                start_s,
                self.manifest.segment_s,
                self.sample_rate,
            )
        except UserError as fault:
            # A file that disappears in week two must not end the run; the
            # trainer counts these and stops when there are many.
            error = str(fault)
        else:
            n_samples = len(segment)
            wav[:n_samples] = segment
        return wav, n_samples, epoch, example, error

    @staticmethod
    def collate(items):
        """Join items to a :class:`SegmentBatch`."""
        wavs, n_samples, epochs, examples, errors = zip(*items)
        return SegmentBatch(
            torch.stack(wavs),
            torch.tensor(n_samples),
            list(epochs),
            list(examples),
            [error for error in errors if error],
        )
