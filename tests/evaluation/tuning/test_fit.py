import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from assets.errors import DataError
from evaluation.tuning.config import PRESETS, FitConfig, HeadConfig
from evaluation.tuning.fit import (
    Arm,
    adapted_features,
    cached_batches,
    draw_pairs,
    fit_head,
    learning_rate,
    live_batches,
    log_probabilities,
    train,
    train_step,
)
from evaluation.tuning.head import ResidualHead
from evaluation.tuning.losses import consistency_loss, covariance_loss, singular_values
from tests.evaluation.tuning.case import ARM, SETTING, STEPS, published, published_batches, published_head, tensor

LABELS = np.arange(24) % 4
PLAIN = Arm(HeadConfig(), FitConfig(epochs=3, batch_size=8), 0.01)


def views(noise: float = 0.5, seed: int = 0, count: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(4, 6))
    return (centres[LABELS] + noise * rng.normal(size=(count, 24, 6))).astype(np.float32)


def same_state(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_three_steps_are_the_published_ones():
    head = published_head().train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=1e-4)
    weights = PRESETS["code"]
    for step, batch in enumerate(published_batches()):
        lr = learning_rate(step, STEPS, 1e-3, 0)
        assert lr == pytest.approx(float(tensor("ref_lr")[step]), abs=1e-12)
        optimizer.param_groups[0]["lr"] = lr
        buffers = {name: value.clone() for name, value in head.named_buffers()}
        adapted, frozen = head.adapt(torch.cat([batch.first, batch.second]))
        for name, value in head.named_buffers():  # the extra look must not move the batch norm's averages
            value.copy_(buffers[name])
        torch.testing.assert_close(singular_values(adapted, "svd"), tensor("ref_singular")[step], rtol=0, atol=1e-8)
        consistency = consistency_loss(adapted[SETTING["B"] :], frozen[: SETTING["B"]])
        assert consistency.item() == pytest.approx(float(tensor("ref_mse")[step]), abs=1e-8)
        assert covariance_loss(adapted).item() == pytest.approx(float(tensor("ref_cov")[step]), abs=1e-8)
        losses = train_step(head, optimizer, batch, weights)
        assert float(losses["cross_entropy_loss"]) == pytest.approx(float(tensor("ref_ce")[step]), abs=1e-8)
        assert float(sum(losses.values())) == pytest.approx(float(tensor("ref_total")[step]), abs=1e-8)
        if step == 0:
            slopes = {name: parameter.grad for name, parameter in head.named_parameters()}
            for name, slope in published("grad0").items():
                torch.testing.assert_close(slopes[name], slope, rtol=0, atol=1e-9)
    check_final(head)


def check_final(head: ResidualHead) -> None:
    state = head.state_dict()
    for name, value in published("final").items():
        loose = name in ("mlp.0.bias", "mlp.1.running_mean")
        torch.testing.assert_close(state[name], value, rtol=0, atol=1e-6 if loose else 1e-7)
    head.eval()
    adapted = head.adapt(tensor("ref_eval_feats"))[0]
    torch.testing.assert_close(adapted, tensor("ref_eval_z"), rtol=0, atol=1e-6)
    torch.testing.assert_close(head.classifier(adapted), tensor("ref_eval_logits"), rtol=0, atol=1e-6)


def test_the_loop_takes_the_published_steps():
    head = published_head()
    history = train(head, [[batch] for batch in published_batches()], STEPS, ARM)
    check_final(head)
    assert [sum(losses.values()) for losses in history] == pytest.approx(tensor("ref_total").tolist(), abs=1e-8)
    assert not head.training


def test_the_learning_rate_warms_up_and_falls_to_nothing():
    rates = [learning_rate(step, 10, 2.0, 4) for step in range(10)]
    assert rates[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])
    assert rates[5:] == sorted(rates[5:], reverse=True) and 0 < rates[-1] < 0.2


def test_every_image_comes_once_per_epoch_with_two_different_views():
    drawn = np.concatenate(list(draw_pairs(23, 4, 5, 0, 0)), axis=1)
    assert sorted(drawn[0]) == list(range(23))
    assert (drawn[1] != drawn[2]).all() and set(drawn[1]) == set(drawn[2]) == {0, 1, 2, 3}
    assert [part.shape[1] for part in draw_pairs(23, 4, 5, 0, 0)] == [5, 5, 5, 5, 3]
    for seed, epoch in ((1, 0), (0, 1)):
        assert not np.array_equal(np.concatenate(list(draw_pairs(23, 4, 5, seed, epoch)), axis=1), drawn)


class Encoder(torch.nn.Module):
    """A stand-in with batch norm and dropout, which show whether it is in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(12, 6), torch.nn.BatchNorm1d(6), torch.nn.Dropout(0.5)
        )

    def forward(self, pictures):
        return self.body(pictures)


def digest(module: torch.nn.Module) -> str:
    parts = [value.numpy().tobytes() for value in module.state_dict().values()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_cached_views_train_the_head_that_live_ones_train_and_the_encoder_stays_as_it_was():
    torch.manual_seed(0)
    encoder, labels = Encoder(), torch.from_numpy(LABELS)
    pictures = torch.randn(3, 24, 3, 2, 2)
    before = digest(encoder)
    with torch.no_grad():
        cached = encoder.eval()(pictures.flatten(0, 1)).unflatten(0, (3, 24))
    heads = [ResidualHead(6, 4, HeadConfig(), torch.Generator().manual_seed(0)) for _ in range(2)]
    arm = replace(PLAIN, regularisers=PRESETS["code"])
    train(heads[0], (cached_batches(cached, labels, 8, 0, epoch) for epoch in range(3)), 9, arm)
    encoder.train()  # a caller that forgets must not matter
    live = (
        live_batches(encoder, lambda row, view: pictures[view, row], labels, draw_pairs(24, 3, 8, 0, epoch))
        for epoch in range(3)
    )
    train(heads[1], live, 9, arm)
    for name, value in heads[0].state_dict().items():
        torch.testing.assert_close(heads[1].state_dict()[name], value, rtol=0, atol=1e-5)
    assert digest(encoder) == before and not encoder.training
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_weights_of_zero_train_the_plain_head_to_the_bit_and_other_weights_do_not():
    plain = fit_head(views(), LABELS, 4, PLAIN, 0).head
    assert same_state(
        plain, fit_head(views(), LABELS, 4, replace(PLAIN, regularisers=PRESETS["code"].scaled(0)), 0).head
    )
    assert not same_state(plain, fit_head(views(), LABELS, 4, replace(PLAIN, regularisers=PRESETS["code"]), 0).head)


def test_the_same_seed_trains_the_same_head_and_leaves_the_global_generator_alone():
    state = torch.random.get_rng_state()
    first = fit_head(views(), LABELS, 4, PLAIN, 7).head
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same_state(first, fit_head(views(), LABELS, 4, PLAIN, 7).head)
    assert not same_state(first, fit_head(views(), LABELS, 4, PLAIN, 8).head)


@pytest.mark.parametrize("preset", ["code", "paper"])
@pytest.mark.parametrize("layers", [0, 1])
def test_training_tells_classes_apart_and_lowers_the_loss(preset, layers):
    arm = Arm(HeadConfig(hidden_layers=layers), FitConfig(epochs=20, batch_size=8), 0.05, PRESETS[preset])
    head, history = fit_head(views(), LABELS, 4, arm, 0)
    assert history[-1]["cross_entropy_loss"] < 0.5 * history[0]["cross_entropy_loss"]
    guesses = log_probabilities(head, views(seed=1)[0]).argmax(axis=1)
    assert (guesses == LABELS).mean() > 0.8


def test_regularised_features_are_less_correlated():
    arm = replace(PLAIN, fit=FitConfig(epochs=20, batch_size=8))
    found = [
        covariance_loss(adapted_features(fit_head(views(), LABELS, 4, each, 0).head, views()[0])).item()
        for each in (arm, replace(arm, regularisers=PRESETS["code"]))
    ]
    assert found[1] < 0.5 * found[0]


def test_the_scale_of_features_does_not_matter_with_unit_rms_and_does_without():
    for unit_rms in (True, False):
        arm = replace(PLAIN, head=HeadConfig(unit_rms=unit_rms), regularisers=PRESETS["code"])
        one, other = (
            log_probabilities(fit_head(factor * views(), LABELS, 4, arm, 0).head, factor * views()[0])
            for factor in (np.float32(1), np.float32(8))
        )
        assert (np.abs(one - other).max() < 1e-3) == unit_rms


def test_a_loss_that_is_not_finite_stops_training_and_names_the_term():
    broken = views()
    broken[:, 3] = np.nan
    with pytest.raises(DataError, match=r"cross_entropy_loss is not finite in epoch 0, steps 0 to 2"):
        fit_head(broken, LABELS, 4, replace(PLAIN, head=HeadConfig(unit_rms=False)), 0)
