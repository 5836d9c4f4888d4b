"""Shards of a killed job, of two jobs, damaged, and of somebody else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import test_shards
from test_hostile_caches import Trap, flip
from test_shards import SMALL_GB, contents

from muselq_modules.errors import UserError
from muselq_modules.shard_sets import verify_all, write_all
from muselq_modules.shards import prepare_shards

ROOT = Path(__file__).parents[1]
songs, shards = test_shards.songs, test_shards.shards
in_process = test_shards.in_process


def test_a_job_killed_at_its_very_start_goes_on(
    songs, shards, tmp_path, in_process
):
    folder = tmp_path / "shards"
    (folder / ".parts").mkdir(parents=True)
    (folder / ".lock").touch()
    write_all(songs / "flac_manifest", folder, SMALL_GB)
    written, wanted = contents(folder), contents(shards)
    assert written.keys() - {".lock"} == wanted.keys() - {".lock"}


def test_a_damaged_note_is_not_believed(songs, shards, tmp_path, in_process):
    folder = tmp_path / "shards"
    parts = folder / ".parts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("muselq_modules.shard_sets._write_tables", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_all(songs / "flac_manifest", folder, SMALL_GB)
    (note, *_) = sorted(parts.glob("train-*.json"))
    flip(note)
    in_process.clear()
    write_all(songs / "flac_manifest", folder, SMALL_GB)
    assert f"{in_process[0]}.json" == note.name
    for name, data in contents(shards).items():
        assert (folder / name).read_bytes() == data
    shutil.rmtree(folder)
    parts.mkdir(parents=True)
    (parts / "options.json").write_text("{damaged")
    with pytest.raises(UserError, match="give another folder, or delete it"):
        write_all(songs / "flac_manifest", folder, SMALL_GB)


def interrupt(*arguments):
    raise KeyboardInterrupt


HOLD = """
import sys
from muselq_modules.locks import lock_folder
lock_folder(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_two_jobs_do_not_write_the_same_shards(songs, tmp_path, in_process):
    folder = tmp_path / "shards"
    folder.mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="Another run is writing"):
            write_all(songs / "flac_manifest", folder, SMALL_GB)
        holder.stdin.close()
    assert not in_process


def change(key, value):
    def edit(index):
        index["splits"]["train"]["shards"][0][key] = value

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        change("name", "/etc/passwd"),
        change("name", "../train-000000.tar"),
        change("bytes", "x"),
        change("sha256", None),
        lambda index: index.pop("splits"),
        lambda index: index.pop("sample_rate"),
        lambda index: index["splits"].update(train=[]),
        lambda index: index["splits"]["valid"].pop("places"),
    ],
)
def test_an_index_from_elsewhere(shards, tmp_path, edit):
    folder = shutil.copytree(shards, tmp_path / "shards")
    index = json.loads((folder / "index.json").read_text())
    edit(index)
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="index.json is damaged"):
        prepare_shards(folder, tmp_path / "manifest")


def test_damaged_tables_of_shards(shards, tmp_path):
    for name in ("train.places.npy", "valid.csv"):
        folder = shutil.copytree(shards, tmp_path / name)
        flip(folder / name)
        assert verify_all(folder, workers=1) == [name]
        with pytest.raises(UserError, match=f"{name} is absent or damaged"):
            prepare_shards(folder, tmp_path / "manifest")
        (folder / name).unlink()
        with pytest.raises(UserError, match=f"{name} is absent or damaged"):
            prepare_shards(folder, tmp_path / "manifest")
        (folder / "index.json").write_text("[1")
        with pytest.raises(UserError, match="index.json is damaged"):
            prepare_shards(folder, tmp_path / "manifest")


def test_pickles_among_shards_never_run(shards, tmp_path):
    folder = shutil.copytree(shards, tmp_path / "shards")
    array = np.array([Trap(tmp_path / "trap")], object)
    np.save(folder / "train.places.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match="absent or damaged"):
        prepare_shards(folder, tmp_path / "manifest")
    assert not (tmp_path / "trap").exists()
