"""Prepare scripts for pre-training, on small folders in official layouts."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from muselq_modules.errors import UserError
from muselq_modules.preparation import read_csv, stable_fraction
from muselq_modules.song_manifests import choose_valid

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "recipes" / "pretrain"), str(Path(__file__).parent)]
from fma_prepare import prepare_fma, read_splits  # noqa: E402
from folder_prepare import prepare_folder  # noqa: E402
from music4all_prepare import prepare_music4all  # noqa: E402
from test_audio_data import make_noise  # noqa: E402


def write_song(path, seconds=20.0, rate=8000):
    """Write noise in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, make_noise(seconds, rate), rate)


def paths_of(folder, split):
    """Return the paths of a manifest."""
    return [row["path"] for row in read_csv(folder / f"{split}.csv")]


@pytest.fixture
def songs(tmp_path):
    """Return a folder of seven songs of 15 to 75 s, and some waste."""
    folder = tmp_path / "music"
    for i, seconds in enumerate([15, 44, 45, 60, 75, 30, 16]):
        write_song(folder / f"album {i % 2}" / f"{i}.flac", seconds)
    write_song(folder / "jingle.wav", 5)
    (folder / "broken.mp3").write_text("this is no music")
    (folder / "cover.jpg").touch()
    return folder


def test_folder(tmp_path, songs, capsys):
    out = tmp_path / "manifests"
    record = prepare_folder(songs, out, valid_fraction=0.3, workers=2)
    train, valid = paths_of(out, "train"), paths_of(out, "valid")
    assert len(train) + len(valid) == 7 and not set(train) & set(valid)
    rows = read_csv(out / "train.csv") + read_csv(out / "valid.csv")
    assert list(rows[0]) == ["path", "frames", "sample_rate", "channels"]
    assert sum(int(row["frames"]) for row in rows) == 285 * 8000
    assert sum(record["segments"].values()) == 1 + 1 + 2 + 2 + 3 + 1 + 1
    assert sum(record["files"].values()) == 7
    assert record["skipped"] == {"unreadable": 1, "too short": 1}
    assert record["audio_root"] == str(songs.resolve())
    assert json.loads((out / "summary.json").read_text()) == record
    assert {row["path"] for row in read_skipped(out)} == {
        "jingle.wav",
        "broken.mp3",
    }
    assert "7 files, 0.1 hours ready; 2 skipped" in capsys.readouterr().out


def read_skipped(folder):
    """Return the rows of skipped.tsv."""
    with (folder / "skipped.tsv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_folder_is_prepared_once(tmp_path, songs):
    out = tmp_path / "manifests"
    first = prepare_folder(songs, out, workers=1)
    write_song(songs / "added.wav")
    before = (out / "summary.json").stat().st_mtime_ns
    assert prepare_folder(songs, out, workers=2) == first
    assert (out / "summary.json").stat().st_mtime_ns == before
    # Another option, or the wish to look again, makes new manifests.
    again = prepare_folder(songs, out, workers=1, refresh=True)
    assert sum(again["files"].values()) == 8
    assert again["digest"] != first["digest"]
    fewer = prepare_folder(songs, out, workers=1, min_tail_s=20.0)
    assert sum(fewer["files"].values()) == 6


def test_songs_keep_their_split_when_others_are_added(tmp_path, songs):
    out = tmp_path / "manifests"
    prepare_folder(songs, out, valid_fraction=0.4, workers=1)
    before = {split: set(paths_of(out, split)) for split in ("train", "valid")}
    for i in range(8):
        write_song(songs / f"new {i}.wav")
    prepare_folder(songs, out, valid_fraction=0.4, workers=1, refresh=True)
    for split, paths in before.items():
        assert paths <= set(paths_of(out, split))


def test_changed_manifest_is_refused(tmp_path, songs):
    out = tmp_path / "manifests"
    prepare_folder(songs, out, workers=1)
    with (out / "train.csv").open("a") as file:
        file.write("extra.wav,1,1,1\n")
    with pytest.raises(UserError, match="changed by hand"):
        prepare_folder(songs, out, workers=1)


def test_digest_does_not_depend_on_the_place(tmp_path, songs):
    first = prepare_folder(songs, tmp_path / "a", workers=1)
    moved = songs.rename(tmp_path / "elsewhere")
    second = prepare_folder(moved, tmp_path / "b", workers=2)
    assert first["digest"] == second["digest"]


def test_transcoding_to_another_folder(tmp_path, songs):
    out, flac = tmp_path / "manifests", tmp_path / "flac"
    record = prepare_folder(songs, out, workers=2, transcode_folder=flac)
    plain = prepare_folder(songs, tmp_path / "plain", workers=2)
    assert record["audio_root"] == str(flac.resolve())
    assert record["segments"] == plain["segments"]
    for split in ("train", "valid"):
        assert paths_of(out, split) == [
            f"{path}.flac" for path in paths_of(tmp_path / "plain", split)
        ]
        for row in read_csv(out / f"{split}.csv"):
            info = soundfile.info(flac / row["path"])
            assert info.frames == int(row["frames"])
            assert info.samplerate == int(row["sample_rate"]) == 24000
    with pytest.raises(UserError, match="inside the data folder"):
        prepare_folder(songs, out, transcode_folder=songs / "flac")


def test_folder_mistakes(tmp_path):
    out, music = tmp_path / "out", tmp_path / "music"
    with pytest.raises(UserError, match="no folder"):
        prepare_folder(music, out)
    music.mkdir()
    with pytest.raises(UserError, match="empty"):
        prepare_folder(music, out)
    (music / "notes.txt").touch()
    with pytest.raises(UserError, match="no audio file"):
        prepare_folder(music, out)
    (music / "a.mp3").touch()
    with pytest.raises(UserError, match="none of the 1 audio files"):
        prepare_folder(music, out, workers=1)
    assert "empty: 0 bytes" in (out / "skipped.tsv").read_text()
    write_song(music / "b.wav")
    with pytest.raises(UserError, match="one song each"):
        prepare_folder(music, out, workers=1)
    assert not (out / "summary.json").exists()
    for option, value in [
        ("segment_s", 0.0),
        ("min_tail_s", 31.0),
        ("valid_fraction", 1.0),
    ]:
        with pytest.raises(UserError, match=option):
            prepare_folder(music, out, **{option: value})


def test_choose_valid():
    groups = {f"{i}.mp3": f"{i}.mp3" for i in range(3000)}
    chosen = choose_valid(groups, 0.02)
    assert 40 < len(chosen) < 80
    assert all(stable_fraction(path) < 0.02 for path in chosen)
    few = {"a": "a", "b": "b", "c": "c"}
    assert choose_valid(few, 1e-9) == {min(few, key=stable_fraction)}
    assert len(choose_valid(few, 1 - 1e-9)) == 2
    with pytest.raises(UserError, match="one song each"):
        choose_valid({"a": "x", "b": "x"}, 0.5)


def write_fma(folder, splits):
    """Write FMA-large's layout with clips of the given ids and splits."""
    metadata = folder / "fma_metadata"
    metadata.mkdir(parents=True)
    with (metadata / "tracks.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["", "album", "artist", "set", "set", "track"])
        table.writerow(["", "title", "bio", "split", "subset", "title"])
        table.writerow(["track_id", "", "", "", "", ""])
        for track, split in splits.items():
            bio = "a very\nlong, 'story' " * 10000
            table.writerow([track, "t", bio, split, "large", "x"])
            name = f"{track:06}"
            write_song(folder / "fma_large" / name[:3] / f"{name}.mp3")
    (folder / "fma_large" / "README.txt").touch()


def test_fma(tmp_path):
    data, out = tmp_path / "fma", tmp_path / "out"
    splits = {
        2: "training",
        5: "test",
        10: "validation",
        1486: "training",  # broken at the source
        133298: "training",
    }
    write_fma(data, splits)
    assert read_splits(data / "fma_metadata" / "tracks.csv") == splits
    write_song(data / "fma_large" / "155" / "155999.mp3")
    record = prepare_fma(data, out, workers=1)
    assert paths_of(out, "train") == [
        "fma_large/000/000002.mp3",
        "fma_large/000/000005.mp3",
        "fma_large/133/133298.mp3",
    ]
    assert paths_of(out, "valid") == ["fma_large/000/000010.mp3"]
    assert record["skipped"] == {"known fault": 1, "unknown": 1}
    everything = prepare_fma(
        data, out, use_all=True, valid_fraction=0.5, workers=1
    )
    assert sum(everything["files"].values()) == 4
    (data / "fma_metadata" / "tracks.csv").write_text("track,split\n1,x\n")
    with pytest.raises(UserError, match="no column 'split'"):
        prepare_fma(data, out, workers=1)


def test_fma_layout_is_explained(tmp_path):
    (tmp_path / "fma_small").mkdir()
    with pytest.raises(UserError, match="fma_large/000/000002.mp3"):
        prepare_fma(tmp_path, tmp_path / "out")


def write_music4all(folder, artists):
    """Write Music4All's layout with the given artist of each id."""
    lines = ["id\tartist\tsong\talbum_name\n"]
    for clip, artist in artists.items():
        lines.append(f"{clip}\t{artist}\tThe \"quoted\tIt's\n")
        write_song(folder / "audios" / f"{clip}.mp3")
    text = "".join(lines)
    (folder / "id_information.csv").write_text(text, encoding="utf-8")


def test_music4all_keeps_artists_apart(tmp_path):
    data, out = tmp_path / "music4all", tmp_path / "out"
    artists = {
        f"{i:016}": f"{'Ä' if i % 2 else 'ä'}rtist {i // 3}" for i in range(12)
    }
    write_music4all(data, artists)
    write_song(data / "audios" / "unknown000000000.mp3")
    record = prepare_music4all(data, out, workers=2, valid_fraction=0.3)
    assert record["skipped"] == {"unknown": 1}
    assert sum(record["files"].values()) == 12
    sides = {
        split: {
            artists[Path(path).stem].casefold() for path in paths_of(out, split)
        }
        for split in ("train", "valid")
    }
    assert sides["train"] and sides["valid"]
    assert not sides["train"] & sides["valid"]
    (data / "id_information.csv").write_text("id,artist\n")
    with pytest.raises(UserError, match="tab-separated"):
        prepare_music4all(data, out, workers=1, refresh=True)


PREPARE = {
    "folder": prepare_folder,
    "fma": prepare_fma,
    "music4all": prepare_music4all,
}


@pytest.mark.parametrize("name", PREPARE)
def test_command_lines(tmp_path, monkeypatch, capsys, name):
    data, out = tmp_path / "data", tmp_path / "out"
    if name == "fma":
        write_fma(data, {2: "training", 10: "validation"})
    elif name == "music4all":
        write_music4all(data, {"0" * 16: "one", "1" * 16: "two"})
    else:
        write_song(data / "a.wav")
        write_song(data / "b.wav")
    folders = [f"--data_folder={data}", f"--manifest_folder={out}"]
    monkeypatch.setattr(sys, "argv", ["prepare", *folders, "--workers=1"])
    sys.modules[f"{name}_prepare"].main()
    assert "2 files" in capsys.readouterr().out
    # The function finds what the command line made.
    before = (out / "summary.json").stat().st_mtime_ns
    assert sum(PREPARE[name](data, out)["files"].values()) == 2
    assert (out / "summary.json").stat().st_mtime_ns == before


def test_script(tmp_path):
    """As a program, whose processes import the main script again."""
    for name in ("a.wav", "b.wav"):
        write_song(tmp_path / "data" / name)
    command = [
        sys.executable,
        "recipes/pretrain/folder_prepare.py",
        f"--data_folder={tmp_path / 'data'}",
        f"--manifest_folder={tmp_path / 'out'}",
    ]
    run = {"cwd": ROOT, "text": True, "capture_output": True}
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, **run)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert record["options"]["collection"] == "folder"
    command[2] = f"--data_folder={tmp_path / 'none'}"
    failed = subprocess.run(command, env=environment, **run)
    assert failed.returncode == 2
    assert failed.stderr.startswith("Error: ")
    assert failed.stderr.count("\n") == 1
