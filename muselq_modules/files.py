"""Small files that are written whole or not at all."""

import json
import os
from pathlib import Path


def write_text(path, text):
    """Write a text file so that a reader finds the old or the new one.

    Parameters
    ----------
    path : str or Path
        The file.
    text : str
        Its content.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.tmp")
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path, content):
    """Write JSON as `write_text` does; what JSON does not know as text.

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
