"""The manifest as segments, and the dataset that reads them."""

import gc
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from muselq_modules import segment_index
from muselq_modules.errors import UserError
from muselq_modules.segments import SegmentDataset, SegmentManifest

HEADER = "path,frames,sample_rate,channels\n"
# path, frames, rate -> segments of 2 s, tails from 1 s on
FILES = [
    ("a.wav", 500, 100, 3),  # 2 + 2 + a tail of 1 s
    ("short.wav", 99, 100, 0),
    ('b, "quoted"/é.wav', 1290, 300, 2),  # 2 + 2 + 0.3 s
    ("exact.wav", 400, 200, 1),
    ("none.wav", 0, 100, 0),
    ("tail.wav", 150, 100, 1),
]


def write_manifest(folder, files=FILES):
    lines = [HEADER]
    for path, frames, rate, *_ in files:
        quoted = path.replace('"', '""')
        lines.append(f'"{quoted}",{frames},{rate},1\n')
    path = folder / "train.csv"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def open_manifest(path, segment_s=2.0, min_tail_s=1.0):
    return SegmentManifest(path, path.parent, segment_s, min_tail_s)


def test_locate_equals_a_list_of_all_segments(tmp_path):
    manifest = open_manifest(write_manifest(tmp_path))
    expected = [
        (path, 2.0 * i) for path, _, _, count in FILES for i in range(count)
    ]
    assert len(manifest) == len(expected) == 7
    assert [manifest.locate(i) for i in range(7)] == expected
    assert manifest.name(4) == 'b, "quoted"/é.wav at 2 s'
    assert manifest.n_files == len(FILES)
    seconds = sum(frames / rate for _, frames, rate, _ in FILES)
    assert manifest.hours == pytest.approx(seconds / 3600)


@pytest.mark.parametrize("beyond", [7, 1000])
def test_a_segment_beyond_the_end_raises(tmp_path, beyond):
    with pytest.raises(IndexError):
        open_manifest(write_manifest(tmp_path)).locate(beyond)


@pytest.mark.parametrize("rows_per_write", [1, 2, 3])
def test_blocks_of_rows_do_not_matter(tmp_path, monkeypatch, rows_per_write):
    expected = open_manifest(write_manifest(tmp_path)).rows.copy()
    (tmp_path / "again").mkdir()
    monkeypatch.setattr(segment_index, "ROWS_PER_WRITE", rows_per_write)
    again = open_manifest(write_manifest(tmp_path / "again"))
    assert np.array_equal(again.rows, expected)


def test_index_is_used_again_until_the_manifest_changes(tmp_path, monkeypatch):
    path = write_manifest(tmp_path)
    first = open_manifest(path)
    assert open_manifest(path, min_tail_s=2.0).digest == first.digest
    assert len(open_manifest(path, min_tail_s=2.0)) == 5
    with monkeypatch.context() as patch:
        patch.setattr(segment_index, "_parse", None)  # nothing is parsed again
        assert len(open_manifest(path)) == 7
    write_manifest(tmp_path, FILES[:1])
    changed = open_manifest(path)
    assert changed.digest != first.digest
    assert len(changed) == 3
    assert len(first) == 7  # what is open stays whole


@pytest.mark.parametrize(
    "row",
    [
        "x.wav,many,100,1",
        "x.wav,400",
        "x.wav,400,0,1",
        "x.wav,400,-100,1",
        "x.wav,-400,100,1",
        "x.wav,99999999999999999999999,100,1",
        "x.wav,4e3,100,1",
        ",400,100,1",
        "../x.wav,400,100,1",
        "a/../../x.wav,400,100,1",
        "/etc/passwd,400,100,1",
        "C:/x.wav,400,100,1",
    ],
)
def test_a_bad_line_is_named(tmp_path, row):
    path = write_manifest(tmp_path)
    path.write_text(path.read_text("utf-8") + row + "\n", "utf-8")
    with pytest.raises(UserError, match=rf"train\.csv, line {len(FILES) + 2},"):
        open_manifest(path)
    left = [p for p in (tmp_path / ".segments").iterdir() if p.is_dir()]
    assert left == []


@pytest.mark.parametrize("how", ["cut", "flip", "missing"])
@pytest.mark.parametrize("name", ["rows.npy", "paths.bin", "CHECKSUMS.json"])
def test_a_damaged_index_is_made_again(tmp_path, caplog, name, how):
    path = write_manifest(tmp_path)
    open_manifest(path)
    (victim,) = (tmp_path / ".segments").glob(f"*/{name}")
    data = bytearray(victim.read_bytes())
    if how == "missing":
        victim.unlink()
    elif how == "cut":
        victim.write_bytes(data[:-3])
    else:
        data[len(data) // 2] ^= 1
        victim.write_bytes(data)
    manifest = open_manifest(path)
    assert [manifest.locate(i)[0] for i in range(len(manifest))] == [
        path for path, _, _, count in FILES for _ in range(count)
    ]
    assert "is made again" in caplog.text


def test_a_manifest_of_other_columns_is_refused(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("file,length\na.wav,3\n")
    with pytest.raises(UserError, match="line 2"):
        open_manifest(path)
    path.write_bytes(HEADER.encode() + b"caf\xe9.wav,400,100,1\n")
    with pytest.raises(UserError, match="prepare script"):
        open_manifest(path)


def test_no_manifest_and_no_segment_are_told(tmp_path):
    with pytest.raises(UserError, match="run the prepare script"):
        open_manifest(tmp_path / "train.csv")
    for files in ([], FILES[1:2]):
        with pytest.raises(UserError, match="no segment of at least 1 s"):
            open_manifest(write_manifest(tmp_path, files))


# ------------------------------------------------------------------- audio


@pytest.fixture
def music(tmp_path):
    """Two files of unequal rate, one missing, one that is no audio."""
    rows, generator = [], np.random.default_rng(0)
    for name, rate, seconds in (("a.wav", 24000, 3.5), ("b.wav", 44100, 2.0)):
        wave = generator.standard_normal(round(rate * seconds)) * 0.1
        soundfile.write(tmp_path / name, wave, rate, "FLOAT")
        rows.append((name, len(wave), rate))
    (tmp_path / "text.wav").write_text("no audio")
    rows += [("missing.wav", 48000, 24000), ("text.wav", 48000, 24000)]
    return open_manifest(write_manifest(tmp_path, rows), 1.0, 0.25)


def test_segments_are_the_pieces_of_the_file(music):
    dataset = SegmentDataset(music)
    assert len(dataset) == 4 + 2 + 2 + 2
    whole, _ = soundfile.read(music.audio_root / "a.wav", dtype="float32")
    pieces = [dataset[(0, i)] for i in range(4)]
    assert [n for _, n, *_ in pieces] == [24000, 24000, 24000, 12000]
    assert all(len(wav) == 24000 for wav, *_ in pieces)
    joined = torch.cat([wav for wav, *_ in pieces])
    assert torch.equal(joined[:84000], torch.from_numpy(whole))
    assert torch.all(joined[84000:] == 0)
    for i in (4, 5):  # 44.1 kHz, resampled
        wav, n_samples, epoch, example, error = dataset[(3, i)]
        assert (n_samples, epoch, example, error) == (24000, 3, i, None)
        assert wav.shape == (24000,) and wav.std() > 0.02


def test_an_unreadable_file_gives_no_samples_and_an_error(music):
    for i, name in [(6, "missing.wav"), (9, "text.wav")]:
        wav, n_samples, _, example, error = SegmentDataset(music)[(0, i)]
        assert n_samples == 0 and example == i and name in error
        assert torch.all(wav == 0) and wav.shape == (24000,)


def test_batches_through_workers(music):
    loader = DataLoader(
        SegmentDataset(music),
        sampler=[(2, i) for i in range(10)],
        batch_size=5,
        num_workers=1,
        collate_fn=SegmentDataset.collate,
    )
    first, second = loader
    assert first.wav.shape == (5, 24000)
    assert first.n_samples.tolist() == [24000] * 3 + [12000, 24000]
    assert first.epochs == [2] * 5 and first.examples == [0, 1, 2, 3, 4]
    assert first.errors == [] and len(second.errors) == 4


def test_workers_map_the_rows_instead_of_copying_them(tmp_path):
    files = [(f"song {i}.wav", 400, 100) for i in range(500)]
    manifest = open_manifest(write_manifest(tmp_path, files))
    data = pickle.dumps(SegmentDataset(manifest))
    assert len(data) < 2000  # the rows are 14 kB
    copy = pickle.loads(data).manifest
    assert isinstance(copy.rows, np.memmap)
    assert isinstance(copy.names, np.memmap)
    everything = range(len(manifest))
    assert [copy.locate(i) for i in everything] == [
        manifest.locate(i) for i in everything
    ]


# ------------------------------------------------------------------- scale

PROBE = """
import json, resource, sys, time
from muselq_modules.segments import SegmentManifest
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
manifest = SegmentManifest(sys.argv[1], "/music")
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.process_time()
for i in range(1000):
    manifest.locate(i * 7919 % len(manifest))
print(json.dumps({
    "segments": len(manifest), "before": before, "after": after,
    "last": manifest.locate(len(manifest) - 1),
    "locate_s": (time.process_time() - started) / 1000,
}))
"""
ROWS, SEGMENTS = 3_400_000, 24_000_000  # 200,000 hours of songs


def open_large(folder, n_rows):
    """Open a manifest of 3.5-minute songs in a process of its own."""
    frames = 44100 * 30 * 7 + 44100 * 2  # 7 segments and a short tail
    block = 50_000
    with open(folder / "train.csv", "w", encoding="utf-8") as stream:
        stream.write(HEADER)
        for start in range(0, n_rows, block):
            stream.writelines(
                f"artist {i // 10:06d}/album/{i:08d} a song.mp3,"
                f"{frames + (30 * 44100 if i % 17 == 0 else 0)},44100,2\n"
                for i in range(start, min(start + block, n_rows))
            )
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(folder / "train.csv")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["segments"] == 7 * n_rows + -(-n_rows // 17)
    assert found["last"][0].endswith(f"{n_rows - 1:08d} a song.mp3")
    return found


def test_memory_of_200_thousand_files(tmp_path):
    found = open_large(tmp_path, 200_000)
    # Linux counts kibibytes. What grows with the rows, times 17, must fit.
    grown = (found["after"] - found["before"]) * 1024
    at_full_size = found["before"] * 1024 + grown * ROWS / 200_000
    assert at_full_size < 2e9


@pytest.mark.slow
def test_memory_of_24_million_segments(tmp_path):
    found = open_large(tmp_path, ROWS)
    assert found["segments"] >= SEGMENTS
    assert found["after"] * 1024 < 2e9


@pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="needs /proc"
)
def test_memory_stays_flat_over_an_epoch(tmp_path):
    generator = np.random.default_rng(0)
    for number in range(4):
        wav = generator.standard_normal(24000 * 20) * 0.1
        soundfile.write(tmp_path / f"{number}.flac", wav, 24000)
    files = [(f"{n}.flac", 24000 * 20, 24000) for n in range(4)]
    manifest = open_manifest(write_manifest(tmp_path, files))
    dataset = SegmentDataset(manifest)

    def held_kib():
        gc.collect()
        text = Path("/proc/self/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1])

    held = []
    for epoch in range(12):
        for example in range(len(manifest)):
            SegmentDataset.collate([dataset[epoch, example]])
        held.append(held_kib())
    # 480 segments of 188 KiB were read since the second pass.
    assert held[-1] - held[1] < 8 * 1024


def test_shifted_segments_stay_in_their_file(tmp_path):
    """10 s segments of 25 s: any shift, never beyond the end."""
    path = tmp_path / "m.csv"
    path.write_text("path,frames,sample_rate\na.wav,600000,24000\n")
    manifest = SegmentManifest(path, tmp_path, 10.0, 5.0)
    assert [manifest.locate(i)[1] for i in range(3)] == [0.0, 10.0, 20.0]
    shifted = [manifest.locate(i, 7.5)[1] for i in range(3)]
    # The tail of 5 s keeps its place: it has nowhere to go.
    assert shifted == [7.5, 15.0, 20.0]


def test_shift_is_a_function_of_seed_epoch_and_segment(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.arange(96000) / 96000, 24000)
    path = tmp_path / "m.csv"
    path.write_text("path,frames,sample_rate\na.wav,96000,24000\n")
    manifest = SegmentManifest(path, tmp_path, 1.0, 0.5)

    def starts(seed, epoch):
        dataset = SegmentDataset(manifest, 24000, seed, shift=True)
        return [float(dataset[(epoch, i)][0][0]) * 4 for i in range(4)]

    plain = [
        float(SegmentDataset(manifest)[(0, i)][0][0]) * 4 for i in range(4)
    ]
    assert plain == pytest.approx([0, 1, 2, 3], abs=1e-3)
    assert starts(1, 0) == starts(1, 0)
    assert starts(1, 0) != starts(1, 1) and starts(1, 0) != starts(2, 0)
    moved = np.subtract(starts(1, 0), plain)
    assert (moved[:3] > 0).all() and (moved <= 1).all() and moved[3] == 0


@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_speed_changes_pitch_and_length(tmp_path, speed):
    """A tone of 500 Hz is one of 400 or 625 Hz; the tail is padding."""
    time_s = np.arange(48000) / 24000
    tone = 0.5 * np.sin(2 * np.pi * 500 * time_s)
    soundfile.write(tmp_path / "a.wav", tone, 24000)
    path = tmp_path / "m.csv"
    path.write_text("path,frames,sample_rate\na.wav,48000,24000\n")
    manifest = SegmentManifest(path, tmp_path, 1.0, 0.5)
    dataset = SegmentDataset(manifest, speeds=[speed])
    wav, n_samples, *_ = dataset[(0, 0)]
    assert n_samples == min(24000, round(24000 / speed))
    assert len(wav) == 24000 and not wav[n_samples:].any()
    spectrum = torch.fft.rfft(wav[: round(n_samples / 2400) * 2400]).abs()
    hz = spectrum.argmax() * 24000 / (round(n_samples / 2400) * 2400)
    assert hz == pytest.approx(500 * speed, abs=5)


def test_each_epoch_draws_a_speed(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(48000, 0.5), 24000)
    path = tmp_path / "m.csv"
    path.write_text("path,frames,sample_rate\na.wav,48000,24000\n")
    manifest = SegmentManifest(path, tmp_path, 1.0, 0.5)

    def lengths(seed):
        dataset = SegmentDataset(manifest, 24000, seed, speeds=[1.0, 1.25, 2.0])
        return [dataset[(epoch, 0)][1] for epoch in range(30)]

    assert set(lengths(0)) == {24000, 19200, 12000}
    assert lengths(0) == lengths(0) != lengths(1)
