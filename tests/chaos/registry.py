"""The list of faults, and what each of their trials gets."""

import os
import random
import shutil
import time
import traceback
from dataclasses import dataclass
from functools import cached_property

from chaos.server import Server

FAULTS = []


@dataclass
class Fault:
    """A fault and how it is tried.

    Attributes
    ----------
    name : str
        As the table calls it.
    trial : callable
        ``trial(place, number, total)``; an exception means that something
        was lost.
    times : int
        Trials of `make chaos`.
    quick : int
        Trials of the tests.
    """

    name: str
    trial: callable
    times: int
    quick: int


def fault(name, times, quick=1):
    """Decorate a trial."""

    def register(trial):
        FAULTS.append(Fault(name, trial, times, quick))
        return trial

    return register


class Place:
    """Where trials run, and what they share.

    Parameters
    ----------
    folder : Path
        Receives everything.
    seed : int
        Of the moments of faults.
    """

    def __init__(self, folder, seed=0):
        self.root = folder
        self.random = random.Random(seed)
        self.shared = {}

    @cached_property
    def server(self):
        """Forks the runs."""
        logs = self.root / "logs"
        logs.mkdir(parents=True)
        return Server(logs)

    def once(self, name, make):
        """What ``make(folder)`` returns, made by the first trial."""
        if name not in self.shared:
            folder = self.root / name
            folder.mkdir(parents=True)
            self.shared[name] = make(folder)
        return self.shared[name]

    def close(self):
        """End the server."""
        if "server" in self.__dict__:
            self.server.close()


@dataclass
class Outcome:
    """What a fault has led to."""

    name: str
    tried: int = 0
    survived: int = 0
    seconds: float = 0.0
    losses: tuple = ()

    @property
    def lost(self):
        """Trials in which something was lost."""
        return self.tried - self.survived


def try_fault(place, fault, times):
    """Try a fault some times; what is lost is kept for a look."""
    outcome, started = Outcome(fault.name), time.monotonic()
    for number in range(times):
        folder = place.root / f"{fault.trial.__name__}_{number:03d}"
        folder.mkdir()
        outcome.tried += 1
        try:
            fault.trial(place, folder, number, times)
        except Exception:
            text = traceback.format_exc()
            outcome.losses += (f"{folder}: {text}",)
        else:
            outcome.survived += 1
            shutil.rmtree(folder, ignore_errors=True)
    outcome.seconds = time.monotonic() - started
    return outcome


def is_root():
    """Whether file systems can be mounted."""
    return hasattr(os, "geteuid") and os.geteuid() == 0
