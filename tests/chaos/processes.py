"""Several processes: workers and ranks that die, runs that meet, orphans."""

import json
import os
import signal
import time
from pathlib import Path

import pretrain_runs

from chaos import runs
from chaos.registry import fault


@fault("two runs on one output folder", times=4, quick=1)
def two_runs(place, folder, number, total):
    """The second refuses; after SIGKILL of the first it may."""
    expected = runs.reference(place)
    command = runs.pretraining(place, folder)
    first = place.server.start(*command)
    deadline = time.monotonic() + 120
    while not (folder / "run.json").exists():
        assert time.monotonic() < deadline, first.output()
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGSTOP)  # alive, however fast it would be
    code, output = place.server.run(*command)
    runs.assert_one_sentence(code, output)
    assert "Another run is writing" in output, output
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    runs.finish(place, *command)
    runs.assert_same_training(folder, expected)


@fault("two runs that prepare the same data", times=4, quick=1)
def two_preparations(place, folder, number, total):
    """One waits for the other; both go on with the same manifests."""
    manifests = folder / "manifests"
    both = [
        place.server.start(
            *runs.pretraining(place, folder / name, manifest_folder=manifests)
        )
        for name in ("one", "two")
    ]
    for name, run in zip(("one", "two"), both, strict=True):
        assert run.wait() == 0, run.output()
        runs.assert_same_training(folder / name, runs.reference(place))


@fault("a data worker that is killed", times=4, quick=1)
def dead_worker(place, folder, number, total):
    """New ones take over; no step is lost."""
    command = runs.pretraining(
        place, folder, n_workers=2, n_steps=40, valid_interval=20
    )
    plain = place.once("forty_steps", lambda folder: folder)
    if not (plain / "encoder").exists():
        expected = runs.pretraining(place, plain, n_steps=40, valid_interval=20)
        runs.finish(place, *expected)
    run = place.server.start(*command)
    killed = 0
    for step in (3, 22):
        if wait_for_step(folder, step, run.pid):
            for pid in children(run.pid)[:1]:
                os.kill(pid, signal.SIGKILL)
                killed += 1
    assert run.wait() == 0, run.output()
    assert killed, "no worker was found"
    assert "New processes take over" in run.output(), run.output()
    runs.assert_same_training(folder, plain)


def two_ranks(place, folder):
    """Start a run of two ranks."""
    runs.reference(place)  # prepares the manifests
    return pretrain_runs.start(
        folder,
        n_ranks=2,
        data_folder=runs.songs(place),
        manifest_folder=place.root / "manifests",
        local_batch=2,
        n_steps=60,
        valid_interval=60,
        ckpt_interval_steps=5,
    )


def disturbed(place, folder, disturb):
    """Two ranks that something happens to; seconds from then, and output."""
    process = two_ranks(place, folder)
    if not wait_for_step(folder, 3, process.pid):
        raise AssertionError(process.communicate()[0])
    disturb(process.pid)
    since = time.monotonic()
    output, _ = process.communicate(timeout=90)
    assert process.returncode != 0
    return time.monotonic() - since, output


def continues(place, folder):
    """The same command goes on; the end is that of an undisturbed run."""

    def finish(folder):
        process = two_ranks(place, folder)
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output
        return folder

    expected = place.once("two_ranks", finish)
    finish(folder)
    runs.assert_same_training(folder, expected)


@fault("a rank that dies", times=4, quick=1)
def dead_rank(place, folder, number, total):
    """The others stop within a minute, with a sentence."""

    def kill(pid):
        ranks = [
            pid
            for pid in children(pid)
            if "train.py" in Path(f"/proc/{pid}/cmdline").read_text()
        ]
        os.kill(sorted(ranks)[(number + 1) % 2], signal.SIGKILL)

    seconds, output = disturbed(place, folder, kill)
    assert seconds < 60
    assert "has died: see its last message" in output, output
    if total > 1:
        continues(place, folder)


@fault("SIGTERM to two ranks, and SIGKILL of all", times=4, quick=0)
def ranks_end(place, folder, number, total):
    """A scheduler's notice, to all or to torchrun alone; a node that goes."""
    how = ("all", "torchrun", "node")[number % 3]
    seconds, output = disturbed(
        place,
        folder,
        {
            "all": lambda pid: os.killpg(pid, signal.SIGTERM),
            "torchrun": lambda pid: os.kill(pid, signal.SIGTERM),
            "node": lambda pid: os.killpg(pid, signal.SIGKILL),
        }[how],
    )
    assert seconds < 30, "no end within 30 s"
    if how != "node":
        assert "which is saved" in output, output
    continues(place, folder)


def wait_for_step(folder, step, pid):
    """Wait until a step is logged; False when the process has ended."""
    log = folder / "train_log.jsonl"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if log.exists():
            lines = log.read_text().splitlines()[:-1]
            if any(json.loads(line)["step"] >= step for line in lines):
                return True
        if ") Z " in Path(f"/proc/{pid}/stat").read_text():
            return False
        time.sleep(0.02)
    raise AssertionError("no step was logged")


def children(pid):
    """Processes that a process has started."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()]


@fault("processes that outlive a killed run", times=4, quick=1)
def orphans(place, folder, number, total):
    """Of a pre-training with workers, and of a preparation."""
    if number % 2:
        command = runs.pretraining(place, folder, n_workers=2)
        runs.reference(place)
    else:
        songs = ["--data_folder", runs.songs(place), "--workers", "2"]
        command = runs.PREPARE, [*songs, "--manifest_folder", folder]
    run = place.server.start(*command)
    deadline = time.monotonic() + 120
    while len(group_of(run.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(group_of(run.pid)) > 1, run.output()
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    deadline = time.monotonic() + 20
    while group_of(run.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not group_of(run.pid)


def group_of(pid):
    """Processes of a session that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(") ")[2].split()
        except OSError:
            continue  # ended in between
        if fields[3] == str(pid) and fields[0] != "Z":
            found.append(path.parent.name)
    return found


@fault("a process that is killed while it prepares or extracts", 4, quick=0)
def dead_helper(place, folder, number, total):
    """Its file is tried again, or listed; the next call has them all."""
    songs = runs.songs(place)
    if number % 2:
        words = ["--pretrained", "mel", "--workers", "2"]
        line = [str(songs), str(folder), *words]
        command = "muselq_modules.extract:main", [line]
    else:
        words = ["--data_folder", songs, "--workers", "2"]
        command = runs.PREPARE, [*words, "--manifest_folder", folder]
    run = place.server.start(*command)
    deadline = time.monotonic() + 120
    while len(group_of(run.pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    victims = sorted(set(map(int, group_of(run.pid))) - {run.pid})
    assert victims, run.output()
    os.kill(victims[-1], signal.SIGKILL)
    code = run.wait()
    assert code in (0, 1), run.output()
    assert "Traceback" not in run.output(), run.output()
    output = runs.finish(place, *command)
    if number % 2:
        assert len(list(folder.rglob("*.npy"))) == 10, output
    else:
        assert not (folder / "skipped.tsv").read_text().count("\n") > 1
