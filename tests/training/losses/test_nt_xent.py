import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from tests.training.view_batches import case_a
from training.losses.nt_xent import nt_xent_loss

CASE = case_a()
TAU = float(CASE["loss_tau"])


def slow_nt_xent(first, second, temperature):
    """Every image's other view against both views of all images, in Python's own numbers."""
    views = [row.tolist() for row in (*first, *second)]
    n = len(first)
    total = 0.0
    for i, own in enumerate(views):
        scores = [sum(a * b for a, b in zip(own, other, strict=True)) / temperature for other in views]
        total -= scores[(i + n) % (2 * n)] - math.log(sum(math.exp(s) for j, s in enumerate(scores) if j != i))
    return total / (2 * n)


@pytest.fixture
def views():
    generator = torch.Generator().manual_seed(3)
    return [normalize(torch.randn(6, 5, generator=generator, dtype=torch.float64), dim=-1) for _ in range(2)]


def published_views():
    embedded = torch.from_numpy(CASE["loss_image_ssl_embed"])
    return embedded[:6].clone().requires_grad_(), embedded[6:].clone().requires_grad_()


def test_the_loss_and_its_gradients_are_those_of_the_published_code():
    first, second = published_views()
    loss = nt_xent_loss(normalize(first, dim=-1), normalize(second, dim=-1), TAU)
    loss.backward()
    assert loss.item() == pytest.approx(float(CASE["simclr_loss"]), abs=1e-9)
    assert np.abs(first.grad.numpy() - CASE["simclr_grad1"]).max() < 1e-8
    assert np.abs(second.grad.numpy() - CASE["simclr_grad2"]).max() < 1e-8


def test_a_view_against_itself_is_the_published_slip_and_only_repels():
    first, _ = published_views()
    unit = normalize(first, dim=-1)
    loss = nt_xent_loss(unit, unit, TAU)
    assert float(loss) == pytest.approx(float(CASE["aclip_released_simclr_loss"]), abs=1e-9)
    similarity = (unit @ unit.T).detach().numpy()
    others = [[math.exp((similarity[i, j] - 1) / TAU) for j in range(6) if j != i] for i in range(6)]
    assert float(loss) == pytest.approx(np.mean([math.log(1 + 2 * sum(row)) for row in others]), abs=1e-9)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_the_loss_equals_the_sum_written_out(views, temperature):
    assert float(nt_xent_loss(*views, temperature)) == pytest.approx(slow_nt_xent(*views, temperature), rel=1e-10)


def test_equal_vectors_give_the_log_of_the_candidates():
    same = normalize(torch.ones(7, 4, dtype=torch.float64), dim=-1)
    assert float(nt_xent_loss(same, same, 0.1)) == pytest.approx(math.log(13), rel=1e-12)


def test_order_of_the_batch_and_of_the_views_does_not_matter(views):
    first, second = views
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    loss = float(nt_xent_loss(first, second, 0.1))
    assert float(nt_xent_loss(second, first, 0.1)) == pytest.approx(loss, rel=1e-12)
    assert float(nt_xent_loss(first[order], second[order], 0.1)) == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("parts", [2, 3])
def test_the_losses_of_equal_parts_average_to_the_whole_as_two_published_ranks_do(parts):
    first, second = (normalize(view, dim=-1) for view in published_views())
    rows = [slice(start, start + 6 // parts) for start in range(0, 6, 6 // parts)]
    losses = [float(nt_xent_loss(first, second, TAU, part)) for part in rows]
    assert sum(losses) / parts == pytest.approx(float(CASE["simclr_loss"]), abs=1e-9)
    if parts == 2:
        assert losses == pytest.approx([float(CASE[f"w2_slip_ssl_loss_r{rank}"]) for rank in range(2)], abs=1e-9)


def test_a_perfect_match_among_orthogonal_images_vanishes_and_gradients_reach_both_views():
    views = [torch.eye(5, dtype=torch.float64).requires_grad_() for _ in range(2)]
    assert float(nt_xent_loss(*views, 0.02)) < 1e-12
    nt_xent_loss(*views, 1.0).backward()
    assert all(view.grad.abs().sum() > 0 for view in views)
