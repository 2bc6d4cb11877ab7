import math

import pytest
import torch
from torch.nn.functional import normalize

from tests.training.losses.largest_tensor import LargestTensor
from training.losses.info_nce import info_nce_loss


def slow_info_nce(image_features, text_features, scale):
    n = len(image_features)
    total = 0.0
    for i in range(n):
        image_row = [scale * float(image_features[i] @ text_features[j]) for j in range(n)]
        text_row = [scale * float(image_features[j] @ text_features[i]) for j in range(n)]
        for row in (image_row, text_row):
            total -= row[i] - math.log(sum(math.exp(value) for value in row))
    return total / (2 * n)


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(3)
    return [normalize(torch.randn(7, 5, generator=generator, dtype=torch.float64), dim=-1) for _ in range(2)]


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_info_nce_equals_the_sum_written_out(features, scale):
    loss = info_nce_loss(*features, torch.tensor(scale, dtype=torch.float64))
    assert float(loss) == pytest.approx(slow_info_nce(*features, scale), rel=1e-5)


def test_info_nce_of_equal_features_is_log_of_the_batch():
    same = normalize(torch.ones(6, 4), dim=-1)
    assert float(info_nce_loss(same, same, torch.tensor(10.0))) == pytest.approx(math.log(6), rel=1e-6)


def test_info_nce_of_perfectly_aligned_orthogonal_pairs_vanishes():
    pairs = torch.eye(5)
    assert float(info_nce_loss(pairs, pairs, torch.tensor(100.0))) < 1e-6


def test_info_nce_is_symmetric_in_the_modalities_and_blind_to_order(features):
    image_features, text_features = features
    scale = torch.tensor(9.0, dtype=torch.float64)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    loss = info_nce_loss(image_features, text_features, scale)
    assert float(info_nce_loss(text_features, image_features, scale)) == pytest.approx(float(loss), rel=1e-6)
    assert float(info_nce_loss(image_features[order], text_features[order], scale)) == pytest.approx(
        float(loss), rel=1e-6
    )


def test_gradients_reach_both_modalities_and_the_scale(features):
    image_features, text_features = (f.clone().requires_grad_() for f in features)
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    info_nce_loss(image_features, text_features, scale).backward()
    assert all(t.grad is not None and t.grad.abs().sum() > 0 for t in (image_features, text_features, scale))


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_the_losses_of_equal_parts_average_to_the_loss_of_the_whole(parts):
    generator = torch.Generator().manual_seed(3)
    pair = [normalize(torch.randn(6, 5, generator=generator, dtype=torch.float64), dim=-1) for _ in range(2)]
    scale = torch.tensor(9.0, dtype=torch.float64)
    rows = [slice(start, start + 6 // parts) for start in range(0, 6, 6 // parts)]
    losses = [float(info_nce_loss(*pair, scale, part)) for part in rows]
    assert sum(losses) / parts == pytest.approx(float(info_nce_loss(*pair, scale)), rel=1e-12)


def test_a_part_of_the_batch_never_holds_all_pairs_of_it():
    features = normalize(torch.randn(64, 8), dim=-1).requires_grad_()
    with LargestTensor() as largest:
        info_nce_loss(features, features, torch.tensor(10.0), slice(8, 16)).backward()
    assert largest.elements == 64 * 8  # [B, G] logits, and [G, D] features
