"""The stream of examples: one order for any split, exact on resume."""

from collections import Counter

import pytest

from muselq_modules.errors import UserError
from muselq_modules.sampling import GlobalBatchSampler, accumulation_steps

N_EXAMPLES, GLOBAL, STEPS = 53, 24, 9


def examples_by_step(local_batch, world_size, first=0, stop=STEPS, seed=5):
    """The set of (epoch, example) of each step, over all ranks."""
    streams = []
    for rank in range(world_size):
        sampler = GlobalBatchSampler(
            N_EXAMPLES, GLOBAL, local_batch, seed, rank, world_size
        )
        sampler.set_steps(first, stop)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert {len(batch) for batch in batches} == {local_batch}
        streams.append(batches)
    per_step = len(streams[0]) // (stop - first)
    return [
        Counter(
            key
            for batches in streams
            for batch in batches[step * per_step : (step + 1) * per_step]
            for key in batch
        )
        for step in range(stop - first)
    ]


def test_every_split_of_a_step_sees_the_same_examples():
    expected = examples_by_step(24, 1)
    assert all(sum(step.values()) == GLOBAL for step in expected)
    for local_batch, world_size in [(1, 1), (6, 4), (4, 2), (3, 8), (1, 24)]:
        assert examples_by_step(local_batch, world_size) == expected


def test_every_pass_is_a_permutation_of_its_own():
    sampler = GlobalBatchSampler(N_EXAMPLES, 1, 1, seed=5)
    sampler.set_steps(0, 5 * N_EXAMPLES)
    stream = [key for (key,) in sampler]
    orders = []
    for epoch in range(4):
        part = stream[epoch * N_EXAMPLES : (epoch + 1) * N_EXAMPLES]
        assert {e for e, _ in part} == {epoch}
        orders.append([example for _, example in part])
        assert sorted(orders[-1]) == list(range(N_EXAMPLES))
    assert len({tuple(order) for order in orders}) == 4
    # All examples of a pass fill the steps without a gap.
    merged = [k for step in examples_by_step(6, 4) for k in step.elements()]
    assert sorted(merged) == sorted(stream[: GLOBAL * STEPS])


@pytest.mark.parametrize("first", range(STEPS))
def test_resuming_is_the_tail_of_the_uninterrupted_run(first):
    sampler = GlobalBatchSampler(N_EXAMPLES, GLOBAL, 4, 5, rank=1, world_size=2)
    sampler.set_steps(0, STEPS)
    whole = list(sampler)
    fresh = GlobalBatchSampler(N_EXAMPLES, GLOBAL, 4, 5, rank=1, world_size=2)
    fresh.set_steps(first, STEPS)
    assert list(fresh) == whole[first * sampler.accumulation :]
    # The sampler that is in use may also be moved back and forth.
    sampler.set_steps(first, STEPS)
    assert list(sampler) == list(fresh)


def test_the_seed_changes_the_order():
    assert examples_by_step(24, 1, seed=5) != examples_by_step(24, 1, seed=6)


def test_a_step_larger_than_the_data():
    sampler = GlobalBatchSampler(5, 12, 4, seed=1)
    sampler.set_steps(0, 1)
    keys = [key for batch in sampler for key in batch]
    assert [epoch for epoch, _ in keys] == [0] * 5 + [1] * 5 + [2] * 2
    assert sorted(example for _, example in keys[:5]) == list(range(5))


@pytest.mark.parametrize("world_size", [1, 2, 3, 8, 64, 100])
@pytest.mark.parametrize("local_batch", [1, 3, 16, 48])
def test_an_impossible_split_names_numbers_that_work(local_batch, world_size):
    together = local_batch * world_size
    if 1024 % together == 0:
        steps = accumulation_steps(1024, local_batch, world_size)
        assert steps * together == 1024
        return
    with pytest.raises(UserError) as caught:
        accumulation_steps(1024, local_batch, world_size)
    facts, remedy = str(caught.value).split(": use ")
    assert f"{world_size} ranks x local_batch {local_batch}" in facts
    globals_, _, local = remedy.rstrip(".").partition(", or local_batch ")
    for number in globals_.removeprefix("global_batch ").split(" or "):
        assert accumulation_steps(int(number), local_batch, world_size) >= 1
    if local:
        assert accumulation_steps(1024, int(local), world_size) >= 1
    else:
        assert all(1024 % (n * world_size) for n in range(1, local_batch))


@pytest.mark.parametrize("sizes", [(0, 16), (1024, 0), (-16, 16)])
def test_a_batch_of_nothing_is_refused(sizes):
    with pytest.raises(UserError, match=f"is {min(sizes)}"):
        accumulation_steps(*sizes, world_size=1)
