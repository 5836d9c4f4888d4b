"""Find the audio of a folder and decode all of it once, in parallel."""

import contextlib
import functools
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from muselq_modules.audio_checks import check_audio
from muselq_modules.audio_formats import (
    AUDIO_SUFFIXES,
    AudioFault,
    NotReached,
)
from muselq_modules.checksums import seal, unseal
from muselq_modules.parallel import Crashed, run_parallel
from muselq_modules.paths import leaves_folder


@dataclass(frozen=True, slots=True)
class AudioFile:
    """An audio file that was decoded from its first to its last frame.

    Parameters
    ----------
    path : str
        Relative to the root of the data, with forward slashes.
    frames : int
        Decoded frames (samples of one channel).
    sample_rate : int
        In Hz.
    channels : int
        Number of channels.

    Example
    -------
    >>> AudioFile("song.wav", 48000, 24000, 1).duration
    2.0
    """

    path: str
    frames: int
    sample_rate: int
    channels: int

    @property
    def duration(self):
        """Length in seconds."""
        return self.frames / self.sample_rate


def find_audio(root):
    """List the audio files of a folder and of the folders in it.

    Links to folders are followed, hidden folders are not entered.

    Parameters
    ----------
    root : str or Path
        The folder.

    Returns
    -------
    list of str
        Paths relative to `root`, with forward slashes, sorted. Hidden files
        with the suffix of audio are included, for `scan_audio` to report.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ["b.mp3", "a.WAV", "notes.txt"]:
    ...         Path(folder, name).touch()
    ...     find_audio(folder)
    ['a.WAV', 'b.mp3']
    """
    found, seen = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()  # a link to a folder that was listed already
            continue
        seen.add(real)
        folders[:] = sorted(
            name for name in folders if not name.startswith((".", "__MACOSX"))
        )
        found += [
            Path(folder, name).relative_to(root).as_posix()
            for name in names
            if Path(name).suffix.lower() in AUDIO_SUFFIXES
        ]
    return sorted(found)


def scan_audio(
    root,
    paths,
    workers=None,
    min_duration_s=1.0,
    allow_silence=False,
    description="Checking audio",
    cache=None,
):
    """Decode files completely, in parallel, and sort out the unusable ones.

    Parameters
    ----------
    root : str or Path
        The folder that `paths` are relative to.
    paths : list of str
        Files, with forward slashes.
    workers : int, optional
        Number of processes, by default one for each available core.
    min_duration_s : float
        Shorter files are skipped, in seconds.
    allow_silence : bool
        Whether to keep files without any signal.
    description : str
        Text before the progress bar.
    cache : str or Path, optional
        A `.jsonl` file that receives each result at once. An interrupted scan
        resumes there, a later one checks only files that are new or changed
        in size or modification time.

    Returns
    -------
    files : list of AudioFile
        Usable files in the order of `paths`.
    skipped : list of tuple
        (path, reason) of the others; a reason reads "category: detail".

    Example
    -------
    >>> scan_audio("no/such/folder", [".DS_Store"], workers=1)
    ([], [('.DS_Store', 'hidden file')])
    """
    paths = list(dict.fromkeys(paths))
    known = _read_cache(root, paths, cache)
    waiting = [path for path in paths if path not in known]
    check = functools.partial(_check, str(root))
    with _appended(cache) as file:
        for path, facts in run_parallel(check, waiting, workers, description):
            if isinstance(facts, Crashed):
                facts = {"fault": "crash: it kills the decoder"}
            elif file and "stamp" in facts:
                file.write(seal(json.dumps({"path": path} | facts)))
                file.flush()
            known[path] = facts
    files, skipped = [], []
    for path in paths:
        facts = known[path]
        if "fault" in facts:
            skipped.append((path, facts["fault"]))
            continue
        keys = ("frames", "sample_rate", "channels")
        found = AudioFile(path, *(facts[key] for key in keys))
        if found.duration < min_duration_s:
            skipped.append((path, f"too short: {found.duration:.1f} s"))
        elif facts["silent"] and not allow_silence:
            skipped.append((path, "silent"))
        else:
            files.append(found)
    return files, skipped


def _check(root, path):
    """Return the facts about one file, or its fault; runs in a process."""
    if "\r" in path or _undecodable(path):
        return {"fault": "file name: not valid text, rename it"}
    if leaves_folder(path):
        return {"fault": "file name: it leads out of the data folder"}
    full = Path(root, path)
    try:
        with quiet_decoders():
            facts = check_audio(full)
    except NotReached as fault:
        return {"fault": str(fault)}
    except AudioFault as fault:
        facts = {"fault": str(fault)}
    except Exception as error:  # whatever a decoder raises, the scan goes on
        facts = {"fault": f"unreadable: {type(error).__name__}: {error}"}
    return facts | {"stamp": _stamp(full)}


def _undecodable(path):
    """Whether a name holds bytes that are not UTF-8."""
    return any("\ud800" <= letter <= "\udfff" for letter in path)


def _stamp(path):
    """Return what tells a changed file; None for one that is gone."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


@contextlib.contextmanager
def quiet_decoders():
    """Keep the notes of the MP3 decoder, written to fd 2, off the screen."""
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _read_cache(root, paths, cache):
    """Return {path: facts} of the files that did not change since."""
    if cache is None or not Path(cache).is_file():
        return {}
    wanted, known = set(paths), {}
    with open(cache, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            text = unseal(line)
            if text is None:
                continue  # the line under way when a scan was killed
            facts = json.loads(text)
            path = facts.pop("path")
            if path in wanted:
                known[path] = facts
    return {
        path: facts
        for path, facts in known.items()
        if facts["stamp"] == _stamp(Path(root, path))
    }


@contextlib.contextmanager
def _appended(cache):
    """Open the cache for appending whole lines; None without a cache."""
    if cache is None:
        yield None
        return
    cache = Path(cache)
    cache.parent.mkdir(parents=True, exist_ok=True)
    with cache.open("a+", encoding="utf-8") as file:
        # A killed scan may have left half a line.
        file.write("\n" if file.tell() else "")
        yield file
