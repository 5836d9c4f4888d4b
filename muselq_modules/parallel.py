"""Run a function over many items in processes that are allowed to die.

Decoders are C code: one damaged file in a hundred thousand may take its process
down. `run_parallel` finds out which item did it, and goes on with the rest.
"""

import collections
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import (
    FIRST_COMPLETED,
    ProcessPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool

from tqdm import tqdm

from muselq_modules.errors import UserError

# Processes are forked by a server of which nobody else uses anything.
HAS_SERVER = "forkserver" in multiprocessing.get_all_start_methods()


class Crashed:
    """Stands for the result of an item that killed its process."""


def run_parallel(function, items, workers=None, description=None):
    """Yield (item, result) for all items, in the order in which they finish.

    The processes ignore Ctrl-C, which belongs to the main process: it stops
    after the items under way, and results that were yielded stay valid.

    Parameters
    ----------
    function : callable
        Takes one item; defined at the top level of a module. Exceptions that
        it raises reach the caller and end the run.
    items : iterable
        The arguments.
    workers : int, optional
        Number of processes, by default one for each available core.
    description : str, optional
        Text before the progress bar.

    Yields
    ------
    item : object
    result : object
        A `Crashed` instance where the item killed its process.

    Raises
    ------
    UserError
        When no process can be started.

    Example
    -------
    >>> sorted(run_parallel(abs, [-2, 1], workers=1))
    [(-2, 2), (1, 1)]
    """
    queue = collections.deque(items)
    workers = max(1, min(workers or available_cpus(), len(queue)))
    with tqdm(
        total=len(queue),
        desc=description,
        unit="file",
        mininterval=1.0,
        disable=not queue,
    ) as bar:
        while queue:
            suspects = []
            for item, result in _until_crash(
                function, queue, suspects, workers
            ):
                bar.update()
                yield item, result
            # One of these killed its process: each gets one of its own.
            for item in suspects:
                result = _run_alone(function, item)
                bar.update()
                yield item, result


def available_cpus():
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _pool(workers):
    """Return a pool of processes that share no state with this one."""
    return ProcessPoolExecutor(
        workers,
        mp_context=process_context(),
        initializer=start_worker,
    )


def process_context():
    """How to start processes that share no state with this one."""
    # A forked copy of a process with torch's threads may deadlock.
    if not HAS_SERVER:
        return multiprocessing.get_context("spawn")
    context = ServerContext()
    # Importing torch takes seconds: once, not in every process.
    context.set_forkserver_preload(["muselq_modules.audio_data"])
    return context


if HAS_SERVER:

    class ServedProcess(multiprocessing.context.ForkServerProcess):
        """Starts although the server that forks it is killed meanwhile."""

        def start(self):
            """Start; `UserError` when servers are killed again and again."""
            for _ in range(3):
                try:
                    return super().start()
                except (EOFError, ConnectionError):
                    time.sleep(0.1)  # then it is found dead, and replaced
            raise UserError(
                "worker processes cannot start: what starts them is killed "
                "each time; free memory and repeat the command, which "
                "continues"
            )

    class ServerContext(multiprocessing.context.ForkServerContext):
        """Starts such processes."""

        Process = ServedProcess


def ignore_interrupts():
    """Leave Ctrl-C to the main process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def start_worker():
    """Leave Ctrl-C to the main process, and end when it is killed."""
    ignore_interrupts()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent():
    # The queue of work stays open in the other workers: nothing else tells.
    parent, starter = multiprocessing.parent_process(), os.getppid()
    while parent.is_alive() and os.getppid() == starter:
        parent.join(1.0)
    os._exit(1)


def _until_crash(function, queue, suspects, workers):
    """Yield results until the queue is empty or a process dies.

    Then `suspects` receives the items that were under way.
    """
    pool = _pool(workers)
    pending = {}
    try:
        while queue or pending:
            # A short queue in the pool keeps the list of suspects short.
            while queue and len(pending) < 2 * workers:
                pending[pool.submit(function, queue[0])] = queue[0]
                queue.popleft()
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                result = future.result()
                yield pending.pop(future), result
    except BrokenProcessPool:
        suspects.extend(pending.values())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if not suspects and queue:
        suspects.append(queue.popleft())


def _run_alone(function, item):
    """Return the result of one item in a process of its own."""
    with _pool(1) as pool:
        try:
            pool.submit(available_cpus).result()
        except BrokenProcessPool as error:
            raise UserError(
                "worker processes cannot start: call this from a script, "
                "under `if __name__ == '__main__':`"
            ) from error
        try:
            return pool.submit(function, item).result()
        except BrokenProcessPool:
            return Crashed()
