"""Locks on folders, which the operating system releases however a process ends

Record locks belong to one process: unlike flock's they are not kept alive by
data loader workers that outlive a killed run, and they work over NFS.
"""

import contextlib
import logging
from pathlib import Path

from muselq_modules.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)
_LOCKS = {}


def lock_folder(folder):
    """Takes a folder for this process until it ends, however it ends

    Parameters
    ----------
    folder : str or Path
        An existing folder.

    Raises
    ------
    UserError
        Another process is running in the folder.
    """
    folder = Path(folder).resolve()
    if fcntl is None or folder in _LOCKS:
        return
    file = open(folder / ".lock", "a")  # noqa: SIM115, held until the end
    if not _take(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
        file.close()
        raise UserError(
            f"Another run is writing to {folder}: wait for its end or choose "
            "another --output_folder"
        )
    _LOCKS[folder] = file


@contextlib.contextmanager
def only_one(folder, work):
    """Waits until no other process does the same work in a folder

    Parameters
    ----------
    folder : str or Path
        Made when it is not there.
    work : str
        What is done, for the name of the lock and the message.

    Example
    -------
    >>> with only_one(getfixture("tmp_path"), "preparing"):
    ...     pass
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    with open(folder / f".{work}.lock", "a") as file:
        if not _take(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            # A warning, for a command without logging shows nothing else.
            logger.warning("Waiting for another process %s %s", work, folder)
            _take(file, fcntl.LOCK_EX)
        yield


def _take(file, how):
    """Whether the lock was taken, or cannot be taken on this file system"""
    try:
        fcntl.lockf(file, how)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        logger.warning("%s cannot be locked (%s)", file.name, error.strerror)
    return True
