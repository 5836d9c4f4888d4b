"""Read pre-training segments from tar shards.

A folder of shards (written by `recipes/pretrain/shard.py`) holds, for
split `train` and for `valid`:

    train-000000.tar ...   WebDataset shards: NNNNNNNNN.wav and .json a song
    train.csv              the manifest: path, frames, sample_rate, channels
    train.places.npy       shard and byte of each song's first sample
    index.json             songs, seconds, bytes and sha256 of every shard

Songs are 16-bit PCM, so that a segment is one read at a known place: no
decoding, and no reading of what precedes it. Any order of segments can be read,
so training from shards sees the examples of the manifest path, in its order,
with its exact resume, on any number of ranks. A sequential reader with a
shuffle buffer would give all of that up to save seeks, and a segment of 30 s
is 1.4 MB: disks and network file systems serve pieces of that size at nearly
the rate of a stream, and loader workers hide their latency.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch

from muselq_modules.checksums import file_digest
from muselq_modules.errors import UserError
from muselq_modules.files import whole_file
from muselq_modules.segments import SegmentManifest

PLACE = np.dtype([("shard", np.uint32), ("byte", np.uint64)])
SPLITS = ("train", "valid")
SAMPLE_BYTES = 2


def shard_name(split, number):
    """File name of a shard.

    Example
    -------
    >>> shard_name("train", 12)
    'train-000012.tar'
    """
    return f"{split}-{number:06d}.tar"


class ShardManifest(SegmentManifest):
    """Segments of songs that stand in tar shards.

    Parameters
    ----------
    manifest : str or Path
        The csv of the shards, or a copy; its name is that of the split.
    audio_root : str or Path
        The folder of the shards.
    segment_s, min_tail_s : float
        See `SegmentManifest`; any, whatever the shards were written for.

    Raises
    ------
    UserError
        When manifest and shards do not belong together.
    """

    dtype = torch.int16

    def __init__(self, manifest, audio_root, segment_s=30.0, min_tail_s=15.0):
        super().__init__(manifest, audio_root, segment_s, min_tail_s)
        if len(self.places) != len(self.rows):
            raise UserError(
                f"{self.path} does not belong to the shards in {audio_root}: "
                "delete it, and the same command copies the right one."
            )

    def _open(self):
        super()._open()
        places = self.audio_root / f"{self.path.stem}.places.npy"
        self.places = np.load(places, mmap_mode="r")

    def __getstate__(self):
        state = super().__getstate__()
        del state["places"]
        return state

    def read(self, segment, sample_rate, shift_s=0.0):
        """Waveform of a segment, int16 [samples].

        Raises
        ------
        UserError
            When the shard cannot be read or ends before the segment does.
        """
        row, start_s = self.find(segment, shift_s)
        rate = int(self.rows["sample_rate"][row])
        if rate != sample_rate:
            raise UserError(
                f"{self.audio_root} holds audio at {rate} Hz, not at "
                f"{sample_rate} Hz: train from the songs."
            )
        start = round(start_s * rate)
        left = int(self.rows["n_frames"][row]) - start
        samples = np.empty(min(round(self.segment_s * rate), left), np.int16)
        shard, byte = self.places[row].tolist()
        path = self.audio_root / shard_name(self.path.stem, shard)
        try:
            with open(path, "rb") as file:
                file.seek(byte + SAMPLE_BYTES * start)
                n_bytes = file.readinto(samples)
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}): copy it again."
            ) from error
        if n_bytes < samples.nbytes:
            raise UserError(f"{path} is cut: copy it again.")
        return torch.from_numpy(samples)


def read_index(folder):
    """Return index.json of a folder of shards, or raise `UserError`."""
    path = Path(folder) / "index.json"
    if not path.is_file():
        raise UserError(
            f"{folder} holds no finished shards: run recipes/pretrain/shard.py "
            "first, or let it finish."
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        _check_index(index)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}): copy it "
            "again."
        ) from error
    return index


def _check_index(index):
    """Raise one of many errors when it is not what `write_all` has written."""
    if not isinstance(index["sample_rate"], int) or "options" not in index:
        raise ValueError("no rate or options")
    for name in SPLITS:
        split = index["splits"][name]
        if not isinstance(split["digest"] + split["places"], str):
            raise ValueError("no digests")
        for number, shard in enumerate(split["shards"]):
            # Nothing that leads to another folder.
            if shard["name"] != shard_name(name, number):
                raise ValueError(f"shard {number} of {name} is misnamed")
            if not isinstance(shard["bytes"], int) or not shard["sha256"]:
                raise ValueError(f"{shard['name']} without size or digest")


def digest_if_there(path):
    """Hex sha256 of a file; None where there is none."""
    return file_digest(path) if Path(path).is_file() else None


def prepare_shards(data_folder, manifest_folder, **unused):
    """Check a folder of shards and copy its manifests into the run folder.

    Parameters
    ----------
    data_folder : str or Path
        The shards; only read.
    manifest_folder : str or Path
        Receives train.csv and valid.csv.
    **unused
        Options of the other collections: shards are prepared already.

    Returns
    -------
    dict
        index.json, and `audio_root`.

    Raises
    ------
    UserError
        When a shard is absent or cut, a table is damaged, or
        `manifest_folder` holds another manifest.
    """
    source, target = Path(data_folder), Path(manifest_folder)
    index = read_index(source)
    for split in SPLITS:
        for shard in index["splits"][split]["shards"]:
            path = source / shard["name"]
            size = path.stat().st_size if path.is_file() else 0
            if size != shard["bytes"]:
                raise UserError(
                    f"{path} has {size} of {shard['bytes']} bytes: copy it "
                    "again."
                )
        for table, key in (("csv", "digest"), ("places.npy", "places")):
            path = source / f"{split}.{table}"
            if digest_if_there(path) != index["splits"][split][key]:
                raise UserError(f"{path} is absent or damaged: copy it again.")
    target.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        path, copy = source / f"{split}.csv", target / f"{split}.csv"
        if not copy.is_file():
            with whole_file(copy, "wb") as target_file, open(path, "rb") as f:
                shutil.copyfileobj(f, target_file)
        if file_digest(copy) != index["splits"][split]["digest"]:
            raise UserError(
                f"{copy} is the manifest of other songs than the shards in "
                f"{source}: give another manifest_folder."
            )
    return {**index, "audio_root": str(source.resolve())}
