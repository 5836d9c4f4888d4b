"""SIGKILL, at any moment and at every file operation; SIGTERM."""

import json
import os
import signal
import time
from pathlib import Path

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


@fault("SIGKILL at a file operation of pre-training", times=50, quick=2)
def operation_kill(place, folder, number, total):
    """Killed just before a file is opened, renamed or removed."""
    expected = runs.reference(place)

    def command(folder):
        return runs.pretraining(place, folder)

    kill_at(place, "pretraining", command, folder, number, total)
    runs.assert_same_training(folder, expected)


@fault("SIGKILL with a file half written (checkpoints)", times=30, quick=2)
def torn_kill(place, folder, number, total):
    """Killed with the file that was just opened or saved cut in half."""
    expected = runs.reference(place)

    def command(folder):
        return runs.pretraining(place, folder)

    kill_at(place, "pretraining", command, folder, number, total, "tear")
    runs.assert_same_training(folder, expected)


@fault("SIGTERM at a random moment of pre-training", times=20, quick=1)
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


@fault("SIGKILL while data is prepared", times=20, quick=1)
def prepare_kill(place, folder, number, total):
    """The scan continues, the manifests are the same."""

    def command(folder):
        arguments = ["--data_folder", runs.songs(place), "--min_tail_s", "5"]
        target = ["--manifest_folder", folder, "--workers", "1"]
        flac = ["--transcode_folder", folder / "flac"]
        return runs.PREPARE, [*arguments, *target, *flac]

    kill_at(place, "prepare", command, folder, number, total)
    counted = place.root / "counted_prepare" / "run"
    for name in ("train.csv", "valid.csv", "skipped.tsv"):
        expected = (counted / name).read_bytes()
        assert (folder / name).read_bytes() == expected, name
    assert not list((folder / "flac").rglob(".*")), "a partial file is left"


@fault("SIGKILL while shards are written", times=20, quick=1)
def shard_kill(place, folder, number, total):
    """Every shard has the bytes of an undisturbed run."""
    runs.reference(place)

    def command(folder):
        target = ["--shard_folder", folder, "--shard_gb", "0.002"]
        manifests = ["--manifest_folder", place.root / "manifests"]
        return runs.SHARD, [*manifests, *target, "--workers", "1"]

    kill_at(place, "shards", command, folder, number, total)
    assert _contents(folder) == _contents(place.root / "counted_shards/run")


def probing(place, folder):
    """Script and command line of a small probe on tones."""
    tones = place.once("tones", lambda folder: folder / "data")
    yaml = runs.TEMPLATE / "hparams" / "timbre.yaml"
    probe = "{seeds: 2, epochs: 3, workers: 0, learning_rates: [0.01]}"
    return runs.TEMPLATE / "train.py", [
        *(yaml, "--data_folder", tones, "--pretrained", "mel"),
        *("--output_folder", folder, "--probe", probe),
    ]


def result_of(folder):
    """What a probe has found, without the time it took."""
    (path,) = Path(folder).glob("*/*/results.json")
    result = json.loads(path.read_text("utf-8"))
    return {key: value for key, value in result.items() if key != "seconds"}


@fault("SIGKILL while embedding and probing", times=30, quick=2)
def probe_kill(place, folder, number, total):
    """The result is that of an undisturbed run."""

    def command(folder):
        return probing(place, folder)

    kill_at(place, "probe", command, folder, number, total)
    assert result_of(folder) == result_of(place.root / "counted_probe" / "run")
    runs.assert_whole(folder)


def _contents(folder):
    return {
        path.name: path.read_bytes()
        for path in Path(folder).iterdir()
        if path.is_file() and not path.name.startswith(".")
    }


@fault("SIGKILL while features are extracted", times=20, quick=1)
def extract_kill(place, folder, number, total):
    """Every file of features is that of an undisturbed run."""

    def command(folder):
        return "muselq_modules.extract:main", [
            [*map(str, (runs.songs(place), folder))]
            + ["--pretrained", "mel", "--workers", "0"]
        ]

    kill_at(place, "extract", command, folder, number, total)
    expected = place.root / "counted_extract" / "run"
    names = {p.relative_to(expected) for p in expected.rglob("*.npy")}
    assert len(names) == 10
    assert {p.relative_to(folder) for p in folder.rglob("*.npy")} == names
    for name in names:
        assert (folder / name).read_bytes() == (expected / name).read_bytes()


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
