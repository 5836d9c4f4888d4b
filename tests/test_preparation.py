"""Scanning awkward audio, tables, splits: what all prepare scripts share."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from muselq_modules import audio_scan
from muselq_modules.errors import UserError
from muselq_modules.parallel import Crashed, run_parallel
from muselq_modules.preparation import (
    AudioFile,
    check_counts,
    find_audio,
    read_csv,
    require_file,
    require_folder,
    scan_audio,
    stable_fraction,
    summary,
    write_csv,
    write_skipped,
)
from muselq_modules.transcoding import transcode_all

sys.path.append(str(Path(__file__).parent))
from test_audio_data import (  # noqa: E402
    ODD_FILES,
    make_noise,
    strip_frame_count,
    write_mp3,
)

CODECS = {
    "a.wav": {},
    "a.flac": {},
    "a.ogg": {},
    "a.aiff": {},
    "a.au": {},
    "a.mp3": {},
    "a.opus": {"format": "OGG", "subtype": "OPUS"},
}


def reasons_of(root, names=None, **options):
    """Scan with one process and return {path: reason or None}."""
    names = names or find_audio(root)
    files, skipped = scan_audio(root, names, workers=1, **options)
    return {file.path: None for file in files} | dict(skipped)


def test_good_files_of_every_format(tmp_path):
    for name, options in CODECS.items():
        soundfile.write(
            tmp_path / name, make_noise(2, 24000, 2), 24000, **options
        )
    files, skipped = scan_audio(tmp_path, sorted(CODECS), workers=2)
    assert skipped == []
    assert [file.path for file in files] == sorted(CODECS)
    for file in files:
        assert (file.sample_rate, file.channels) == (24000, 2)
        assert abs(file.duration - 2) < 0.01, file


@pytest.mark.parametrize("name", sorted(CODECS))
def test_cut_files_are_skipped(tmp_path, name):
    path = tmp_path / name
    soundfile.write(path, make_noise(4, 24000), 24000, **CODECS[name])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    reason = reasons_of(tmp_path)[name]
    assert reason and reason.startswith(("truncated", "unreadable")), reason


def test_mp3_without_frame_count(tmp_path):
    """libsndfile reads a part of such a file and says nothing."""
    quiet = 0.01 * np.sin(0.05 * np.arange(6 * 44100))
    loud = make_noise(6, 44100)[:, 0]
    write_mp3(tmp_path / "a.mp3", np.concatenate([loud, quiet]))
    assert reasons_of(tmp_path)["a.mp3"] is None
    strip_frame_count(tmp_path / "a.mp3")
    assert soundfile.info(tmp_path / "a.mp3").duration < 10
    reason = reasons_of(tmp_path)["a.mp3"]
    assert reason.startswith("MP3 without a frame count: ")
    assert "of 12.0 s" in reason


def test_reasons(tmp_path):
    def write(name, audio, rate=24000, **options):
        soundfile.write(tmp_path / name, audio, rate, **options)

    noise = make_noise(2, 24000)
    write("good.wav", noise)
    write("constant.wav", np.full(48000, 0.5))
    write("opposite.wav", np.hstack([noise, -noise]))
    write("offset.wav", noise + 0.6)
    write("short.wav", noise[:2400])
    write("empty.wav", noise[:0])
    write("loud.wav", 60 * noise, subtype="FLOAT")
    write("rate.wav", noise, rate=24001)
    spoilt = noise.copy()
    spoilt[1000] = np.nan
    write("nan.wav", spoilt, subtype="FLOAT")
    spoilt[1000] = np.inf
    write("inf.wav", spoilt, subtype="FLOAT")
    (tmp_path / "zero.mp3").touch()
    (tmp_path / "text.mp3").write_text("no music " * 200)
    (tmp_path / "._good.wav").write_bytes(bytes(4096))
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "notes.pdf").touch()
    (tmp_path / "video.m4a").write_bytes(bytes(100))
    names = sorted(path.name for path in tmp_path.iterdir())
    found = reasons_of(tmp_path, [*names, ".DS_Store", "gone.wav"])
    good = {name for name, reason in found.items() if reason is None}
    assert good == {"good.wav", "offset.wav", "loud.wav"}
    expected = {
        "constant.wav": "silent",
        "opposite.wav": "silent",
        "short.wav": "too short: 0.1 s",
        "empty.wav": "empty: ",
        "rate.wav": "unusual sample rate: 24001 Hz",
        "nan.wav": "not finite: ",
        "inf.wav": "not finite: ",
        "zero.mp3": "empty: 0 bytes",
        "text.mp3": "unreadable: no audio",
        "._good.wav": "hidden file",
        ".DS_Store": "hidden file",
        "folder.wav": "unreadable: ",
        "notes.pdf": "unsupported format: '.pdf'",
        "gone.wav": "cannot be opened: No such file",
    }
    for name, start in expected.items():
        assert found[name].startswith(start), (name, found[name])
    silent = reasons_of(tmp_path, ["constant.wav"], allow_silence=True)
    assert silent == {"constant.wav": None}


def test_streamed_wav_is_no_truncated_one(tmp_path):
    """Programs that write to a pipe leave the largest size in the header."""
    path = tmp_path / "a.wav"
    soundfile.write(path, make_noise(2, 24000), 24000)
    data = bytearray(path.read_bytes())
    at = data.index(b"data")
    data[at + 4 : at + 8] = data[4:8] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(data)
    assert reasons_of(tmp_path) == {"a.wav": None}


@pytest.mark.skipif(not ODD_FILES.is_dir(), reason="needs ../shared/music")
def test_odd_files():
    expected = json.loads((ODD_FILES / "EXPECTED.json").read_text())
    found = reasons_of(ODD_FILES, sorted(expected))
    assert found.keys() == expected.keys() and len(found) == 26
    good = {name for name in expected if "good" in name.lower()}
    good = good - {"good.m4a"} | {"dc_offset.wav"}
    try:
        import torchcodec.decoders  # noqa: F401

        good |= {"good.m4a"}
    except (ImportError, OSError, RuntimeError):
        assert "extra `codecs`" in found["good.m4a"]
    assert {name for name in found if found[name] is None} == good


def kill_on_three(item):
    """Die as a process does in which a decoder writes where it must not."""
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * item


def test_a_killed_process_does_not_end_the_run():
    results = dict(run_parallel(kill_on_three, range(12), workers=2))
    assert isinstance(results.pop(3), Crashed)
    assert results == {item: 2 * item for item in range(12) if item != 3}


def test_scan_reports_what_kills_the_decoder(tmp_path, monkeypatch):
    monkeypatch.setattr(
        audio_scan,
        "run_parallel",
        lambda check, paths, *_: [(path, Crashed()) for path in paths],
    )
    cache = tmp_path / "scan.jsonl"
    _, skipped = scan_audio(tmp_path, ["a.wav"], cache=cache)
    assert skipped == [("a.wav", "crash: it kills the decoder")]


def test_scan_resumes_and_sees_changes(tmp_path, monkeypatch):
    root, cache = tmp_path / "music", tmp_path / "new" / "scan.jsonl"
    root.mkdir()
    names = [f"{i}.wav" for i in range(4)]
    for i, name in enumerate(names):
        soundfile.write(root / name, make_noise(1 + i, 8000), 8000)
    first = scan_audio(root, names, workers=1, cache=cache)
    lines = cache.read_text().splitlines()
    assert len(list(filter(None, lines))) == 4

    checked = []

    def count(check, paths, *_):
        checked.extend(paths)
        return [(path, check(path)) for path in paths]

    monkeypatch.setattr(audio_scan, "run_parallel", count)
    assert scan_audio(root, names, cache=cache) == first
    assert checked == []
    cache.write_text(cache.read_text()[:-30])  # killed while writing
    soundfile.write(root / "0.wav", make_noise(6, 8000), 8000)
    files, _ = scan_audio(root, names, cache=cache)
    assert len(checked) == 2 and "0.wav" in checked
    assert files[0].duration == 6 and files[1:] == first[0][1:]
    checked.clear()
    assert scan_audio(root, names, cache=cache)[0] == files
    assert checked == []
    # Limits are applied after the cache.
    _, skipped = scan_audio(root, names, cache=cache, min_duration_s=3.5)
    assert [path for path, _ in skipped] == ["1.wav", "2.wav"]


SCRIPT = """
import os, time
from muselq_modules import audio_scan
from muselq_modules.errors import exits_cleanly
from muselq_modules.preparation import find_audio, scan_audio

run_parallel = audio_scan.run_parallel

def paused(*arguments):
    # However fast the machine, there is time to interrupt.
    for result in run_parallel(*arguments):
        time.sleep(float(os.environ["PAUSE_S"]))
        yield result

audio_scan.run_parallel = paused

@exits_cleanly
def main():
    names = find_audio("music")
    print(len(scan_audio("music", names, workers=2, cache="scan.jsonl")[0]))

if __name__ == "__main__":
    main()
"""


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_interrupted_scan_continues(tmp_path):
    (tmp_path / "scan.py").write_text(SCRIPT)
    (tmp_path / "music").mkdir()
    soundfile.write(tmp_path / "0.flac", make_noise(40, 24000), 24000)
    for i in range(80):
        shutil.copy(tmp_path / "0.flac", tmp_path / "music" / f"{i:02}.flac")
    path = str(Path(__file__).parents[1])
    command = {
        "args": [sys.executable, "scan.py"],
        "cwd": tmp_path,
        "env": os.environ | {"PYTHONPATH": path, "PAUSE_S": "0.1"},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    # Ctrl-C in a terminal reaches all processes of the group.
    scan = subprocess.Popen(start_new_session=True, **command)
    cache = tmp_path / "scan.jsonl"
    while not (cache.exists() and cache.read_text().count("frames") > 1):
        assert scan.poll() is None
        time.sleep(0.01)
    os.killpg(scan.pid, signal.SIGINT)
    _, errors = scan.communicate(timeout=200)
    assert scan.returncode == 130
    assert "Traceback" not in errors and "Interrupted" in errors
    done = cache.read_text().count("frames")
    assert 1 < done < 80
    command["env"]["PAUSE_S"] = "0"
    again = subprocess.run(**command, timeout=300)
    assert again.stdout.strip() == "80"
    assert cache.read_text().count("frames") == 80
    assert again.stderr.count(f"/{80 - done} ") > 0, again.stderr


NAMES = [
    "plain.wav",
    "with space.wav",
    "ünïcode 空白.wav",
    "A$AP 'Rocky' \"live\", {take} %s.wav",
    "line\nbreak\ttab.wav",
    "folder/[deep]/#1.wav",
]


def test_any_name_survives_the_tables(tmp_path):
    for name in NAMES:
        (tmp_path / "music" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "music" / name, make_noise(1, 8000), 8000)
    names = find_audio(tmp_path / "music")
    assert sorted(NAMES) == names
    files, skipped = scan_audio(tmp_path / "music", names, workers=1)
    assert [file.path for file in files] == names and not skipped
    rows = [{"path": name, "frames": 1} for name in names]
    write_csv(tmp_path / "a.csv", rows, ["path", "frames"])
    assert read_csv(tmp_path / "a.csv") == [
        {"path": name, "frames": "1"} for name in names
    ]
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.skipif(sys.platform != "linux", reason="needs bytes as names")
def test_undecodable_names_are_skipped(tmp_path):
    raw = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    with open(raw, "wb") as file:
        soundfile.write(file, make_noise(1, 8000), 8000, format="WAV")
    soundfile.write(tmp_path / "a\rb.wav", make_noise(1, 8000), 8000)
    found = reasons_of(tmp_path)
    assert len(found) == 2
    assert all(reason.startswith("file name") for reason in found.values())
    write_skipped(tmp_path / "skipped.tsv", found.items())
    assert "caf" in (tmp_path / "skipped.tsv").read_text(encoding="utf-8")


def test_a_damaged_line_of_the_cache_is_checked_again(tmp_path):
    soundfile.write(tmp_path / "a.wav", make_noise(2, 8000), 8000)
    cache = tmp_path / "scan.jsonl"
    expected = scan_audio(tmp_path, ["a.wav"], workers=1, cache=cache)
    text = cache.read_text("utf-8")
    cache.write_text(text.replace("16000", "17000"), "utf-8")
    assert scan_audio(tmp_path, ["a.wav"], cache=cache) == expected


def test_paths_that_leave_the_folder_are_skipped(tmp_path):
    soundfile.write(tmp_path / "a.wav", make_noise(2, 8000), 8000)
    (tmp_path / "b").mkdir()
    paths = ["../a.wav", str(tmp_path / "a.wav"), "x/../../a.wav"]
    files, skipped = scan_audio(tmp_path / "b", paths, workers=1)
    assert files == [] and len(skipped) == 3
    assert all("out of the data folder" in reason for _, reason in skipped)


@pytest.mark.parametrize(
    "text", ["a,b\n1\n", "a,b\n1,2,3\n", 'a,b\n"1,2\n', "a\0,b\n\xff,2\n"]
)
def test_tables_that_were_edited_are_told(tmp_path, text):
    path = tmp_path / "train.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="train.csv"):
        read_csv(path)


def test_find_audio(tmp_path):
    for name in ["b/x.MP3", "a.flac", "._a.flac", ".git/y.wav", "c.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    assert find_audio(tmp_path) == ["._a.flac", "a.flac", "b/x.MP3"]


def test_stable_fraction():
    assert stable_fraction("song.mp3") == pytest.approx(0.1866, abs=1e-4)
    values = [stable_fraction(f"{i}.mp3") for i in range(4000)]
    assert 0 <= min(values) and max(values) < 1
    assert abs(np.mean(np.array(values) < 0.1) - 0.1) < 0.02
    assert stable_fraction("e\u0301.mp3") == stable_fraction("\u00e9.mp3")


def test_requirements(tmp_path):
    with pytest.raises(UserError, match="GTZAN: no folder .*genres/"):
        require_folder(tmp_path / "no", "GTZAN", "genres/blues/...")
    with pytest.raises(UserError, match="is empty"):
        require_folder(tmp_path, "GTZAN", "genres/blues/...")
    with pytest.raises(UserError, match="unpack it"):
        require_file(tmp_path / "a.csv", "FMA", "unpack it")


def test_counts_warn_once(caplog):
    assert not check_counts("FMA", {"train": 9}, {"train": 10, "valid": 2})
    (record,) = caplog.records
    assert "train 9 instead of 10, valid 0 instead of 2" in record.getMessage()


def test_summary(capsys):
    summary([], [("a", "silent"), ("b", "empty: 0 bytes")])
    assert capsys.readouterr().out == (
        "0 files, 0.0 hours ready; 2 skipped (see skipped.tsv): 1 silent, "
        "1 empty\n"
    )


def test_transcoding(tmp_path):
    """Chunks join without a seam, loud samples clip, copies are kept."""
    noise = make_noise(130, 44100, 2)
    noise[:441] = 3.0
    soundfile.write(tmp_path / "a.wav", noise, 44100, subtype="FLOAT")
    songs, _ = scan_audio(tmp_path, ["a.wav"], workers=1)
    target = tmp_path / "flac"
    (copy,) = transcode_all(tmp_path, target, songs, workers=1)
    assert copy == AudioFile("a.wav.flac", 130 * 24000, 24000, 1)
    path = target / "a.wav.flac"
    info = soundfile.info(path)
    assert (info.frames, info.samplerate) == (130 * 24000, 24000)
    assert (info.subtype, info.channels) == ("PCM_16", 1)
    import torch
    import torchaudio

    expected = torchaudio.functional.resample(
        torch.from_numpy(noise).mean(dim=1), 44100, 24000
    ).clamp(-1, 1)
    written, _ = soundfile.read(path, dtype="float32")
    assert np.abs(written - expected.numpy()).max() < 1e-4
    before = path.stat().st_mtime_ns
    assert transcode_all(tmp_path, target, songs, workers=1) == [copy]
    assert path.stat().st_mtime_ns == before
    assert [found.name for found in target.iterdir()] == ["a.wav.flac"]
