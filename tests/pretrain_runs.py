"""Runs the shipped pre-training recipe, small, for the end-to-end tests."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "recipes" / "pretrain" / "train.py"
TIMES = ("seconds", "audio_hours_per_s")
# The shipped demo, made smaller by nothing but its own keys.
SMALL = {
    "segment_s": 2.0,
    "min_tail_s": 1.0,
    "global_batch": 4,
    "local_batch": 4,
    "n_steps": 8,
    "warmup_steps": 2,
    "valid_interval": 4,
    "valid_segments": 6,
    "statistics_segments": 40,
    "n_workers": 0,
    "tensorboard": False,
    "ckpt_interval_minutes": 0,
    "ckpt_interval_steps": 2,
    "encoder": "{dim: 16, n_layers: 2}",
}


def command_line(output_folder, **options):
    """Arguments of the recipe: SMALL, then ``options``."""
    values = {
        "data_folder": ROOT / "tests" / "samples",
        "output_folder": output_folder,
        **SMALL,
        **options,
    }
    arguments = [str(ROOT / "hparams" / "demo.yaml")]
    for name, value in values.items():
        arguments += [f"--{name}", str(value)]
    return arguments


def start(output_folder, n_ranks=1, **options):
    """Start the recipe; with several ranks through torchrun."""
    launcher = [sys.executable]
    if n_ranks > 1:
        launcher += [
            "-m",
            "torch.distributed.run",
            f"--nproc_per_node={n_ranks}",
            f"--master_port={_free_port()}",
        ]
    return subprocess.Popen(
        [*launcher, str(SCRIPT), *command_line(output_folder, **options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def run(output_folder, n_ranks=1, **options):
    """Run the recipe to its end; returns (exit code, output)."""
    process = start(output_folder, n_ranks, **options)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def trace(output_folder):
    """The log of a run, without what depends on the clock."""
    path = Path(output_folder) / "train_log.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        {name: value for name, value in r.items() if name not in TIMES}
        for r in records
    ]


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
