import math

import pytest
import torch

from assets.errors import ConfigError
from assets.section import parse
from tests.training.view_batches import case_a
from training.models.masking_config import AttentiveMasking, NoMasking, RandomMasking, num_blocks_kept, num_kept
from training.models.score_map import patches_of, ranked_blocks
from training.models.token_select import random_keep, uniform_from_seeds

SEEDS = torch.arange(2000)
WORD = 2**64


def mixed(bits):
    """SplitMix64's finaliser in Python's unbounded integers."""
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) % WORD
    return bits ^ (bits >> 31)


def slow_draw(seed, number, stream):
    start = mixed((mixed(seed % WORD) + stream + 1) % WORD)
    return (mixed((start + number) % WORD) >> 40) / 2**24


def correlation(first, second):
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]).double())[0, 1])


def test_the_slow_finaliser_is_the_published_one():
    # the generator's first outputs for state 1234567, as printed in its public test vectors
    outputs = [mixed(1234567 + (number + 1) * 0x9E3779B97F4A7C15 % WORD) for number in range(3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("stream", [0, 1, 12345])
def test_draws_equal_those_in_unbounded_integers(stream):
    seeds = [0, 1, -1, 77, 2**63 - 1, -(2**63), 123456789012345678]
    expected = [[slow_draw(seed, number, stream) for number in range(9)] for seed in seeds]
    assert uniform_from_seeds(torch.tensor(seeds), 9, stream).tolist() == expected


def test_a_sample_draws_the_same_in_any_batch():
    together = uniform_from_seeds(SEEDS, 16, 3)
    order = torch.randperm(len(SEEDS), generator=torch.Generator().manual_seed(0))
    assert torch.equal(uniform_from_seeds(SEEDS[order], 16, 3), together[order])
    assert torch.equal(uniform_from_seeds(SEEDS[41:42], 16, 3)[0], together[41])
    assert torch.equal(uniform_from_seeds(SEEDS, 5, 3), together[:, :5])


def test_draws_ignore_the_global_generator_and_leave_it_alone():
    torch.manual_seed(1)
    first, state = uniform_from_seeds(SEEDS, 4, 0), torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(uniform_from_seeds(SEEDS, 4, 0), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "seeds", [SEEDS, SEEDS * 196, SEEDS << 32, -SEEDS - 1], ids=["0..", "spaced", "high", "below 0"]
)
def test_draws_are_uniform(seeds):
    draws = uniform_from_seeds(seeds, 100, 0)
    number = draws.numel()
    assert draws.dtype == torch.float32 and 0 <= float(draws.min()) and float(draws.max()) < 1
    assert float(draws.double().mean()) == pytest.approx(0.5, abs=4 / math.sqrt(12 * number))
    assert float(draws.double().var()) == pytest.approx(1 / 12, rel=0.01)
    bins = torch.histc(draws, 64, 0, 1)
    chi_square = float(((bins - number / 64) ** 2 / (number / 64)).sum())
    assert 63 - 4 * math.sqrt(126) < chi_square < 63 + 4 * math.sqrt(126)


def test_each_position_is_uniform_over_neighbouring_seeds():
    assert ((uniform_from_seeds(SEEDS, 100, 0).mean(dim=0) - 0.5).abs() < 4.5 / math.sqrt(12 * len(SEEDS))).all()


def test_streams_neighbouring_seeds_and_positions_are_not_correlated():
    draws = uniform_from_seeds(SEEDS, 100, 0)
    bound = 4.5 / math.sqrt(draws.numel())
    for stream in (1, 2, 64):
        assert abs(correlation(draws, uniform_from_seeds(SEEDS, 100, stream))) < bound
    assert abs(correlation(draws[1:], draws[:-1])) < bound
    assert abs(correlation(draws[:, 1:], draws[:, :-1])) < bound
    # a seed and a stream further on are not one and the same either
    assert not torch.isin(uniform_from_seeds(SEEDS[:9], 9, 1), uniform_from_seeds(SEEDS[1:10], 9, 0)).any()


def test_kept_patches_are_those_with_the_smallest_draws():
    keep, draws = random_keep(SEEDS[:50], 49, 20, stream=1), uniform_from_seeds(SEEDS[:50], 49, 1)
    assert keep.shape == (50, 20) and keep.dtype == torch.int64
    for row, kept in zip(draws.tolist(), keep.tolist(), strict=True):
        assert kept == sorted(sorted(range(49), key=lambda patch: (row[patch], patch))[:20])


def test_every_patch_is_kept_equally_often_and_views_differ():
    keep = random_keep(SEEDS, 16, 8)
    share = torch.bincount(keep.flatten(), minlength=16) / len(SEEDS)
    assert ((share - 0.5).abs() < 4.5 * 0.5 / math.sqrt(len(SEEDS))).all()
    other = random_keep(SEEDS, 16, 8, stream=1)
    same = [len(set(a) & set(b)) for a, b in zip(keep.tolist(), other.tolist(), strict=True)]
    assert sum(same) / len(SEEDS) == pytest.approx(4, abs=0.15)


def test_keeping_all_patches_is_the_identity():
    assert torch.equal(random_keep(SEEDS[:3], 9, 9), torch.arange(9).expand(3, 9))


def test_the_kept_number_is_rounded_down_and_never_zero():
    assert [num_kept(196, share) for share in (1.0, 0.5, 0.25, 0.001)] == [196, 98, 49, 1]
    assert num_kept(49, 0.5) == 24
    assert num_kept(100, 0.57) == 57 and num_kept(100, 0.29) == 29  # both a hair below in floating point


def test_masking_is_read_from_plain_data():
    assert parse(NoMasking, {"kind": "none"}, "masking").kind == "none"
    assert parse(RandomMasking, {"kind": "random"}, "masking").keep == 0.5


@pytest.mark.parametrize("keep", [0, -0.1, 1.01])
def test_a_share_outside_of_0_to_1_is_refused(keep):
    with pytest.raises(ConfigError, match=r"masking\.keep"):
        parse(RandomMasking, {"kind": "random", "keep": keep}, "masking")


@pytest.mark.slow
def test_a_compiled_choice_is_the_same():
    # the products overflow on purpose, and a compiler may not take that as licence
    choose = torch.compile(random_keep)
    for seeds in (SEEDS, SEEDS << 40):
        assert torch.equal(choose(seeds, 49, 24, 2), random_keep(seeds, 49, 24, 2))


def test_the_smallest_draws_stay_as_in_the_published_code():
    case = case_a()
    noise, number = torch.from_numpy(case["rand_noise"]), num_kept(196, 1 - float(case["rand_ratio"]))
    kept = patches_of(ranked_blocks(-noise, number), columns=14, block=1)
    dropped = torch.ones(3, 196, dtype=torch.bool).scatter_(1, kept, False)
    assert torch.equal(dropped, torch.from_numpy(case["rand_drop"]))


def test_blocks_are_counted_as_published_or_rounded_down():
    counts = [num_blocks_kept(AttentiveMasking(kind="attentive", keep=keep), 196) for keep in (0.5, 0.01, 1.0)]
    assert counts == [25, 1, 49]
    assert num_blocks_kept(RandomMasking(kind="random", block=2), 196) == 24
    assert num_blocks_kept(RandomMasking(kind="random"), 196) == 98
