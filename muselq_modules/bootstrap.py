"""Bootstrap 95 % intervals of a metric over the test tracks.

A resample draws as many tracks (or groups of tracks: songs, recordings) as
there are, with replacement. That equals giving track i an integer weight
w_i, so a metric is computed for all resamples at once from weighted sums;
nothing is copied or sorted anew. Averaged over the seeds inside each
resample, the interval is that of the mean reported beside it: the noise of a
finite test set, which on most of these tasks exceeds that of the seed.
"""

import numpy as np

from muselq_modules.metrics import (
    TRACK_SCORES,
    class_ids,
    compute,
    correct,
    merge_groups,
)

# Ranking metrics cost a pass over [resample, track] for each tag and seed, so
# large sets get fewer resamples: 11,000 tracks x 50 tags get 200, which
# moves the ends of the interval by less than a tenth of its width.
RESAMPLES = 1000
MAX_RANKING_CELLS = 1.2e8


def bootstrap_interval(
    name, targets, predictions, groups=None, seed=0, resamples=RESAMPLES
):
    """Percentile interval of the seed-averaged metric.

    Parameters
    ----------
    name : str
        Name of a metric.
    targets : array ``[track, ...]``
    predictions : list of arrays ``[track, ...]``
        Predictions of each seed.
    groups : sequence of ``track`` strings, optional
        Tracks of one group are drawn together. Default: each track alone.
    seed : int
        Seed of the resampling, on its own generator.
    resamples : int
        Number of resamples; ranking metrics of large sets use fewer.

    Returns
    -------
    (low, high) : tuple of floats
        2.5 % and 97.5 % percentiles.

    Example
    -------
    >>> targets = np.arange(100) % 2
    >>> guesses = np.where(np.arange(100) < 80, targets, 1 - targets)
    >>> low, high = bootstrap_interval("accuracy", targets, [guesses])
    >>> bool(0.69 < low < 0.75 and 0.85 < high < 0.91)
    True
    """
    [values] = _resamples(name, targets, [predictions], groups, seed, resamples)
    return _interval(values)


def bootstrap_difference(
    name, targets, ours, theirs, groups=None, seed=0, resamples=RESAMPLES
):
    """Percentile interval of the difference between two encoders.

    Both are scored on the same resamples, so that what makes a track easy or
    hard for both cancels: a paired comparison tells encoders apart whose own
    intervals overlap.

    Parameters
    ----------
    name, targets, groups, seed, resamples
        As in `bootstrap_interval`.
    ours, theirs : list of arrays ``[track, ...]``
        Predictions of each seed of the two encoders.

    Returns
    -------
    (low, high) : tuple of floats
        2.5 % and 97.5 % percentiles of ours minus theirs.

    Example
    -------
    >>> targets = np.arange(100) % 2
    >>> ours = np.where(np.arange(100) < 80, targets, 1 - targets)
    >>> theirs = np.where(np.arange(100) < 70, targets, 1 - targets)
    >>> low, high = bootstrap_difference("accuracy", targets, [ours], [theirs])
    >>> bool(0.03 < low < 0.07 and 0.13 < high < 0.17)
    True
    """
    ours, theirs = _resamples(
        name, targets, [ours, theirs], groups, seed, resamples
    )
    return _interval(ours - theirs)


def _resamples(name, targets, encoders, groups, seed, resamples):
    """Seed-averaged metric of each encoder in the same resamples."""
    if name == "group_accuracy":
        merged = [
            [merge_groups(targets, p, groups) for p in predictions]
            for predictions in encoders
        ]
        name, targets, groups = "accuracy", merged[0][0][0], None
        encoders = [[p for _, p in predictions] for predictions in merged]
    if name in ("roc_auc", "average_precision"):
        cells = targets.size * max(map(len, encoders))
        resamples = int(np.clip(MAX_RANKING_CELLS // cells, 200, resamples))
    weights = _weights(len(targets), groups, seed, resamples)
    return [
        np.mean(
            [_resampled(name, targets, p, weights) for p in predictions],
            axis=0,
        )
        for predictions in encoders
    ]


def _interval(values):
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def _weights(n_tracks, groups, seed, resamples):
    """How often each resample draws each track, ``[resample, track]``."""
    if groups is None:
        groups = np.arange(n_tracks)
    unique, index = np.unique(np.asarray(groups), return_inverse=True)
    n = len(unique)
    draws = np.random.default_rng(seed).integers(0, n, (resamples, n))
    counts = np.stack([np.bincount(row, minlength=n) for row in draws])
    return counts[:, index].astype(np.float32)


def _resampled(name, targets, predictions, weights):
    """The metric of each resample, ``[resample]``."""
    if name in TRACK_SCORES:
        scores = TRACK_SCORES[name](targets, predictions)
        return weights @ scores / weights.sum(1)
    if name in ("macro_f1", "balanced_accuracy"):
        return _from_confusion(name, targets, class_ids(predictions), weights)
    if name in ("roc_auc", "average_precision"):
        curve = _auc if name == "roc_auc" else _ap
        columns = np.stack(
            [
                curve(targets[:, tag], predictions[:, tag], weights)
                for tag in range(targets.shape[1])
            ]
        )
        # A resample without a positive of some tag leaves that tag out.
        known = ~np.isnan(columns)
        count = known.sum(axis=0)
        total = np.where(known, columns, 0.0).sum(axis=0)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)
    if name.startswith("r2"):
        columns = {"r2_arousal": [0], "r2_valence": [1]}.get(name, slice(None))
        return _r2(targets[:, columns], predictions[:, columns], weights)
    # The two cheap ones left, rmse and pearson, are simply recomputed.
    rows = np.arange(len(targets))
    values = []
    for row in weights.astype(int):
        drawn = np.repeat(rows, row)
        values.append(compute(name, targets[drawn], predictions[drawn]))
    return np.array(values)


def _from_confusion(name, targets, guesses, weights):
    n = int(max(targets.max(), guesses.max())) + 1
    hits = correct(targets, guesses)
    one_hot = np.eye(n, dtype=np.float32)
    support = weights @ one_hot[targets]  # [resample, class]
    found = weights @ (one_hot[targets] * hits[:, None])
    if name == "balanced_accuracy":
        with np.errstate(invalid="ignore"):
            return np.nanmean(found / support, axis=1)
    total = support + weights @ one_hot[guesses]
    with np.errstate(invalid="ignore"):
        return np.nanmean(2 * found / total, axis=1)


def _sorted_sums(target, score, weights, descending):
    """Cumulated weights of positives and negatives at the end of each tie."""
    order = np.argsort(-score if descending else score, kind="stable")
    ends = np.flatnonzero(np.diff(score[order], append=np.nan) != 0)
    drawn = weights[:, order]
    positive = target[order].astype(np.float32)
    tp = np.cumsum(drawn * positive, axis=1)[:, ends]
    fp = np.cumsum(drawn * (1 - positive), axis=1)[:, ends]
    return tp, fp


def _auc(target, score, weights):
    tp, fp = _sorted_sums(target, score, weights, descending=False)
    gained = np.diff(tp, axis=1, prepend=0)
    # A positive beats every negative below it and half of those tied with it.
    below = fp - np.diff(fp, axis=1, prepend=0) / 2
    pairs = tp[:, -1] * fp[:, -1]
    wins = np.einsum("rt,rt->r", gained, below)
    return np.where(pairs > 0, wins / np.maximum(pairs, 1), np.nan)


def _ap(target, score, weights):
    tp, fp = _sorted_sums(target, score, weights, descending=True)
    gained = np.diff(tp, axis=1, prepend=0)
    precision = tp / np.maximum(tp + fp, 1)
    total = tp[:, -1]
    area = np.einsum("rt,rt->r", gained, precision)
    return np.where(total > 0, area / np.maximum(total, 1), np.nan)


def _r2(targets, predictions, weights):
    weights = weights / weights.sum(1, keepdims=True)
    error = weights @ (targets - predictions) ** 2
    centred = targets - targets.mean(0)  # keeps the subtraction below exact
    variance = weights @ centred**2 - (weights @ centred) ** 2
    # A resample of one song only has no variance, and no r2.
    defined = np.where(variance > 0, variance, np.nan)
    return (1 - error / defined).mean(1)
