"""Decode many recordings in processes that are allowed to die.

Each process decodes one file at a time and is a block ahead of who reads.
Decoders are C code: a damaged file may take its process down, and is then
skipped as any other damaged file is.
"""

import collections
from multiprocessing import connection

import torch

from muselq_modules.audio_formats import AudioFault
from muselq_modules.audio_stream import AudioStream
from muselq_modules.errors import UserError
from muselq_modules.parallel import ignore_interrupts, process_context


def decode(path, sample_rate):
    """Decode one file.

    Parameters
    ----------
    path : str or Path
        The file.
    sample_rate : int
        Rate of the audio in Hz.

    Yields
    ------
    kind : str
        ``opened``, then ``audio`` any number of times, then ``ended``; or
        ``skipped`` at any time, as the last.
    payload : object
        A dict with ``sample_rate``, ``channels`` and ``duration_s`` of the
        file; a float32 array [samples]; the decoded ``duration_s``; the
        reason.

    Example
    -------
    >>> list(decode("song.txt", 24000))
    [('skipped', "unsupported format: '.txt'")]
    """
    try:
        stream = AudioStream(path, sample_rate)
        yield (
            "opened",
            {
                "sample_rate": stream.source_rate,
                "channels": stream.channels,
                "duration_s": stream.duration_s,
            },
        )
        for block in stream.blocks():
            yield "audio", block.numpy()
        yield "ended", stream.duration_s
    except AudioFault as fault:
        yield "skipped", str(fault)
    except Exception as error:  # whatever a decoder raises, the run goes on
        text = " ".join(str(error).split())
        yield "skipped", f"unreadable: {type(error).__name__}: {text}"


def decode_all(paths, sample_rate, workers=1):
    """Decode files, several at the same time.

    Parameters
    ----------
    paths : list of str or Path
        Files, without duplicates.
    sample_rate : int
        Rate of the audio in Hz.
    workers : int
        Number of processes, and of files under way; 0 decodes in this one.

    Yields
    ------
    path : str or Path
        One of ``paths``.
    kind, payload : object
        As :func:`decode` yields for it.

    Raises
    ------
    UserError
        When no process can be started.

    Example
    -------
    >>> list(decode_all(["a.txt"], 24000, workers=0))
    [('a.txt', 'skipped', "unsupported format: '.txt'")]
    """
    if workers == 0:
        for path in paths:
            for kind, payload in decode(path, sample_rate):
                yield path, kind, payload
        return
    queue = collections.deque(paths)
    crew = {}
    try:
        for _ in range(min(workers, len(queue))):
            _start(crew, sample_rate)
        while crew:
            for pipe in connection.wait(list(crew)):
                yield from _receive(crew, pipe, queue, sample_rate)
    finally:
        for worker in crew.values():
            worker.process.kill()


class _Worker:
    """A process and the file that it decodes, None before the first."""

    def __init__(self, process):
        self.process, self.path = process, None


def _start(crew, sample_rate):
    """Add a process to the crew, which is keyed by pipe."""
    context = process_context()
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_serve, args=(theirs, sample_rate), daemon=True
    )
    process.start()
    theirs.close()  # so that its death ends the pipe
    crew[ours] = _Worker(process)


def _receive(crew, pipe, queue, sample_rate):
    """Yield one message of a process, and keep it busy."""
    worker = crew[pipe]
    try:
        kind, payload = pipe.recv()
    except (EOFError, OSError) as error:
        if worker.path is None:
            raise UserError(
                "worker processes cannot start: call this from a script, "
                "under `if __name__ == '__main__':`, or use no workers"
            ) from error
        del crew[pipe]
        yield worker.path, "skipped", "crash: it kills the decoder"
        if queue:
            _start(crew, sample_rate)
        return
    if kind != "ready":
        yield worker.path, kind, payload
    if kind in ("ready", "ended", "skipped"):
        worker.path = queue.popleft() if queue else None
        try:
            pipe.send(worker.path)
        except OSError:
            pass  # it died in the meantime: told by the next message
        if worker.path is None:
            del crew[pipe]


def _serve(pipe, sample_rate):
    """Decode what is asked for, until it is None; runs in a process."""
    ignore_interrupts()
    torch.set_num_threads(1)
    pipe.send(("ready", None))
    try:
        while (path := pipe.recv()) is not None:
            for message in decode(path, sample_rate):
                pipe.send(message)
    except (EOFError, OSError):
        pass  # the reader is gone
