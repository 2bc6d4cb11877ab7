import numpy as np
import pytest
import torch

from assets.language.facet_layout import (
    additive_mask,
    allowed_pairs,
    facet_starts,
    lay_out,
    num_allowed_pairs,
)


def pieces(case) -> tuple[list[list[int]], list[list[int]]]:
    prefixes = [
        ids[:length].tolist() for ids, length in zip(case["lay/prefix_ids"], case["lay/prefix_len"], strict=True)
    ]
    facets = [ids[:length].tolist() for ids, length in zip(case["lay/facet_ids"], case["lay/facet_len"], strict=True)]
    return prefixes, facets


@pytest.mark.parametrize("positions", ["reset", "contiguous"])
def test_the_layout_equals_the_published_case(case, positions):
    layout = lay_out(*pieces(case), positions)
    assert np.array_equal(layout.token_ids, case["right/input_ids"])
    assert np.array_equal(layout.segment, case["right/segment"])
    assert np.array_equal(layout.positions, case[f"right/position_{positions}"])
    assert np.array_equal(layout.pool_index, case["right/pool_index"])


@pytest.mark.parametrize(
    ("segment", "allowed"), [("right/segment", "right/allowed"), ("left/segment", "left/allowed_clean")]
)
def test_the_mask_equals_the_published_case_with_padding_on_either_side(case, segment, allowed):
    assert np.array_equal(allowed_pairs(torch.from_numpy(case[segment])), case[allowed])


def test_the_mask_equals_the_reference_wherever_no_padding_is_involved(case):
    segment = case["left/segment"]
    real = (segment >= 0)[:, :, None] & (segment >= 0)[:, None, :]
    ours, reference = allowed_pairs(torch.from_numpy(segment)).numpy(), case["mask/reference_allowed"].astype(bool)
    assert np.array_equal(ours[real], reference[real])
    # and there the reference errs: its tokens look at padding
    assert (reference & ~real).any() and not (ours & ~real & ~np.eye(segment.shape[1], dtype=bool)).any()


def test_the_mask_follows_from_the_rule_pair_by_pair():
    segment = lay_out([[5, 5, 5], [5]], [[7], [8, 8]], "reset").segment
    allowed = allowed_pairs(segment)
    for row, owner in enumerate(segment.tolist()):
        for i, mine in enumerate(owner):
            for j, other in enumerate(owner):
                wanted = i == j or (j < i and mine >= 0 and other in (0, mine))
                assert bool(allowed[row, i, j]) is wanted, (row, i, j)


def test_a_single_facet_makes_a_plain_causal_mask():
    allowed = allowed_pairs(lay_out([[5, 6, 7]], [[8, 9]], "reset").segment)
    assert torch.equal(allowed[0], torch.ones(5, 5, dtype=torch.bool).tril())


@pytest.mark.parametrize(("prefix", "facets"), [(1, [1]), (4, [2, 3]), (12, [4, 5, 6, 5, 6, 4, 3])])
def test_the_number_of_allowed_pairs_follows_from_the_lengths(prefix, facets):
    segment = lay_out([[5] * prefix], [[6] * length for length in facets], "reset").segment
    assert int(allowed_pairs(segment).sum()) == num_allowed_pairs(prefix, facets)


def test_facets_start_where_the_prefix_or_the_facet_before_ends():
    assert facet_starts([4, 5, 6], "reset") == [0, 0, 0]
    assert facet_starts([4, 5, 6], "contiguous") == [0, 4, 9]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_additive_mask_is_finite_and_hides_what_is_not_allowed(dtype):
    allowed = torch.tensor([[[True, False], [True, True]]])
    mask = additive_mask(allowed, dtype)
    assert mask.shape == (1, 1, 2, 2) and mask.dtype == dtype and mask.isfinite().all()
    assert torch.equal(mask[:, 0] == 0, allowed)
    assert torch.softmax(mask[0, 0].float(), dim=-1)[0].tolist() == [1, 0]
