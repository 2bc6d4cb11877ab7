import math

import pytest
import torch
from torch.nn.functional import normalize

from training.losses.sigmoid import sigmoid_loss


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(5)
    return [normalize(torch.randn(6, 4, generator=generator, dtype=torch.float64), dim=-1) for _ in range(2)]


def test_sigmoid_loss_equals_the_sum_written_out(features):
    image_features, text_features = features
    total = 0.0
    for i in range(6):
        for j in range(6):
            logit = 10 * float(image_features[i] @ text_features[j]) - 3
            total += math.log1p(math.exp(-logit if i == j else logit))
    loss = sigmoid_loss(image_features, text_features, torch.tensor(10.0), torch.tensor(-3.0))
    assert float(loss) == pytest.approx(total / 6, rel=1e-5)


def test_sigmoid_loss_of_zero_logits_is_batch_times_log_two():
    zeros = torch.zeros(6, 4)
    loss = sigmoid_loss(zeros, zeros, torch.tensor(1.0), torch.tensor(0.0))
    assert float(loss) == pytest.approx(6 * math.log(2), rel=1e-6)


def test_sigmoid_loss_is_symmetric_in_the_modalities(features):
    image_features, text_features = features
    scale, bias = torch.tensor(7.0), torch.tensor(-2.0)
    one = sigmoid_loss(image_features, text_features, scale, bias)
    assert float(sigmoid_loss(text_features, image_features, scale, bias)) == pytest.approx(float(one), rel=1e-6)


def test_a_lower_bias_makes_negatives_cheaper_and_positives_dearer(features):
    image_features, _ = features
    scale = torch.tensor(1.0)
    only_pair = image_features[:1]
    assert sigmoid_loss(only_pair, only_pair, scale, torch.tensor(-5.0)) > sigmoid_loss(
        only_pair, only_pair, scale, torch.tensor(0.0)
    )


def test_the_losses_of_equal_parts_average_to_the_loss_of_the_whole(features):
    terms = (*features, torch.tensor(10.0, dtype=torch.float64), torch.tensor(-3.0, dtype=torch.float64))
    parts = [float(sigmoid_loss(*terms, slice(start, start + 2))) for start in (0, 2, 4)]
    assert sum(parts) / 3 == pytest.approx(float(sigmoid_loss(*terms)), rel=1e-12)
