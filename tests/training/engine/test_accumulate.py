import contextlib

import pytest
import torch
from torch.nn import functional

from training.config import load_recipe
from training.data.loader import Batch
from training.engine.accumulate import total_loss, two_pass_forward
from training.models.build import build_method


def method_of(params, **changes):
    return build_method(load_recipe(params(**changes), "clip"), 0)[0].double()


def gradients(method) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


def big_batch(method, batch: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    method.zero_grad()
    torch.manual_seed(7)
    loss = total_loss(method(batch, 0))
    loss.backward()
    return loss.item(), gradients(method)


def in_parts(method, batch: Batch, rows: int) -> tuple[float, dict[str, torch.Tensor]]:
    method.zero_grad()
    torch.manual_seed(7)
    second = two_pass_forward(method, batch, 0, rows, contextlib.nullcontext)
    second.backward()
    return total_loss(second.output).item(), gradients(method)


@pytest.mark.parametrize("rows", [1, 5, 8])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("masking", [{"kind": "none"}, {"kind": "random", "keep": 0.5}])
def test_two_passes_give_the_gradients_of_the_big_batch(params, colour_batch: Batch, kind, masking, rows):
    method = method_of(params, **{"recipes.clip.method": {"kind": kind}, "recipes.clip.masking": masking})
    loss, wanted = big_batch(method, colour_batch)
    parts_loss, found = in_parts(method, colour_batch, rows)
    assert parts_loss == pytest.approx(loss, abs=1e-9)
    assert wanted.keys() == found.keys()
    for name, gradient in wanted.items():
        assert torch.allclose(gradient, found[name], rtol=1e-6, atol=1e-9), name


def test_two_passes_in_single_precision_agree_to_a_millionth(params, colour_batch: Batch):
    method = method_of(params).float()
    _, wanted = big_batch(method, colour_batch)
    _, found = in_parts(method, colour_batch, 4)
    for name, gradient in wanted.items():
        assert (gradient - found[name]).norm() <= 1e-6 * max(1.0, gradient.norm()), name


def test_draws_from_the_global_generator_are_replayed_in_the_second_pass(params, colour_batch: Batch):
    method = method_of(params)
    encode, seen = method.encode, []

    def with_dropout(batch):
        features = {name: functional.dropout(value, 0.5) for name, value in encode(batch).items()}
        seen.append(features["image_features"].detach().clone())
        return features

    method.encode = with_dropout
    in_parts(method, colour_batch, 8)
    assert len(seen) == 4
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0] == 0, seen[1] == 0)


def test_only_one_part_has_a_graph_at_a_time(params, colour_batch: Batch):
    method = method_of(params)
    encode, sizes = method.encode, []

    def watched(batch):
        sizes.append((len(batch["image"]), torch.is_grad_enabled()))
        return encode(batch)

    method.encode = watched
    in_parts(method, colour_batch, 8)
    assert sizes == [(8, False), (8, False), (8, True), (8, True)]


def test_autocast_in_two_passes_still_reaches_every_weight(params, colour_batch: Batch):
    method = method_of(params).float()
    method.zero_grad()
    second = two_pass_forward(method, colour_batch, 0, 8, lambda: torch.autocast("cpu", torch.bfloat16))
    second.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.model.visual.transformer.parameters())
