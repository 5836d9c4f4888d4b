"""Full and read-only disks, damaged files, dead ranks and workers, clocks."""

import errno
import json
import os
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pretrain_runs

from chaos import kills, runs
from chaos.registry import fault, is_root

DAY_S = 86400.0


@contextmanager
def small_disk(folder, size):
    """A file system of its own in a folder; only root can mount it."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs"]
    subprocess.run([*mount, str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@fault("error of the disk at a file operation", times=40, quick=2)
def disk_error(place, folder, number, total):
    """Full, read-only or broken from some operation on: one sentence."""
    expected = runs.reference(place)

    def command(folder):
        return runs.pretraining(place, folder)

    n = kills.operations_of(place, "pretraining", command)
    at = 1 + (2 * number + 1) * n // (2 * total) % n
    action = ("ENOSPC", "EROFS", "EIO", "EDQUOT")[number % 4]
    injection = {"folder": str(folder), "at": at, "action": action}
    code, output = place.server.run(*command(folder), fault=injection)
    told = os.strerror(getattr(errno, action)) in output
    assert told, f"operation {at} of {n}, {action}: {output}"
    runs.assert_one_sentence(code, output)
    runs.assert_whole(folder)
    runs.finish(place, *command(folder))
    runs.assert_same_training(folder, expected)


@fault("disk full during pre-training", times=12, quick=0)
def disk_full(place, folder, number, total):
    """A real one: what is written does not fit any more."""
    expected = runs.reference(place)
    if not is_root():
        return disk_error(place, folder, 4 * number, 4 * total)
    command = runs.pretraining(place, folder / "run")
    needed_kb = sum(path.stat().st_blocks / 2 for path in expected.rglob("*"))
    size_kb = max(64, round(needed_kb * (number + 1) / (total + 2)))
    kept = place.root / f"{folder.name}_kept"
    with small_disk(folder, f"{size_kb}k"):
        code, output = place.server.run(*command)
        if code == 0:
            return None  # it fitted: deleted checkpoints make room
        runs.assert_one_sentence(code, output)
        runs.assert_whole(folder)
        subprocess.run(["cp", "-r", str(folder), str(kept)], check=True)
    # Room has been made: the same folder, on another disk.
    script, arguments = runs.pretraining(place, kept / "run")
    runs.finish(place, script, arguments)
    runs.assert_same_training(kept / "run", expected)
    return None


@fault("read-only output folder", times=2, quick=1)
def read_only(place, folder, number, total):
    """Refused before any work."""
    runs.reference(place)
    command = runs.pretraining(place, folder / "run")
    if is_root():
        with small_disk(folder, "64k,ro"):
            code, output = place.server.run(*command)
    else:
        folder.chmod(0o555)
        code, output = place.server.run(*command)
        folder.chmod(0o755)
    runs.assert_one_sentence(code, output)
    assert str(folder) in output, output


def damage(path, how, random):
    """Cut a file, or flip a bit of it."""
    data = bytearray(path.read_bytes())
    if how == "cut":
        data = data[: random.randrange(len(data))]
    else:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    path.write_bytes(data)


@fault("file of the newest checkpoint cut or with a flipped bit", 30, quick=2)
def damaged_checkpoint(place, folder, number, total):
    """The one before takes its place."""
    command = runs.pretraining(place, folder)
    run = place.server.start(*command)
    run.wait(after_s=kills.seconds_of(place) * place.random.uniform(0.5, 1))
    found = sorted((folder / "save").glob("CKPT+*"))
    if len(found) > 1:
        files = sorted(p for p in found[-1].iterdir() if p.stat().st_size)
        path = files[number % len(files)]
        damage(path, ("cut", "flip")[number // len(files) % 2], place.random)
    output = runs.finish(place, *command)
    assert len(found) < 2 or found[-1].name in output or run.code == 0, output
    runs.assert_same_training(folder, runs.reference(place))


@fault("cache of manifests or statistics cut or with a flipped bit", 30, 2)
def damaged_cache(place, folder, number, total):
    """What is damaged is made again; what follows is the same."""
    expected = runs.reference(place)
    manifests = folder / "manifests"
    command = runs.pretraining(
        place, folder / "run", manifest_folder=manifests, n_steps=8
    )
    runs.finish(place, *command)
    victims = [
        *manifests.glob(".segments/*/*"),
        manifests / "scan.jsonl",
        manifests / "summary.json",
        folder / "run" / "statistics.safetensors",
        folder / "run" / "targets.json",
    ]
    victim = victims[number % len(victims)]
    damage(victim, ("cut", "flip")[number // len(victims) % 2], place.random)
    subprocess.run(["rm", "-r", str(folder / "run" / "save")], check=True)
    code, output = place.server.run(*command)
    assert "Traceback" not in output, f"{victim}: {output}"
    if code == 0:
        runs.assert_same_training(folder / "run", expected)
    else:
        runs.assert_one_sentence(code, output)
        assert victim.name == "summary.json", f"{victim}: {output}"


@fault("embedding cut or with a flipped bit", times=30, quick=1)
def damaged_embeddings(place, folder, number, total):
    """Embedded again; the result is the same."""
    command = kills.probing(place, folder)
    runs.finish(place, *command)
    expected = kills.result_of(folder)
    (cache,) = (folder / "embeddings").glob("[!.]*")
    files = sorted(cache.iterdir())
    victim = files[number % len(files)]
    damage(victim, ("cut", "flip")[number // len(files) % 2], place.random)
    subprocess.run(["rm", "-r", str(next(folder.glob("*/mel")))], check=True)
    runs.finish(place, *command)
    assert kills.result_of(folder) == expected, victim


@fault("clock that goes back", times=4, quick=1)
def clock(place, folder, number, total):
    """A day back at each start: the order is that of the steps."""
    command = runs.pretraining(place, folder)
    for start in range(3):
        run = place.server.start(*command, clock_s=-DAY_S * start)
        run.wait(after_s=kills.seconds_of(place) * 0.6)
    runs.finish(place, *command, clock_s=-3 * DAY_S)
    runs.assert_same_training(folder, runs.reference(place))


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


@fault("a data worker that is killed", times=6, quick=1)
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


@fault("a rank that dies", times=6, quick=1)
def dead_rank(place, folder, number, total):
    """The others stop within a minute, with a sentence."""
    options = {
        "data_folder": runs.songs(place),
        "manifest_folder": place.root / "manifests",
        "local_batch": 2,
        "n_steps": 2000,
        "valid_interval": 2000,
    }
    runs.reference(place)
    process = pretrain_runs.start(folder, n_ranks=2, **options)
    if not wait_for_step(folder, 3, process.pid):
        raise AssertionError(process.communicate()[0])
    ranks = [
        pid
        for pid in children(process.pid)
        if "train.py" in Path(f"/proc/{pid}/cmdline").read_text()
    ]
    os.kill(sorted(ranks)[(number + 1) % 2], signal.SIGKILL)
    died = time.monotonic()
    output, _ = process.communicate(timeout=90)
    assert time.monotonic() - died < 60
    assert process.returncode != 0
    assert "has died: see its last message" in output, output


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
