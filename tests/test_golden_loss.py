"""The same seed gives the same losses as ever, or the CHANGELOG says why."""

import pytest
from pretrain_runs import run, trace

# Steps 1 to 6 of the run below. Whoever changes them says so in CHANGELOG.md.
GOLDEN = [11.2517, 11.0715, 10.9868, 10.7399, 10.967, 11.3009]


def test_losses_are_those_of_the_last_release(tmp_path):
    code, output = run(tmp_path, n_steps=6, valid_interval=6)
    assert code == 0, output
    losses = [r["loss"] for r in trace(tmp_path) if r["kind"] == "train"]
    assert losses == pytest.approx(GOLDEN, rel=1e-3)
