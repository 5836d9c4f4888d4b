"""The page of `muselq_modules.explore`: one HTML file with its data inside.

Names come from a stranger's file system. They reach the page as JSON in which
no ``<`` is left, and its script puts them on the screen as text alone.
"""

import base64
import json
import os
from html import escape
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import numpy as np

from muselq_modules.html_page import document

ASSETS = Path(__file__).with_name("explore_assets")
SCRIPTS = ("map.js", "matrix.js", "page.js")
# Audio beside the page, over file: or http:, and previews within it.
MEDIA = "media-src 'self' file: data:"
# More groups than colours that the eye keeps apart share the last one.
MAX_GROUPS = 9


def audio_url(folder, path, page_folder):
    """Address of an audio file, relative to the page if it can be.

    Example
    -------
    >>> audio_url("/music", 'a "b"/100 %?<c>.mp3', "/pages")
    '../music/a%20%22b%22/100%20%25%3F%3Cc%3E.mp3'
    """
    full = os.path.abspath(os.path.join(folder, path))
    try:
        relative = os.path.relpath(full, page_folder)
    except ValueError:  # another drive of Windows
        return Path(full).as_uri()
    return quote(Path(relative).as_posix())


def group_by_folder(paths):
    """Number of the group of each path, and the names of the groups.

    A group is the first folder below what all paths have in common. Beyond
    `MAX_GROUPS`, the smallest ones are together.

    Example
    -------
    >>> group_by_folder(["x/a/1.mp3", "x/b/c/2.mp3", "x/b/3.mp3"])
    ([1, 0, 0], ['b', 'a'])
    """
    parents = [PurePosixPath(path).parent.parts for path in paths]
    shared = len(os.path.commonprefix(parents))
    names = [" ".join(parts[shared : shared + 1]) for parts in parents]
    counts = {name: names.count(name) for name in dict.fromkeys(names)}
    groups = sorted(counts, key=lambda name: (-counts[name], name))
    number = {n: min(i, MAX_GROUPS) for i, n in enumerate(groups)}
    if len(groups) > MAX_GROUPS + 1:
        groups = [*groups[:MAX_GROUPS], "others"]
    labels = [name or "(no sub-folder)" for name in groups]
    return [number[name] for name in names], labels


def packed(values, dtype):
    """An array as base64 of its little-endian bytes."""
    values = np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<"))
    return base64.b64encode(values.tobytes()).decode("ascii")


def page_data(tracks, groups, points, neighbours, similarities):
    """All that the script of the page reads, as values for JSON.

    Parameters
    ----------
    tracks : list of dict
        ``path``, ``url``, ``group`` (number), ``duration_s``, ``vectors``
        (int8 [n, dim] of `music_map.compact`), ``cell_s`` (seconds of each)
        and, for an embedded preview, ``preview`` (start and length in s).
    groups : list of str
        Names of the groups.
    points : np.ndarray
        [track, 2] between 0 and 1.
    neighbours, similarities : np.ndarray
        [track, k], from `music_map.nearest`.

    Returns
    -------
    dict
    """
    keys = ("path", "url", "group", "duration_s", "cell_s", "preview")
    return {
        "tracks": [
            {key: track[key] for key in keys if track.get(key) is not None}
            | {"n": len(track["vectors"])}
            for track in tracks
        ],
        "groups": groups,
        "points": packed(np.rint(points * 65535), np.uint16),
        "k": neighbours.shape[1],
        "neighbours": packed(neighbours, np.uint32),
        "similarities": packed(np.rint(similarities * 127), np.int8),
        "dim": tracks[0]["vectors"].shape[1],
        "vectors": packed(
            np.concatenate([track["vectors"] for track in tracks]), np.int8
        ),
    }


def page(title, facts, skipped, data):
    """The page as text.

    Parameters
    ----------
    title : str
    facts : str
        The sentence below it.
    skipped : list of tuple
        (path, reason) of the files that are not on the map.
    data : dict
        From `page_data`.

    Returns
    -------
    str
    """
    body = (ASSETS / "body.html").read_text("utf-8")
    # Within HTML a script ends at the first `</script`, whatever its type.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    values = {
        "title": escape(_printable(title)),
        "facts": escape(_printable(facts)),
        "skipped": _skipped_list(skipped),
        "data": text,
    }
    # In one pass: what is inserted is not searched again.
    parts = body.split("@@")
    parts[1::2] = [values[name] for name in parts[1::2]]
    script = "\n".join((ASSETS / n).read_text("utf-8") for n in SCRIPTS)
    style = (ASSETS / "page.css").read_text("utf-8")
    return document(_printable(title), "".join(parts), style, script, MEDIA)


def _skipped_list(skipped):
    if not skipped:
        return ""
    lines = "".join(
        f"<li>{escape(_printable(path))}: {escape(_printable(reason))}</li>"
        for path, reason in skipped
    )
    count = f"{len(skipped):,} file{'s' * (len(skipped) != 1)} skipped"
    return f"<details><summary>{count}</summary><ul>{lines}</ul></details>"


def _printable(text):
    """Names that are no valid text, with their bytes escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
