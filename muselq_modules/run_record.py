"""What a run folder keeps about its launches

`run.json` holds a list `launches`, one record for each start of the run: a
resumed run appends to it.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from pathlib import Path

import torch

from muselq_modules.errors import UserError
from muselq_modules.files import write_json

PROJECT = Path(__file__).resolve().parents[1]


def record_launch(folder, experiment):
    """Appends a launch to run.json, atomically

    Parameters
    ----------
    folder : str or Path
        The run folder.
    experiment : Experiment
        What was launched.

    Returns
    -------
    dict
        The record.

    Raises
    ------
    UserError
        run.json is there but not what this function writes.
    """
    path = Path(folder) / "run.json"
    launches = []
    if path.exists():
        try:
            launches = json.loads(path.read_text(encoding="utf-8"))["launches"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is damaged: move it out of the folder"
            ) from error
    record = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": experiment.command,
        "yaml": str(experiment.yaml_path),
        "overrides": experiment.overrides,
        "run_options": experiment.run_options,
        "seeds": find_seeds(experiment.resolved),
        "world_size": int(os.environ.get("WORLD_SIZE", 1)),
        "device": device_name(experiment.run_opts.device),
        "git": git_state(),
        "versions": versions(),
    }
    write_json(path, {"launches": [*launches, record]})
    return record


def find_seeds(values, prefix=""):
    """Every `seed` and `*_seed` of a configuration, by its dotted name

    Example
    -------
    >>> find_seeds({"seed": 1, "masking": {"seed": 2, "fill": "zeros"}})
    {'seed': 1, 'masking.seed': 2}
    """
    found = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            found.update(find_seeds(value, f"{name}."))
        elif isinstance(value, int) and str(key).split("_")[-1] == "seed":
            found[name] = int(value)
    return found


def device_name(device):
    """The kind of a device, such as `NVIDIA H200` or `CPU (x86_64)`"""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(torch.device(device))
    return f"{device.upper()} ({platform.machine()})"


def git_state():
    """Commit of the project and whether tracked files differ from it

    Returns
    -------
    dict or None
        `commit` and `dirty`; None when the project is not a git checkout.
    """
    top = _git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != PROJECT:
        return None
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(changes)} if commit else None


def _git(*arguments):
    try:
        done = subprocess.run(
            ["git", "-C", str(PROJECT), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def versions():
    """Versions of what a result depends on; None for what is not installed"""
    found = {"python": platform.python_version()}
    for name in ("muselq", "torch", "torchaudio", "speechbrain"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found
