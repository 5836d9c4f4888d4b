"""Faults of every command: killed, starved, started twice, damaged files."""

import errno
import os
import signal
import time
from pathlib import Path

from chaos import kills, runs
from chaos.jobs import JOBS
from chaos.machine import damage, small_disk
from chaos.registry import fault, is_root

BESIDE = JOBS[1:]  # pre-training has files of its own for these
ERRORS = ("ENOSPC", "EROFS", "EIO", "EDQUOT")


def for_every(jobs, name, times, quick=0):
    """Decorate ``trial(place, job, folder, number, total)``: one fault a job.

    Parameters
    ----------
    jobs : sequence of Job
    name : str
        The fault; that of the job is put after it.
    times, quick : int
        Trials of each job.
    """

    def register(trial):
        for job in jobs:

            def bound(place, folder, number, total, job=job):
                return trial(place, job, folder, number, total)

            word = job.name.replace(" ", "_").replace("-", "")
            bound.__name__ = f"{trial.__name__}_{word}"
            bound.__module__ = trial.__module__
            fault(f"{name}: {job.name}", times, quick)(bound)
        return trial

    return register


def operations_of(place, job):
    """Number of file operations of an undisturbed run."""
    command = job.command
    return kills.operations_of(place, job.name, lambda f: command(place, f))


def expected_of(place, job):
    """What an undisturbed run gives."""
    operations_of(place, job)
    return job.result(place.root / f"counted_{job.name}" / "run")


def seconds_of(place, job):
    """How long an undisturbed run takes, by the clock."""

    def make(folder):
        started = time.monotonic()
        runs.finish(place, *job.command(place, folder / "run"))
        return time.monotonic() - started

    operations_of(place, job)  # makes what several runs share
    return place.once(f"timed_{job.name}", make)


def injected(place, job, folder, at, action):
    """Start a job with a fault at one of its file operations."""
    fault = {"folder": str(folder), "at": at, "action": action}
    return place.server.start(*job.command(place, folder), fault=fault)


def finish(place, job, folder):
    """What is left undone is done, and all is as it should be."""
    runs.finish(place, *job.command(place, folder))
    assert job.result(folder) == expected_of(place, job)
    runs.assert_whole(folder)


@for_every(BESIDE, "SIGKILL at any moment", times=12, quick=1)
def job_kill(place, job, folder, number, total):
    """At a file operation, with that file half written, or by the clock."""
    n = operations_of(place, job)
    at = 1 + (2 * number + 1) * n // (2 * total) % n
    action = ("kill", "tear", "clock")[number % 3]
    if action == "clock":
        run = place.server.start(*job.command(place, folder))
        seconds = place.random.uniform(0, seconds_of(place, job))
        assert run.wait(after_s=seconds) in (0, -signal.SIGKILL), run.output()
    else:
        run = injected(place, job, folder, at, action)
        code = run.wait()
        told = f"operation {at} of {n}: {code}\n{run.output()}"
        assert code == -signal.SIGKILL, told
    if folder.is_dir():
        runs.assert_whole(folder)
    finish(place, job, folder)


@for_every(BESIDE, "error of the disk", times=4)
def job_disk_error(place, job, folder, number, total):
    """Full, read-only or broken from some operation on: one sentence."""
    n = operations_of(place, job)
    at = 1 + (2 * number + 1) * n // (2 * total) % n
    action = ERRORS[number % 4]
    run = injected(place, job, folder, at, action)
    code, output = run.wait(), run.output()
    # The last operations only tidy up: nobody need hear of them.
    if code != 0:
        runs.assert_one_sentence(code, output)
        assert os.strerror(getattr(errno, action)) in output, output
    if folder.is_dir():
        runs.assert_whole(folder)
    finish(place, job, folder)


@for_every(BESIDE, "read-only folder", times=1)
def job_read_only(place, job, folder, number, total):
    """One sentence that names it."""
    operations_of(place, job)
    target = folder / "target"
    if is_root():
        with small_disk(folder, "64k,ro"):
            code, output = place.server.run(*job.command(place, target))
    else:
        folder.chmod(0o555)
        code, output = place.server.run(*job.command(place, target))
        folder.chmod(0o755)
    runs.assert_one_sentence(code, output)
    assert str(folder) in output, output


@for_every(JOBS, "two on one output folder", times=3)
def job_twice(place, job, folder, number, total):
    """One of them gives the result; the other waits, or refuses."""
    n = operations_of(place, job)
    at = 1 + (2 * number + 1) * n // (2 * total) % n
    first = injected(place, job, folder, at, "stop")
    wait_until(lambda: is_stopped(first.pid), first)
    second = place.server.start(*job.command(place, folder))
    try:
        wait_until(
            lambda: has_ended(second.pid) or "Waiting for" in second.output(),
            second,
        )
    finally:
        os.kill(first.pid, signal.SIGCONT)
    codes = {run: run.wait() for run in (first, second)}
    assert 0 in codes.values(), first.output() + second.output()
    for run, code in codes.items():
        if code != 0:
            runs.assert_one_sentence(code, run.output())
    finish(place, job, folder)


def wait_until(condition, run):
    """Wait for a condition."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, run.output()
        time.sleep(0.02)


def is_stopped(pid):
    """Whether a process was stopped by a signal."""
    return ") T " in Path(f"/proc/{pid}/stat").read_text()


def has_ended(pid):
    """Whether a process has ended, and nobody has asked for its exit code."""
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()


@for_every(JOBS, "file cut or with a flipped bit", times=10)
def job_damage(place, job, folder, number, total):
    """Of a killed or finished job: made again, or told in one sentence."""
    n = operations_of(place, job)
    at = 1 + place.random.randrange(n // 3, 2 * n)
    injected(place, job, folder, at, "kill").wait()
    how = ("cut", "flip")[number % 2]
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    victims = [p for p in files if p.stat().st_size and job.is_state(p, how)]
    victim = place.random.choice(victims) if victims else None
    if victim:
        damage(victim, how, place.random)
    code, output = place.server.run(*job.command(place, folder))
    if code == 0:
        found, expected = job.result(folder), expected_of(place, job)
        assert found == expected, f"{victim}, {how}: {output}"
    else:
        runs.assert_one_sentence(code, output)
        assert victim, output
