import itertools

import pytest
import torch

from training.config import OptimConfig, load_recipe
from training.engine.optim import build_optimizer, learning_rate
from training.models.build import build_method

CONFIG = OptimConfig(
    lr=1.0,
    weight_decay=0.1,
    beta1=0.9,
    beta2=0.98,
    eps=1e-6,
    warmup_steps=10,
    gradient_clip=None,
    lr_start=0.2,
    lr_end=0.1,
)


def test_the_rate_rises_linearly_peaks_after_warm_up_and_ends_at_its_floor():
    rates = [learning_rate(CONFIG, step, 110) for step in range(111)]
    assert rates[0] == pytest.approx(0.2 + 0.8 / 10)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.55)  # half-way down the cosine
    assert rates[110] == pytest.approx(0.1)
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[10:]))


def test_vectors_and_the_logit_scale_are_spared_from_weight_decay(params):
    method, _ = build_method(load_recipe(params(), "clip"), 0)
    groups = build_optimizer(method, CONFIG).param_groups
    decayed = {name for group in groups if group["weight_decay"] for name in group["names"]}
    spared = {name for group in groups if not group["weight_decay"] for name in group["names"]}
    assert decayed | spared == {name for name, _ in method.named_parameters()}
    assert "model.logit_scale" in spared
    assert "model.visual.ln_post.weight" in spared
    assert "model.token_embedding.weight" in decayed


def test_the_logit_scale_is_clamped_after_a_step(params):
    method, _ = build_method(load_recipe(params(), "clip"), 0)
    with torch.no_grad():
        method.model.logit_scale.fill_(9.0)
    method.after_step(0)
    assert float(method.model.logit_scale.exp()) == pytest.approx(100, rel=1e-5)
