"""Awkward, missing and replaced files, names, and hand-made manifests."""

import functools
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import soundfile
from test_hostile_audio import HOSTILE

from chaos import runs
from chaos.registry import fault

ODD_FILES = runs.ROOT.parent / "shared" / "music" / "odd_files"
NAMES = (
    "with space",
    "ünïcode 空白",
    "A$AP 'Rocky' \"live\", {take} %s #1",
    "line\nbreak\ttab",
    "$(touch was_run) ; `touch was_run`",
    "--manifest_folder",
    "-",
    "%(asctime)s %n !apply:os.getcwd",
)
EDITS = {
    "column gone": lambda text: text.replace(",frames", ""),
    "half a line": lambda text: text[:-20],
    "other rate": lambda text: text.replace("24000", "0"),
    "outside": lambda text: text + "../../etc/passwd,480000,24000,1\n",
    "absolute": lambda text: text + "/etc/passwd,480000,24000,1\n",
    "empty": lambda text: "",
    "text": lambda text: "no table at all",
    "quotes": lambda text: text + '"open,480000,24000,1\n',
    "nul": lambda text: text + "a\0b.ogg,480000,24000,1\n",
    "huge": lambda text: text + f"a.ogg,{10**25},24000,1\n",
}


def prepare(place, music, manifests, *options):
    """Exit code and output of the prepare script."""
    arguments = ["--data_folder", music, "--manifest_folder", manifests]
    lengths = ["--segment_s", 2.0, "--min_tail_s", 1.0]
    shares = ["--valid_fraction", 0.3, "--workers", 1]
    return place.server.run(
        runs.PREPARE, [*arguments, *lengths, *shares, *options]
    )


def train(place, folder, music, manifests, **options):
    """Exit code and output of a pre-training on prepared music."""
    command = runs.pretraining(
        place,
        folder,
        data_folder=music,
        manifest_folder=manifests,
        valid_fraction=0.3,
        **options,
    )
    return place.server.run(*command)


def copy_songs(place, folder):
    """A folder of songs that may be spoilt."""
    shutil.copytree(runs.songs(place), folder)
    return sorted(folder.iterdir())


def write_awkward(folder, song):
    """Files as collections hold them; returns those that nobody can use."""
    data, (wav, rate) = song.read_bytes(), soundfile.read(song)
    noise = np.random.default_rng(0).normal(size=(96000, 6)) * 0.1
    write = functools.partial(soundfile.write, samplerate=24000)
    write(folder / "SIX CHANNELS.WAV", noise)
    write(folder / "double.wav", 40 * noise, subtype="DOUBLE")
    write(folder / "law.wav", noise, samplerate=8000, subtype="ULAW")
    write(folder / "big endian.aiff", noise, endian="BIG")
    write(folder / "offset.flac", noise[:, 0] + 0.6, subtype="PCM_24")
    (folder / "._double.wav").write_bytes(b"\0\5\x16\7" * 100)
    (folder / "zero.mp3").touch()
    (folder / "text.mp3").write_text("no music")
    (folder / "song.wav").write_bytes(data[1000:])
    (folder / "cut.ogg").write_bytes(data[: len(data) // 2])
    write(folder / "silent.wav", 0 * noise)
    write(folder / "short.wav", noise[:4800])
    write(folder / "empty.wav", noise[:0])
    noise[50000] = np.nan
    write(folder / "nan.wav", noise, subtype="FLOAT")
    write(folder / "cut.flac", wav, samplerate=rate)
    os.truncate(folder / "cut.flac", (folder / "cut.flac").stat().st_size // 2)
    useless = "zero.mp3 text.mp3 song.wav cut.ogg silent.wav short.wav"
    return [*useless.split(), "empty.wav", "nan.wav", "cut.flac"]


@fault("awkward and hostile audio files among the songs", times=1, quick=1)
def odd_files(place, folder, number, total):
    """Each is used or listed with its reason; training goes on."""
    music, manifests = folder / "music", folder / "manifests"
    useless = write_awkward(music, copy_songs(place, music)[0])
    for name, (write, options, _) in HOSTILE.items():
        write(music / name, **options)
    if ODD_FILES.is_dir():
        for path in ODD_FILES.iterdir():
            shutil.copy(path, music)
    os.mkfifo(music / "pipe.wav")
    (music / "loop").symlink_to(music)
    (music / "nowhere.wav").symlink_to(music / "absent.wav")
    (music / "zeros.wav").symlink_to("/dev/zero")
    code, output = prepare(place, music, manifests)
    assert code == 0, output
    skipped = (manifests / "skipped.tsv").read_text("utf-8")
    useless += ["pipe.wav", "nowhere.wav", "zeros.wav", "many.wav"]
    for name in [*useless, "._double.wav"]:
        assert f"\n{name}\t" in skipped, f"{name}: {skipped}"
    code, output = train(place, folder / "run", music, manifests)
    assert code == 0, output


@fault("files deleted or replaced after they were prepared", 4, quick=1)
def replaced_files(place, folder, number, total):
    """Left out and counted, up to a limit."""
    music, manifests = folder / "music", folder / "manifests"
    paths = copy_songs(place, music)
    assert prepare(place, music, manifests)[0] == 0
    spoil = (
        Path.unlink,
        lambda path: path.write_text("no music"),
        lambda path: os.truncate(path, path.stat().st_size // 3),
        lambda path: (path.unlink(), path.mkdir()),
    )
    for path, how in zip(paths[::2], spoil[number % 4 :] + spoil[:1]):
        how(path)
    code, output = train(place, folder / "run", music, manifests)
    assert code == 0, output
    assert "A segment is left out" in output, output
    code, output = train(
        place, folder / "strict", music, manifests, bad_segments_limit=0
    )
    runs.assert_one_sentence(code, output)
    assert "bad_segments_limit" in output, output


@fault("names with spaces, quotes, line breaks, $ and {}", 1, quick=1)
def names(place, folder, number, total):
    """From the file to the log and back."""
    music, manifests = folder / 'mu"sic {x} $y', folder / "mani fests"
    music.mkdir()
    songs = sorted(runs.songs(place).iterdir())
    for name, song in zip(NAMES, songs):
        shutil.copy(song, music / f"{name}.ogg")
    flac = folder / "fl ac"
    code, output = prepare(
        place, music, manifests, "--transcode_folder", str(flac)
    )
    assert code == 0, output
    assert len(list(flac.rglob("*.flac"))) == len(NAMES)
    code, output = train(
        place, folder / "r $u {n}", music, manifests, transcode_folder=flac
    )
    assert code == 0, output
    shards, features = folder / "sh{ards}", folder / "fea$tures"
    words = ["--manifest_folder", manifests, "--shard_folder", shards]
    runs.finish(place, runs.SHARD, [*words, "--workers", 1])
    code, output = train(
        place, folder / "from shards", shards, folder / "m", dataset="shards"
    )
    assert code == 0, output
    line = [str(music), str(features), "--pretrained", "mel", "--workers", "0"]
    runs.finish(place, "muselq_modules.extract:main", [line])
    assert len(list(features.rglob("*.npy"))) == len(NAMES)
    assert not list(folder.rglob("was_run"))
    assert not Path("was_run").exists()


@fault("manifest edited by hand", times=len(EDITS), quick=2)
def edited_manifest(place, folder, number, total):
    """One sentence, before and after its digest is made to fit."""
    manifests = folder / "manifests"
    music = runs.songs(place)
    assert prepare(place, music, manifests)[0] == 0
    edit = list(EDITS.values())[number]
    path = manifests / "train.csv"
    path.write_text(edit(path.read_text("utf-8")), "utf-8")
    code, output = train(place, folder / "run", music, manifests)
    runs.assert_one_sentence(code, output)
    assert "changed by hand" in output, output
    summary = json.loads((manifests / "summary.json").read_text("utf-8"))
    tables = [manifests / f"{split}.csv" for split in ("train", "valid")]
    data = b"".join(table.read_bytes() for table in tables)
    summary["digest"] = hashlib.sha256(data).hexdigest()
    (manifests / "summary.json").write_text(json.dumps(summary), "utf-8")
    code, output = train(place, folder / "run", music, manifests)
    runs.assert_one_sentence(code, output)
    assert "train.csv" in output, output


@fault("no usable file", times=3, quick=1)
def nothing(place, folder, number, total):
    """One sentence that names the folder."""
    music, manifests = folder / "music", folder / "manifests"
    music.mkdir()
    if number > 0:
        (music / "a.mp3").write_text("no music")
    if number > 1:
        soundfile.write(music / "b.wav", np.zeros(48000), 24000)
    for code, output in (
        prepare(place, music, manifests),
        train(place, folder / "run", music, manifests),
    ):
        runs.assert_one_sentence(code, output)
        assert str(music) in output, output


@fault("100,000 tiny files", times=1, quick=0)
def many_files(place, folder, number, total):
    """Prepared and trained on."""
    music, manifests = folder / "music", folder / "manifests"
    noise = np.random.default_rng(0).normal(size=9600) * 0.1
    for part in range(100):
        (music / f"{part}").mkdir(parents=True)
        first = music / f"{part}" / "000.wav"
        soundfile.write(first, noise, 8000)
        for song in range(1, 1000):
            os.link(first, music / f"{part}" / f"{song:03d}.wav")
    code, output = prepare(place, music, manifests)
    assert code == 0, output
    assert "100,000 files" in output, output
    code, output = train(place, folder / "run", music, manifests)
    assert code == 0, output
    subprocess.run(["rm", "-r", str(music)], check=True)
