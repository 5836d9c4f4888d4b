"""A folder of extracted features: what is in it, and what is done already.

* ``settings.json``: encoder digest and options, one set for the folder;
* ``index.jsonl``: one line for each recording that is done;
* ``skipped.tsv``: recordings that could not be read, with the reason;
* the features, named after the recordings: ``album/song.mp3.npy``.
"""

import errno
import json
import os
import shutil
from pathlib import Path

from muselq_modules.errors import UserError
from muselq_modules.files import write_json, write_text
from muselq_modules.locks import lock_folder
from muselq_modules.preparation import write_skipped

# Told by settings.json, but not what makes two sets of features differ.
TOLD_ONLY = ("pretrained",)


class FeatureFolder:
    """The output of `extract`.

    Parameters
    ----------
    folder : str or Path
        Made if need be.
    settings : dict
        All that determines the features, as JSON values.
    overwrite : bool
        Remove the features of other settings instead of refusing them.

    Raises
    ------
    UserError
        When another process writes to the folder, when it holds features of
        other settings, and when it cannot be written.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = FeatureFolder(folder, {"layers": [4]})
    ...     FeatureFolder(folder, {"layers": [2]})
    Traceback (most recent call last):
        ...
    muselq_modules.errors.UserError: ... --layers 4, not 2: give another ...
    """

    def __init__(self, folder, settings, overwrite=False):
        self.folder = Path(folder)
        self.scratch = self.folder / ".partial"
        self.skipped = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock_folder(self.folder)
            # What a killed run left half done.
            shutil.rmtree(self.scratch, ignore_errors=True)
            self.scratch.mkdir()
            self._records = self._read_index()
            self._check_settings(settings, overwrite)
            self._index = open(self._path("index.jsonl"), "a", encoding="utf-8")
        except OSError as error:
            raise self.write_error(error) from error

    def _path(self, name):
        return self.folder / name

    def write_error(self, error):
        """The sentence for an `OSError` met while writing."""
        return UserError(
            f"{self.folder} cannot be written: {error.strerror or error}: make "
            "room there or choose another folder, and repeat the command"
        )

    def _read_index(self):
        records, path, lines = {}, self._path("index.jsonl"), []
        if path.is_file():
            # What is no text any more was damaged, and is no JSON either.
            lines = path.read_text("utf-8", errors="replace").splitlines()
        for line in lines:
            try:
                record = json.loads(line)
                if {"bytes", "stamp"} <= record.keys():
                    dict(zip(record["outputs"], record["bytes"], strict=True))
                    records[record["file"]] = record
            except (AttributeError, KeyError, TypeError, ValueError):
                continue  # the line under way when a run was killed
        self._write_index(records)
        return records

    def _write_index(self, records):
        """One line a recording, in order, whole or not at all."""
        lines = [json.dumps(records[name]) + "\n" for name in sorted(records)]
        write_text(self._path("index.jsonl"), "".join(lines))

    def _check_settings(self, settings, overwrite):
        path = self._path("settings.json")
        try:
            former = dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            former = {}
        except (TypeError, ValueError) as error:
            if self._records and not overwrite:
                raise UserError(
                    f"{path} is damaged ({error}), so that nobody knows how "
                    "the features beside it were made: give another folder, "
                    "or --overwrite to replace them"
                ) from error
            former = dict.fromkeys(settings, "damaged")
        for key in [*settings, *former]:
            old, new = (
                _shown(values.get(key)) for values in (former, settings)
            )
            if not former or key in TOLD_ONLY or old == new:
                continue
            if not overwrite:
                made = f"--{key} {old}, not {new}"
                if key == "encoder":
                    made = f"another encoder ({former.get('pretrained')})"
                raise UserError(
                    f"{self.folder} holds features made with {made}: give "
                    "another folder, or --overwrite to replace them"
                )
            for record in self._records.values():
                self._remove(record)
            self._records = {}
            self._write_index({})
            break
        write_json(self._path("settings.json"), settings)

    def _remove(self, record):
        """Remove a recording's features; never a file outside the folder."""
        for output in record["outputs"]:
            path = self._path(output)
            if self.folder.resolve() in path.resolve().parents:
                path.unlink(missing_ok=True)

    def is_done(self, recording):
        """Whether the features are there, and the recording is unchanged."""
        record = self._records.get(recording.name)
        return (
            record is not None
            and record["stamp"] == recording.stamp
            and all(
                self._size(name) == size
                for name, size in zip(record["outputs"], record["bytes"])
            )
        )

    def _size(self, name):
        """Bytes of a file; None where there is none."""
        path = self._path(name)
        return path.stat().st_size if path.is_file() else None

    def add(self, recording, files, facts):
        """Move a recording's files to their place and note it as done.

        Parameters
        ----------
        recording : Recording
        files : dict
            Of a `FeatureWriter`.
        facts : dict
            For the index.
        """
        outputs = []
        for suffix, path in files.items():
            target = self._path(recording.name + suffix)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
                path.unlink()
                self.skip(recording, "file name: too long with its suffix")
                return
            outputs.append(recording.name + suffix)
        sizes = [self._size(name) for name in outputs]
        record = {"file": recording.name, "outputs": outputs, "bytes": sizes}
        record |= facts
        record["stamp"] = recording.stamp
        self._records[recording.name] = record
        self._index.write(json.dumps(record) + "\n")
        self._index.flush()

    def skip(self, recording, reason):
        """Note that a recording cannot be used, and why."""
        self.skipped.append((recording.name, reason))
        # It may have been usable before it changed.
        former = self._records.pop(recording.name, None)
        if former is not None:
            self._remove(former)

    def close(self):
        """Complete the index and the list of skipped recordings."""
        self._index.close()
        self._write_index(self._records)
        write_skipped(self._path("skipped.tsv"), sorted(self.skipped))
        shutil.rmtree(self.scratch, ignore_errors=True)


def _shown(value):
    """A setting as it is typed."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)
