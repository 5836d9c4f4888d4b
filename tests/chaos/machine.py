"""Full and read-only disks, damaged files, dead ranks and workers, clocks."""

import errno
import os
import shutil
import subprocess
from contextlib import contextmanager, nullcontext

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


@fault("error of the disk at a file operation", times=24, quick=2)
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


@fault("disk full during pre-training", times=8, quick=0)
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


@fault("file of the newest checkpoint cut or with a flipped bit", 20, quick=2)
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


@fault("cache of manifests or statistics cut or with a flipped bit", 20, 2)
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


@fault("read-only data folder", times=1, quick=0)
def read_only_data(place, folder, number, total):
    """Nothing is written there: the training is the same."""
    expected = runs.reference(place)
    music = folder / "music"
    music.mkdir()
    if not is_root():
        shutil.copytree(runs.songs(place), music, dirs_exist_ok=True)
        music.chmod(0o555)
    with small_disk(music, "64m") if is_root() else nullcontext():
        if is_root():
            shutil.copytree(runs.songs(place), music, dirs_exist_ok=True)
            remount = ["mount", "-o", "remount,ro", str(music)]
            subprocess.run(remount, check=True)
        command = runs.pretraining(
            place,
            folder / "run",
            data_folder=music,
            manifest_folder=folder / "manifests",
        )
        runs.finish(place, *command)
    runs.assert_same_training(folder / "run", expected)
    music.chmod(0o755)


@fault("clock that goes back", times=4, quick=1)
def clock(place, folder, number, total):
    """A day back at each start, and at every look at it in the last run."""
    command = runs.pretraining(place, folder)
    for start in range(3):
        run = place.server.start(*command, clock_s=-DAY_S * start)
        run.wait(after_s=kills.seconds_of(place) * 0.6)
    runs.finish(place, *command, clock_s=-3 * DAY_S, backwards=True)
    runs.assert_same_training(folder, runs.reference(place))
