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


SHARDS = (7, 3, 0, 5, 11, 4, 6, 1, 9, 4)  # 50 samples
LAST = np.cumsum(SHARDS)


def windowed(window=3, seed=1, batch=8):
    return SampleOrder(50, batch, seed, SHARDS, window)


def shard_of(positions):
    return np.searchsorted(LAST, positions, side="right")


def test_without_a_window_the_order_is_the_one_it_always_was():
    # runs of earlier versions must resume on the stream they began with
    expected = [np.random.Generator(np.random.Philox(key=[4, epoch])).permutation(50) for epoch in range(2)]
    assert np.array_equal(stream(SampleOrder(50, 10, 4), 10), np.concatenate(expected))
    assert np.array_equal(stream(SampleOrder(50, 10, 4, SHARDS), 10), np.concatenate(expected))


@pytest.mark.parametrize("window", [1, 2, 3, 7, 10, 99])
@pytest.mark.parametrize("batch", [1, 8, 50, 64])
def test_every_epoch_of_windows_shows_every_sample_once(window, batch):
    seen = stream(windowed(window, batch=batch), steps=-(-150 // batch))
    epochs = [seen[start : start + 50] for start in (0, 50, 100)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])


@pytest.mark.parametrize("window", [1, 2, 3, 5])
def test_few_shards_are_read_at_a_time_and_none_is_come_back_to(window):
    shards = shard_of(stream(windowed(window, batch=1), 50))
    windows = -(-len(SHARDS) // window)
    begun = {shard: np.flatnonzero(shards == shard) for shard in np.unique(shards)}
    alive = [sum(places[0] <= now <= places[-1] for places in begun.values()) for now in range(50)]
    assert max(alive) <= window
    # windows are as equal as can be, so that none shuffles much worse than the others
    assert max(alive) >= len(SHARDS) // windows - 1


def test_samples_of_a_window_are_mixed_and_shards_meet_other_shards_in_the_next_epoch():
    order = SampleOrder(400, 400, 0, [20] * 20, 5)
    shards = [order.batch(epoch)[0] // 20 for epoch in range(2)]
    companions = [[frozenset(part) for part in epoch.reshape(4, 100)] for epoch in shards]
    assert all(len(window) == 5 for epoch in companions for window in epoch)
    assert not set(companions[0]) & set(companions[1])
    first = shards[0][:100]
    assert np.mean(first[1:] == first[:-1]) < 0.35  # a fifth by chance, nearly all if shards were read one by one


def test_windows_of_equal_shards_show_each_sample_as_often_at_each_place():
    order = SampleOrder(12, 12, 5, [3, 3, 3, 3], 2)
    counts = np.zeros((12, 12))
    for epoch in range(1200):
        counts[np.arange(12), order.batch(epoch)[0]] += 1
    assert counts.min() > 50 and counts.max() < 150  # 100 expected, five deviations


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_batch_and_any_step_can_be_asked_for_first_with_windows_too(world_size):
    whole = stream(windowed(), 20)
    assert np.array_equal(stream(windowed(), 20, world_size), whole)
    late = windowed()
    for step in (19, 3, 11, 3, 0):
        assert np.array_equal(late.batch(step)[0], whole[step * 8 : step * 8 + 8])


def test_seeds_give_different_windows():
    assert not np.array_equal(
        np.sort(windowed(seed=1, batch=15).batch(0)[0]), np.sort(windowed(seed=2, batch=15).batch(0)[0])
    )


@pytest.mark.parametrize("batch", [1, 4, 15, 20, 64])
def test_the_shards_ahead_are_those_of_the_windows_in_use_and_of_the_next(batch):
    order, end = SampleOrder(60, batch, 2, [5] * 12, 3), 2 * 60
    # every window holds 15 samples, so cutting the stream finds the windows without knowing how they were drawn
    windows = [set(part.tolist()) for part in (stream(SampleOrder(60, 1, 2, [5] * 12, 3), end) // 5).reshape(-1, 15)]
    assert all(len(window) == 3 for window in windows)
    steps = end // batch
    for step in range(steps):
        begin, last = step * batch // 15, ((step + 1) * batch - 1) // 15
        wanted = windows[begin : min(last + 1, (steps * batch - 1) // 15) + 1]
        ahead = order.shards_ahead(step, steps)
        assert set(ahead) == set().union(*wanted) and len(set(ahead)) == len(ahead)
        use = {shard: place for place, window in reversed(list(enumerate(wanted))) for shard in window}
        assert [use[shard] for shard in ahead] == sorted(use[shard] for shard in ahead)


def test_no_shard_beyond_the_run_is_fetched_ahead():
    order = windowed(3, batch=8)
    used = set(shard_of(stream(order, 2)).tolist())
    window_of_the_end = set(order.shards_ahead(1, 2))
    assert used <= set(order.shards_ahead(0, 2))
    assert len(window_of_the_end) <= 6
    assert order.shards_ahead(2, 2) == ()
    assert set(order.shards_ahead(1)) >= window_of_the_end
    assert order.shards_ahead(1) == order.shards_ahead(1, 1000)
    assert SampleOrder(50, 8, 0).shards_ahead(0, 10) == ()


def test_shards_that_do_not_hold_the_samples_are_a_mistake_of_ours():
    with pytest.raises(AssertionError, match="hold all"):
        SampleOrder(49, 8, 0, SHARDS, 2)
