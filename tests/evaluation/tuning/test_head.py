import pytest
import torch

from assets.errors import DataError
from evaluation.tuning.config import HeadConfig
from evaluation.tuning.head import ResidualHead
from tests.evaluation.tuning.case import published_batches, published_head, tensor

FEATURES = torch.randn(10, 8, generator=torch.Generator().manual_seed(0))


def head(seed: int = 0, dims: int = 8, **shape) -> ResidualHead:
    return ResidualHead(dims, 5, HeadConfig(**shape), torch.Generator().manual_seed(seed))


def test_the_published_features_come_out_before_the_first_step():
    batch = published_batches()[0]
    adapted, frozen = published_head().adapt(torch.cat([batch.first, batch.second]))
    torch.testing.assert_close(adapted, tensor("ref_Z0"), rtol=0, atol=1e-9)
    assert torch.equal(frozen, torch.cat([batch.first, batch.second]))


def test_without_hidden_layers_it_is_a_linear_classifier():
    linear = head(hidden_layers=0)
    assert {name for name, _ in linear.named_parameters()} == {"classifier.weight", "classifier.bias"}
    torch.testing.assert_close(linear(FEATURES), FEATURES @ linear.classifier.weight.T)


def test_a_residual_scale_of_zero_leaves_features_and_slopes_of_a_linear_head():
    labels = torch.arange(10) % 5
    slopes = []
    for model in (head(hidden_layers=0), head(residual_scale=0.0)):
        torch.nn.functional.cross_entropy(model(FEATURES), labels).backward()
        slopes.append(model.classifier.weight.grad)
    assert torch.equal(head(residual_scale=0.0).adapt(FEATURES)[0], FEATURES)
    torch.testing.assert_close(slopes[0], slopes[1])


def test_weights_follow_the_seed_and_every_shape_starts_with_the_same_classifier():
    first, again, other = head(3), head(3), head(4)
    assert all(torch.equal(*pair) for pair in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert torch.equal(first.classifier.weight, head(3, hidden_layers=0).classifier.weight)


def test_initial_weights_fill_their_published_ranges():
    wide = head(dims=96, bias_before_norm=True)
    for weight, bound in (
        (wide.classifier.weight, (6 / 96) ** 0.5),
        (wide.mlp[0].weight, 96**-0.5),
        (wide.mlp[0].bias, 96**-0.5),
        (wide.mlp[3].weight, (4 * 96) ** -0.5),
    ):
        assert 0.97 * bound < weight.abs().max() <= bound
    assert not wide.classifier.bias.any()


def test_a_bias_before_batch_norm_is_there_only_when_asked_for():
    assert head().mlp[0].bias is None
    assert head(bias_before_norm=True).mlp[0].bias is not None
    assert head().mlp[-1].bias is not None


def test_more_hidden_layers_and_other_widths_keep_the_dimensions():
    deep = head(hidden_layers=3, ratio=2)
    assert [layer.out_features for layer in deep.mlp if isinstance(layer, torch.nn.Linear)] == [16, 16, 16, 8]
    assert deep.adapt(FEATURES)[0].shape == (10, 8)


def test_features_of_any_scale_are_seen_alike_once_the_scale_is_set():
    outputs = []
    for factor in (1.0, 50.0):
        model = head().eval()
        model.set_scale(factor * FEATURES)
        outputs.append(model(factor * FEATURES))
        assert float(model.adapt(factor * FEATURES)[1].square().mean()) == pytest.approx(1, rel=1e-5)
    torch.testing.assert_close(*outputs)
    assert "feature_scale" in head().state_dict()


def test_features_that_are_all_zero_are_refused():
    with pytest.raises(DataError, match="all features are zero"):
        head().set_scale(torch.zeros(4, 8))
