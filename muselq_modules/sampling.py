"""Which examples each step trains on.

The stream of examples is a pure function of (seed, position): pass e over the
data is a random order of its own, and step s takes the positions from
s * global_batch on. Nothing has to be stored to resume, and one GPU with
accumulation, eight or 64 train on the same examples in the same steps.
"""

import numpy as np

from muselq_modules.errors import UserError


def accumulation_steps(global_batch, local_batch, world_size):
    """Micro-batches a rank accumulates for one step.

    Raises
    ------
    UserError
        When the global batch cannot be split; names numbers that work.

    Example
    -------
    >>> accumulation_steps(1024, 16, 8)
    8
    """
    for name, value in (
        ("global_batch", global_batch),
        ("local_batch", local_batch),
    ):
        if value < 1:
            raise UserError(f"{name} is {value}: it must be at least 1.")
    together = local_batch * world_size
    if global_batch % together == 0:
        return global_batch // together
    below = global_batch // together * together
    nearest = [below, below + together] if below else [together]
    local = [
        size
        for size in range(local_batch, 0, -1)
        if global_batch % (size * world_size) == 0
    ][:1]
    remedy = f"global_batch {' or '.join(str(n) for n in nearest)}"
    if local:
        remedy += f", or local_batch {local[0]}"
    raise UserError(
        f"global_batch {global_batch} is not a multiple of {world_size} ranks "
        f"x local_batch {local_batch} = {together}: use {remedy}."
    )


class GlobalBatchSampler:
    """Micro-batches of (epoch, example) for one rank.

    Parameters
    ----------
    n_examples : int
        Size of the data.
    global_batch : int
        Examples a step, over all ranks.
    local_batch : int
        Examples a micro-batch of one rank.
    seed : int
        Seed of the orders.
    rank, world_size : int
        This process and the number of processes.

    Example
    -------
    >>> one = GlobalBatchSampler(10, 4, 4, seed=1)
    >>> one.set_steps(0, 3)
    >>> steps = list(one)
    >>> two = GlobalBatchSampler(10, 4, 2, seed=1, rank=1, world_size=2)
    >>> two.set_steps(1, 2)
    >>> list(two) == [steps[1][2:]]
    True
    >>> [epoch for epoch, _ in steps[2]]  # a pass may end within a step
    [0, 0, 1, 1]
    """

    def __init__(
        self,
        n_examples,
        global_batch,
        local_batch,
        seed,
        rank=0,
        world_size=1,
    ):
        self.n_examples = n_examples
        self.global_batch = global_batch
        self.local_batch = local_batch
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.accumulation = accumulation_steps(
            global_batch, local_batch, world_size
        )
        self._order = (None, None)
        self.set_steps(0, 0)

    def set_steps(self, first, stop, skip=0):
        """Iterate over the steps ``first <= step < stop`` from now on.

        The first ``skip`` micro-batches of the first step are left out.
        """
        self.first, self.stop, self.skip = first, stop, skip

    def __len__(self):
        return (self.stop - self.first) * self.accumulation - self.skip

    def __iter__(self):
        together = self.local_batch * self.world_size
        for step in range(self.first, self.stop):
            done = self.skip if step == self.first else 0
            for micro_batch in range(done, self.accumulation):
                position = (
                    step * self.global_batch
                    + micro_batch * together
                    + self.rank * self.local_batch
                )
                yield [
                    self._example(position + i) for i in range(self.local_batch)
                ]

    def _example(self, position):
        epoch, place = divmod(position, self.n_examples)
        if self._order[0] != epoch:
            generator = np.random.Generator(
                np.random.Philox(key=[self.seed, epoch])
            )
            # 4 bytes an example: 96 MB for 24 million segments.
            order = np.arange(self.n_examples, dtype=np.uint32)
            generator.shuffle(order)
            self._order = (epoch, order)
        return epoch, int(self._order[1][place])
