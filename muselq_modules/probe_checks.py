"""What the YAML of a downstream recipe must hold, checked before any work."""

import inspect

from muselq_modules import metrics
from muselq_modules.errors import UserError
from muselq_modules.probe_data import LOSSES
from muselq_modules.run_checks import (
    TINY,
    UNUSED,
    check_values,
    refuse_unused,
    require_keys,
)
from muselq_modules.windows import PROTOCOLS

UNUSED_OPTIONS = {
    **UNUSED,
    "grad_accumulation_factor": "use a larger batch_size in the probe block",
    "optimizer_step_limit": "use epochs in the probe block",
    "ckpt_interval_minutes": "a probe is repeated, not resumed",
    "ckpt_interval_steps": "a probe is repeated, not resumed",
}
KEYS = "dataset task prepare loss metrics monitor pretrained probe".split()
RANGES = {
    "seed": (0, 2**32 - 1),
    "n_outputs": (1, 10**5),
    "window_s": (TINY, 1e6),
}
PROBE_RANGES = {
    "hidden": (1, 10**5),
    "dropout": (0.0, 0.999),
    "batch_size": (1, 10**7),
    "seeds": (1, 1000),
    "learning_rates": [TINY, 10.0],
    "epochs": (1, 10**6),
    "patience": (1, 10**6),
    "lr_patience": (0, 10**6),
    "encoder_lr": (TINY, 10.0),
    "embed_batch_s": (TINY, 1e9),
    "workers": (0, 1000),
}
RUN_RANGES = {"max_grad_norm": (TINY, 1e12)}


def check_task(experiment, prepare):
    """Raises a UserError for values that would fail late, or do nothing.

    Parameters
    ----------
    experiment : Experiment
        As it was loaded.
    prepare : callable
        The recipe's; takes the options of the YAML's ``prepare``.
    """
    hparams, source = experiment.hparams, experiment.yaml_path
    refuse_unused(experiment.run_opts, UNUSED_OPTIONS)
    require_keys(hparams, KEYS, source)
    check_values(hparams, RANGES, source)
    check_values(hparams["probe"], PROBE_RANGES, source, "probe ")
    check_values(vars(experiment.run_opts), RUN_RANGES, source)
    try:
        inspect.signature(prepare).bind(None, None, **hparams["prepare"])
    except TypeError as error:
        raise UserError(
            f"prepare in {source} is {dict(hparams['prepare'] or {})}: {error}"
        ) from error
    metrics.require_metrics([*hparams["metrics"], hparams["monitor"]])
    for key, value, valid in (
        ("loss", hparams["loss"], LOSSES),
        ("protocol", hparams["probe"]["protocol"], PROTOCOLS),
    ):
        if value not in valid:
            raise UserError(
                f"{key} {value} does not exist: choose among "
                f"{', '.join(valid)}."
            )
