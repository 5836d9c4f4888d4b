"""Learning rate against its definition."""

import math

import pytest

from muselq_modules.schedules import WarmupCosineSchedule

PEAK, FINAL, WARMUP, TOTAL = 1e-4, 1e-5, 100, 1000


def test_warm_up_is_linear_and_ends_at_the_peak():
    schedule = WarmupCosineSchedule(PEAK, FINAL, WARMUP, TOTAL)
    for step in range(1, WARMUP + 1):
        assert schedule(step) == pytest.approx(PEAK * step / WARMUP)


def test_decay_is_half_a_cosine_and_ends_at_the_final_rate():
    schedule = WarmupCosineSchedule(PEAK, FINAL, WARMUP, TOTAL)
    for step in range(WARMUP, TOTAL + 1):
        phase = math.pi * (step - WARMUP) / (TOTAL - WARMUP)
        expected = FINAL + (PEAK - FINAL) * (1 + math.cos(phase)) / 2
        assert schedule(step) == pytest.approx(expected)
    assert schedule(TOTAL) == pytest.approx(FINAL)
    for step in range(TOTAL, 2 * TOTAL, 7):
        assert schedule(step) == pytest.approx(FINAL)


def test_is_a_pure_function_of_the_step():
    schedule = WarmupCosineSchedule(PEAK, FINAL, WARMUP, TOTAL)
    forward = [schedule(step) for step in range(1, TOTAL)]
    backward = [schedule(step) for step in range(TOTAL - 1, 0, -1)]
    assert forward == backward[::-1]


def test_no_warm_up_starts_at_the_peak():
    assert WarmupCosineSchedule(PEAK, FINAL, 0, 10)(0) == pytest.approx(PEAK)


@pytest.mark.parametrize("warmup", [-1, 1000, 2000])
def test_a_warm_up_that_does_not_fit_is_named(warmup):
    with pytest.raises(ValueError, match=f"warmup_steps is {warmup}"):
        WarmupCosineSchedule(PEAK, FINAL, warmup, TOTAL)
