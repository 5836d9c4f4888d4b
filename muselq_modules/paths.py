"""Paths that come from a table: they must stay in the folder they name."""


def leaves_folder(path):
    """Whether a relative path, with forward slashes, leads out of its folder.

    Tables of a downloaded dataset and manifests from elsewhere name files;
    `/etc/passwd` and `../other/song.wav` are none of theirs. Links within the
    folder are followed: who put them there has access to it.

    Parameters
    ----------
    path : str
        As it stands in the table.

    Returns
    -------
    bool

    Example
    -------
    >>> [leaves_folder(p) for p in ("a/b..wav", "/a", "a/../../b", "C:/a")]
    [False, True, True, True]
    """
    if "\0" in path or path[:1] in ("/", "\\") or path[1:3] in (":/", ":\\"):
        return True
    return ".." in path and ".." in path.replace("\\", "/").split("/")
