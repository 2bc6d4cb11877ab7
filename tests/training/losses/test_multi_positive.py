"""The losses of the published code, its two processes, and what must hold of any numbers."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from training.losses.info_nce import info_nce_loss
from training.losses.multi_positive import multi_positive_sigmoid_loss, multi_positive_softmax_loss
from training.losses.sigmoid import sigmoid_loss

CASE = np.load(Path(__file__).parents[2] / "fixtures/flame/case_a.npz")
N, K = 5, 6


def published(num_images: int = N) -> dict[str, torch.Tensor]:
    """The first images of the fixture with their rows, scale and bias, all wanting gradients."""
    given = {
        "image": torch.from_numpy(CASE["loss/image"][:num_images]),
        "text": torch.from_numpy(CASE["loss/text"][: num_images * K]).unflatten(0, (num_images, K)),
        "log_scale": torch.tensor(float(CASE["loss/log_scale"]), dtype=torch.float64),
        "bias": torch.tensor(float(CASE["loss/bias"]), dtype=torch.float64),
    }
    return {name: value.clone().requires_grad_() for name, value in given.items()}


def loss_of(kind: str, given: dict[str, torch.Tensor], rows: slice = slice(0, None)) -> torch.Tensor:
    image, text, scale = given["image"], given["text"], given["log_scale"].exp()
    if kind == "nce":
        return multi_positive_softmax_loss(image, text, scale, rows)
    return multi_positive_sigmoid_loss(image, text, scale, given["bias"], rows)


@pytest.mark.parametrize("kind", ["nce", "sig"])
def test_value_and_gradients_are_the_published_ones(kind):
    given = published()
    loss = loss_of(kind, given)
    loss.backward()
    assert loss.item() == pytest.approx(float(CASE[f"loss/{kind}_value"]), abs=1e-12)
    for name in ("image", "log_scale") + (("bias",) if kind == "sig" else ()):
        assert np.abs(given[name].grad.numpy() - CASE[f"loss/{kind}_grad_{name}"]).max() < 1e-12, name
    assert np.abs(given["text"].grad.flatten(0, 1).numpy() - CASE[f"loss/{kind}_grad_text"]).max() < 1e-12


def test_the_sigmoid_at_its_published_start():
    given = published()
    given["log_scale"], given["bias"] = torch.tensor(math.log(10.0), dtype=torch.float64), torch.tensor(-10.0)
    assert loss_of("sig", given).item() == pytest.approx(float(CASE["loss/sig_value_at_init"]), abs=1e-12)


@pytest.mark.parametrize("kind", ["nce", "sig"])
def test_the_parts_of_two_ranks_average_to_what_the_published_two_processes_mean(kind):
    count = int(CASE["dist/n_images"])
    half = count // int(CASE["dist/world_size"])
    given = published(count)
    losses = [loss_of(kind, given, slice(first, first + half)) for first in (0, half)]
    mean = torch.stack(losses).mean()
    mean.backward()
    assert mean.item() == pytest.approx(CASE[f"dist/{kind}_value_per_rank"].mean(), abs=1e-12)
    # published, the sigmoid's local gradient is twice the global one, which averaging over ranks mends; softmax's is it
    share = 2 if kind == "sig" else 1
    assert np.abs(given["image"].grad.numpy() - CASE[f"dist/{kind}_grad_image_local"] / share).max() < 1e-12
    for name in ("log_scale",) + (("bias",) if kind == "sig" else ()):
        wanted = CASE[f"dist/{kind}_grad_{name}_per_rank"].mean()
        assert given[name].grad.item() == pytest.approx(wanted, abs=1e-12), name
    if kind == "sig":  # each published process has the loss of its own images
        assert [loss.item() for loss in losses] == pytest.approx(CASE["dist/sig_value_per_rank"].tolist(), abs=1e-12)


def features(num_rows: int = K, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    image = normalize(torch.randn(N, 8, generator=random, dtype=torch.float64), dim=-1)
    return image, normalize(torch.randn(N, num_rows, 8, generator=random, dtype=torch.float64), dim=-1)


SCALE, BIAS = torch.tensor(7.0, dtype=torch.float64), torch.tensor(-3.0, dtype=torch.float64)


def slow_softmax(image: torch.Tensor, text: torch.Tensor, scale: float) -> float:
    total = 0.0
    for k in range(text.shape[1]):
        logits = [[scale * float(image[i] @ text[j, k]) for j in range(N)] for i in range(N)]
        for i in range(N):
            total += math.log(sum(math.exp(value) for value in logits[i])) - logits[i][i]
            total += math.log(sum(math.exp(row[i]) for row in logits)) - logits[i][i]
    return total / (2 * N * text.shape[1])


def slow_sigmoid(image: torch.Tensor, text: torch.Tensor, scale: float, bias: float) -> float:
    total = 0.0
    for i in range(N):
        for j in range(N):
            for k in range(text.shape[1]):
                logit = scale * float(image[i] @ text[j, k]) + bias
                total += math.log1p(math.exp(-logit if i == j else logit))
    return total / (N * text.shape[1])


def test_both_equal_their_formulas_written_out_pair_by_pair():
    image, text = features()
    found = multi_positive_softmax_loss(image, text, SCALE).item()
    assert found == pytest.approx(slow_softmax(image, text, 7.0), abs=1e-12)
    found = multi_positive_sigmoid_loss(image, text, SCALE, BIAS).item()
    assert found == pytest.approx(slow_sigmoid(image, text, 7.0, -3.0), abs=1e-12)


def test_with_one_row_they_are_the_losses_of_clip_and_siglip():
    image, text = features(num_rows=1)
    for rows in (slice(0, None), slice(1, 3)):
        softmax = multi_positive_softmax_loss(image, text, SCALE, rows)
        assert softmax.item() == info_nce_loss(image, text[:, 0], SCALE, rows).item()
        sigmoid = multi_positive_sigmoid_loss(image, text, SCALE, BIAS, rows)
        assert sigmoid.item() == sigmoid_loss(image, text[:, 0], SCALE, BIAS, rows).item()


def test_copies_of_a_row_change_nothing():
    image, text = features(num_rows=1)
    copies = text.expand(-1, 4, -1)
    for one, four in (
        (multi_positive_softmax_loss(image, text, SCALE), multi_positive_softmax_loss(image, copies, SCALE)),
        (
            multi_positive_sigmoid_loss(image, text, SCALE, BIAS),
            multi_positive_sigmoid_loss(image, copies, SCALE, BIAS),
        ),
    ):
        assert four.item() == pytest.approx(one.item(), abs=1e-12)


def test_the_sigmoid_does_not_know_which_row_is_which_and_softmax_minds_only_if_pairs_differ():
    image, text = features()
    alike = text[:, torch.randperm(K, generator=torch.Generator().manual_seed(1))]
    each = text.clone()
    each[0] = text[0].roll(1, dims=0)
    sigmoid = [multi_positive_sigmoid_loss(image, rows, SCALE, BIAS).item() for rows in (text, alike, each)]
    assert sigmoid == pytest.approx([sigmoid[0]] * 3, abs=1e-12)
    softmax = [multi_positive_softmax_loss(image, rows, SCALE).item() for rows in (text, alike, each)]
    assert softmax[1] == pytest.approx(softmax[0], abs=1e-12)
    assert abs(softmax[2] - softmax[0]) > 1e-3


def test_without_a_scale_they_know_only_the_number_of_pairs():
    image, text = features()
    zero, bias = torch.tensor(0.0), torch.tensor(-10.0)
    assert multi_positive_softmax_loss(image, text, zero).item() == pytest.approx(math.log(N), abs=1e-6)
    wanted = math.log1p(math.exp(10.0)) + (N - 1) * math.log1p(math.exp(-10.0))
    assert multi_positive_sigmoid_loss(image, text, zero, bias).item() == pytest.approx(wanted, abs=1e-6)


def test_the_gradient_of_an_image_is_orthogonal_to_its_unit_vector():
    raw, text = features()
    for loss in (
        lambda image: multi_positive_softmax_loss(image, text, SCALE),
        lambda image: multi_positive_sigmoid_loss(image, text, SCALE, BIAS),
    ):
        vector = (3 * raw).requires_grad_()
        loss(normalize(vector, dim=-1)).backward()
        assert vector.grad.abs().max() > 1e-3
        assert (vector.grad * raw).sum(dim=-1).abs().max() < 1e-12
