"""Small files that are written whole or not at all."""

import contextlib
import json
import os
from pathlib import Path


@contextlib.contextmanager
def whole_file(path, mode="w", **options):
    """Open a file that appears under its name only when it is complete.

    Who reads finds the old content or the new one, also after the process was
    killed or the machine has lost its power.

    Parameters
    ----------
    path : str or Path
        The file; ``.tmp`` is appended to its name while it is written.
    mode : str
        ``w`` for text in UTF-8, ``wb`` for bytes.
    **options
        Of `open`.

    Yields
    ------
    file
        Moved into place when the block ends, removed when it raises.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.txt"
    >>> with whole_file(path) as file:
    ...     _ = file.write("text")
    ...     path.exists()
    False
    >>> path.read_text()
    'text'
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.tmp")
    if "b" not in mode:
        options.setdefault("encoding", "utf-8")
    try:
        with open(partial, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path, text):
    """Write a text file as `whole_file` does.

    Parameters
    ----------
    path : str or Path
        The file.
    text : str
        Its content.
    """
    with whole_file(path) as file:
        file.write(text)


def write_json(path, content):
    """Write JSON as `whole_file` does; what JSON does not know as text.

    Parameters
    ----------
    path : str or Path
        The file.
    content : dict or list

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.json"
    >>> write_json(path, {"number": 1})
    >>> path.read_text()
    '{\\n  "number": 1\\n}\\n'
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str)
    write_text(path, text + "\n")
