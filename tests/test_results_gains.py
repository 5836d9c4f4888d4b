"""Gain of training: a paired difference, from the same tracks only."""

import numpy as np
import pytest
from test_results import add_run

from muselq_modules.bootstrap import bootstrap_difference, bootstrap_interval
from muselq_modules.results import collect, write_report
from muselq_modules.results_gains import gains, gains_table

COLUMN = {
    "dataset": "gtzan",
    "task": "genre",
    "metric": "accuracy",
    "title": "genre",
}


def save_predictions(folder, targets, share_right, seed=0):
    """Two seeds of scores of which a share is right; returns the accuracy."""
    rng = np.random.default_rng(seed)
    n_right = round(share_right * len(targets))
    guesses = np.where(np.arange(len(targets)) < n_right, targets, 1 - targets)
    scores = np.eye(2)[guesses] + 0.1 * rng.random((len(targets), 2))
    np.savez_compressed(
        folder / "predictions.npz",
        targets=targets,
        predictions=np.stack([scores, scores]).astype(np.float32),
        groups=np.array([f"track {i}" for i in range(len(targets))]),
    )


@pytest.fixture
def folder(tmp_path):
    targets = np.arange(200) % 2
    for name, share in (("mine", 0.7), ("random_mine", 0.6), ("mel", 0.65)):
        run = add_run(tmp_path, name, "gtzan", "genre", {"accuracy": share})
        save_predictions(run, targets, share)
    return tmp_path


def test_gain_is_the_paired_difference_to_the_untrained_twin(folder):
    [gain] = gains(collect(folder), [COLUMN])
    assert gain["row"] == "mine" and gain["mean"] == pytest.approx(0.1)
    low, high = gain["interval"]
    # The same 20 of 200 tracks tell the two apart: deviation .021, paired.
    assert 0.05 < low < 0.07 and 0.13 < high < 0.15
    assert gains_table([gain])[1][0][1].endswith("*")


def test_paired_is_narrower_than_two_intervals():
    targets = np.arange(200) % 2
    ours = np.where(np.arange(200) < 140, targets, 1 - targets)
    theirs = np.where(np.arange(200) < 120, targets, 1 - targets)
    low, high = bootstrap_difference("accuracy", targets, [ours], [theirs])
    lows, highs = zip(
        *(bootstrap_interval("accuracy", targets, [p]) for p in (ours, theirs))
    )
    assert high - low < 0.7 * (highs[0] - lows[0])
    assert lows[0] < highs[1] and low > 0  # they overlap, yet ours is better


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "group_accuracy"])
def test_an_encoder_gains_nothing_over_itself(metric):
    targets = np.arange(60) % 3
    guesses = [np.random.default_rng(i).integers(0, 3, 60) for i in (1, 2)]
    groups = [str(i // 2) for i in range(60)] if "group" in metric else None
    if groups:
        targets = np.repeat(np.arange(30) % 3, 2)
        guesses = [np.eye(3)[g] for g in guesses]
    interval = bootstrap_difference(metric, targets, guesses, guesses, groups)
    assert interval == (0.0, 0.0)


def test_runs_on_other_rows_or_without_predictions_are_left_out(folder):
    run = folder / "gtzan_genre" / "random_mine"
    (run / "predictions.npz").unlink()
    assert gains(collect(folder), [COLUMN]) == []
    add_run(
        folder,
        "random_mine",
        "gtzan",
        "genre",
        {"accuracy": 0.6},
        manifests={"test": "another"},
    )
    save_predictions(run, np.arange(100) % 2, 0.6)
    assert gains(collect(folder), [COLUMN]) == []


def test_the_report_shows_gains(folder, capsys):
    page = write_report(folder)
    assert "What training gave" in page.read_text("utf-8")
    assert "Gain over untrained" in capsys.readouterr().out
