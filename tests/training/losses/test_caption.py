import math
from pathlib import Path

import numpy as np
import pytest
import torch

from training.losses.caption import IGNORED, caption_loss, caption_nll, mean_log_probabilities, places_that_count

FIXTURE = Path(__file__).parents[2] / "fixtures" / "tldr" / "case_a.npz"
with np.load(FIXTURE, allow_pickle=False) as arrays:
    CASE = {name: arrays[name] for name in arrays.files if name.startswith("lm_")}


def published():
    return torch.from_numpy(CASE["lm_logits"]).double().requires_grad_(), torch.from_numpy(CASE["lm_labels"]).long()


def test_loss_and_gradient_are_those_of_the_published_decoder():
    logits, labels = published()
    loss = caption_loss(logits, labels)
    assert loss.item() == pytest.approx(float(CASE["lm_loss"]), abs=1e-9)
    gradient = torch.autograd.grad(loss, logits)[0]
    np.testing.assert_allclose(gradient.numpy(), CASE["lm_grad_logits"], atol=1e-9)
    assert bool((gradient[:, -1] == 0).all())


def test_the_loss_is_the_mean_surprise_written_out():
    logits, labels = published()
    surprises = []
    for row, scores in zip(labels.tolist(), logits.tolist(), strict=True):
        for place in range(len(row) - 1):
            if row[place + 1] != IGNORED:
                total = sum(math.exp(score) for score in scores[place])
                surprises.append(math.log(total) - scores[place][row[place + 1]])
    assert len(surprises) == int(places_that_count(labels))
    assert caption_loss(logits, labels).item() == pytest.approx(sum(surprises) / len(surprises), rel=1e-12)
    assert caption_nll(logits, labels).item() == pytest.approx(sum(surprises), rel=1e-12)


def test_a_decoder_that_knows_nothing_loses_log_v():
    _, labels = published()
    assert float(caption_loss(torch.zeros(*labels.shape, 50), labels)) == pytest.approx(math.log(50), rel=1e-6)


def test_padding_counts_for_nothing():
    logits, labels = published()
    before = caption_loss(logits, labels).item()
    pads = labels[:, 1:] == IGNORED
    assert pads.any()
    changed = logits.detach().clone()
    changed[:, :-1][pads] = 100 * torch.randn(int(pads.sum()), logits.shape[-1], dtype=torch.float64)
    changed[:, -1] += 5
    assert caption_loss(changed, labels).item() == pytest.approx(before, rel=1e-12)


def test_each_caption_has_the_mean_of_its_own_tokens():
    logits, labels = published()
    means = mean_log_probabilities(logits, labels)
    for row, mean in enumerate(means):
        assert mean.item() == pytest.approx(-caption_loss(logits[row : row + 1], labels[row : row + 1]).item())
