"""Checksums: of a line, of a file, of a folder (CHECKSUMS.json)"""

import hashlib
import json
import os
import zlib
from pathlib import Path

CHECKSUMS = "CHECKSUMS.json"


def write_checksums(folder):
    """Writes CHECKSUMS.json and forces every file of a folder to the disk

    Parameters
    ----------
    folder : Path
        A complete checkpoint.
    """
    files = sorted(p for p in folder.iterdir() if p.is_file())
    sums = {
        p.name: {"size": p.stat().st_size, "crc32": crc32(p)} for p in files
    }
    (folder / CHECKSUMS).write_text(json.dumps(sums, indent=1))
    for path in [*files, folder / CHECKSUMS, folder]:
        sync(path)


def file_digest(path):
    """Hex sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def crc32(path):
    """CRC-32 of a file, read in pieces"""
    value = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def find_fault(folder):
    """What is wrong with a checkpoint folder; None when it is sound

    Parameters
    ----------
    folder : Path
        The checkpoint.

    Returns
    -------
    str or None
    """
    try:
        sums = json.loads((folder / CHECKSUMS).read_text())
        for name, expected in sums.items():
            size = (folder / name).stat().st_size
            if size != expected["size"]:
                return f"{name} has {size} bytes instead of {expected['size']}"
            if crc32(folder / name) != expected["crc32"]:
                return f"{name} has a wrong checksum"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"{Path(error.filename).name} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{CHECKSUMS} is damaged"
    return None


def sync(path):
    """Forces a file, or the names in a folder, to the disk"""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def seal(text):
    """A line with the checksum of its text, as a cache keeps it

    Example
    -------
    >>> line = seal("text")
    >>> unseal(line), unseal(line.replace("x", "s")), unseal(line[:-3])
    ('text', None, None)
    """
    return f"{text}\t{_line_sum(text)}\n"


def unseal(line):
    """The text of a line that `seal` has made; None when it was damaged"""
    text, _, checksum = line.rstrip("\n").rpartition("\t")
    return text if checksum == _line_sum(text) else None


def _line_sum(text):
    # Bytes that are no UTF-8 were damaged, and read as escapes.
    return f"{zlib.crc32(text.encode(errors='surrogateescape')):08x}"
