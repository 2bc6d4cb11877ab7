import math
from pathlib import Path

import numpy as np
import pytest
import torch

from training.losses.vq import commitment_loss, nearest_codes, perplexity, straight_through, vq_loss

FIXTURE = Path(__file__).parents[2] / "fixtures" / "tldr" / "case_a.npz"
with np.load(FIXTURE, allow_pickle=False) as arrays:
    CASE = {name: arrays[name] for name in arrays.files if name.startswith("vq")}
BETA = float(CASE["vq_beta"])


def published(name="vq"):
    tokens, codebook = (torch.from_numpy(CASE[f"{name}_{part}"]) for part in ("z", "codebook"))
    return tokens.requires_grad_(), codebook.requires_grad_()


def quantise(tokens, codebook, order="paper"):
    parts = tokens.reshape(-1, codebook.shape[1])
    codes = nearest_codes(parts, codebook)
    chosen = codebook[codes]
    quantised = straight_through(parts, chosen).reshape(tokens.shape)
    return quantised, codes.reshape(len(tokens), -1), vq_loss(parts, chosen, BETA, order)


@pytest.mark.parametrize("order", ["paper", "legacy"])
def test_codes_losses_and_gradients_are_those_of_the_published_code(order):
    tokens, codebook = published()
    quantised, codes, loss = quantise(tokens, codebook, order)
    assert codes.tolist() == CASE["vq_idx"].tolist()
    assert torch.equal(quantised, codebook[codes])
    np.testing.assert_allclose(quantised.detach().numpy(), CASE["vq_zq"], atol=1e-10)
    assert loss.item() == pytest.approx(float(CASE[f"vq_loss_{order}"]), abs=1e-10)
    for total, upstream in (("", 0.0), ("total_", torch.from_numpy(CASE["vq_up"]))):
        gradients = torch.autograd.grad(loss + (upstream * quantised).sum(), [tokens, codebook], retain_graph=True)
        for gradient, name in zip(gradients, ("gz", "gE"), strict=True):
            np.testing.assert_allclose(gradient.numpy(), CASE[f"vq_{name}_{total}{order}"], atol=1e-10)
    usage = torch.bincount(codes.flatten(), minlength=11)
    assert perplexity(usage).item() == pytest.approx(float(CASE["vq_perplexity"]), abs=1e-6)


def test_tokens_cut_into_parts_give_the_published_codes():
    tokens, codebook = published("vqs")
    quantised, codes, loss = quantise(tokens, codebook, "legacy")
    assert codes.tolist() == CASE["vqs_idx"].tolist()
    np.testing.assert_allclose(quantised.detach().numpy(), CASE["vqs_zq"], atol=1e-10)
    assert loss.item() == pytest.approx(float(CASE["vqs_loss"]), abs=1e-10)
    apart = [quantise(part, codebook)[1] for part in tokens.unflatten(2, (3, 4)).flatten(1, 2).split(4, dim=1)]
    assert torch.equal(torch.cat(apart, dim=1), codes)


def test_the_nearest_code_is_found_as_by_trying_all_in_blocks_of_any_size():
    tokens, codebook = (tensor.detach() for tensor in published())
    rows = tokens.flatten(0, 1)
    slow = [
        min(range(11), key=lambda k: sum((a - b) ** 2 for a, b in zip(row, codebook[k].tolist(), strict=True)))
        for row in rows.tolist()
    ]
    for most in (1, 30, 1 << 22):
        assert nearest_codes(rows, codebook, most).tolist() == slow


def test_of_equal_codes_the_lowest_is_taken():
    codebook = torch.tensor([[5.0, 5.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert nearest_codes(torch.tensor([[1.0, 0.1], [0.9, 0.0]]), codebook).tolist() == [1, 1]


def test_both_orders_have_one_value_and_gradients_in_the_ratio_of_beta():
    results = {}
    for order in ("paper", "legacy"):
        tokens, codebook = published()
        loss = quantise(tokens, codebook, order)[2]
        results[order] = (loss.detach(), *torch.autograd.grad(loss, [tokens, codebook]))
    (paper, paper_z, paper_e), (legacy, legacy_z, legacy_e) = results["paper"], results["legacy"]
    assert torch.allclose(paper, legacy, atol=1e-12)
    assert torch.allclose(legacy_z * BETA, paper_z, atol=1e-12)
    assert torch.allclose(legacy_e, BETA * paper_e, atol=1e-12)


def test_the_gradient_passes_straight_to_the_tokens_and_not_to_the_codes():
    tokens, codebook = published()
    quantised, _, _ = quantise(tokens, codebook)
    gradients = torch.autograd.grad(quantised.sin().sum(), [tokens, codebook], allow_unused=True)
    assert torch.equal(gradients[0], quantised.cos())
    assert gradients[1] is None


def test_tokens_on_their_codes_lose_nothing_and_codes_nobody_chose_stay():
    tokens, codebook = published()
    on_codes = codebook.detach()[torch.tensor([[2, 5], [5, 7]])].requires_grad_()
    loss = quantise(on_codes, codebook)[2]
    assert loss.item() == 0
    assert all(bool((g == 0).all()) for g in torch.autograd.grad(loss, [on_codes, codebook]))
    _, codes, loss = quantise(tokens, codebook)
    untouched = [code for code in range(11) if code not in codes.tolist()[0] + codes.tolist()[1] + codes.tolist()[2]]
    gradient = torch.autograd.grad(loss, codebook)[0]
    assert untouched and bool((gradient[untouched] == 0).all())


def test_codes_do_not_depend_on_order_or_a_rotation_of_everything():
    tokens, codebook = (tensor.detach() for tensor in published())
    _, codes, _ = quantise(tokens, codebook)
    mixed = tokens[[2, 0, 1]][:, [5, 4, 3, 2, 1, 0]]
    assert torch.equal(quantise(mixed, codebook)[1], codes[[2, 0, 1]][:, [5, 4, 3, 2, 1, 0]])
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    assert torch.equal(quantise(tokens @ rotation, codebook @ rotation)[1], codes)


def test_perplexity_counts_codes_that_are_used_alike():
    assert perplexity(torch.full((12,), 4)).item() == pytest.approx(12, abs=1e-6)
    assert perplexity(torch.tensor([7, 0, 0])).item() == pytest.approx(1, abs=1e-6)
    assert 1 < perplexity(torch.tensor([5, 3, 1])).item() < 3
    expected = math.exp(-(5 / 8 * math.log(5 / 8) + 3 / 8 * math.log(3 / 8)))
    assert perplexity(torch.tensor([5, 3, 0])).item() == pytest.approx(expected, abs=1e-6)


def test_codes_that_follow_by_other_means_get_no_gradient():
    tokens, codebook = published()
    parts = tokens.flatten(0, 1)
    loss = commitment_loss(parts, codebook[nearest_codes(parts, codebook)], BETA)
    assert torch.autograd.grad(loss, codebook, allow_unused=True, retain_graph=True)[0] is None
    np.testing.assert_allclose(torch.autograd.grad(loss, tokens)[0].numpy(), CASE["vq_gz_paper"], atol=1e-10)
