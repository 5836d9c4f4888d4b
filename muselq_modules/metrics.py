"""Metrics of the downstream tasks, computed by scikit-learn and mir_eval.

Every metric is a function ``metric(targets, predictions) -> float`` on numpy
arrays with one row a track:

* classification: targets ``[track]`` class ids, predictions
  ``[track, class]`` scores (the argmax decides) or ``[track]`` class ids;
* multi-label: targets ``[track, tag]`` of 0 and 1, predictions
  ``[track, tag]`` scores (logits or probabilities: only their order counts);
* regression: both ``[track, column]`` in the units of the annotation, with
  arousal in column 0 and valence in column 1.

Key classes are pitch class (C = 0 ... B = 11) for major, + 12 for minor, and
24 for "no key" (mir_eval's ``X``).
"""

import mir_eval
import numpy as np
from sklearn import metrics as sk

from muselq_modules.errors import UserError

KEY_NAMES = [
    f"{tonic} {mode}"
    for mode in ("major", "minor")
    for tonic in "C Db D Eb E F Gb G Ab A Bb B".split()
] + ["X"]

# KEY_SCORES[reference, estimate]: mir_eval's weighted score of each pair,
# looked up instead of called once a track.
KEY_SCORES = np.array(
    [
        [mir_eval.key.weighted_score(ref, est) for est in KEY_NAMES]
        for ref in KEY_NAMES
    ]
)
# mir_eval gives each relation between two keys a score of its own.
_KEY_CATEGORIES = {
    "exact": 1.0,
    "fifth": 0.5,
    "relative": 0.3,
    "parallel": 0.2,
    "other": 0.0,
}


def class_ids(predictions):
    """Class ids ``[track]`` of scores ``[track, class]`` or of ids.

    Example
    -------
    >>> class_ids(np.array([[0.1, 0.9], [0.7, 0.2]])).tolist()
    [1, 0]
    """
    predictions = np.asarray(predictions)
    return predictions.argmax(-1) if predictions.ndim == 2 else predictions


# -- Metrics that are the mean of a score of each track ----------------------


def correct(targets, predictions):
    """1.0 where the class is right, ``[track]``."""
    return (class_ids(predictions) == targets).astype(float)


def key_scores(targets, predictions):
    """mir_eval's weighted key score of each track, ``[track]``."""
    return KEY_SCORES[np.asarray(targets, int), class_ids(predictions)]


def _key_category(name):
    score = _KEY_CATEGORIES[name]
    return lambda targets, predictions: np.isclose(
        key_scores(targets, predictions), score
    ).astype(float)


def _key_tolerant(targets, predictions):
    return (key_scores(targets, predictions) > 0).astype(float)


def _within_semitone(targets, predictions):
    return (np.abs(class_ids(predictions) - targets) <= 1).astype(float)


def _octave_error(targets, predictions):
    distance = np.abs(class_ids(predictions) - targets)
    return ((distance > 0) & (distance % 12 == 0)).astype(float)


TRACK_SCORES = {
    "accuracy": correct,
    "key_weighted": key_scores,
    **{f"key_{name}": _key_category(name) for name in _KEY_CATEGORIES},
    "key_tolerant": _key_tolerant,
    "pitch_within_semitone": _within_semitone,
    "octave_error": _octave_error,
}


# -- Metrics of the whole set of tracks --------------------------------------


def macro_f1(targets, predictions):
    """F1 averaged over the classes that occur."""
    return sk.f1_score(
        targets, class_ids(predictions), average="macro", zero_division=0
    )


def balanced_accuracy(targets, predictions):
    """Recall averaged over the classes of the targets."""
    return sk.recall_score(
        targets,
        class_ids(predictions),
        labels=np.unique(targets),
        average="macro",
        zero_division=0,
    )


def _scorable(targets):
    """Tags with at least one positive and one negative track."""
    positives = np.asarray(targets).sum(0)
    scorable = (positives > 0) & (positives < len(targets))
    if not scorable.any():
        raise UserError(
            "No tag has both positive and negative tracks in this split, so "
            "ROC-AUC and average precision are undefined: check the labels."
        )
    return scorable


def roc_auc(targets, predictions):
    """Area under the ROC curve, macro-averaged over tags.

    Tags without a positive or without a negative track are left out, for
    they have no curve.

    Raises
    ------
    UserError
        When no tag at all can be scored.

    Example
    -------
    >>> targets = np.array([[1, 0], [0, 1], [1, 1]])
    >>> scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.9]])
    >>> float(roc_auc(targets, scores))
    1.0
    """
    tags = _scorable(targets)
    return sk.roc_auc_score(
        targets[:, tags], predictions[:, tags], average="macro"
    )


def average_precision(targets, predictions):
    """Average precision, macro-averaged over the tags that can be scored."""
    tags = _scorable(targets)
    return sk.average_precision_score(
        targets[:, tags], predictions[:, tags], average="macro"
    )


def r2_mean(targets, predictions):
    """Coefficient of determination, averaged over the columns."""
    return sk.r2_score(targets, predictions)


def r2_arousal(targets, predictions):
    """Coefficient of determination of column 0."""
    return sk.r2_score(targets[:, 0], predictions[:, 0])


def r2_valence(targets, predictions):
    """Coefficient of determination of column 1."""
    return sk.r2_score(targets[:, 1], predictions[:, 1])


def rmse(targets, predictions):
    """Root mean squared error, averaged over the columns."""
    return sk.root_mean_squared_error(targets, predictions)


def pearson(targets, predictions):
    """Pearson correlation, averaged over the columns (0 for a constant)."""
    x = targets - targets.mean(0)
    y = predictions - predictions.mean(0)
    norm = np.sqrt((x**2).sum(0) * (y**2).sum(0))
    return float(((x * y).sum(0) / np.where(norm > 0, norm, 1.0)).mean())


def _mean_of(scores):
    return lambda targets, predictions: scores(targets, predictions).mean()


METRICS = {
    **{name: _mean_of(scores) for name, scores in TRACK_SCORES.items()},
    "macro_f1": macro_f1,
    "balanced_accuracy": balanced_accuracy,
    "roc_auc": roc_auc,
    "average_precision": average_precision,
    "r2_mean": r2_mean,
    "r2_arousal": r2_arousal,
    "r2_valence": r2_valence,
    "rmse": rmse,
    "pearson": pearson,
}
LOWER_IS_BETTER = frozenset({"rmse", "octave_error", "key_other"})


def merge_groups(targets, predictions, groups):
    """One row a group: its target and the mean of its scores.

    Parameters
    ----------
    targets : array ``[track]``
    predictions : array ``[track, class]``
    groups : sequence of ``track`` strings
        Recording (or song) of each track.

    Returns
    -------
    targets ``[group]``, predictions ``[group, class]``

    Example
    -------
    >>> scores = np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> merge_groups(np.array([0, 0, 1]), scores, ["a", "a", "b"])
    (array([0, 1]), array([[1. , 0.5],
           [0. , 1. ]]))
    """
    _, first, index = np.unique(groups, return_index=True, return_inverse=True)
    sums = np.zeros((len(first), predictions.shape[1]))
    np.add.at(sums, index, predictions)
    return targets[first], sums / np.bincount(index)[:, None]


def compute(name, targets, predictions, groups=None):
    """Value of the metric called ``name``.

    ``group_accuracy`` is the accuracy of recordings: it averages the scores
    over each group first, and needs ``groups``.

    Raises
    ------
    UserError
        When no metric has this name.

    Example
    -------
    >>> compute("key_weighted", np.array([0, 0]), np.array([0, 7]))
    0.75
    """
    if name == "group_accuracy":
        return float(
            correct(*merge_groups(targets, predictions, groups)).mean()
        )
    require_metrics([name])
    return float(METRICS[name](targets, predictions))


def require_metrics(names):
    """Raises a UserError when a name is not that of a metric."""
    known = [*METRICS, "group_accuracy"]
    for name in names:
        if name not in known:
            raise UserError(
                f"Unknown metric '{name}': choose among {', '.join(known)}."
            )
