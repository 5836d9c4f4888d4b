"""What a finished probe leaves in its run folder.

* ``results.json``: metrics of each seed, their mean, deviation and bootstrap
  interval, and everything the run depends on. Written last: a folder that
  has it is complete.
* ``predictions.csv``: one row for each seed and test row.
* ``predictions.npz``: the same as arrays, ``targets`` ``[row, ...]``,
  ``predictions`` ``[seed, row, output]`` and ``groups`` ``[row]``, for paired
  comparisons of encoders.
* ``per_label.csv``: one row for each class, tag or regression column.
* ``confusion.csv``: classification only; row = target, column = prediction,
  counts summed over the seeds.
"""

import numpy as np
from sklearn import metrics as sk

from muselq_modules import metrics
from muselq_modules.bootstrap import bootstrap_interval
from muselq_modules.files import whole_file
from muselq_modules.preparation import write_csv


def score(name, split, predictions):
    """A metric of each seed with mean, deviation and 95 % interval.

    Parameters
    ----------
    name : str
        Name of the metric.
    split : Split
        What was predicted.
    predictions : array ``[seed, row, output]``

    Returns
    -------
    dict
    """
    values = [
        metrics.compute(name, split.labels, p, split.groups)
        for p in predictions
    ]
    return {
        "per_seed": values,
        "mean": float(np.mean(values)),
        "std": float(np.std(values)),
        "interval": bootstrap_interval(
            name, split.labels, list(predictions), split.groups
        ),
    }


def write_tables(folder, split, predictions, names, hparams):
    """The CSV tables of the chosen probes.

    Parameters
    ----------
    folder : Path
        Run folder.
    split : Split
        The test split.
    predictions : array ``[seed, row, output]``
    names : list of str
        Name of each output.
    hparams : dict
        The recipe's YAML.
    """
    tables = {
        "cross_entropy": _class_tables,
        "binary_cross_entropy": _tag_tables,
        "mse": _regression_tables,
    }
    per_row, per_label = tables[hparams["loss"]](split, predictions, names)
    rows = []
    for i, prediction in enumerate(predictions):
        columns = per_row(prediction)
        for number, row in enumerate(split.rows):
            rows.append(
                {
                    "seed": hparams["seed"] + i,
                    "ID": row["ID"],
                    "group": row["group"],
                    **{key: values[number] for key, values in columns.items()},
                }
            )
    write_csv(folder / "predictions.csv", rows, list(rows[0]))
    _write_arrays(folder / "predictions.npz", split, predictions)
    write_csv(folder / "per_label.csv", per_label, list(per_label[0]))
    if hparams["loss"] == "cross_entropy":
        _write_confusion(folder, split, predictions, names)


def _write_arrays(path, split, predictions):
    with whole_file(path, "wb") as file:
        np.savez_compressed(
            file,
            targets=split.labels,
            predictions=np.asarray(predictions, np.float32),
            groups=np.asarray(split.groups, str),
        )


def _class_tables(split, predictions, names):
    def per_row(prediction):
        guesses = metrics.class_ids(prediction)
        return {
            "target": [names[label] for label in split.labels],
            "prediction": [names[guess] for guess in guesses],
            "correct": (guesses == split.labels).astype(int).tolist(),
        }

    parts = np.mean(
        [
            sk.precision_recall_fscore_support(
                split.labels,
                metrics.class_ids(p),
                labels=range(len(names)),
                zero_division=0,
            )
            for p in predictions
        ],
        axis=0,
    )
    per_label = [
        {
            "label": name,
            "support": int(parts[3, i]),
            "precision": _short(parts[0, i]),
            "recall": _short(parts[1, i]),
            "f1": _short(parts[2, i]),
        }
        for i, name in enumerate(names)
    ]
    return per_row, per_label


def _tag_tables(split, predictions, names):
    def tags(row):
        return "|".join(names[i] for i in np.flatnonzero(row))

    def per_row(prediction):
        columns = {
            "target": [tags(row) for row in split.labels],
            "prediction": [tags(row > 0) for row in prediction],
        }
        for i, name in enumerate(names):
            columns[f"logit {name}"] = [_short(x) for x in prediction[:, i]]
        return columns

    per_label = []
    for i, name in enumerate(names):
        target = split.labels[:, i]
        row = {"label": name, "support": int(target.sum())}
        for metric in ("roc_auc", "average_precision"):
            row[metric] = ""  # no curve for a tag of one kind only
            if 0 < target.sum() < len(target):
                values = [
                    metrics.compute(metric, target[:, None], p[:, i : i + 1])
                    for p in predictions
                ]
                row[metric] = _short(np.mean(values))
        per_label.append(row)
    return per_row, per_label


def _regression_tables(split, predictions, names):
    def per_row(prediction):
        columns = {}
        for i, name in enumerate(names):
            columns[f"target {name}"] = [_short(x) for x in split.labels[:, i]]
            columns[name] = [_short(x) for x in prediction[:, i]]
        return columns

    per_label = []
    for i, name in enumerate(names):
        row = {"label": name, "support": len(split.labels)}
        for metric in ("r2_mean", "rmse", "pearson"):
            values = [
                metrics.compute(
                    metric, split.labels[:, i : i + 1], p[:, i : i + 1]
                )
                for p in predictions
            ]
            row[metric.removesuffix("_mean")] = _short(np.mean(values))
        per_label.append(row)
    return per_row, per_label


def _write_confusion(folder, split, predictions, names):
    counts = sum(
        sk.confusion_matrix(
            split.labels, metrics.class_ids(p), labels=range(len(names))
        )
        for p in predictions
    )
    # Two classes may share a name; the number in front keeps them apart.
    columns = [f"{i} {name}" for i, name in enumerate(names)]
    rows = [
        {"target": column, **dict(zip(columns, row.tolist(), strict=True))}
        for column, row in zip(columns, counts, strict=True)
    ]
    write_csv(folder / "confusion.csv", rows, ["target", *columns])


def _short(value):
    return f"{value:.5g}"
