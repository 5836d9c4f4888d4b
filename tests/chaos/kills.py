"""SIGKILL, at any moment and at every file operation; SIGTERM."""

import os
import signal
import time

from chaos import runs
from chaos.registry import fault


def seconds_of(place):
    """How long an undisturbed pre-training takes, by the clock."""

    def make(folder):
        started = time.monotonic()
        runs.finish(place, *runs.pretraining(place, folder / "run"))
        return time.monotonic() - started

    runs.reference(place)  # prepares the manifests
    return place.once("timed", make)


def operations_of(place, name, make_command):
    """Number of file operations of an undisturbed run."""

    def make(folder):
        count = folder / "count"
        injection = {"folder": str(folder / "run"), "count_to": str(count)}
        runs.finish(place, *make_command(folder / "run"), fault=injection)
        return int(count.read_text())

    return place.once(f"counted_{name}", make)


def kill_at(place, name, make_command, folder, number, total, action="kill"):
    """Kill a run at one of its operations, then let it finish."""
    n = operations_of(place, name, make_command)
    # Spread over all of them; many trials come to every one.
    at = 1 + (2 * number + 1) * n // (2 * total) % n
    command = make_command(folder)
    injection = {"folder": str(folder), "at": at, "action": action}
    code, output = place.server.run(*command, fault=injection)
    assert code == -signal.SIGKILL, f"operation {at} of {n}: {code}\n{output}"
    if action == "kill":
        runs.assert_whole(folder)
    runs.finish(place, *command)
    return at


@fault("SIGKILL at a random moment of pre-training", times=50, quick=2)
def random_kill(place, folder, number, total):
    """Killed one to three times, wherever it is."""
    command = runs.pretraining(place, folder)
    limit_s = seconds_of(place)
    for _ in range(1 + number % 3):
        run = place.server.start(*command)
        code = run.wait(after_s=place.random.uniform(0, limit_s))
        assert code in (0, -signal.SIGKILL), run.output()
        if folder.exists():
            runs.assert_whole(folder)
    runs.finish(place, *command)
    runs.assert_same_training(folder, runs.reference(place))


@fault("SIGKILL at a file operation of pre-training", times=30, quick=2)
def operation_kill(place, folder, number, total):
    """Killed just before a file is opened, renamed or removed."""
    expected = runs.reference(place)

    def command(folder):
        return runs.pretraining(place, folder)

    kill_at(place, "pretraining", command, folder, number, total)
    runs.assert_same_training(folder, expected)


@fault("SIGKILL with a file half written (checkpoints)", times=20, quick=2)
def torn_kill(place, folder, number, total):
    """Killed with the file that was just opened or saved cut in half."""
    expected = runs.reference(place)

    def command(folder):
        return runs.pretraining(place, folder)

    kill_at(place, "pretraining", command, folder, number, total, "tear")
    runs.assert_same_training(folder, expected)


@fault("SIGTERM at a random moment of pre-training", times=12, quick=1)
def random_term(place, folder, number, total):
    """A scheduler's notice: within 30 s the step is saved."""
    command = runs.pretraining(place, folder, ckpt_interval_steps=0)
    run = place.server.start(*command)
    time.sleep(place.random.uniform(0, seconds_of(place)))
    os.kill(run.pid, signal.SIGTERM)
    told = time.monotonic()
    code = run.wait()
    assert time.monotonic() - told < 30, "no end within 30 s"
    # Before the training there is nothing to save: the signal just kills.
    assert code in (0, 143, -signal.SIGTERM), run.output()
    assert "Traceback" not in run.output(), run.output()
    if code == 143:
        assert list((folder / "save").glob("CKPT+*")), "nothing is saved"
    runs.finish(place, *command)
    runs.assert_same_training(folder, runs.reference(place))
