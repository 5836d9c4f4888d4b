"""Learning rate: linear warm-up, then cosine decay (paper, section 4.3)."""

import math


class WarmupCosineSchedule:
    """A pure function of the step: nothing to save, nothing to restore.

    Parameters
    ----------
    peak_lr : float
        Reached at the end of the warm-up.
    final_lr : float
        Reached at the last step and kept after it.
    warmup_steps : int
        Steps of the linear warm-up.
    total_steps : int
        Steps of the run.

    Raises
    ------
    ValueError
        When the warm-up is not shorter than the run.

    Example
    -------
    >>> schedule = WarmupCosineSchedule(1e-4, 1e-5, 10, 100)
    >>> [round(schedule(step), 7) for step in (1, 10, 55, 100, 200)]
    [1e-05, 0.0001, 5.5e-05, 1e-05, 1e-05]
    """

    def __init__(self, peak_lr, final_lr, warmup_steps, total_steps):
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                f"warmup_steps is {warmup_steps}; it must be at least 0 and "
                f"less than the {total_steps} steps of the run"
            )
        self.peak_lr = peak_lr
        self.final_lr = final_lr
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps

    def __call__(self, step):
        """Learning rate of ``step``, counted from 1."""
        if step < self.warmup_steps:
            return self.peak_lr * step / self.warmup_steps
        done = (step - self.warmup_steps) / (
            self.total_steps - self.warmup_steps
        )
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
        return self.final_lr + (self.peak_lr - self.final_lr) * cosine
