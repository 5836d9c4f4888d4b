"""What a run folder itself records about its training."""

import json
from pathlib import Path

from muselq_modules.description import describe
from muselq_modules.errors import UserError
from muselq_modules.training_log import read_log

# Settings that a reader of a model card asks for.
SETTINGS = ("n_steps", "global_batch", "segment_s", "peak_lr", "precision")


def run_facts(run_folder, step=None):
    """Facts about a training, each None or empty where it is not recorded.

    Parameters
    ----------
    run_folder : str or Path
        Output folder of a pre-training run.
    step : int, optional
        Step of the weights, where the run went on or has not finished.

    Returns
    -------
    dict
        ``step``, ``settings``, ``valid`` (last validation), ``data``
        (data.json) and ``launch`` (the last one of run.json).

    Raises
    ------
    UserError
        When one of the files is damaged.

    Example
    -------
    >>> run_facts(getfixture("tmp_path"))["step"] is None
    True
    """
    run_folder = Path(run_folder)
    try:
        train = _records(run_folder, "train", step)
        valid = _records(run_folder, "valid", step)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{run_folder / 'train_log.jsonl'} is damaged ({error}): export "
            "from a whole copy of the run folder."
        ) from error
    launches = (_read(run_folder / "run.json") or {}).get("launches")
    return {
        "step": train[-1]["step"] if train else step,
        "settings": _settings(run_folder / "hyperparams.yaml"),
        "valid": valid[-1] if valid else {},
        "data": _read(run_folder / "data.json") or {},
        "launch": launches[-1] if launches else {},
    }


def _records(run_folder, kind, step):
    if not (run_folder / "train_log.jsonl").is_file():
        return []
    records = read_log(run_folder, kind)
    return [r for r in records if step is None or r["step"] <= step]


def _settings(path):
    found = {}
    for name in SETTINGS if path.is_file() else ():
        try:
            found[name] = describe(path, name)
        except UserError:
            continue  # a recipe of one's own may have other keys
    return found


def _read(path):
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}): export from a whole copy of the "
            "run folder."
        ) from error
    return content
