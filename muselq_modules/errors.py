"""Mistakes of the user or of the data, told in one sentence."""

import functools
import os
import sys


class UserError(Exception):
    """A mistake that the user can correct without reading our code.

    The message is one sentence that names the file or the value and the
    remedy. Command lines print it without a traceback, see `exits_cleanly`.

    Example
    -------
    >>> try:
    ...     raise UserError("song.wav does not exist: check the path")
    ... except UserError as error:
    ...     print(error)
    song.wav does not exist: check the path
    """


def exits_cleanly(main):
    """Decorate a command line so that a `UserError` ends it with exit code 2.

    The sentence goes to stderr, without a traceback. Under `torchrun` the main
    rank alone prints it: every rank meets the same mistake. Ctrl-C ends it
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
            return main(*args, **kwargs)
        except UserError as error:
            if os.environ.get("RANK", "0") == "0":
                print(f"Error: {error}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("Interrupted", file=sys.stderr)
            sys.exit(130)  # what a shell reports for Ctrl-C

    return wrapper
