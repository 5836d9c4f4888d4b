"""The extract command: right values in the right place, whatever the input."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from extract_runs import NAMES, index, make_music, run, whole
from fake_encoder import FakeEncoder
from small_encoders import redraw, small_encoder
from test_audio_data import make_noise

from muselq_modules import extract as command
from muselq_modules.adapters import CallableEncoder
from muselq_modules.audio_data import read_segment
from muselq_modules.crossfade import CrossFade

ODD_FILES = Path(__file__).parents[2] / "shared" / "music" / "odd_files"


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    return make_music(tmp_path_factory.mktemp("music"))


@pytest.fixture
def use(monkeypatch):
    """Makes the command load this encoder."""

    def choose(encoder):
        monkeypatch.setattr(command, "load_any_encoder", lambda *_: encoder)
        return encoder

    return choose


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


def levels(wav):
    """Frames of 400 samples every 320: one less than the length suggests."""
    frames = wav.unfold(1, 400, 320)
    return torch.stack([frames.mean(-1), frames.square().mean(-1)], -1)[None]


def test_an_encoder_whose_windows_lack_a_token(music, tmp_path, use, capsys):
    """As convolutions without padding give, MERT's for one."""
    encoder = use(
        CallableEncoder(
            levels, 24000, 75.0, 2, 0, "levels", version="1", min_samples=400
        )
    )
    options = ["--window_s", 3, "--overlap_s", 1]
    assert run(music, tmp_path / "out", *options) == 0
    for name in NAMES:
        features = np.load(tmp_path / "out" / f"{name}.npy")
        expected = whole(encoder, music / name, [0])[: len(features)]
        # Less than a token's samples may be left at the end.
        assert 0 <= len(whole(encoder, music / name, [0])) - len(features) <= 1
        np.testing.assert_allclose(features, expected, atol=1e-5)
    options = ["--window_s", 3, "--overlap_s", 0]
    assert run(music, tmp_path / "cut", *options) == 2
    assert "224 tokens of a window of 225" in capsys.readouterr().err


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


def test_many_tiny_files(tmp_path, use):
    """Of fewer samples than there are files in a batch."""
    encoder = use(redraw(small_encoder()))
    for number in range(40):
        path = tmp_path / "music" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, make_noise(0.0003, 24000, seed=number), 24000)
    assert run(tmp_path / "music", tmp_path / "out", "--batch", 32) == 0
    assert len(index(tmp_path / "out")) == 40
    features = np.load(tmp_path / "out" / "7.wav.npy")
    expected = whole(encoder, tmp_path / "music" / "7.wav", [2])
    np.testing.assert_allclose(features, expected, atol=1e-4)


def test_the_encoder_of_the_repository(tmp_path, monkeypatch):
    """No --pretrained, any working directory."""
    soundfile.write(tmp_path / "a.wav", make_noise(2.0, 24000), 24000)
    monkeypatch.chdir(tmp_path)
    command.main(["a.wav", "out", "--workers", "0"])
    assert np.load("out/a.wav.npy").shape == (50, 1, 144)


def test_options_may_stand_anywhere():
    given = command.parse(["a", "b", "out", "--layers", "all"])
    assert (given.inputs, given.output) == (["a", "b"], "out")
    assert command.parse(["--batch", "4", "a", "out"]).batch == 4
    assert command.parse(["a", "--per", "window", "out"]).output == "out"
