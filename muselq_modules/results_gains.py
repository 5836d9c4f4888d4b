"""What training gave: each encoder against the same one untrained.

The intervals of two encoders may overlap although one is better on nearly
every track. Scored on the same resampled tracks, their difference has an
interval of its own; training has helped where that lies above zero.
"""

from zipfile import BadZipFile

import numpy as np

from muselq_modules.bootstrap import bootstrap_difference
from muselq_modules.results_tables import signed

RANDOM = "random_"


def gains(runs, columns):
    """Difference of each trained encoder to its untrained twin.

    Parameters
    ----------
    runs : list of dict
        From `muselq_modules.results.collect`.
    columns : list of dict
        From `muselq_modules.results_tables.table_columns`.

    Returns
    -------
    list of dict
        ``row`` (encoder), ``title`` (of the measure), ``mean`` and
        ``interval`` of the difference.
    """
    untrained = {_twin(run): run for run in runs if _is_untrained(run)}
    found = []
    for column in columns:
        for run in runs:
            task = (run["dataset"], run["task"])
            twin = untrained.get(_twin(run))
            if task != (column["dataset"], column["task"]):
                continue
            if twin is None or twin is run:
                continue
            difference = compare(run, twin, column["metric"])
            if difference is not None:
                found.append(
                    {"row": run["row"], "title": column["title"], **difference}
                )
    return found


def _is_untrained(run):
    return run["encoder"]["name"].startswith(RANDOM)


def _twin(run):
    """What an encoder and its untrained twin have in common."""
    name = run["encoder"]["name"].removeprefix(RANDOM)
    tuned = run["probe"]["finetune"]
    return (run["dataset"], run["task"], name, run["protocol"], tuned)


def compare(run, other, metric):
    """Mean and paired interval of ``run`` minus ``other``, or None.

    None where a run has no such metric or no predictions, or where the two
    were tested on other rows.
    """
    if metric not in run["test"] or metric not in other["test"]:
        return None
    if run["manifests"]["test"] != other["manifests"]["test"]:
        return None
    arrays = [_read(r["folder"] / "predictions.npz") for r in (run, other)]
    if None in arrays:
        return None
    ours, theirs = arrays
    low, high = bootstrap_difference(
        metric,
        ours["targets"],
        list(ours["predictions"]),
        list(theirs["predictions"]),
        ours["groups"],
    )
    mean = run["test"][metric]["mean"] - other["test"][metric]["mean"]
    return {"mean": mean, "interval": [low, high]}


def _read(path):
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, BadZipFile):
        return None  # a run of an earlier version, or damaged


def gains_table(found):
    """Header and lines: a line a measure, a column a trained encoder.

    Example
    -------
    >>> gain = {"row": "mine", "title": "key", "mean": 0.1}
    >>> gains_table([{**gain, "interval": [0.05, 0.15]}])
    (['Gain over untrained', 'mine'], [['key', '+.100 [+.050, +.150] *']])
    """
    rows = list(dict.fromkeys(gain["row"] for gain in found))
    titles = list(dict.fromkeys(gain["title"] for gain in found))
    cells = {(g["title"], g["row"]): _cell(g) for g in found}
    lines = [
        [title, *(cells.get((title, row), "") for row in rows)]
        for title in titles
    ]
    return ["Gain over untrained", *rows], lines


def _cell(gain):
    low, high = gain["interval"]
    mark = " *" if low > 0 else " -" if high < 0 else ""
    return f"{signed(gain['mean'])} [{signed(low)}, {signed(high)}]{mark}"


GAINS_NOTE = (
    "Difference to the same architecture with random weights, with a paired "
    "bootstrap 95 % interval over the test tracks; * marks gains and - losses "
    "outside of it."
)
