import math

import pytest
import torch

from tests.training.view_batches import case_a
from training.losses.byol import byol_loss

CASE = case_a()


def published():
    return torch.from_numpy(CASE["loss_byol_feats"]), torch.from_numpy(CASE["loss_byol_feats_e"])


def test_the_mean_over_views_is_that_of_the_published_code():
    predictions, targets = published()
    loss = (byol_loss(predictions[:6], targets) + byol_loss(predictions[6:], targets)) / 2
    assert float(loss) == pytest.approx(float(CASE["aclip_fixed_im_byol_loss"]), abs=1e-9)


def test_the_loss_is_the_squared_distance_of_unit_vectors_written_out():
    predictions, targets = published()
    total = 0.0
    for q, z in zip(predictions[:6].tolist(), targets.tolist(), strict=True):
        lengths = [math.sqrt(sum(x * x for x in vector)) for vector in (q, z)]
        total += sum((a / lengths[0] - b / lengths[1]) ** 2 for a, b in zip(q, z, strict=True))
    assert float(byol_loss(predictions[:6], targets)) == pytest.approx(total / 6, rel=1e-12)


def test_parallel_vectors_give_0_and_opposite_ones_4():
    _, targets = published()
    assert float(byol_loss(3 * targets, targets)) == pytest.approx(0, abs=1e-12)
    assert float(byol_loss(-0.1 * targets, targets)) == pytest.approx(4, rel=1e-12)


def test_lengths_do_not_matter_and_samples_do_not_see_each_other():
    predictions, targets = published()
    scale = torch.linspace(0.5, 9, 6, dtype=torch.float64)[:, None]
    whole = float(byol_loss(predictions[:6], targets))
    assert float(byol_loss(scale * predictions[:6], targets / scale)) == pytest.approx(whole, rel=1e-12)
    alone = [float(byol_loss(predictions[i : i + 1], targets[i : i + 1])) for i in range(6)]
    assert sum(alone) / 6 == pytest.approx(whole, rel=1e-12)


def test_the_target_gets_no_gradient():
    predictions, targets = (value[:6].clone().requires_grad_() for value in published())
    byol_loss(predictions, targets).backward()
    assert targets.grad is None and predictions.grad.abs().sum() > 0
