"""One JSON line a step, TensorBoard, and a picture of the curves."""

import collections
import json
import logging
import math
from array import array
from pathlib import Path

import numpy as np

from muselq_modules.files import whole_file, write_text

logger = logging.getLogger(__name__)
# Of a curve in the picture.
MOST_POINTS = 2000


class TrainingLog:
    """A log that continues exactly where a resumed run continues.

    Parameters
    ----------
    folder : str or Path
        Run folder; gets ``train_log.jsonl`` and ``tensorboard/``.
    tensorboard : bool
        Whether to write TensorBoard events.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = TrainingLog(folder, tensorboard=False)
    ...     log.resume(after_step=0, validated=0)
    ...     log.write({"kind": "train", "step": 1, "loss": 9.0})
    ...     log.close()
    ...     len(read_log(folder))
    1
    """

    def __init__(self, folder, tensorboard=True):
        self.folder = Path(folder)
        self.path = self.folder / "train_log.jsonl"
        self.tensorboard = tensorboard
        self._stream = self._events = None

    def resume(self, after_step, validated):
        """Forget what a killed run wrote after its last checkpoint.

        Parameters
        ----------
        after_step, validated : int
            Last step, and step of the last validation, of the checkpoint.
        """
        last, kept = {"train": after_step, "valid": validated}, []
        if self.path.is_file():
            records, n_damaged = _read(self.path)
            if n_damaged:
                logger.warning(
                    "%d damaged lines of %s are dropped", n_damaged, self.path
                )
            kept = [
                json.dumps(record) + "\n"
                for record in records
                if record["step"] <= last[record["kind"]]
            ]
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.path, "".join(kept))
        self._stream = open(self.path, "a", encoding="utf-8", buffering=1)
        if self.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(
                self.folder / "tensorboard", purge_step=after_step + 1
            )

    def write(self, record):
        """Write one record; ``kind`` is ``train`` or ``valid``."""
        # JSON knows neither NaN nor infinity, which a skipped step has.
        record = {
            name: None
            if isinstance(value, float) and not math.isfinite(value)
            else value
            for name, value in record.items()
        }
        self._stream.write(json.dumps(record) + "\n")
        if self._events is None:
            return
        for name, value in record.items():
            if name not in ("kind", "step") and isinstance(value, (int, float)):
                self._events.add_scalar(
                    f"{record['kind']}/{name}", value, record["step"]
                )

    def close(self):
        """Flush and close the files."""
        if self._stream is not None:
            self._stream.close()
        if self._events is not None:
            self._events.close()


def read_log(folder, kind=None):
    """Records of a run, of one ``kind`` or all.

    Parameters
    ----------
    folder : str or Path
        Run folder.
    kind : str, optional
        ``train`` or ``valid``.

    Returns
    -------
    list of dict

    Raises
    ------
    ValueError
        When a line is damaged. The last one may be cut by a kill.
    """
    records, n_damaged = _read(Path(folder) / "train_log.jsonl")
    if n_damaged:
        raise ValueError(f"{n_damaged} of its lines cannot be read")
    return [r for r in records if kind in (None, r["kind"])]


def _read(path):
    """Records of a log, and the number of damaged lines."""
    lines = list(_records(path))
    records = [record for record, _ in lines if record is not None]
    return records, sum(damaged for _, damaged in lines)


def _records(path):
    """Yield the record, or None, of each line, and whether it is damaged."""
    with open(path, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            record = _parse(line)
            yield record, record is None and line.endswith("\n")


def _parse(line):
    """Record of a line; None where it was damaged, or cut by a kill."""
    try:
        record = json.loads(line)
        known = record["kind"] in ("train", "valid")
        whole = known and isinstance(record["step"], int)
    except (ValueError, KeyError, TypeError):
        return None
    return record if whole else None


def plot_curves(folder):
    """Draw loss, masked accuracy, token perplexity and learning rate.

    Parameters
    ----------
    folder : str or Path
        Run folder with its log; gets ``curves.png``.

    Returns
    -------
    Path
        The picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = _points(Path(folder) / "train_log.jsonl")
    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = [
        ("Loss", ["token_loss", "mel_loss"]),
        ("Masked accuracy", ["masked_accuracy", "majority_baseline"]),
        ("Token perplexity", ["token_perplexity"]),
        ("Learning rate", ["learning_rate"]),
    ]
    for axes, (title, names) in zip(figure.subplots(2, 2).flat, panels):
        for colour, name in zip(("C0", "C1"), names):
            label = name.replace("_", " ")
            steps, values = points["train", name]
            # More points than the picture has columns would only take memory.
            thin = slice(None, None, -(-len(steps) // MOST_POINTS) or 1)
            axes.plot(steps[thin], values[thin], colour, alpha=0.15)
            smooth = _smooth(values)[thin]
            axes.plot(steps[thin], smooth, colour, label=label)
            steps, values = points["valid", name]
            if len(steps):
                axes.plot(
                    steps, values, f"{colour}o--", label=f"{label}, held out"
                )
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.legend()
    target = Path(folder) / "curves.png"
    with whole_file(target, "wb") as file:
        figure.savefig(file, dpi=110, format="png")
    return target


def _points(path):
    """{(kind, name): (steps, values)} of the numbers in a log.

    Arrays, and one record at a time: a run of weeks draws this again and again.
    Nor does it end because a line of its log was damaged.
    """
    points = collections.defaultdict(lambda: (array("q"), array("d")))
    for record, _ in _records(path):
        if record is None or record.get("skipped"):
            continue
        for name, value in record.items():
            if isinstance(value, (int, float)):
                steps, values = points[record["kind"], name]
                steps.append(record["step"])
                values.append(value)
    return points


def _smooth(values):
    """Mean over the last hundredth of the run, at each step."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    stops = np.arange(1, len(values) + 1)
    starts = np.maximum(0, stops - max(1, len(values) // 100))
    return (sums[stops] - sums[starts]) / (stops - starts)
