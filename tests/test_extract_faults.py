"""The extract command when something is in its way, or was."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from extract_runs import NAMES, index, make_music, run, whole
from fake_encoder import FakeEncoder
from small_encoders import small_encoder
from test_audio_data import make_noise, write_mp3

from muselq_modules import extract as command
from muselq_modules.errors import UserError

ROOT = Path(__file__).parents[1]


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
    # One that is damaged now: what it was is gone.
    (folder / "a.wav").write_bytes(b"RIFF")
    assert run(folder, output) == 1
    assert "a.wav" not in index(output) and len(index(output)) == 5
    assert not (output / "a.wav.npy").exists()


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


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--layers", "lots"], "--layers lots is neither"),
        (["--layers", "3"], "does not exist"),
        (["--overlap_s", "30"], "less than a window overlaps"),
        (["--overlap_s", "-1"], "less than a window overlaps"),
        (["--window_s", "0"], "a window holds a token or more"),
        (["--window_s", "nan"], "a window holds a token or more"),
        (["--batch", "0"], "a batch of 1 or more"),
        (["--memory_gb", "0"], "some memory"),
        (["--workers", "-1"], "0 or more"),
        (["--per", "window"], "add --pool mean"),
        (["--device", "cudo"], "device cudo is not there"),
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
    assert "No space left on device: make room" in capsys.readouterr().err
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
