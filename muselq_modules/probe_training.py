"""Train the probes of a task and choose among them on validation."""

import copy
import logging
from dataclasses import dataclass

import numpy as np
import torch

from muselq_modules.errors import UserError
from muselq_modules.metrics import LOWER_IS_BETTER
from muselq_modules.probe_data import Standardiser, read_features
from muselq_modules.probe_head import ProbeStack
from muselq_modules.probe_loaders import embedding_loader, waveform_loader

logger = logging.getLogger(__name__)


@dataclass
class Candidate:
    """Probes of one layer at the learning rate that validated best.

    Attributes
    ----------
    layer : int or str
        Number of the hidden state, or ``weighted``.
    learning_rate : float
    valid : list of float
        Monitored metric of each seed on validation.
    epochs : list of int
        Epoch of the best validation of each seed.
    predictions : array ``[seed, row, output]``
        Test predictions.
    score : float
        Mean of ``valid`` with its sign turned so that higher is better.
    layer_weights : list of float or None
        Softmax weights of ``weighted``, mean over the seeds.
    """

    layer: object
    learning_rate: float
    valid: list
    epochs: list
    predictions: np.ndarray
    score: float
    layer_weights: list = None


def seeds_of(hparams):
    """Seeds of the probes."""
    return [hparams["seed"] + i for i in range(hparams["probe"]["seeds"])]


def candidate_layers(hparams, encoder):
    """Layers to try: numbers of hidden states, and perhaps ``weighted``.

    Raises
    ------
    UserError
        When the encoder has no such layer.
    """
    probe, n = hparams["probe"], encoder.n_layers
    layer = probe["layer"]
    if layer == "auto":
        layer = "last" if probe["protocol"] == "paper" else "search"
    if layer == "last" or n == 0:
        return [n]
    if layer == "weighted":
        return ["weighted"]
    if layer == "search":
        if probe["finetune"]:
            raise UserError(
                "Fine-tuning does not search layers: set probe layer to last, "
                f"weighted or a number from 0 to {n}."
            )
        return [*range(n + 1), "weighted"]
    if isinstance(layer, int) and 0 <= layer <= n:
        return [layer]
    raise UserError(
        f"probe layer {layer} does not exist: choose auto, last, weighted, "
        f"search or a number from 0 (after subsampling) to {n} (last)."
    )


def cached_layers(layers, encoder):
    """Numbers of the hidden states that these candidates need."""
    if layers == ["weighted"] or len(layers) > 1:
        return list(range(encoder.n_layers + 1))
    return list(layers)


def train_candidates(layers, splits, cache, setup):
    """A `Candidate` for each layer, the probes of one layer at a time.

    Parameters
    ----------
    layers : list
        From `candidate_layers`.
    splits : dict of Split
    cache : EmbeddingCache
    setup : Setup
    """
    finetune = setup.hparams["probe"]["finetune"]
    train = train_finetuned if finetune else train_frozen
    candidates = []
    for layer in layers:
        candidate = train(layer, splits, cache, setup)
        candidates.append(candidate)
        logger.info(
            "layer %s: validation %s %.4f at learning rate %g",
            layer,
            setup.hparams["monitor"],
            np.mean(candidate.valid),
            candidate.learning_rate,
        )
    return candidates


@dataclass
class Setup:
    """What every training of a task shares."""

    hparams: dict
    run_opts: object
    encoder: object
    device: str
    brain_class: type


def train_frozen(layer, splits, cache, setup):
    """All seeds and learning rates of one layer, in one stack."""
    hparams, probe = setup.hparams, setup.hparams["probe"]
    seeds, rates = seeds_of(hparams), probe["learning_rates"]
    features = {
        name: read_features(cache, split.windows, layer)
        for name, split in splits.items()
    }
    scale = Standardiser(features["train"])
    features = {name: scale(x) for name, x in features.items()}
    targets, target_scale = _targets(splits, hparams)
    head_seeds = [seed for seed in seeds for _ in rates]
    stack = _stack(features["train"], head_seeds, probe, hparams)
    brain = setup.brain_class(
        stack, rates * len(seeds), hparams, setup.run_opts, target_scale
    )
    train = embedding_loader(
        features["train"],
        targets["train"],
        setup.device,
        probe["batch_size"],
        seeds,
    )
    valid, test = (
        embedding_loader(features[name], targets[name], setup.device)
        for name in ("valid", "test")
    )
    brain.train_probe(train, valid, splits["valid"])
    scores = brain.best_score.reshape(len(seeds), len(rates))
    epochs = brain.best_epoch.reshape(len(seeds), len(rates))
    best = _best_rate(scores, layer, hparams)
    predictions = brain.predict(test, splits["test"])
    predictions = predictions.reshape(*scores.shape, *predictions.shape[1:])
    candidate = Candidate(
        layer,
        rates[best],
        _signed(scores[:, best], hparams),
        epochs[:, best].tolist(),
        predictions[:, best],
        float(scores[:, best].mean()),
    )
    if layer == "weighted":
        weights = stack.layer_weights.detach().softmax(-1)
        weights = weights.reshape(*scores.shape, -1)[:, best].mean(0)
        candidate.layer_weights = weights.tolist()
    return candidate


def train_finetuned(layer, splits, cache, setup):
    """Encoder and probe together, one seed and learning rate at a time.

    Each starts from the pre-trained encoder. Embeddings are standardised by
    the statistics of the frozen encoder, read from the cache.
    """
    hparams, probe = setup.hparams, setup.hparams["probe"]
    seeds, rates = seeds_of(hparams), probe["learning_rates"]
    frozen = read_features(cache, splits["train"].windows, layer)
    scale = Standardiser(frozen)
    targets, target_scale = _targets(splits, hparams)

    def embed(pooled):
        return scale(pooled if layer == "weighted" else pooled[:, layer])

    def loader(name, seed=None):
        return waveform_loader(
            splits[name].windows,
            targets[name],
            hparams["data_folder"],
            setup.encoder.sample_rate,
            probe["batch_size"],
            probe["workers"],
            seed,
        )

    scores = np.zeros((len(seeds), len(rates)))
    epochs = np.zeros(scores.shape, int)
    predictions = {}
    for i, seed in enumerate(seeds):
        for j, rate in enumerate(rates):
            # The global generator drives dropout inside the encoder.
            torch.manual_seed(seed)
            encoder = copy.deepcopy(setup.encoder).requires_grad_(True)
            brain = setup.brain_class(
                _stack(frozen, [seed], probe, hparams),
                [rate],
                hparams,
                setup.run_opts,
                target_scale,
                encoder,
                embed,
            )
            brain.train_probe(
                loader("train", seed), loader("valid"), splits["valid"]
            )
            scores[i, j] = brain.best_score[0]
            epochs[i, j] = brain.best_epoch[0]
            predicted = brain.predict(loader("test"), splits["test"])
            predictions[i, j] = predicted[0]
    best = _best_rate(scores, layer, hparams)
    return Candidate(
        layer,
        rates[best],
        _signed(scores[:, best], hparams),
        epochs[:, best].tolist(),
        np.stack([predictions[i, best] for i in range(len(seeds))]),
        float(scores[:, best].mean()),
    )


def _stack(features, seeds, probe, hparams):
    """A stack for features ``[window, dim]`` or ``[window, layer, dim]``."""
    return ProbeStack(
        features.shape[-1],
        hparams["n_outputs"],
        seeds,
        probe["hidden"],
        probe["dropout"],
        features.shape[1] if features.dim() == 3 else None,
    )


def _targets(splits, hparams):
    """Labels of every window, and the scale of regression targets."""
    targets = {
        name: torch.from_numpy(split.labels[split.owner])
        for name, split in splits.items()
    }
    if hparams["loss"] != "mse":
        return targets, None
    scale = Standardiser(torch.from_numpy(splits["train"].labels))
    return {name: scale(x) for name, x in targets.items()}, scale


def _best_rate(scores, layer, hparams):
    """Index of the learning rate with the best mean over the seeds."""
    means = scores.mean(0)
    if not np.isfinite(means).any():
        raise UserError(
            f"Every probe of layer {layer} diverged: give lower learning_rates "
            "in the probe block."
        )
    rates = hparams["probe"]["learning_rates"]
    best = int(means.argmax())
    if len(rates) > 2 and best in (0, len(rates) - 1):
        logger.info(
            "layer %s: the best learning rate %g is at the end of the grid",
            layer,
            rates[best],
        )
    return best


def _signed(scores, hparams):
    sign = -1 if hparams["monitor"] in LOWER_IS_BETTER else 1
    return (sign * scores).tolist()
