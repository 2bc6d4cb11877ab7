from pathlib import Path

import numpy as np
import pytest
import torch

from training.captioner.config import CodebookConfig
from training.captioner.quantiser import Quantiser, moved_average
from training.losses.vq import nearest_codes, perplexity

FIXTURE = Path(__file__).parents[2] / "fixtures" / "tldr" / "case_a.npz"
with np.load(FIXTURE, allow_pickle=False) as arrays:
    CASE = {name: arrays[name] for name in arrays.files if name.startswith("ema") or name == "vq_beta"}


def quantiser(update="gradient", size=6, width=2, **settings) -> Quantiser:
    torch.manual_seed(0)
    return Quantiser(CodebookConfig(size=size, width=width, update=update, **settings))


def tokens(batch=4, count=5, width=4) -> torch.Tensor:
    return torch.randn(batch, count, width, generator=torch.Generator().manual_seed(1))


def counts(codes, size=6) -> torch.Tensor:
    return torch.bincount(codes.flatten(), minlength=size)


def test_averages_move_as_in_the_published_code():
    usage = torch.zeros(len(CASE["ema_w0"]), dtype=torch.float64)
    codebook = total = torch.from_numpy(CASE["ema_w0"])
    for step in ("1", "2"):
        rows = torch.from_numpy(CASE[f"ema_z{step}"]).permute(0, 2, 3, 1).reshape(-1, codebook.shape[1])
        codes = nearest_codes(rows, codebook)
        assert codes.tolist() == CASE[f"ema_idx{step}"].tolist()
        chosen = torch.bincount(codes, minlength=len(codebook))
        assert perplexity(chosen).item() == pytest.approx(float(CASE[f"ema_pp{step}"]), abs=1e-6)
        loss = float(CASE["vq_beta"]) * (codebook[codes] - rows).square().mean()
        assert loss.item() == pytest.approx(float(CASE[f"ema_loss{step}"]), rel=1e-9)
        sums = torch.zeros_like(codebook).index_add_(0, codes, rows)
        usage, total, codebook = moved_average(usage, total, chosen, sums, float(CASE["ema_decay"]))
        for name, value in (("cluster_size", usage), ("embed_avg", total), ("w", codebook)):
            np.testing.assert_allclose(value.numpy(), CASE[f"ema_{name}{step}"], rtol=1e-9)


def test_averages_start_so_that_rare_codes_neither_explode_nor_die():
    module = quantiser("average", size=40, revive_every=0)
    largest = module.codebook.abs().max()
    for _ in range(20):
        found = module(tokens())
        module.follow(found.parts, found.codes.flatten(), counts(found.codes, 40))
    assert (module.chosen == 0).any()
    assert module.codebook.isfinite().all()
    assert module.codebook[module.chosen == 0].abs().max() < 2 * largest
    assert module.codebook.abs().max() < found.parts.abs().max()


def test_averages_settle_on_the_means_of_their_tokens():
    module = quantiser("average", size=2, decay=0.5, revive_every=0)
    module.codebook.copy_(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
    module.total.copy_(module.codebook)
    rows = torch.tensor([[[3.0, 1.0, 1.0, 3.0], [-2.0, -4.0, -2.0, -4.0]]])
    for _ in range(60):
        found = module(rows)
        module.follow(found.parts, found.codes.flatten(), counts(found.codes, 2))
    assert torch.allclose(module.codebook, torch.tensor([[2.0, 2.0], [-2.0, -4.0]]), atol=1e-3)
    assert module(rows).loss.item() == pytest.approx(0.25 * 4 / 8, abs=1e-3)


@pytest.mark.parametrize("update", ["gradient", "average"])
def test_dead_codes_move_to_tokens_of_the_batch_drawn_from_the_seed(update):
    outcomes = []
    for _ in range(2):
        module = quantiser(update)
        found = module(tokens())
        module.follow(found.parts, found.codes.flatten(), counts(found.codes))
        dead, before = counts(found.codes) == 0, module.codebook.detach().clone()
        assert module.revive(found.parts, (0, 3)) == int(dead.sum())
        after = module.codebook.detach()
        assert torch.equal(after[~dead], before[~dead])
        assert all(bool((found.parts == row).all(dim=1).any()) for row in after[dead])
        assert len(after[dead].unique(dim=0)) == int(dead.sum())
        assert module.chosen.sum() == 0
        outcomes.append(after)
    assert torch.equal(*outcomes)


def test_a_code_that_some_step_since_the_last_look_chose_is_not_dead():
    module = quantiser()
    module.chosen.fill_(1)
    before = module.codebook.detach().clone()
    assert module.revive(torch.zeros(3, 2), (0, 0)) == 0
    assert torch.equal(module.codebook, before)
    assert module.revive(torch.ones(3, 2), (0, 0)) == 6  # more dead codes than tokens
    assert torch.equal(module.codebook, torch.ones(6, 2))


def test_cutting_a_token_is_quantising_its_parts_as_tokens_of_their_own():
    module = quantiser()
    whole, parts = module(tokens()), module(tokens().reshape(4, 10, 2))
    assert torch.equal(whole.codes, parts.codes)
    assert torch.equal(whole.tokens.reshape(4, 10, 2), parts.tokens)
    assert torch.equal(whole.loss, parts.loss)


def test_under_bfloat16_codes_are_found_in_float32():
    module = quantiser()
    with torch.autocast("cpu", torch.bfloat16):
        found = module(tokens())
    assert found.tokens.dtype == torch.float32
    assert torch.equal(found.codes, module(tokens()).codes)
