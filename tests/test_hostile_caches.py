"""What a command keeps for its next call may be damaged, or somebody else's.

Nothing in it runs, nothing leads out of its folder, and what is not as it was
written is made again or told in one sentence.
"""

import json
import os
import shutil
import signal
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_encoder import FakeEncoder
from small_run import make_run, save_checkpoint
from test_untrusted import peak_megabytes, refusal
from torch.utils.data import DataLoader

from muselq_modules import manifests, training_log
from muselq_modules.embeddings import embed
from muselq_modules.errors import UserError, exits_cleanly
from muselq_modules.feature_index import FeatureFolder
from muselq_modules.loaders import WorkerDied, read_batches
from muselq_modules.pretrained import load_encoder
from muselq_modules.probing import is_finished
from muselq_modules.recordings import Recording
from muselq_modules.windows import Window

ROOT = Path(__file__).parents[1]


def flip(path, at=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.write_bytes(data)


class Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


# ---------------------------------------------------------------- features


@pytest.fixture
def features(tmp_path):
    """A folder with the features of one recording, and that recording."""
    recording = Recording("song.wav", "song.wav", [1, 2])
    folder = FeatureFolder(tmp_path / "out", {"layers": [1]})
    np.save(folder.scratch / "1", np.ones((5, 1, 3)))
    folder.add(recording, {".npy": folder.scratch / "1.npy"}, {"rows": 5})
    folder.close()
    return tmp_path / "out", recording


def is_done(features):
    folder = FeatureFolder(features[0], {"layers": [1]})
    done = folder.is_done(features[1])
    folder.close()
    return done


def test_features_that_were_cut_are_made_again(features):
    assert is_done(features)
    path = features[0] / "song.wav.npy"
    path.write_bytes(path.read_bytes()[:-1])
    assert not is_done(features)


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe\x00\n",
        b"[1]\n3\nnull\n",
        b'{"file": "song.wav", "outputs": 3, "bytes": [1], "stamp": [1, 2]}\n',
        b'{"file": "song.wav", "outputs": ["song.wav.npy"], "stamp": [1, 2]}\n',
        b'{"file": ["a"], "outputs": [], "bytes": [], "stamp": [1, 2]}\n',
    ],
)
def test_damaged_lines_of_an_index_do_not_count(features, line):
    (features[0] / "index.jsonl").write_bytes(line)
    assert not is_done(features)


@pytest.mark.parametrize("text", [b"[1]", b"{", b"\xff", b"3"])
def test_damaged_settings_of_features_are_named(features, text):
    (features[0] / "settings.json").write_bytes(text)
    with pytest.raises(UserError, match="settings.json is damaged"):
        is_done(features)
    FeatureFolder(features[0], {"layers": [1]}, overwrite=True).close()
    assert not is_done(features)


# -------------------------------------------------------------- embeddings


@pytest.fixture
def cache(tmp_path):
    """Embeds ten windows; called again it takes what is there."""
    import soundfile

    noise = np.random.default_rng(0).normal(size=24000) * 0.1
    soundfile.write(tmp_path / "a.wav", noise, 24000)
    windows = [Window("a.wav", i / 20, 2400) for i in range(10)]

    def run():
        place = tmp_path / "cache"
        found = embed(FakeEncoder(), windows, tmp_path, place, [0, 1])
        return found, np.array(found.values)

    return run


def test_damaged_offsets_of_a_cache_are_noticed(cache, caplog):
    """Each digit of each number: a wrong row would be a wrong result."""
    found, expected = cache()
    path = found.folder / "index.json"
    text = path.read_text()
    start = text.index('"offsets"')
    digits = [i for i in range(start, len(text)) if text[i].isdigit()]
    for at in digits[::3]:
        flip(path, at)
        _, values = cache()
        assert np.array_equal(values, expected)
        assert path.read_text() == text
    assert "made again" in caplog.text


@pytest.mark.parametrize("name", ["values", "tokens", "sums"])
def test_pickles_in_a_cache_never_run(cache, tmp_path, name):
    found, expected = cache()
    path, trap = found.folder / f"{name}.npy", tmp_path / "trap"
    array = np.empty(10, object)
    array[:] = Trap(trap)
    np.save(path, array, allow_pickle=True)
    _, values = cache()
    assert np.array_equal(values, expected)
    path.unlink()
    header = {"descr": "<f4", "fortran_order": False, "shape": (2**50, 2, 8)}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    _, values = cache()
    assert np.array_equal(values, expected)
    assert not trap.exists()


def test_checkpoints_that_unfold_are_refused_before_memory_is_taken(tmp_path):
    """Packed zeros, and one number that is shown 2**40 times."""
    folder, model = make_run(tmp_path)
    checkpoint = save_checkpoint(folder, model, 1) / "model.ckpt"
    load_encoder(folder)  # what the first call imports is not counted
    packed = tmp_path / "packed"
    with zipfile.ZipFile(checkpoint) as archive:
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, 1) as copy:
            for entry in archive.infolist():
                copy.writestr(entry.filename, archive.read(entry))
            with copy.open("archive/data/999", "w") as bomb:
                for _ in range(512):
                    bomb.write(bytes(2**20))
    shutil.copy(packed, checkpoint)
    before = peak_megabytes()
    assert "model.ckpt is damaged" in refusal(folder)
    state = {f"encoder.{k}": v for k, v in model.encoder.state_dict().items()}
    state["encoder.norm.bias"] = torch.ones(1, dtype=torch.half).expand(2**40)
    torch.save(state, checkpoint)
    assert "norm.bias has the shape" in refusal(folder)
    assert peak_megabytes() - before < 100


# ------------------------------------------------------- manifests and runs


def test_changed_manifests_of_a_task_are_named(tmp_path):
    options = {"data_folder": "/data"}
    rows = [
        {"split": split, "path": f"{split}.wav", "label": "x", "group": split}
        for split in manifests.SPLITS
    ]
    with pytest.MonkeyPatch.context() as patch:
        files = [manifests_file(row["path"]) for row in rows]
        patch.setattr(manifests, "scan_audio", lambda *a, **k: (files, []))
        manifests.write_manifests(
            tmp_path, "/data", rows, options, "test", labels=["x"]
        )
    assert manifests.is_prepared(tmp_path, options)
    assert not manifests.is_prepared(tmp_path, {"data_folder": "/other"})
    for name in ("train.csv", "test.csv", "labels.txt"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text + "y\n")
        with pytest.raises(UserError, match=f"{name} was changed since"):
            manifests.is_prepared(tmp_path, options)
        (tmp_path / name).unlink()
        assert not manifests.is_prepared(tmp_path, options)
        (tmp_path / name).write_text(text)
    assert manifests.is_prepared(tmp_path, options)
    for text in ("[1]", "{", "3"):
        (tmp_path / "options.json").write_text(text)
        assert not manifests.is_prepared(tmp_path, options)


def manifests_file(path):
    from muselq_modules.audio_scan import AudioFile

    return AudioFile(path, 24000, 24000, 1)


def test_a_damaged_result_is_made_again(tmp_path):
    (tmp_path / "results.json").write_text('{"seed": 1}')
    assert is_finished(tmp_path, {"seed": 1})
    for text in (b'{"seed": 1', b"[1]", b"\xff", b"2"):
        (tmp_path / "results.json").write_bytes(text)
        assert not is_finished(tmp_path, {"seed": 1})


def test_damaged_lines_of_a_training_log_are_dropped(tmp_path, caplog):
    records = [{"kind": "train", "step": i, "loss": 0.1 * i} for i in (1, 2, 3)]
    lines = [json.dumps(record) for record in records]
    path = tmp_path / "train_log.jsonl"
    text = "\n".join([lines[0], "\udcff", "[]", "{}", *lines[1:], lines[2][:9]])
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match="3 of its lines"):
        training_log.read_log(tmp_path)
    log = training_log.TrainingLog(tmp_path, tensorboard=False)
    log.resume(after_step=2, validated=0)
    log.close()
    assert path.read_text() == f"{lines[0]}\n{lines[1]}\n"
    assert "3 damaged lines" in caplog.text


class Deadly(torch.utils.data.Dataset):
    """Kills the process that reads it."""

    def __len__(self):
        return 2

    def __getitem__(self, number):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_is_told():
    with pytest.raises(WorkerDied, match="the same command continues"):
        list(read_batches(DataLoader(Deadly(), num_workers=1)))


def test_a_file_in_the_place_of_a_folder_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").touch()

    @exits_cleanly
    def main(path):
        Path(path).mkdir(parents=True)

    for path in (tmp_path / "file", tmp_path / "file" / "x", "x" * 5000):
        with pytest.raises(SystemExit) as stop:
            main(path)
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("Error: ") and error.count("\n") == 1
