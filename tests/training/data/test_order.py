import numpy as np
import pytest

from training.data.order import SampleOrder


def stream(order, steps, world_size=1):
    return np.concatenate(
        [order.batch(step, rank, world_size)[0] for step in range(steps) for rank in range(world_size)]
    )


def test_every_epoch_shows_every_sample_once_and_drops_no_tail():
    seen = stream(SampleOrder(10, 4, seed=1), steps=5)  # 20 samples: two epochs, the border inside a batch
    assert sorted(seen[:10]) == list(range(10))
    assert sorted(seen[10:]) == list(range(10))


def test_epochs_have_different_orders():
    seen = stream(SampleOrder(50, 10, seed=1), steps=10)
    assert not np.array_equal(seen[:50], seen[50:])


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_global_batch_without_overlap(world_size):
    order = SampleOrder(37, 8, seed=3)
    assert np.array_equal(stream(order, 12), stream(order, 12, world_size))


def test_any_step_can_be_asked_for_first():
    late = SampleOrder(37, 8, seed=3).batch(11)[0]
    assert np.array_equal(stream(SampleOrder(37, 8, seed=3), 12)[88:], late)


def test_seeds_give_different_orders():
    assert not np.array_equal(SampleOrder(100, 50, 0).batch(0)[0], SampleOrder(100, 50, 1).batch(0)[0])
