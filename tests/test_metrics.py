"""Metrics equal scikit-learn and mir_eval; intervals are sound."""

import mir_eval
import numpy as np
import pytest
from sklearn import metrics as sk

from muselq_modules.bootstrap import _resampled, bootstrap_interval
from muselq_modules.errors import UserError
from muselq_modules.metrics import (
    KEY_NAMES,
    KEY_SCORES,
    METRICS,
    compute,
    merge_groups,
)

RNG = np.random.default_rng(0)
CLASSES = RNG.integers(0, 5, 200)
SCORES = RNG.normal(size=(200, 5)) + 1.5 * np.eye(5)[CLASSES]
GUESSES = SCORES.argmax(1)
TAGS = (RNG.random((200, 4)) < 0.2).astype(np.float32)
TAG_SCORES = (RNG.normal(size=(200, 4)) + TAGS).round(1)  # with ties
VALUES = RNG.normal(size=(200, 2))
ESTIMATES = VALUES + RNG.normal(size=(200, 2))


def test_classification_equals_scikit_learn():
    for predictions in (SCORES, GUESSES):
        assert compute("accuracy", CLASSES, predictions) == pytest.approx(
            sk.accuracy_score(CLASSES, GUESSES)
        )
        assert compute("macro_f1", CLASSES, predictions) == pytest.approx(
            sk.f1_score(CLASSES, GUESSES, average="macro")
        )
        assert compute("balanced_accuracy", CLASSES, predictions) == (
            pytest.approx(sk.balanced_accuracy_score(CLASSES, GUESSES))
        )


def test_tagging_equals_scikit_learn():
    assert compute("roc_auc", TAGS, TAG_SCORES) == pytest.approx(
        sk.roc_auc_score(TAGS, TAG_SCORES)
    )
    assert compute("average_precision", TAGS, TAG_SCORES) == pytest.approx(
        sk.average_precision_score(TAGS, TAG_SCORES)
    )
    # A tag that never occurs has no curve and is left out.
    empty = np.zeros((200, 1))
    for name in ("roc_auc", "average_precision"):
        assert compute(
            name, np.hstack([TAGS, empty]), np.hstack([TAG_SCORES, empty])
        ) == pytest.approx(compute(name, TAGS, TAG_SCORES))
        with pytest.raises(UserError, match="No tag"):
            compute(name, empty, empty)


def test_regression_equals_scikit_learn():
    expected = sk.r2_score(VALUES, ESTIMATES, multioutput="raw_values")
    assert compute("r2_arousal", VALUES, ESTIMATES) == pytest.approx(
        expected[0]
    )
    assert compute("r2_valence", VALUES, ESTIMATES) == pytest.approx(
        expected[1]
    )
    assert compute("r2_mean", VALUES, ESTIMATES) == pytest.approx(
        expected.mean()
    )
    assert compute("rmse", VALUES, ESTIMATES) == pytest.approx(
        sk.root_mean_squared_error(VALUES, ESTIMATES)
    )
    correlations = [
        np.corrcoef(VALUES[:, i], ESTIMATES[:, i])[0, 1] for i in (0, 1)
    ]
    assert compute("pearson", VALUES, ESTIMATES) == pytest.approx(
        np.mean(correlations)
    )
    assert compute("pearson", VALUES, np.zeros_like(VALUES)) == 0.0


def test_key_table_equals_mir_eval():
    assert KEY_SCORES.shape == (25, 25)
    assert KEY_NAMES[0] == "C major" and KEY_NAMES[12 + 9] == "A minor"
    for i, reference in enumerate(KEY_NAMES):
        for j, estimate in enumerate(KEY_NAMES):
            assert KEY_SCORES[i, j] == mir_eval.key.weighted_score(
                reference, estimate
            )


@pytest.mark.parametrize(
    ("estimate", "category", "weighted"),
    [
        (0, "exact", 1.0),
        (7, "fifth", 0.5),  # G major for C major
        (5, "other", 0.0),  # F major: a fifth below does not count
        (21, "relative", 0.3),  # A minor
        (12, "parallel", 0.2),  # C minor
        (6, "other", 0.0),
        (24, "other", 0.0),  # no key
    ],
)
def test_key_categories(estimate, category, weighted):
    target, guess = np.array([0]), np.array([estimate])
    assert compute("key_weighted", target, guess) == weighted
    for name in ("exact", "fifth", "relative", "parallel", "other"):
        assert compute(f"key_{name}", target, guess) == (name == category)
    assert compute("key_tolerant", target, guess) == (weighted > 0)


def test_pitch_errors():
    target = np.array([60, 60, 60, 60])
    guess = np.array([60, 61, 72, 47])
    assert compute("pitch_within_semitone", target, guess) == 0.5
    assert compute("octave_error", target, guess) == 0.25


def test_group_accuracy_averages_scores_first():
    groups = np.array([str(i // 4) for i in range(200)])
    targets = CLASSES[::4].repeat(4)
    merged = SCORES.reshape(50, 4, 5).mean(1).argmax(1)
    expected = (merged == targets[::4]).mean()
    assert compute("group_accuracy", targets, SCORES, groups) == expected
    assert len(merge_groups(targets, SCORES, groups)[0]) == 50


def test_unknown_metric_is_named():
    with pytest.raises(UserError, match="Unknown metric 'acuracy'"):
        compute("acuracy", CLASSES, SCORES)


def arrays(name):
    if name.startswith(("r2", "rmse", "pearson")):
        return VALUES, ESTIMATES
    if name in ("roc_auc", "average_precision"):
        return TAGS, TAG_SCORES
    return CLASSES, SCORES


@pytest.mark.parametrize("name", sorted(METRICS))
def test_weighted_metric_equals_recomputation(name):
    """Integer weights give the metric of the tracks repeated as often."""
    targets, predictions = arrays(name)
    weights = RNG.integers(0, 3, (3, 200)).astype(np.float32)
    got = _resampled(name, targets, predictions, weights)
    for value, row in zip(got, weights.astype(int), strict=True):
        drawn = np.repeat(np.arange(200), row)
        expected = compute(name, targets[drawn], predictions[drawn])
        assert value == pytest.approx(expected, abs=1e-6)


def test_interval():
    predictions = [SCORES, SCORES + RNG.normal(size=SCORES.shape)]
    mean = np.mean([compute("accuracy", CLASSES, p) for p in predictions])
    low, high = bootstrap_interval("accuracy", CLASSES, predictions)
    assert low < mean < high
    again = bootstrap_interval("accuracy", CLASSES, predictions)
    assert (low, high) == again
    assert (low, high) != bootstrap_interval(
        "accuracy", CLASSES, predictions, seed=1
    )
    # The textbook interval of a proportion, for one seed.
    low, high = bootstrap_interval("accuracy", CLASSES, predictions[:1])
    p = compute("accuracy", CLASSES, SCORES)
    assert (high - low) / 2 == pytest.approx(
        1.96 * np.sqrt(p * (1 - p) / 200), rel=0.15
    )


def test_groups_are_drawn_together():
    """Copies of a track add no evidence: the interval must not shrink."""
    targets, predictions = CLASSES.repeat(5), SCORES.repeat(5, 0)
    groups = np.arange(200).repeat(5).astype(str)
    alone = bootstrap_interval("accuracy", CLASSES, [SCORES])
    grouped = bootstrap_interval("accuracy", targets, [predictions], groups)
    assert np.diff(grouped) == pytest.approx(np.diff(alone), rel=0.15)
    naive = bootstrap_interval("accuracy", targets, [predictions])
    assert np.diff(naive) < 0.6 * np.diff(grouped)
    bootstrap_interval("group_accuracy", targets, [predictions], groups)
