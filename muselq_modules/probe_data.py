"""From manifests to what a probe is trained on: labels, windows, features."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from muselq_modules.checksums import file_digest
from muselq_modules.errors import UserError
from muselq_modules.paths import leaves_folder
from muselq_modules.preparation import read_csv
from muselq_modules.windows import plan_windows

SPLITS = ("train", "valid", "test")
PREPARE_AGAIN = "delete the manifest folder to prepare the data again"
LOSSES = ("cross_entropy", "binary_cross_entropy", "mse")


@dataclass
class Split:
    """One split of a task.

    Attributes
    ----------
    rows : list of dict
        Manifest rows: the units that are scored.
    labels : array
        int64 ``[row]`` class ids, or float32 ``[row, output]``.
    windows : list of Window
        The windows of all rows.
    owner : array
        int64 ``[window]``: row of each window.
    digest : str
        sha256 of the manifest file.
    """

    rows: list
    labels: np.ndarray
    windows: list
    owner: np.ndarray
    digest: str

    def track_mean(self, logits):
        """Mean over the windows of each row.

        Parameters
        ----------
        logits : torch.Tensor ``[head, window, output]``

        Returns
        -------
        torch.Tensor ``[head, row, output]``
        """
        owner = torch.from_numpy(self.owner)
        sums = logits.new_zeros(len(logits), len(self.rows), logits.shape[-1])
        sums.index_add_(1, owner, logits)
        return sums / torch.bincount(owner)[:, None]

    @property
    def groups(self):
        """Song or recording of each row."""
        return [row["group"] for row in self.rows]


def load_split(manifest_folder, name, pipeline, hparams, encoder):
    """Read a manifest, label its rows and cut them into windows.

    Parameters
    ----------
    manifest_folder : Path
        Holds ``<name>.csv`` and perhaps ``labels.txt``.
    name : str
        ``train``, ``valid`` or ``test``.
    pipeline : DynamicItem
        The recipe's label pipeline.
    hparams : dict
        The recipe's YAML.
    encoder : object
        Its rates decide the length of a window in samples.

    Raises
    ------
    UserError
        When a split is empty or a label is not as the YAML says.
    """
    path = Path(manifest_folder) / f"{name}.csv"
    rows = read_csv(path)
    if not rows:
        raise UserError(
            f"{path} is empty: no usable audio of the {name} split was found, "
            "see skipped.tsv beside it."
        )
    check_rows(rows, path)
    names = label_names(manifest_folder)
    labels = [
        label_of(row, pipeline, names, hparams, path.name) for row in rows
    ]
    single = hparams["loss"] == "cross_entropy"
    labels = np.array(labels, np.int64 if single else np.float32)
    protocol = hparams["probe"]["protocol"]
    windows, owner = [], []
    for number, row in enumerate(rows):
        planned = plan_windows(row, hparams["window_s"], protocol, encoder)
        windows += planned
        owner += [number] * len(planned)
    return Split(rows, labels, windows, np.array(owner), file_digest(path))


def check_rows(rows, path):
    """Raises a UserError for a row that no prepare script writes.

    Parameters
    ----------
    rows : list of dict
        From `read_csv`.
    path : Path
        The manifest, for the message.
    """
    for number, row in enumerate(rows, start=1):
        place = f"{path}, row {number}"
        for column in ("ID", "path", "duration"):
            if not row.get(column) or "group" not in row:
                raise UserError(
                    f"{place}, lacks {column} or group: {PREPARE_AGAIN}"
                )
        if leaves_folder(row["path"]):
            raise UserError(
                f"{place}: {row['path']} leads out of the data folder: "
                f"{PREPARE_AGAIN}"
            )
        for column in ("duration", "start", "stop"):
            try:
                seconds = float(row.get(column) or 0)
            except ValueError:
                seconds = math.nan
            if not 0 <= seconds < math.inf:
                raise UserError(
                    f"{place}: {column} is {row[column]}, not a number of "
                    f"seconds: {PREPARE_AGAIN}"
                )


def label_names(manifest_folder):
    """Lines of ``labels.txt``, or None where the recipe has none."""
    path = Path(manifest_folder) / "labels.txt"
    if not path.is_file():
        return None
    return path.read_text("utf-8").splitlines()


def label_of(row, pipeline, names, hparams, manifest):
    """The label of one row, checked against ``n_outputs`` and ``loss``."""
    values = {**row, "labels": names}
    place = f"{manifest}, {row['ID']}"
    missing = [key for key in pipeline.takes if values.get(key) is None]
    if missing:
        raise UserError(
            f"{place}: the label pipeline takes '{missing[0]}', which the "
            f"manifest does not have among {', '.join(row)}."
        )
    try:
        label = pipeline(*[values[key] for key in pipeline.takes])
    except (UserError, ValueError, KeyError, IndexError) as error:
        problem = str(error).rstrip(".")
        raise UserError(
            f"{place}: not a label of this task: {problem}."
        ) from None
    n = hparams["n_outputs"]
    if hparams["loss"] == "cross_entropy":
        if label not in range(n):
            raise UserError(
                f"{place}: label {label} is none of 0 ... {n - 1}: set "
                "n_outputs in the YAML or mend the label pipeline."
            )
    elif len(label) != n:
        raise UserError(
            f"{place}: the label has {len(label)} values and n_outputs is {n}: "
            f"set n_outputs to {len(label)}."
        )
    elif not np.isfinite(label).all():
        raise UserError(
            f"{place}: the label holds a value that is not finite: mend it or "
            "leave the row out."
        )
    return label


def class_names(splits, pipeline, hparams, manifest_folder):
    """A name for each output, for tables.

    Lines of ``labels.txt``; else, for classes, the text that stands in the
    manifest; else the number.
    """
    names = label_names(manifest_folder)
    if names is not None and len(names) == hparams["n_outputs"]:
        return names
    names = [str(i) for i in range(hparams["n_outputs"])]
    if hparams["loss"] == "cross_entropy" and len(pipeline.takes) == 1:
        for split in splits.values():
            for row, label in zip(split.rows, split.labels, strict=True):
                names[label] = row[pipeline.takes[0]]
    elif hparams["loss"] == "mse":
        takes = list(pipeline.takes)
        names = takes if len(takes) == len(names) else names
    return names


class Standardiser:
    """Zero mean and unit deviation, measured on the training split.

    Parameters
    ----------
    x : torch.Tensor
        ``[example, ...]``; statistics are over the examples.

    Example
    -------
    >>> x = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    >>> Standardiser(x)(x)
    tensor([[-1.,  0.],
            [ 1.,  0.]])
    """

    def __init__(self, x):
        self.mean = x.mean(0)
        std = x.std(0, unbiased=False)
        # A constant dimension carries nothing; it stays at zero.
        self.std = torch.where(std > 1e-6, std, torch.ones_like(std))

    def __call__(self, x):
        return (x - self.mean.to(x.device)) / self.std.to(x.device)

    def undo(self, x):
        """The inverse."""
        return x * self.std.to(x.device) + self.mean.to(x.device)


def read_features(cache, windows, layer):
    """Pooled embeddings from a cache.

    Parameters
    ----------
    cache : EmbeddingCache
    windows : list of Window
    layer : int or str
        Number of a hidden state, or ``weighted`` for all that are cached.

    Returns
    -------
    torch.Tensor float32 ``[window, dim]``, or ``[window, layer, dim]``
    """
    rows = cache.rows(windows)
    if layer == "weighted":
        return torch.from_numpy(cache.values[rows])
    at = cache.layers.index(layer)
    return torch.from_numpy(cache.values[rows, at])
