"""Loader processes that die: noticed between batches, told in one sentence.

A worker is killed when memory is short, or by a decoder that one damaged file
brings down. torch then raises from a signal handler, wherever the main process
is, also in the middle of an optimizer step. Here the death is noticed where
the next batch is waited for, so that what came before is whole.
"""

import logging
import os
import signal

from muselq_modules.errors import UserError

logger = logging.getLogger(__name__)
# A batch that kills every process that reads it is given up.
MAX_DEATHS = 3


class WorkerDied(UserError):
    """A loader process ended before its time; the data may be fine."""


def read_batches(loader):
    """Iterate over a loader.

    Parameters
    ----------
    loader : torch.utils.data.DataLoader
        With workers or without.

    Yields
    ------
    object
        The batches.

    Raises
    ------
    WorkerDied
        A worker was killed. Iterating again starts new workers.

    Example
    -------
    >>> list(read_batches([1, 2]))
    [1, 2]
    """
    try:
        batches = iter(loader)
        _leave_children_alone()
        yield from batches
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        # Persistent workers would be asked again.
        loader._iterator = None
        raise WorkerDied(
            "A process that reads audio was killed, most often because memory "
            "is short: the same command continues; give fewer workers if it "
            "happens again"
        ) from error


def steady_batches(loader, go_back):
    """Iterate over a loader, with new workers where some have died.

    Parameters
    ----------
    loader : torch.utils.data.DataLoader
        With workers or without.
    go_back : callable
        Called after a death; makes the sampler of the loader continue with
        the batch that was waited for.

    Yields
    ------
    object
        The batches.

    Raises
    ------
    WorkerDied
        Workers died three times over the same batch.
    """
    deaths = 0
    while True:
        try:
            for batch in read_batches(loader):
                yield batch
                deaths = 0
            return
        except WorkerDied as error:
            deaths += 1
            if deaths == MAX_DEATHS:
                raise
            logger.warning("%s. New processes take over.", error)
            go_back()


def _leave_children_alone():
    """Undo torch's handler, which raises wherever the main process is."""
    if os.name != "nt":
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        except ValueError:
            pass  # not in the main thread, where torch has set none either
