"""Deal songs to WebDataset tar shards, and write one of them.

Songs are dealt in the order of a hash, so that a sequential reader meets mixed
artists. A shard is written under another name, read back, and moved into
place; a note then says what it holds.
"""

import hashlib
import io
import json
import os
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import soundfile

from muselq_modules.checksums import file_digest, seal
from muselq_modules.errors import UserError
from muselq_modules.files import write_text
from muselq_modules.preparation import stable_fraction
from muselq_modules.shards import SAMPLE_BYTES, shard_name
from muselq_modules.transcoding import SAMPLE_RATE, convert

# A WAV counts its bytes in 32 bits.
LONGEST_S = 2**32 // (SAMPLE_BYTES * SAMPLE_RATE) - 1
# Songs up to an hour and a half are converted in memory.
MEMORY_BYTES = 2**28
HEADER_BYTES = 512


@dataclass(frozen=True)
class Shard:
    """What a shard is to hold.

    Attributes
    ----------
    name : str
        File name.
    songs : tuple of tuple
        (row of the manifest, path, duration in seconds).
    """

    name: str
    songs: tuple

    @property
    def digest(self):
        """Hex sha256 of all that determines the content."""
        return hashlib.sha256(json.dumps(self.songs).encode()).hexdigest()


def plan_shards(split, rows, shard_bytes):
    """Deal songs to shards; the same rows always give the same shards.

    Parameters
    ----------
    split : str
        Begins the names of the shards.
    rows : list of dict
        Of the manifest: path, frames, sample_rate.
    shard_bytes : float
        A shard is full from this size on.

    Returns
    -------
    list of Shard

    Example
    -------
    >>> rows = [
    ...     {"path": f"{i}.mp3", "frames": "441000", "sample_rate": "44100"}
    ...     for i in range(3)
    ... ]
    >>> [[path for _, path, _ in s.songs] for s in plan_shards("a", rows, 9e5)]
    [['0.mp3', '1.mp3'], ['2.mp3']]
    """
    order = sorted(range(len(rows)), key=lambda i: _place(rows[i]["path"]))
    shards, songs, size = [], [], 0.0
    for number in order:
        row = rows[number]
        duration_s = int(row["frames"]) / int(row["sample_rate"])
        if duration_s > LONGEST_S:
            raise UserError(
                f"{row['path']} lasts {duration_s / 3600:.0f} h, too long for "
                "a WAV in a shard: cut it."
            )
        songs.append((number, row["path"], duration_s))
        size += duration_s * SAMPLE_RATE * SAMPLE_BYTES
        if size >= shard_bytes or number == order[-1]:
            name = shard_name(split, len(shards))
            shards.append(Shard(name, tuple(songs)))
            songs, size = [], 0.0
    return shards


def _place(path):
    return stable_fraction(path), path


def write_shard(root, folder, shard):
    """Write one shard and its note; runs in a process of its own.

    Parameters
    ----------
    root, folder : str
        Folders of the songs and of the shards.
    shard : Shard
        What to write.

    Returns
    -------
    dict
        The note: `plan`, `bytes`, `sha256`, and `songs`, a list of (row,
        frames, byte of the first sample).

    Raises
    ------
    UserError
        When a song cannot be read or the shard cannot be written.
    """
    path = Path(folder, shard.name)
    partial = path.with_name(f".{shard.name}.{os.getpid()}.tmp")
    try:
        with open(partial, "wb") as file:
            sink = _Hashed(file)
            with tarfile.open(
                fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT
            ) as tar:
                songs = [_add_song(tar, sink, root, *s) for s in shard.songs]
            file.flush()
            os.fsync(file.fileno())
        if file_digest(partial) != sink.digest.hexdigest():
            raise UserError(
                f"{partial} does not read back as it was written: check the "
                "disk."
            )
        os.replace(partial, path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror}"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    note = {
        "plan": shard.digest,
        "bytes": sink.tell(),
        "sha256": sink.digest.hexdigest(),
        "songs": songs,
    }
    write_text(note_path(path.parent, shard), seal(json.dumps(note)))
    return note


def note_path(folder, shard):
    """Where the note of a shard stands until all are written."""
    return Path(folder, ".parts", f"{shard.name}.json")


class _Hashed:
    """A file that is written from its start to its end, and its digest."""

    def __init__(self, file):
        self.file = file
        self.digest = hashlib.sha256()
        self.position = 0

    def write(self, data):
        self.digest.update(data)
        self.position += self.file.write(data)

    def tell(self):
        return self.position


def _add_song(tar, sink, root, row, path, duration_s):
    """Add a song and what is known of it; returns its entry of the note."""
    with tempfile.SpooledTemporaryFile(MEMORY_BYTES) as wav:
        try:
            convert(Path(root, path), wav, duration_s, "WAV")
        except soundfile.SoundFileError as error:
            raise UserError(f"{path} cannot be converted: {error}") from error
        size = wav.seek(0, os.SEEK_END)
        wav.seek(0)
        frames = soundfile.info(wav).frames
        expected = round(duration_s * SAMPLE_RATE)
        if abs(frames - expected) > 1:
            raise UserError(
                f"{Path(root, path)} gives {frames} of {expected} samples: "
                "prepare the data again."
            )
        wav.seek(0)
        # The samples are the end of a WAV, whatever its header holds.
        first = sink.tell() + HEADER_BYTES + size - frames * SAMPLE_BYTES
        _add(tar, f"{row:09d}.wav", wav, size)
    facts = {"path": path, "frames": frames, "sample_rate": SAMPLE_RATE}
    text = json.dumps(facts).encode()
    _add(tar, f"{row:09d}.json", io.BytesIO(text), len(text))
    return row, frames, first


def _add(tar, name, file, size):
    # No date and no owner: the same songs give the same bytes.
    entry = tarfile.TarInfo(name)
    entry.size = size
    tar.addfile(entry, file)
