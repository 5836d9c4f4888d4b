"""Faults at the n-th file operation of a process.

Python announces every file operation to its audit hooks: a hook that counts
those within a folder can kill the process, or let the disk be full, at each of
them in turn, again and again at the same place.
"""

import atexit
import errno
import functools
import os
import signal
import sys
from pathlib import Path

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
EVENTS = {
    "open",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.truncate",
    "shutil.rmtree",
}


class Injection:
    """Counts file operations and acts at one of them.

    Parameters
    ----------
    folder : str
        Operations elsewhere do not count.
    at : int, optional
        Number of the operation, from 1 on; None only counts.
    action : str
        ``kill`` before it, ``tear`` (kill with the file empty or half
        written), ``stop`` (it goes on when it gets SIGCONT), or the name of
        an error such as ``ENOSPC``.
    lasting : bool
        Whether the error stays, as a full disk does.
    count_to : str, optional
        A file that receives the count at the end.
    """

    def __init__(
        self, folder, at=None, action="kill", lasting=True, count_to=None
    ):
        self.folder = os.path.realpath(folder)
        self.at, self.action, self.lasting = at, action, lasting
        self.count = 0
        self.acting = False
        if count_to:
            main = os.getpid()
            atexit.register(
                lambda: (
                    os.getpid() == main
                    and Path(count_to).write_text(str(self.count))
                )
            )

    def install(self):
        """Begin; a hook cannot be removed again."""
        import safetensors.torch
        import torch

        self.main = os.getpid()
        torch.save = self._counted(torch.save)
        # What writes in C or Rust is not announced.
        safetensors.torch.save_file = self._counted(safetensors.torch.save_file)
        sys.addaudithook(self._hook)

    def _counted(self, save):
        @functools.wraps(save)
        def wrapper(content, path, *args, **kwargs):
            def half():
                save(content, path, *args, **kwargs)
                os.truncate(path, os.path.getsize(path) // 2)

            self._operation(path, half)
            return save(content, path, *args, **kwargs)

        return wrapper

    def _hook(self, event, args):
        if event not in EVENTS or self.acting:
            return
        path, flags = args[0], os.O_WRONLY
        if event == "open":
            flags = args[2]
        if not isinstance(path, (str, bytes)) or not flags & WRITING:
            return

        def empty():
            if event == "open":
                os.close(os.open(path, flags, 0o644))

        self._operation(path, empty)

    def _operation(self, path, tear):
        if os.getpid() != self.main:
            return  # a loader worker
        path = os.path.realpath(os.fsdecode(path))
        if not path.startswith(self.folder + os.sep):
            return
        self.count += 1
        due = self.count == self.at
        if self.at is None or not (due or self.count > self.at):
            return
        if self.action == "stop":
            if due:
                os.kill(os.getpid(), signal.SIGSTOP)
            return
        if self.action in ("kill", "tear"):
            self.acting = True
            if self.action == "tear":
                tear()
            os.kill(os.getpid(), signal.SIGKILL)
        if due or self.lasting:
            code = getattr(errno, self.action)
            raise OSError(code, os.strerror(code), path)
