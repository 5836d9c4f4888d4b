"""Long runs: memory, file handles and the time of a save stay as they are."""

import gc
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from chaos import arithmetic, runs
from chaos.registry import fault

STEPS, SAVES = 20_000, 1_000
MIB = 2**20


def held():
    """Resident memory in MiB, and open files."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files = len(os.listdir("/proc/self/fd"))
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB, files


def many_steps(*arguments):
    """Train, and look at memory and files on the way."""
    from muselq_modules.pretraining import PretrainBrain

    marks = []

    class Brain(PretrainBrain):
        def optimizers_step(self):
            super().optimizers_step()
            if self.optimizer_step % (STEPS // 10) == 0:
                marks.append(held())
                print("memory, files:", marks[-1], flush=True)

    arithmetic.train_with(Brain, list(arguments))
    (memory, files), (last_memory, last_files) = marks[1], marks[-1]
    assert last_memory - memory < 30, marks
    assert last_files - files <= 2, marks


def many_saves():
    """Save a thousand checkpoints of a small model and its optimizer."""
    from muselq_modules.checkpoints import AtomicCheckpointer

    model = torch.nn.Linear(256, 256)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 256)).sum().backward()
    optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        checkpointer = AtomicCheckpointer(
            folder, {"model": model, "optimizer": optimizer}
        )
        seconds, marks = [], []
        for step in range(SAVES):
            started = time.process_time()
            checkpointer.save_and_keep_only(meta={"step": step})
            seconds.append(time.process_time() - started)
            if step in (100, SAVES - 1):
                marks.append(held())
        assert len(checkpointer.list_checkpoints()) == 2
    first = statistics.median(seconds[100:200])
    last = statistics.median(seconds[-100:])
    print(f"a save takes {first * 1e3:.1f} ms, then {last * 1e3:.1f} ms")
    assert last < 1.3 * first
    assert marks[1][0] - marks[0][0] < 10 and marks[1][1] <= marks[0][1] + 1


@fault("20,000 steps: flat memory and file handles", times=1, quick=0)
def steps(place, folder, number, total):
    """The smallest encoder."""
    _, arguments = runs.pretraining(
        place,
        folder,
        segment_s=2.0,
        global_batch=1,
        local_batch=1,
        n_steps=STEPS,
        warmup_steps=100,
        valid_interval=STEPS // 10,
        ckpt_interval_steps=500,
        valid_segments=1,
        tensorboard=True,
        encoder="{dim: 8, n_layers: 1}",
    )
    runs.finish(place, "chaos.endurance:many_steps", arguments)


@fault("1,000 checkpoints: constant time of a save", times=1, quick=0)
def saves(place, folder, number, total):
    """Without the waiting for the disk, which is not ours."""
    runs.finish(place, "chaos.endurance:many_saves", [])
