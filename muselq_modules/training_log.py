"""One JSON line a step, TensorBoard, and a picture of the curves."""

import itertools
import json
import math
import os
from pathlib import Path

from muselq_modules.files import write_text


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
            for line in _complete_lines(self.path):
                record = json.loads(line)
                if record["step"] <= last[record["kind"]]:
                    kept.append(line)
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


def _complete_lines(path):
    """Lines of a log whose last one may be cut by a kill."""
    with open(path, encoding="utf-8") as stream:
        for line in stream:
            if line.endswith("\n"):
                yield line


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
    """
    path = Path(folder) / "train_log.jsonl"
    records = [json.loads(line) for line in _complete_lines(path)]
    return [r for r in records if kind in (None, r["kind"])]


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

    train = [r for r in read_log(folder, "train") if not r["skipped"]]
    valid = read_log(folder, "valid")
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
            steps, values = _column(train, name)
            axes.plot(steps, values, colour, alpha=0.15)
            axes.plot(steps, _smooth(values), colour, label=label)
            steps, values = _column(valid, name)
            if steps:
                axes.plot(
                    steps, values, f"{colour}o--", label=f"{label}, held out"
                )
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.legend()
    target = Path(folder) / "curves.png"
    unfinished = target.with_name("curves.tmp.png")
    figure.savefig(unfinished, dpi=110)
    os.replace(unfinished, target)
    return target


def _smooth(values):
    """Mean over the last hundredth of the run, at each step."""
    window = max(1, len(values) // 100)
    sums = list(itertools.accumulate(values, initial=0.0))
    starts = [max(0, stop - window) for stop in range(1, len(values) + 1)]
    return [
        (sums[stop] - sums[start]) / (stop - start)
        for stop, start in enumerate(starts, start=1)
    ]


def _column(records, name):
    rows = [r for r in records if name in r]
    return [r["step"] for r in rows], [r[name] for r in rows]
