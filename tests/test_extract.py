"""The extract command: right values in the right place, whatever the input."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from fake_encoder import FakeEncoder
from small_encoders import redraw, small_encoder
from test_audio_data import make_noise, write_mp3

from muselq_modules import extract as command
from muselq_modules.audio_data import read_segment
from muselq_modules.crossfade import CrossFade
from muselq_modules.errors import UserError

ROOT = Path(__file__).parents[1]
ODD_FILES = ROOT.parent / "shared" / "music" / "odd_files"
NAMES = {  # seconds, rate, channels
    "a.wav": (9.5, 44100, 2),
    "a.flac": (3.21, 24000, 1),
    "deep/er/ünï 空白 name.ogg": (12.0, 48000, 1),
    "deep/two\nlines.wav": (4.0, 16000, 6),
    "blip.wav": (0.02, 24000, 1),
}


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    folder = tmp_path_factory.mktemp("music")
    for seed, (name, (seconds, rate, channels)) in enumerate(NAMES.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, make_noise(seconds, rate, channels, seed), rate)
    (folder / "cover.jpg").write_bytes(b"no music")
    return folder


@pytest.fixture
def use(monkeypatch):
    """Makes the command load this encoder."""

    def choose(encoder):
        monkeypatch.setattr(command, "load_any_encoder", lambda *_: encoder)
        return encoder

    return choose


def run(inputs, output, *options, workers=0):
    """Exit code of the command on an encoder that `use` has chosen."""
    inputs = inputs if isinstance(inputs, list) else [inputs]
    line = [*inputs, output, "--pretrained", "chosen", "--device", "cpu"]
    line += ["--workers", workers, *options]
    try:
        command.main([str(word) for word in line])
    except SystemExit as stop:
        return stop.code
    return 0


def index(output):
    lines = (output / "index.jsonl").read_text("utf-8").splitlines()
    return {row["file"]: row for row in map(json.loads, lines)}


def whole(encoder, path, layers):
    """[time, layer, dim] of one call on the whole file."""
    with torch.inference_mode():
        out = encoder(read_segment(path), 24000, layers=layers)
    return torch.stack(out.hidden_states, 2)[0].numpy()


def test_a_folder(music, tmp_path, use):
    """Nothing of this encoder crosses tokens: windows leave no trace."""
    encoder = use(FakeEncoder())
    output = tmp_path / "out"
    options = ["--layers", "all", "--window_s", 3, "--overlap_s", 1]
    assert run(music, output, *options) == 0
    files = {p.relative_to(output).as_posix() for p in output.rglob("*.npy")}
    assert files == {f"{name}.npy" for name in NAMES}
    rows = index(output)
    assert list(rows) == sorted(NAMES)
    for name, (seconds, rate, channels) in NAMES.items():
        features = np.load(output / f"{name}.npy")
        expected = whole(encoder, music / name, [0, 1, 2])
        assert features.dtype == np.float32
        assert features.shape == expected.shape
        np.testing.assert_allclose(features, expected, atol=1e-5)
        row = rows[name]
        assert row["outputs"] == [f"{name}.npy"]
        assert row["tokens"] == row["rows"] == max(1, int(seconds * 25))
        assert (row["sample_rate"], row["channels"]) == (rate, channels)
        assert row["duration_s"] == pytest.approx(seconds, abs=1e-4)
        assert row["layers"] == [0, 1, 2] and row["token_rate_hz"] == 25.0
        assert row["encoder"] == encoder.digest()
    assert (output / "skipped.tsv").read_text() == "path\treason\n"
    assert not (output / ".partial").exists()


@pytest.mark.parametrize("layer", ["branchformer", "conformer"])
def test_windows_are_cross_faded(music, tmp_path, use, layer):
    encoder = use(redraw(small_encoder(layer)))
    wav = read_segment(music / "a.wav")
    fade, parts = CrossFade(), []
    with torch.inference_mode():
        # 237 tokens; the last window is moved back.
        for start in (0, 50, 100, 150, 162):
            piece = wav[960 * start : 960 * (start + 75)]
            frames = encoder(piece, 24000, layers=[2]).hidden_states[0][0]
            parts.append(fade.add(start, frames))
    expected = torch.cat([*parts, fade.finish()])[:, None].numpy()
    options = ["--window_s", 3, "--overlap_s", 1]
    assert run(music / "a.wav", tmp_path / "out", *options) == 0
    features = np.load(tmp_path / "out" / "a.wav.npy")
    np.testing.assert_allclose(features, expected, atol=1e-4)
    # A recording no longer than a window is one call.
    assert run(music / "a.flac", tmp_path / "short") == 0
    features = np.load(tmp_path / "short" / "a.flac.npy")
    expected = whole(encoder, music / "a.flac", [-1])
    np.testing.assert_allclose(features, expected, atol=1e-4)


def test_full_context_is_one_call(music, tmp_path, use):
    encoder = use(redraw(small_encoder("conformer")))
    options = ["--window_s", 3, "--overlap_s", 1, "--layers", "0,-1"]
    assert run(music, tmp_path / "out", *options, "--context", "full") == 0
    for name in NAMES:
        features = np.load(tmp_path / "out" / f"{name}.npy")
        expected = whole(encoder, music / name, [0, -1])
        assert np.abs(features - expected).max() <= 1e-4
    # In windows it is something else.
    assert run(music, tmp_path / "windows", *options) == 0
    windows = np.load(tmp_path / "windows" / "a.wav.npy")
    expected = whole(encoder, music / "a.wav", [0, -1])
    assert np.abs(windows - expected).max() > 0.05


@pytest.mark.parametrize("context", ["windows", "full"])
def test_pooled(music, tmp_path, use, context):
    encoder = use(FakeEncoder() if context == "windows" else small_encoder())
    shared = ["--context", context, "--window_s", 3, "--overlap_s", 1]
    frames = whole(encoder, music / "a.wav", [-1])
    mean, std = frames.mean(0), frames.std(0)
    for pool, expected in (
        ("mean", mean),
        ("mean+std", np.concatenate([mean, std], -1)),
    ):
        output = tmp_path / pool
        assert run(music, output, *shared, "--pool", pool) == 0
        features = np.load(output / "a.wav.npy")
        np.testing.assert_allclose(features, expected[None], atol=1e-4)
        assert index(output)["a.wav"]["rows"] == 1
        assert index(output)["a.wav"]["tokens"] == 237
    output = tmp_path / "window"
    options = ["--pool", "mean", "--per", "window"]
    assert run(music, output, *shared, *options) == 0
    features = np.load(output / "a.wav.npy")
    starts = [0, 50, 100, 150, 162]
    expected = [frames[start : start + 75].mean(0) for start in starts]
    np.testing.assert_allclose(features, expected, atol=1e-4)
    times = np.load(output / "a.wav.times.npy")
    np.testing.assert_allclose(times[:, 0], np.array(starts) / 25)
    np.testing.assert_allclose(times[:, 1] - times[:, 0], 3.0)
    assert index(output)["a.wav"]["outputs"] == [
        "a.wav.times.npy",
        "a.wav.npy",
    ]


def test_batches_and_processes_change_nothing(music, tmp_path, use):
    encoder = use(redraw(small_encoder()))
    options = ["--window_s", 2, "--overlap_s", 0.5]
    assert run(music, tmp_path / "1", *options) == 0
    sizes = []
    encoder.register_forward_pre_hook(
        lambda _, args: sizes.append(len(args[0]))
    )
    for batch, workers in ((4, 0), (100, 2)):
        output = tmp_path / str(batch)
        sizes.clear()
        more = ["--batch", batch]
        assert run(music, output, *options, *more, workers=workers) == 0
        assert max(sizes) == min(batch, 19)
        for name in NAMES:
            one = np.load(tmp_path / "1" / f"{name}.npy")
            other = np.load(output / f"{name}.npy")
            np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("name", ["safetensors", "parquet"])
def test_other_formats_hold_the_same(music, tmp_path, use, name):
    if name == "parquet":
        pytest.importorskip("pyarrow")
    encoder = use(FakeEncoder())
    options = ["--format", name, "--dtype", "float16", "--layers", "0,2"]
    assert run(music, tmp_path, *options) == 0
    path = tmp_path / f"deep/er/ünï 空白 name.ogg.{name}"
    if name == "safetensors":
        from safetensors.numpy import load_file

        tensors = load_file(path)
        features, times = tensors["features"], tensors["times"]
    else:
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(path)
        times = table["time_s"].to_numpy()
        columns = [table[f"layer_{n}"].to_numpy() for n in (0, 2)]
        features = np.stack([np.stack(c) for c in columns], 1)
    expected = whole(encoder, music / "deep/er/ünï 空白 name.ogg", [0, 2])
    assert features.dtype == np.float16
    np.testing.assert_allclose(features, expected, atol=1e-3)
    np.testing.assert_allclose(times, (np.arange(300) + 0.5) / 25)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_is_close(music, tmp_path, use, precision):
    encoder = use(redraw(small_encoder(), std=0.1))
    expected = whole(encoder, music / "a.wav", [-1])
    for context in ("windows", "full"):
        options = ["--precision", precision, "--context", context]
        output = tmp_path / context
        assert run(music / "a.wav", output, *options) == 0
        features = np.load(output / "a.wav.npy")
        assert 0 < np.abs(features - expected).max() < 0.1


def test_a_second_call_does_what_is_left(music, tmp_path, use, capsys):
    folder, output = tmp_path / "music", tmp_path / "out"
    shutil.copytree(music, folder)
    encoder = use(FakeEncoder())
    assert run(folder, output) == 0
    before = (output / "index.jsonl").read_bytes()
    assert encoder.calls == 5
    assert run(folder, output) == 0
    assert encoder.calls == 5
    assert (output / "index.jsonl").read_bytes() == before
    # A new file, a changed one, features that are gone.
    shutil.copy(folder / "a.flac", folder / "new.flac")
    soundfile.write(folder / "a.wav", make_noise(2, 8000), 8000)
    (output / "blip.wav.npy").unlink()
    assert run(folder, output) == 0
    assert encoder.calls == 8
    assert np.load(output / "a.wav.npy").shape == (50, 1, 8)
    assert index(output)["a.wav"]["duration_s"] == 2.0
    assert len(index(output)) == 6


def test_other_settings_are_refused_or_replace(music, tmp_path, use, capsys):
    output = tmp_path / "out"
    use(FakeEncoder())
    assert run(music, output) == 0
    assert run(music, output, "--layers", "all") == 2
    assert (
        "holds features made with --layers 2, not 0,1,2: give another folder, "
        "or --overwrite"
    ) in capsys.readouterr().err
    assert run(music, output, "--context", "windows", "--batch", 3) == 0
    # The same file, changed outside: refused features stay untouched.
    assert np.load(output / "a.wav.npy").shape[1] == 1
    use(FakeEncoder(seed=1))
    assert run(music, output) == 2
    assert "made with another encoder (chosen)" in capsys.readouterr().err
    options = ["--overwrite", "--format", "safetensors"]
    assert run(music / "a.wav", output, *options) == 0
    files = {p.name for p in output.rglob("*") if p.is_file()}
    assert files - {".lock"} == {
        "a.wav.safetensors",
        "index.jsonl",
        "settings.json",
        "skipped.tsv",
    }


KILLED = """
import os, sys
sys.path[:0] = {paths}
from fake_encoder import FakeEncoder
from muselq_modules import extract
class Mortal(FakeEncoder):
    def forward(self, *args, **options):
        if self.calls == {calls}:
            os.kill(os.getpid(), {signal})
        return super().forward(*args, **options)
encoder = Mortal()
extract.load_any_encoder = lambda *_: encoder
extract.main([{folder}, {output}, "--pretrained", "chosen", "--workers", "0",
              "--window_s", "3", "--overlap_s", "1"])
"""


@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_a_killed_call_goes_on(music, tmp_path, use, how):
    output = tmp_path / "out"
    code = KILLED.format(
        paths=[str(ROOT / "tests"), str(ROOT)],
        calls=9,
        signal=int(getattr(signal, how)),
        folder=repr(str(music)),
        output=repr(str(output)),
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert ended.returncode == (130 if how == "SIGINT" else -9), ended.stderr
    assert "Traceback" not in ended.stderr
    done = list(index(output)) if how == "SIGINT" else None
    for path in output.rglob("*.npy"):
        if path.parent.name != ".partial":
            np.load(path)
    encoder = use(FakeEncoder())
    options = ["--window_s", 3, "--overlap_s", 1]
    assert run(music, output, *options) == 0
    assert len(index(output)) == 5
    assert 0 < encoder.calls < 14
    assert done is None or 0 < len(done) < 5
    for name in NAMES:
        np.testing.assert_allclose(
            np.load(output / f"{name}.npy"),
            whole(encoder, music / name, [2]),
            atol=1e-5,
        )


@pytest.mark.skipif(not ODD_FILES.is_dir(), reason="needs ../shared/music")
@pytest.mark.parametrize("workers", [0, 2])
def test_odd_files(tmp_path, use, workers):
    encoder = use(FakeEncoder())
    assert run(ODD_FILES, tmp_path, workers=workers) == 1
    skipped = (tmp_path / "skipped.tsv").read_text("utf-8").splitlines()[1:]
    bad = {
        "._appledouble.mp3",
        "corrupt_like_jazz.00054.wav",
        "empty_header.wav",
        "nan_inf.wav",
        "text_as.mp3",
        "truncated.flac",
        "truncated.mp3",
        "truncated.wav",
        "zero_bytes.mp3",
    }
    assert {line.split("\t")[0] for line in skipped} - {"good.m4a"} == bad
    files = {p.name for p in ODD_FILES.iterdir()} - {"EXPECTED.json"}
    assert set(index(tmp_path)) | {"good.m4a"} == files - bad
    assert len(index(tmp_path)) in (16, 17)
    for name in index(tmp_path):
        features = np.load(tmp_path / f"{name}.npy")
        expected = whole(encoder, ODD_FILES / name, [2])
        np.testing.assert_allclose(features, expected, atol=1e-5)


def test_faults_that_show_late_leave_nothing_behind(tmp_path, use, music):
    """Truncated in the second minute, non-finite features, too long."""
    folder = tmp_path / "music"
    folder.mkdir()
    shutil.copy(music / "a.wav", folder)
    write_mp3(folder / "cut.mp3", make_noise(60, 44100)[:, 0])
    data = (folder / "cut.mp3").read_bytes()
    (folder / "cut.mp3").write_bytes(data[: len(data) // 2])
    encoder = use(FakeEncoder())
    options = ["--window_s", 3, "--overlap_s", 1]
    assert run(folder, tmp_path / "1", *options) == 1
    assert list(index(tmp_path / "1")) == ["a.wav"]
    assert not list((tmp_path / "1").rglob("cut*"))
    (folder / "cut.mp3").unlink()
    with torch.no_grad():
        encoder.weight[:] = torch.nan
    assert run(folder, tmp_path / "2", *options) == 1
    assert "not finite" in (tmp_path / "2" / "skipped.tsv").read_text()
    assert not index(tmp_path / "2")
    use(small_encoder(mixer="attention"))
    shutil.copy(music / "blip.wav", folder)
    options += ["--context", "full", "--memory_gb", 1e-6]
    assert run(folder, tmp_path / "3", *options) == 1
    skipped = (tmp_path / "3" / "skipped.tsv").read_text()
    assert "too long for one pass: RotarySelfAttention" in skipped
    assert list(index(tmp_path / "3")) == ["blip.wav"]


def test_several_inputs(music, tmp_path, use):
    use(FakeEncoder())
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(music / "a.flac", other / "a.wav")
    shutil.copy(music / "a.flac", other / "b.wav")
    inputs = [other / "a.wav", other / "b.wav", other, other / "." / "a.wav"]
    assert run(inputs, tmp_path / "1") == 0
    assert list(index(tmp_path / "1")) == ["a.wav", "b.wav"]
    inputs = [music / "deep", music / "a.wav"]
    assert run(inputs, tmp_path / "2") == 0
    assert set(index(tmp_path / "2")) == {
        "a.wav",
        "deep/er/ünï 空白 name.ogg",
        "deep/two\nlines.wav",
    }


def test_features_beside_the_music(music, tmp_path, use):
    folder = tmp_path / "music"
    shutil.copytree(music, folder)
    encoder = use(FakeEncoder())
    assert run(folder, folder) == 0
    assert (folder / "a.wav.npy").is_file()
    assert run(folder, folder) == 0
    assert encoder.calls == 5


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--layers", "lots"], "--layers lots is neither"),
        (["--layers", "3"], "does not exist"),
        (["--overlap_s", "30"], "less than a window overlaps"),
        (["--overlap_s", "-1"], "less than a window overlaps"),
        (["--window_s", "0"], "a window holds a token or more"),
        (["--batch", "0"], "a batch of 1 or more"),
        (["--device", "cudo"], "--device cudo cannot be used"),
        (["--context", "full"], "needs a MusicEncoder"),
    ],
)
def test_mistakes_are_one_sentence(
    music, tmp_path, use, capsys, options, sentence
):
    use(FakeEncoder())
    assert run(music, tmp_path / "out", *options) == 2
    printed = capsys.readouterr().err
    assert sentence in printed and printed.count("\n") == 1
    assert not (tmp_path / "out" / "settings.json").exists()


def test_wrong_paths(music, tmp_path, use, capsys):
    use(FakeEncoder())
    assert run(tmp_path / "gone", tmp_path / "out") == 2
    assert "gone does not exist" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", tmp_path / "out") == 2
    assert "holds no audio file" in capsys.readouterr().err
    assert run(music, music / "a.wav") == 2
    assert "cannot be written" in capsys.readouterr().err
    assert run(music / "cover.jpg", tmp_path / "out") == 1
    skipped = (tmp_path / "out" / "skipped.tsv").read_text()
    assert "unsupported format: '.jpg'" in skipped


def test_a_full_disk_is_told(music, tmp_path, use, capsys, monkeypatch):
    use(FakeEncoder())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("muselq_modules.feature_files.NpyWriter._write", full)
    assert run(music, tmp_path / "out") == 2
    assert "No space left on device: free" in capsys.readouterr().err
    monkeypatch.undo()
    use(FakeEncoder())
    assert run(music, tmp_path / "out") == 0


def test_name_that_is_too_long_with_its_suffix(tmp_path, use):
    use(FakeEncoder())
    folder = tmp_path / "music"
    folder.mkdir()
    soundfile.write(folder / f"{'x' * 250}.wav", make_noise(1, 8000), 8000)
    soundfile.write(folder / "b.wav", make_noise(1, 8000), 8000)
    assert run(folder, tmp_path / "out") == 1
    assert list(index(tmp_path / "out")) == ["b.wav"]
    assert "too long" in (tmp_path / "out" / "skipped.tsv").read_text()


def test_without_pyarrow_the_extra_is_named(music, tmp_path, use, monkeypatch):
    use(FakeEncoder())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"\[parquet\]"):
        command.import_arrow()
    assert run(music, tmp_path / "out", "--format", "parquet") == 2
    assert not (tmp_path / "out").exists()


PEAK = """
import resource, sys
sys.path[:0] = {paths}
from small_encoders import small_encoder
from muselq_modules import extract
extract.load_any_encoder = lambda *_: small_encoder()
extract.main([{path}, {output}, "--pretrained", "chosen", "--workers", "0",
              "--device", "cpu", *{options}])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_mib(path, output, options):
    code = PEAK.format(
        paths=[str(ROOT / "tests"), str(ROOT)],
        path=repr(str(path)),
        output=repr(str(output)),
        options=options,
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return int(ended.stdout) / unit


def write_long(path, seconds):
    """Noise at 8 kHz, written in pieces."""
    with soundfile.SoundFile(path, "w", 8000, 1, "PCM_16") as file:
        minute = make_noise(60, 8000)[:, 0]
        for _ in range(seconds // 60):
            file.write(minute)


@pytest.mark.skipif(os.name == "nt", reason="needs the resource module")
@pytest.mark.parametrize(
    "options",
    [
        ["--pool", "none", "--layers", "all"],
        ["--context", "full", "--memory_gb", "0.001"],
    ],
    ids=["windows", "full"],
)
def test_a_long_file_needs_no_more_memory(tmp_path, options):
    """15 minutes are 86 MB at 24 kHz, 1 minute is 6 MB."""
    write_long(tmp_path / "short.wav", 60)
    write_long(tmp_path / "long.wav", 900)
    peaks = [
        peak_mib(tmp_path / f"{name}.wav", tmp_path / name, options)
        for name in ("short", "long")
    ]
    features = np.load(tmp_path / "long" / "long.wav.npy", mmap_mode="r")
    assert features.shape[0] == 22500
    assert peaks[1] < peaks[0] + 20, peaks
