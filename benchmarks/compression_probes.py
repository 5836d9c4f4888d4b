"""Probes of one recipe on several forms of one encoder."""

import runpy
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from muselq_modules.embeddings import embed
from muselq_modules.experiment import load_experiment
from muselq_modules.probe_brain import ProbeBrain
from muselq_modules.probe_data import SPLITS, Split, load_split
from muselq_modules.probe_report import score
from muselq_modules.probe_training import Setup, train_frozen
from muselq_modules.probing import choose_pipeline
from muselq_modules.windows import Window


@torch.inference_mode(False)
def scores(encoders, yaml, data_folder, work, probe="{}"):
    """The headline metric of a task on the last layer of every form.

    Parameters
    ----------
    encoders : dict of torch.nn.Module
        Forms of one encoder; probes are carried over from the first.
    yaml : str or Path
        Of a recipe.
    data_folder : str or Path
    work : Path
        Where manifests and embeddings go.
    probe : str
        Its ``--probe``.

    Returns
    -------
    dict
        ``own probes`` and ``fp32 probes`` -> name -> score with interval.
    """
    yaml, work = Path(yaml), Path(work)
    prepare, pipelines = recipe(yaml.parents[1])
    experiment = load_experiment(
        [
            str(yaml),
            *("--data_folder", str(data_folder)),
            *("--pretrained", "mel", "--output_folder", str(work)),
            *("--probe", probe),
        ],
        data_must_exist=False,
    )
    hparams = experiment.hparams
    metric = hparams["metrics"][0]
    base, *_ = encoders
    manifests = work / f"{hparams['dataset']}_{hparams['task']}"
    prepare(hparams["data_folder"], manifests, **hparams["prepare"])
    pipeline = choose_pipeline(pipelines, hparams["task"])
    splits = {
        name: load_split(manifests, name, pipeline, hparams, encoders[base])
        for name in SPLITS
    }
    windows = [w for split in splits.values() for w in split.windows]
    caches, own = {}, {}

    def probed(splits, cache):
        setup = Setup(
            hparams, experiment.run_opts, encoders[base], "cpu", ProbeBrain
        )
        layer = encoders[base].n_layers
        return train_frozen(layer, splits, cache, setup).predictions

    for name, encoder in encoders.items():
        caches[name] = embed(
            encoder,
            windows,
            hparams["data_folder"],
            work / "embeddings",
            [encoder.n_layers],
            batch_s=hparams["probe"]["embed_batch_s"],
            workers=hparams["probe"]["workers"],
        )
        predictions = probed(splits, caches[name])
        own[name] = score(metric, splits["test"], predictions)
    cache = CarriedOver(caches, splits["test"].windows)
    stacked = stack(splits["test"], cache.windows)
    predictions = probed({**splits, "test": stacked}, cache)
    parts = np.split(predictions, len(encoders), axis=1)
    carried = {
        name: score(metric, splits["test"], part)
        for name, part in zip(encoders, parts, strict=True)
    }
    return {"own probes": own, "fp32 probes": carried}


def recipe(folder):
    """Prepare function and label pipeline, with which train.py ends."""
    given = []
    run_probe = "muselq_modules.probing.run_probe"
    sys.path.insert(0, str(folder))
    try:
        with mock.patch(run_probe, lambda *arguments: given.extend(arguments)):
            runpy.run_path(str(folder / "train.py"), run_name="__main__")
    finally:
        sys.path.remove(str(folder))
    return given


class CarriedOver:
    """Embeddings of the first form to train on, those of all to test on.

    Stands for an `EmbeddingCache`. A test window of a form is told from the
    same window of another by the name of the form in its path.
    """

    def __init__(self, caches, test):
        first = next(iter(caches.values()))
        self.layers = first.layers
        rows = [cache.values[cache.rows(test)] for cache in caches.values()]
        self.values = np.concatenate([first.values, *rows])
        self.windows = [
            Window(f"{name}:{w.path}", w.start_s, w.samples)
            for name in caches
            for w in test
        ]
        self._first = first
        self._row = {
            window: row
            for row, window in enumerate(self.windows, len(first.values))
        }

    def rows(self, windows):
        """Row numbers ``[window]`` in ``values``."""
        if windows[0] in self._row:
            return np.array([self._row[window] for window in windows])
        return self._first.rows(windows)


def stack(split, windows):
    """A split as many times as there are forms of its windows."""
    times, n_rows = len(windows) // len(split.windows), len(split.rows)
    shift = np.repeat(np.arange(times) * n_rows, len(split.owner))
    return Split(
        split.rows * times,
        np.concatenate([split.labels] * times),
        windows,
        np.tile(split.owner, times) + shift,
        split.digest,
    )
