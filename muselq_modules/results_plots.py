"""Pictures of the results: scores, layers and confusion matrices."""

import csv
import re

import matplotlib
import numpy as np

matplotlib.use("Agg")  # no display is needed
from matplotlib import pyplot as plt  # noqa: E402

COLOURS = plt.get_cmap("tab10").colors


def draw_all(runs, columns, output):
    """Draw every picture that the runs have data for.

    Parameters
    ----------
    runs : list of dict
        From `muselq_modules.results.collect`.
    columns : list of dict
        From `muselq_modules.results_tables.table_columns`.
    output : Path
        Folder of the PNG files.

    Returns
    -------
    list of (title, Path)
    """
    pictures = [
        ("Scores and 95 % intervals", draw_scores(runs, columns, output))
    ]
    searched = [run for run in runs if len(run["layers"]) > 1]
    if searched:
        pictures.append(("Layer by layer", draw_layers(searched, output)))
    for run in runs:
        if (run["folder"] / "confusion.csv").is_file():
            title = f"Confusion, {run['dataset']} {run['task']}, {run['row']}"
            pictures.append((title, draw_confusion(run, title, output)))
    return pictures


def draw_scores(runs, columns, output):
    """Bars of every encoder for every measure, with intervals."""
    rows = list(dict.fromkeys(run["row"] for run in runs))
    n_across = min(3, len(columns))
    n_down = -(-len(columns) // n_across)
    figure, axes = plt.subplots(
        n_down,
        n_across,
        figsize=(4.5 * n_across, (0.9 + 0.28 * len(rows)) * n_down),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(columns) :]:
        axis.axis("off")
    for axis, column in zip(axes.flat, columns, strict=False):
        for run in runs:
            value = run["test"].get(column["metric"])
            task = (column["dataset"], column["task"])
            if value is None or (run["dataset"], run["task"]) != task:
                continue
            at = rows.index(run["row"])
            low, high = value["interval"]
            mean = value["mean"]
            # A percentile interval may exclude the mean it belongs to.
            error = [[max(mean - low, 0)], [max(high - mean, 0)]]
            axis.barh(
                at,
                mean,
                xerr=error,
                color=COLOURS[at % 10],
                error_kw={"elinewidth": 1},
            )
        axis.set_yticks(range(len(rows)), rows, fontsize=8)
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.set_title(column["title"], fontsize=9)
    return _save(figure, output / "scores.png")


def draw_layers(runs, output):
    """Heat map of the test headline of each layer; a frame = chosen."""
    names = max((run["layers"] for run in runs), key=len)
    names = [str(layer["layer"]) for layer in names]
    figure, axis = plt.subplots(
        figsize=(2.5 + 0.6 * len(names), 1.2 + 0.35 * len(runs)),
        layout="constrained",
    )
    for y, run in enumerate(runs):
        values = {str(x["layer"]): x["test"] for x in run["layers"]}
        low, high = min(values.values()), max(values.values())
        for name, value in values.items():
            x = names.index(name)
            # Tasks differ in scale: colours compare the layers of a row.
            shade = (value - low) / max(high - low, 1e-9)
            axis.imshow(
                [[shade]],
                extent=(x - 0.5, x + 0.5, y + 0.5, y - 0.5),
                vmin=0,
                vmax=1.3,
                cmap="Greens",
            )
            axis.text(x, y, f"{value:.3f}", ha="center", va="center", size=7)
            if name == str(run["layer"]):
                axis.add_patch(
                    plt.Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, fill=False)
                )
    axis.set_xlim(-0.5, len(names) - 0.5)
    axis.set_ylim(len(runs) - 0.5, -0.5)
    axis.set_aspect("auto")
    axis.set_xticks(range(len(names)), names)
    axis.set_xlabel("hidden state (0 = after subsampling); framed: chosen")
    axis.set_yticks(
        range(len(runs)),
        [f"{run['dataset']} {run['task']}, {run['row']}" for run in runs],
        fontsize=8,
    )
    return _save(figure, output / "layers.png")


def draw_confusion(run, title, output):
    """Share of each target class that was predicted as each class."""
    with open(run["folder"] / "confusion.csv", encoding="utf-8") as file:
        header, *lines = list(csv.reader(file))
    counts = np.array([line[1:] for line in lines], float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    n = len(shares)
    size = float(np.clip(2 + 0.28 * n, 3.2, 9))
    figure, axis = plt.subplots(figsize=(size, size), layout="constrained")
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if n <= 30:
        names = [name.split(" ", 1)[1] for name in header[1:]]
        axis.set_xticks(range(n), names, rotation=90, fontsize=7)
        axis.set_yticks(range(n), names, fontsize=7)
    axis.set_xlabel("predicted")
    axis.set_ylabel("target")
    axis.set_title(title.removeprefix("Confusion, "), fontsize=8)
    name = f"{run['dataset']}_{run['task']}_{run['row']}"
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", name)
    return _save(figure, output / f"confusion_{name}.png")


def _save(figure, path):
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
