"""Loader workers that are killed, and locks that wait."""

import os
import re
import signal
import time

import pytest
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from muselq_modules.errors import UserError, exits_cleanly
from muselq_modules.loaders import WorkerDied, read_batches, steady_batches
from muselq_modules.locks import only_one
from muselq_modules.sampling import GlobalBatchSampler

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends signals")


@pytest.fixture(autouse=True)
def quick_look(monkeypatch):
    """The main process looks after its workers every 5 s."""
    look = _MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(look, "__defaults__", (0.2,))


class Deadly(Dataset):
    """Kills the worker that reads some example, as often as it is told."""

    def __init__(self, folder, example, times):
        self.folder, self.example, self.times = folder, example, times

    def __getitem__(self, key):
        _, example = key
        killed = len(list(self.folder.iterdir()))
        if example == self.example and killed < self.times:
            (self.folder / str(killed)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return example


def loader(folder, times, **options):
    sampler = GlobalBatchSampler(8, 4, 2, seed=1)
    sampler.set_steps(0, 2)
    dataset = Deadly(folder, 5, times)
    return sampler, DataLoader(
        dataset, batch_sampler=sampler, num_workers=1, **options
    )


@pytest.mark.parametrize("persistent", [False, True])
def test_new_workers_continue_where_the_dead_were(tmp_path, persistent):
    sampler, batches = loader(tmp_path, 1, persistent_workers=persistent)
    expected = [[example for _, example in batch] for batch in sampler]
    found, deaths = [], []

    def go_back():
        deaths.append(len(found))
        sampler.set_steps(len(found) // 2, 2, skip=len(found) % 2)

    for batch in steady_batches(batches, go_back):
        found.append(batch.tolist())
    assert found == expected
    assert len(deaths) == 1


def test_a_batch_that_kills_every_worker_is_given_up(tmp_path):
    sampler, batches = loader(tmp_path, 99)
    seen = []
    with pytest.raises(WorkerDied, match="memory is short"):
        for batch in steady_batches(
            batches,
            lambda: sampler.set_steps(len(seen) // 2, 2, len(seen) % 2),
        ):
            seen.append(batch)
    assert len(list(tmp_path.iterdir())) == 3


def test_other_errors_pass(tmp_path):
    def broken():
        yield 1
        raise RuntimeError("out of ideas")

    with pytest.raises(RuntimeError, match="out of ideas"):
        list(read_batches(broken()))


def test_only_one_process_works_at_a_time(tmp_path):
    log = tmp_path / "log"
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        with only_one(tmp_path, "working"):
            os.write(go, b"x")
            time.sleep(0.3)
            log.write_text("first ")
        os._exit(0)
    os.read(ready, 1)
    with only_one(tmp_path, "working"):
        with open(log, "a") as file:
            file.write("second")
    os.waitpid(child, 0)
    assert log.read_text() == "first second"


@pytest.mark.parametrize(
    "error, sentence",
    [
        (
            OSError(28, "No space left on device"),
            "A file cannot be .*make room",
        ),
        (PermissionError(13, "Permission denied", "/x"), "/x cannot be"),
        (UserError("a\x1b[31mb\nc"), r"a\\x1b\[31mb\\nc"),
    ],
)
def test_trouble_with_the_disk_is_one_sentence(capsys, error, sentence):
    @exits_cleanly
    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("Error: ") and printed.count("\n") == 1
    assert re.search(sentence, printed)


def test_other_trouble_keeps_its_traceback():
    @exits_cleanly
    def main():
        raise BlockingIOError(11, "Try again", "busy")

    with pytest.raises(BlockingIOError):
        main()
