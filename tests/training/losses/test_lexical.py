"""The overuse penalty, the FLOPs regulariser and the objective of LexVLA: reference numbers, and what must hold."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from training.losses.info_nce import info_nce_loss
from training.losses.lexical import flops_penalty, overuse_penalty, quadratic_warmup, word_use

CASE = np.load(Path(__file__).parents[2] / "fixtures/lexvla/case_a.npz")


def given(name: str) -> torch.Tensor:
    return torch.from_numpy(CASE[name]).clone().requires_grad_()


def gradient(loss: torch.Tensor, of: torch.Tensor) -> np.ndarray:
    return torch.autograd.grad(loss, of)[0].numpy()


def unit(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def some_vectors(rows: int = 12, words: int = 32) -> torch.Tensor:
    return unit(torch.from_numpy(np.random.default_rng(0).gamma(0.5, size=(rows, words))))


@pytest.mark.parametrize(
    ("vectors", "value", "grad", "penalty"),
    [
        ("pen_S", "pen_flops", "pen_flops_grad", flops_penalty),
        ("pen_S", "pen_overuse", "pen_overuse_grad", overuse_penalty),
        ("pen_sparse_S", "pen_sparse_overuse", "pen_sparse_overuse_grad", overuse_penalty),
    ],
)
def test_penalties_and_gradients_of_the_reference(vectors, value, grad, penalty):
    batch = given(vectors)
    loss = penalty(batch)
    assert loss.item() == pytest.approx(float(CASE[value]), abs=1e-10)
    assert np.abs(gradient(loss, batch) - CASE[grad]).max() < 1e-10


def test_the_detached_weight_has_the_same_value_and_the_reference_gradient():
    batch = given("pen_S")
    loss = overuse_penalty(batch, detach_weight=True)
    assert loss.item() == pytest.approx(float(CASE["pen_overuse"]), abs=1e-10)
    assert np.abs(gradient(loss, batch) - CASE["pen_overuse_grad_detached"]).max() < 1e-10
    assert (gradient(overuse_penalty(batch, True), batch) >= 0).all()


def test_the_gradient_through_the_norm():
    raw = given("pen_raw")
    assert np.abs(gradient(overuse_penalty(unit(raw)), raw) - CASE["pen_overuse_grad_raw"]).max() < 1e-10


def test_the_sparse_batch_of_the_reference():
    assert flops_penalty(given("pen_sparse_S")).item() == pytest.approx(float(CASE["pen_sparse_flops"]), abs=1e-10)


def test_parts_have_other_penalties_than_the_whole():
    parts = given("pen_S").split(CASE["pen_shards"].tolist())
    for name, penalty in (("overuse", overuse_penalty), ("flops", flops_penalty)):
        values = [penalty(part).item() for part in parts]
        assert values == pytest.approx(CASE[f"pen_{name}_per_shard"].tolist(), abs=1e-10)
        assert abs(np.mean(values) - float(CASE[f"pen_{name}"])) > 1e-4


def test_the_schedule_of_the_reference():
    weight, warmup = float(CASE["sched_lambda"]), int(CASE["sched_T"])
    values = [quadratic_warmup(weight, step, warmup) for step in range(len(CASE["sched_values"]))]
    assert values == pytest.approx(CASE["sched_values"].tolist(), abs=1e-12)
    assert quadratic_warmup(2.0, 0, 0) == 2.0


def test_the_contrastive_sum_of_the_reference():
    image, text, log_scale = given("con_s_img"), given("con_s_txt"), given("con_log_scale")
    loss = 2 * info_nce_loss(image, text, log_scale.exp())
    assert loss.item() == pytest.approx(float(CASE["con_loss_sum"]), abs=1e-10)
    grads = torch.autograd.grad(loss, (image, text, log_scale))
    for name, grad in zip(("img", "txt", "log_scale"), grads, strict=True):
        assert np.abs(grad.numpy() - CASE[f"con_grad_{name}"]).max() < 1e-10, name


def test_the_table_of_extremes():
    words, rows = 16, 8
    level = torch.full((rows, words), words**-0.5, dtype=torch.float64)
    hub = torch.zeros(rows, words, dtype=torch.float64)
    hub[:, 3] = 1
    apart = torch.eye(rows, words, dtype=torch.float64)
    for vectors, flops, overuse in ((level, 1, 1), (hub, 1, words), (apart, 1 / rows, words / rows**2)):
        assert flops_penalty(vectors).item() == pytest.approx(flops)
        assert overuse_penalty(vectors).item() == pytest.approx(overuse)


def test_bounds_and_inner_products():
    vectors = some_vectors()
    flops, overuse = flops_penalty(vectors).item(), overuse_penalty(vectors).item()
    assert overuse >= flops >= 1 / len(vectors)
    assert overuse <= vectors.shape[1] * word_use(vectors).square().max().item()
    assert flops == pytest.approx((vectors @ vectors.T).mean().item())


@pytest.mark.parametrize("penalty", [flops_penalty, overuse_penalty])
def test_of_degree_two_and_blind_to_order(penalty):
    vectors = some_vectors().requires_grad_()
    loss = penalty(vectors)
    grad = torch.autograd.grad(loss, vectors)[0]
    assert penalty(3 * vectors).item() == pytest.approx(9 * loss.item())
    assert (vectors * grad).sum().item() == pytest.approx(2 * loss.item())
    assert torch.allclose(grad, grad[:1].expand_as(grad))
    mixed = vectors[torch.randperm(len(vectors))][:, torch.randperm(vectors.shape[1])]
    assert penalty(mixed).item() == pytest.approx(loss.item())


def test_rare_words_are_pushed_up_and_common_ones_down():
    vectors = some_vectors().requires_grad_()
    grad = torch.autograd.grad(overuse_penalty(vectors), vectors)[0][0]
    use = word_use(vectors.detach())
    turn = use.pow(3).sum() / (3 * use.sum())
    assert torch.equal(grad < 0, use.square() < turn)
    assert 0 < (grad < 0).sum() < len(grad)


def test_no_use_at_all_is_finite():
    vectors = torch.zeros(4, 8, requires_grad=True)
    loss = overuse_penalty(vectors)
    assert loss.item() == 0
    assert torch.isfinite(torch.autograd.grad(loss, vectors)[0]).all()


def test_equal_vectors_cannot_be_told_apart():
    same = some_vectors(1).expand(6, -1)
    assert 2 * info_nce_loss(same, same, 10.0).item() == pytest.approx(2 * math.log(6))
