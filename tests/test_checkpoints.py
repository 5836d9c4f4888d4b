"""Atomic saves, verified loads and the fall back to an earlier checkpoint"""

import json
import logging
import os
import time

import pytest
import torch
from speechbrain.utils.checkpoints import Checkpointer

from muselq_modules.checkpoints import AtomicCheckpointer
from muselq_modules.errors import UserError


@pytest.fixture
def model():
    return torch.nn.Linear(3, 2)


@pytest.fixture
def checkpointer(tmp_path, model):
    return AtomicCheckpointer(tmp_path / "save", {"model": model})


def save(checkpointer, model, step, **options):
    with torch.no_grad():
        model.weight.fill_(step)
    checkpointer.save_and_keep_only(meta={"step": step}, **options)


def names(checkpointer):
    return sorted(path.name for path in checkpointer.checkpoints_dir.iterdir())


def weight(model):
    return model.weight[0, 0].item()


def test_round_trip(checkpointer, model):
    for step in (5, 10, 200):
        save(checkpointer, model, step)
    assert names(checkpointer) == ["CKPT+000000010", "CKPT+000000200"]
    with torch.no_grad():
        model.weight.zero_()
    found = checkpointer.recover_if_possible()
    assert found.meta["step"] == 200
    assert weight(model) == 200
    sums = json.loads((found.path / "CHECKSUMS.json").read_text())
    assert set(sums) == {"CKPT.yaml", "model.ckpt"}


def test_an_empty_folder_starts_from_scratch(checkpointer):
    assert checkpointer.recover_if_possible() is None


def test_recency_is_the_step_not_the_clock(checkpointer, model, monkeypatch):
    save(checkpointer, model, 10)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    save(checkpointer, model, 20)
    assert checkpointer.recover_if_possible().meta["step"] == 20
    save(checkpointer, model, 30)
    assert names(checkpointer) == ["CKPT+000000020", "CKPT+000000030"]


def test_the_same_step_twice(checkpointer, model):
    save(checkpointer, model, 10)
    with torch.no_grad():
        model.weight.fill_(99)
    checkpointer.save_and_keep_only(meta={"step": 10})
    assert checkpointer.recover_if_possible().path.name == "CKPT+000000010+01"
    assert weight(model) == 99


def test_without_a_step_the_order_is_kept(checkpointer, model):
    save(checkpointer, model, 10)
    checkpointer.save_and_keep_only()
    assert checkpointer.recover_if_possible().meta["step"] == 11


def test_best_and_recent_are_kept(checkpointer, model):
    for step, score in enumerate((0.1, 0.9, float("nan"), 0.2)):
        checkpointer.save_and_keep_only(
            meta={"step": step, "accuracy": torch.tensor(score)},
            max_keys=["accuracy"],
            num_to_keep=1,
        )
    assert names(checkpointer) == ["CKPT+000000001", "CKPT+000000003"]
    best = checkpointer.recover_if_possible(max_key="accuracy")
    assert best.meta["step"] == 1
    assert checkpointer.find_checkpoint(min_key="accuracy").meta["step"] == 3
    with pytest.raises(UserError, match="that holds acuracy"):
        checkpointer.recover_if_possible(max_key="acuracy")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def empty(path):
    path.write_text("")


DAMAGES = [
    ("model.ckpt", truncate, "bytes instead of"),
    ("model.ckpt", flip, "model.ckpt has a wrong checksum"),
    ("model.ckpt", os.remove, "model.ckpt is missing"),
    ("CKPT.yaml", os.remove, "CKPT.yaml is missing or damaged"),
    ("CKPT.yaml", empty, "CKPT.yaml is missing or damaged"),
    ("CHECKSUMS.json", os.remove, "CHECKSUMS.json is missing"),
    ("CHECKSUMS.json", truncate, "CHECKSUMS.json is damaged"),
]


@pytest.mark.parametrize("file, damage, fault", DAMAGES)
def test_a_damaged_newest_gives_way(
    checkpointer, model, caplog, file, damage, fault
):
    save(checkpointer, model, 10)
    save(checkpointer, model, 20)
    damage(checkpointer.checkpoints_dir / "CKPT+000000020" / file)
    with caplog.at_level(logging.WARNING):
        assert checkpointer.recover_if_possible().meta["step"] == 10
    assert weight(model) == 10
    assert "CKPT+000000020" in caplog.text
    assert fault in caplog.text
    # the damaged one neither counts as kept nor hides what is saved next
    save(checkpointer, model, 15)
    assert names(checkpointer) == [
        "CKPT+000000010",
        "CKPT+000000015",
        "damaged+CKPT+000000020",
    ]
    assert checkpointer.recover_if_possible().meta["step"] == 15


def test_never_from_scratch_in_silence(checkpointer, model):
    save(checkpointer, model, 10)
    flip(checkpointer.checkpoints_dir / "CKPT+000000010" / "model.ckpt")
    with pytest.raises(UserError, match="no usable checkpoint"):
        checkpointer.recover_if_possible()


def test_a_killed_save_leaves_the_earlier_ones(
    checkpointer, model, monkeypatch
):
    save(checkpointer, model, 10)
    monkeypatch.setattr("shutil.rmtree", lambda *a, **k: None)  # as if killed
    monkeypatch.setattr(torch, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(checkpointer, model, 20)
    monkeypatch.undo()
    assert "unfinished+CKPT+000000020" in names(checkpointer)
    assert checkpointer.recover_if_possible().meta["step"] == 10
    save(checkpointer, model, 30)
    assert names(checkpointer) == ["CKPT+000000010", "CKPT+000000030"]


def interrupt(*arguments):
    raise KeyboardInterrupt


def disk_full(*arguments):
    raise OSError(28, "No space left on device")


def writer_failed(*arguments):
    raise RuntimeError("PytorchStreamWriter failed writing file")


@pytest.mark.parametrize("failure", [disk_full, writer_failed])
def test_disk_full(checkpointer, model, monkeypatch, failure):
    save(checkpointer, model, 10)
    monkeypatch.setattr(torch, "save", failure)
    with pytest.raises(UserError, match="make room") as caught:
        save(checkpointer, model, 20)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert names(checkpointer) == ["CKPT+000000010"]
    assert checkpointer.recover_if_possible().meta["step"] == 10


class Payload:
    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_pickled_code_is_never_run(checkpointer, model, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    payload = Payload()
    payload.path = str(tmp_path / "was_run")
    original = torch.save
    monkeypatch.setattr(torch, "save", lambda _, path: original(payload, path))
    checkpointer.save_checkpoint(meta={"step": 1})
    with pytest.raises(UserError, match="holds more than weights"):
        checkpointer.recover_if_possible()
    assert not (tmp_path / "was_run").exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"


def test_another_configuration(checkpointer, model, tmp_path):
    save(checkpointer, model, 10)
    larger = {"model": torch.nn.Linear(5, 2)}
    other = AtomicCheckpointer(checkpointer.checkpoints_dir, larger)
    with pytest.raises(UserError, match="does not fit this configuration"):
        other.recover_if_possible()
    more = {"model": model, "optimizer": torch.nn.Linear(1, 1)}
    other = AtomicCheckpointer(checkpointer.checkpoints_dir, more)
    with pytest.raises(UserError, match="optimizer"):
        other.recover_if_possible()


def test_meta_must_be_plain(checkpointer, model):
    with pytest.raises(TypeError, match="losses"):
        checkpointer.save_checkpoint(meta={"step": 1, "losses": [object()]})
    assert names(checkpointer) == []


def test_constant_time_over_many_saves(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # the disk's own time
    checkpointer = AtomicCheckpointer(tmp_path, {"x": torch.nn.Linear(1, 1)})
    scans = []
    original = checkpointer._folders

    def counted():
        scans[-1] += 1
        return original()

    checkpointer._folders = counted
    for step in range(1000):
        scans.append(0)
        checkpointer.save_and_keep_only(meta={"step": step})
    assert set(scans) == {1}
    assert len(checkpointer.list_checkpoints()) == 2


def test_speechbrain_brain_uses_it(checkpointer, model):
    import speechbrain as sb

    class Brain(sb.Brain):
        def compute_forward(self, batch, stage):
            return self.modules.model(batch)

        def compute_objectives(self, predictions, batch, stage):
            return predictions.square().mean()

        def on_stage_end(self, stage, stage_loss, epoch=None):
            if stage == sb.Stage.TRAIN:
                meta = {"step": self.optimizer_step, "loss": stage_loss}
                self.checkpointer.save_and_keep_only(meta=meta)

    def brain():
        return Brain(
            modules={"model": model},
            opt_class=lambda p: torch.optim.Adam(p, lr=0.1),
            run_opts={"device": "cpu", "noprogressbar": True},
            checkpointer=checkpointer,
        )

    data = [torch.ones(2, 3)] * 3
    brain().fit(range(2), data)
    assert isinstance(checkpointer, Checkpointer)
    assert len(checkpointer.list_checkpoints()) == 2
    resumed = brain()
    resumed.on_fit_start()
    assert resumed.optimizer_step == 6
    resumed._save_intra_epoch_ckpt()
    assert checkpointer.find_checkpoint().meta["step"] == 7
