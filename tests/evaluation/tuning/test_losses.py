import math

import pytest
import torch

from evaluation.tuning.config import PRESETS
from evaluation.tuning.losses import (
    consistency_loss,
    covariance_loss,
    dominant_loss,
    singular_values,
    tuning_losses,
)
from tests.evaluation.tuning.case import tensor

torch.manual_seed(3)
WIDE = torch.randn(8, 20, dtype=torch.float64)
TALL = torch.randn(30, 6, dtype=torch.float64)


def value_and_slope(loss, features):
    features = features.clone().requires_grad_()
    value = loss(features)
    value.backward()
    return float(value), features.grad


def turn(size):
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0]


def test_consistency_is_the_published_one_and_pulls_the_second_views_only():
    frozen, rows = tensor("sa_F_w"), len(tensor("sa_F_w"))
    value, slope = value_and_slope(lambda z: consistency_loss(z[rows:], frozen), tensor("sa_Z"))
    assert value == pytest.approx(float(tensor("sa_mse")), abs=1e-12)
    torch.testing.assert_close(slope, tensor("sa_mse_grad"), rtol=0, atol=1e-12)
    assert not slope[:rows].any()


def test_consistency_of_the_paper_is_not_divided_by_dimensions():
    frozen, rows = tensor("sa_F_w"), len(tensor("sa_F_w"))
    value = consistency_loss(tensor("sa_Z")[:rows], frozen, per_dimension=False)
    assert float(value) == pytest.approx(float(tensor("paper_mse_rowsum_mean")), abs=1e-12)


def test_covariance_is_the_published_one():
    value, slope = value_and_slope(covariance_loss, tensor("sa_Z"))
    assert value == pytest.approx(float(tensor("sa_cov")), abs=1e-10)
    torch.testing.assert_close(slope, tensor("sa_cov_grad"), rtol=0, atol=1e-10)


@pytest.mark.parametrize("through", ["gram", "svd"])
def test_dominant_share_is_the_published_one(through):
    value, slope = value_and_slope(lambda z: -dominant_loss(z, 5, through), tensor("sa_Z"))
    assert value == pytest.approx(float(tensor("sa_svd_top5mean")), abs=1e-10)
    torch.testing.assert_close(slope, tensor("sa_svd_top5mean_grad"), rtol=0, atol=1e-10)
    value, slope = value_and_slope(lambda z: dominant_loss(z, 1, through), tensor("sa_Z"))
    assert value == pytest.approx(float(tensor("paper_svd")), abs=1e-10)
    torch.testing.assert_close(slope, tensor("paper_svd_grad"), rtol=0, atol=1e-10)


def test_consistency_is_zero_for_positive_multiples_alone_and_never_above_its_bound():
    factors = torch.rand(8, 1, dtype=torch.float64) + 0.1
    assert float(consistency_loss(factors * WIDE, WIDE)) == pytest.approx(0, abs=1e-15)
    assert float(consistency_loss(-WIDE, WIDE)) == pytest.approx(4 / 20)
    assert float(consistency_loss(-WIDE, WIDE, per_dimension=False)) == pytest.approx(4)
    bent = WIDE.clone()
    bent[3, 4] += 0.5
    assert float(consistency_loss(bent, WIDE)) > 1e-6


def test_consistency_turns_features_without_stretching_them_and_leaves_the_frozen_alone():
    frozen = torch.randn_like(WIDE).requires_grad_()
    _, slope = value_and_slope(lambda z: consistency_loss(z, frozen), WIDE)
    torch.testing.assert_close((slope * WIDE).sum(dim=1), torch.zeros(8, dtype=torch.float64), rtol=0, atol=1e-15)
    assert slope.abs().max() > 1e-4
    assert frozen.grad is None


@pytest.mark.parametrize("features", [WIDE, TALL], ids=["wide", "tall"])
def test_covariance_equals_a_slow_count_and_has_its_slope(features):
    covariance = torch.cov(features.T)
    slow = sum(float(covariance[i, j]) ** 2 for i in range(len(covariance)) for j in range(len(covariance)) if i != j)
    value, slope = value_and_slope(covariance_loss, features)
    assert value == pytest.approx(slow / features.shape[1], rel=1e-12)
    centred = features - features.mean(dim=0)
    off = covariance - covariance.diag().diag()
    torch.testing.assert_close(slope, 4 / (features.shape[1] * (len(features) - 1)) * centred @ off)
    torch.testing.assert_close(
        slope.sum(dim=0), torch.zeros(features.shape[1], dtype=torch.float64), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("features", [WIDE, TALL], ids=["wide", "tall"])
def test_covariance_ignores_shifts_and_order_and_grows_with_the_fourth_power(features):
    plain = float(covariance_loss(features))
    assert float(covariance_loss(features + torch.randn(features.shape[1]))) == pytest.approx(plain, rel=1e-9)
    assert float(covariance_loss(features.flip(0))) == pytest.approx(plain, rel=1e-9)
    assert float(covariance_loss(3 * features)) == pytest.approx(81 * plain, rel=1e-9)


def test_covariance_of_uncorrelated_dimensions_is_zero():
    signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    assert float(covariance_loss(signs)) == pytest.approx(0, abs=1e-15)
    assert float(covariance_loss(signs @ torch.tensor([[1, 1], [0, 1]], dtype=torch.float64))) > 0.1


@pytest.mark.parametrize("rows", [2, 9, 40])
def test_two_equal_views_scale_the_covariances_by_their_degrees_of_freedom(rows):
    view = torch.randn(rows, 7, dtype=torch.float64)
    factor = 2 * (rows - 1) / (2 * rows - 1)
    both = float(covariance_loss(torch.cat([view, view])))
    assert both == pytest.approx(factor**2 * float(covariance_loss(view)), rel=1e-9)


@pytest.mark.parametrize("through", ["gram", "svd"])
@pytest.mark.parametrize("features", [WIDE, TALL], ids=["wide", "tall"])
def test_dominant_share_ignores_scale_and_turns_and_stays_in_its_range(features, through):
    value, slope = value_and_slope(lambda z: dominant_loss(z, 5, through), features)
    assert -1 / 5 <= value < 0
    assert float((slope * features).sum()) == pytest.approx(0, abs=1e-9)
    assert slope.abs().max() > 1e-5
    turned = 4 * turn(len(features)) @ features @ turn(features.shape[1])
    assert float(dominant_loss(turned, 5, through)) == pytest.approx(value, abs=1e-9)


def test_dominant_share_has_its_limits_at_low_rank_and_at_equal_directions():
    low = torch.randn(20, 3, dtype=torch.float64) @ torch.randn(3, 12, dtype=torch.float64)
    assert float(dominant_loss(low, 3, "svd")) == pytest.approx(-1 / 3, abs=1e-12)
    assert float(dominant_loss(low, 3)) == pytest.approx(-1 / 3, abs=1e-6)
    assert float(dominant_loss(turn(9), 4)) == pytest.approx(-1 / 9)
    assert float(dominant_loss(turn(3), 5)) == pytest.approx(-1 / 3)  # fewer values than asked for: all of them


def test_the_slope_of_a_matrix_of_low_rank_is_finite():
    rank_one = torch.outer(torch.arange(1.0, 7.0), torch.ones(4))
    value, slope = value_and_slope(lambda z: dominant_loss(z, 2), rank_one)
    assert math.isfinite(value) and bool(torch.isfinite(slope).all())


@pytest.mark.parametrize("features", [WIDE, TALL], ids=["wide", "tall"])
def test_both_ways_to_singular_values_agree(features):
    exact = singular_values(features, "svd")
    torch.testing.assert_close(singular_values(features), exact, rtol=0, atol=float(1e-6 * exact[0]))


@pytest.mark.parametrize("loss", [covariance_loss, lambda z: dominant_loss(z, 3), lambda z: consistency_loss(z, OTHER)])
def test_slopes_are_those_of_finite_differences(loss):
    assert torch.autograd.gradcheck(loss, torch.randn(6, 5, dtype=torch.float64).requires_grad_())


OTHER = torch.randn(6, 5, dtype=torch.float64)


def step_losses(regularisers, adapted, frozen):
    logits = torch.randn(len(adapted), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return tuning_losses(adapted, logits, frozen, torch.tensor([0, 1, 2, 1]), regularisers)


def test_cross_pairs_pull_second_views_towards_first_ones_and_same_pairs_both_towards_their_own():
    frozen, adapted = torch.randn_like(WIDE), WIDE
    crossed = step_losses(PRESETS["code"], adapted, frozen)["consistency_loss"]
    assert float(crossed) == pytest.approx(float(consistency_loss(adapted[4:], frozen[:4])))
    paired = step_losses(PRESETS["paper"], adapted, frozen)["consistency_loss"]
    assert float(paired) == pytest.approx(0.01 * float(consistency_loss(adapted, frozen, per_dimension=False)))


def test_weights_of_zero_leave_the_cross_entropy_of_both_views_alone():
    plain = step_losses(None, WIDE, WIDE)
    assert plain.keys() == step_losses(PRESETS["code"].scaled(0), WIDE, WIDE).keys() == {"cross_entropy_loss"}
    weighted, doubled = (step_losses(PRESETS["code"].scaled(factor), WIDE, OTHER_WIDE) for factor in (1, 2))
    for name in ("consistency_loss", "covariance_loss", "dominant_loss"):
        assert float(doubled[name]) == pytest.approx(2 * float(weighted[name]))
    torch.testing.assert_close(weighted["cross_entropy_loss"], plain["cross_entropy_loss"], rtol=0, atol=0)


OTHER_WIDE = torch.randn_like(WIDE)
