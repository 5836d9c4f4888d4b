"""Values that would fail late, or change nothing, refused before any work.

`configuration` checks names and types; whether a number makes sense only the
recipe knows. Its table holds the lowest and the highest value of each key.
"""

import math
from pathlib import Path

import torch
import yaml

from muselq_modules import configuration as tree
from muselq_modules.errors import UserError

TINY = 1e-12  # above 0
COMPILE_MODES = (
    "default",
    "reduce-overhead",
    "max-autotune",
    "max-autotune-no-cudagraphs",
)
# Run options of SpeechBrain that a recipe of ours does not follow.
UNUSED = {
    "test_only": "a run trains, or is finished",
    "debug": "give small numbers instead",
    "data_parallel_backend": "start it with torchrun",
    "jit": "use compile",
    "jit_module_keys": "use compile",
    "auto_mix_prec": "use precision",
    "bfloat16_mix_prec": "use precision",
    "profile_training": "use a profiler around the command",
}


def check_values(values, ranges, source, prefix=""):
    """Raise a UserError for a value that is absent or out of its range.

    Parameters
    ----------
    values : dict
        Of a YAML.
    ranges : dict
        Key -> (lowest, highest), both allowed; whole numbers where the lowest
        is one. A list [lowest, highest] stands for a list of at least one
        number, all in this range.
    source : str or Path
        The YAML, for the message.
    prefix : str
        Dotted name before the keys.

    Example
    -------
    >>> check_values({"steps": 5}, {"steps": (1, 10)}, "a.yaml")
    >>> check_values({"steps": 0}, {"steps": (1, 10)}, "a.yaml")
    Traceback (most recent call last):
        ...
    muselq_modules.errors.UserError: steps is 0: it must be a whole number ...
    """
    require_keys(values, ranges, source, prefix)
    for key, (lowest, highest) in ranges.items():
        whole = isinstance(lowest, int)
        kind = int if whole else (int, float)
        numbers, plural = [values[key]], isinstance(ranges[key], list)
        if plural:
            numbers = values[key] if isinstance(values[key], list) else []
        fits = bool(numbers) and all(
            isinstance(number, kind)
            and not isinstance(number, bool)
            and lowest <= number <= highest
            for number in numbers
        )
        if not fits:
            bounds = f"from {lowest:g} to {highest:g}"
            if highest == math.inf:
                bounds = f"of at least {lowest:g}"
            if lowest == TINY:
                bounds = f"above 0, at most {highest:g}"
            what = "list of numbers" if plural else "number"
            raise UserError(
                f"{prefix}{key} is {values[key]}: it must be a "
                f"{'whole ' if whole else ''}{what} {bounds}"
            )


def require_keys(values, keys, source, prefix=""):
    """Raise a UserError for a key that a YAML lacks."""
    for key in keys:
        if key not in values:
            hint = tree.nearest(key, values)
            raise UserError(
                f"{source} has no key {prefix}{key}, which the recipe reads"
                f"{hint}"
            )


def refuse_unused(run_opts, unused=UNUSED):
    """Raise a UserError for a run option that would change nothing.

    Parameters
    ----------
    run_opts : RunOptions
        The effective ones.
    unused : dict
        Name -> what to do instead.
    """
    defaults = type(run_opts)()
    for name, remedy in unused.items():
        if getattr(run_opts, name) != getattr(defaults, name):
            raise UserError(f"{name} has no effect in this recipe: {remedy}")


def check_run_opts(run_opts):
    """Raise a UserError for a run option that would fail after minutes.

    Parameters
    ----------
    run_opts : RunOptions
        The effective ones.
    """
    _check_device(run_opts.device)
    if run_opts.compile_mode not in COMPILE_MODES:
        raise UserError(
            f"compile_mode is {run_opts.compile_mode}: it is one of "
            f"{', '.join(COMPILE_MODES)}"
        )
    path = run_opts.log_config
    if path is not None:
        try:
            text = Path(path).read_text(encoding="utf-8")
            whole = "file_handler" in yaml.safe_load(text)["handlers"]
        except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
            whole = False
        if not whole:
            raise UserError(
                f"log_config {path} is no YAML of logging with a file_handler "
                "among its handlers: leave it out, or copy SpeechBrain's "
                "log-config.yaml"
            )


def _check_device(name):
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"device {name} is none: use cpu or cuda") from error
    counts = {"cpu": 1, "cuda": torch.cuda.device_count()}
    counts["mps"] = int(torch.backends.mps.is_available())
    count = counts.get(device.type, 0)
    if count <= (device.index or 0):
        raise UserError(
            f"device {name} is not there: this machine has {count} of that "
            "kind; use --device cpu, or leave it out"
        )
