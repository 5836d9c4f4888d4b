"""Mistakes of the user or of the data, told in one sentence."""

import argparse
import errno
import functools
import os
import sys

# How the ranks of torchrun hear of each other, see rank_watch.
peers = None
DISK_ERRORS = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose a folder that you may read and write",
    errno.EPERM: "choose a folder that you may read and write",
    errno.EIO: "check the disk",
    errno.ENOENT: "check that it is there",
    errno.ENOTDIR: "name a folder where one belongs",
    errno.EEXIST: "name a folder, or nothing that is there",
    errno.EISDIR: "name a file where one belongs",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "check the links",
}


class UserError(Exception):
    """A mistake that the user can correct without reading our code.

    The message is one sentence that names the file or the value and the
    remedy. Command lines print it without a traceback, see `exits_cleanly`.
    What a name of a file must not do to a terminal is written out: a line
    break is ``\\n``.

    Example
    -------
    >>> try:
    ...     raise UserError("song.wav does not exist: check the path")
    ... except UserError as error:
    ...     print(error)
    song.wav does not exist: check the path
    """

    def __init__(self, message=""):
        letters = (c if c.isprintable() else repr(c)[1:-1] for c in message)
        super().__init__("".join(letters))


class CommandParser(argparse.ArgumentParser):
    """A parser whose message writes out what was typed, as `UserError` does.

    Options cannot be abbreviated: what an abbreviation means may change.
    """

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message):
        """Print the usage and one sentence, and exit with code 2."""
        super().error(str(UserError(message)))


def exits_cleanly(main):
    """Decorate a command line so that a `UserError` ends it with exit code 2.

    The sentence goes to stderr, without a traceback; so does that of a full
    disk or a folder that must not be written. Under `torchrun` the main rank
    prints it, or hears it from the rank that alone has met it. Ctrl-C ends it
    with exit code 130, as quietly.

    Parameters
    ----------
    main : callable
        The entry point.

    Returns
    -------
    callable
        The same entry point; it raises `SystemExit(2)` after a `UserError`.

    Example
    -------
    >>> @exits_cleanly
    ... def main():
    ...     raise UserError("nothing to do")
    >>> try:
    ...     main()
    ... except SystemExit as exit:
    ...     print(exit.code)
    2
    """

    @functools.wraps(main)
    def wrapper(*args, **kwargs):
        try:
            result = main(*args, **kwargs)
        except UserError as error:
            _tell(str(error))
            sys.exit(2)
        except KeyboardInterrupt:
            print("Interrupted", file=sys.stderr)
            sys.exit(130)  # what a shell reports for Ctrl-C
        except SystemExit:
            if peers is not None:
                peers.done()
            raise
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                _wait_for_peers()
                raise
            _tell(
                f"{error.filename or 'A file'} cannot be read or written "
                f"({error.strerror}): {DISK_ERRORS[error.errno]} and repeat "
                "the command, which continues"
            )
            sys.exit(2)
        except Exception:
            _wait_for_peers()
            raise
        if peers is not None:
            peers.done()
        return result

    return wrapper


def _tell(sentence):
    if os.environ.get("RANK", "0") == "0":
        print(f"Error: {sentence}", file=sys.stderr, flush=True)
    if peers is not None:
        peers.tell(sentence)


def _wait_for_peers():
    """A rank whose partner has died fails, too; the watch says why."""
    if peers is not None:
        peers.wait()
