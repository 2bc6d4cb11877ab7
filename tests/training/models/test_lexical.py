"""Lexical vectors of images and texts: reference numbers, the sparse backward pass, and what must hold."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from assets.language.lexicon import Lexicon
from training.models.export_files import FROZEN_TEXT, LEXICAL
from training.models.lexical import LexicalModel, elu1p, log1p_relu, text_scale
from training.models.max_dot import max_dot

CASE = np.load(Path(__file__).parents[2] / "fixtures/lexvla/case_a.npz")
WORDS, WIDTH = 12, 10


def given(name: str) -> torch.Tensor:
    return torch.from_numpy(CASE[name]).clone().requires_grad_()


def lexicon(seed: int = 0) -> Lexicon:
    codebook = np.random.default_rng(seed).normal(size=(WORDS, WIDTH)).astype(np.float32)
    words = tuple(f"word{place}" for place in range(WORDS))
    return Lexicon(words, tuple(range(WORDS)), codebook, 3.0, (1,) * WORDS, {"model_digest": "m", "prompt": "p"})


def model(**changes) -> LexicalModel:
    torch.manual_seed(0)
    lexical = {
        "blocks": 1,
        "width": 8,
        "text_rank": 2,
        "text_width": WIDTH,
        "text_scale": 3.0,
        "pool_cls": True,
        "pool_sum": False,
        "activation": "elu1p",
        "codebook": "words",
        "vocabulary": lexicon().version,
        **changes,
    }
    vision = {"image_size": 16, "patch_size": 4, "width": 16, "layers": 1, "head_width": 8, "mlp_ratio": 2.0}
    config = {"embed_dim": WORDS, "vision_cfg": vision, LEXICAL: lexical, FROZEN_TEXT: {}}
    return LexicalModel(config, None, lexicon())


IMAGES = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 3, 16, 16)).astype(np.float32))
ROWS = normalize(torch.from_numpy(np.random.default_rng(2).normal(size=(5, WIDTH)).astype(np.float32)), dim=-1)


def test_the_activation_of_the_reference():
    x = given("act_x")
    y = elu1p(x)
    assert np.abs(y.detach().numpy() - CASE["act_elu1p"]).max() < 1e-10
    assert np.abs(torch.autograd.grad(y.sum(), x)[0].numpy() - CASE["act_elu1p_grad"]).max() < 1e-10
    assert (y > 0).all() and elu1p(torch.zeros(1)).item() == 1
    assert elu1p(torch.linspace(-8, 8, 200)).diff().min() > 0


def test_low_precision_logits_do_not_become_zeros():
    assert elu1p(torch.tensor([-12.0], dtype=torch.bfloat16)).item() == pytest.approx(np.exp(-12), rel=1e-3)


def test_image_vectors_and_gradients_of_the_reference():
    tokens, codebook = given("img_z"), given("img_Z")
    best, winner = max_dot(tokens, codebook)
    pooled = elu1p(best)
    vectors = normalize(pooled, dim=-1)
    assert np.abs(pooled.detach().numpy() - CASE["img_pooled"]).max() < 1e-10
    assert np.array_equal(winner.numpy(), CASE["img_argmax"])
    assert np.abs(vectors.detach().numpy() - CASE["img_s"]).max() < 1e-10
    loss = (torch.from_numpy(CASE["img_W"]) * vectors).sum()
    grads = torch.autograd.grad(loss, (tokens, codebook))
    assert np.abs(grads[0].numpy() - CASE["img_grad_z"]).max() < 1e-10
    assert np.abs(grads[1].numpy() - CASE["img_grad_Z"]).max() < 1e-10


def test_patches_regions_and_texts_of_the_reference():
    activations = elu1p(given("img_z") @ given("img_Z").T)
    assert np.abs(normalize(activations[:, :3], dim=-1).detach().numpy() - CASE["img_patch_s"]).max() < 1e-10
    inside = torch.from_numpy(CASE["img_region_mask"])[..., None]
    region = normalize((activations * inside).amax(dim=1), dim=-1)
    assert np.abs(region.detach().numpy() - CASE["img_region_s"]).max() < 1e-10
    states, codebook = given("txt_z"), torch.from_numpy(CASE["txt_Z"])
    texts = normalize(elu1p(states @ codebook.T), dim=-1)
    assert np.abs(texts.detach().numpy() - CASE["txt_s"]).max() < 1e-10
    grad = torch.autograd.grad((torch.from_numpy(CASE["txt_W"]) * texts).sum(), states)[0]
    assert np.abs(grad.numpy() - CASE["txt_grad_z"]).max() < 1e-10
    words = normalize(elu1p(codebook[torch.from_numpy(CASE["word_ids"])] @ codebook.T), dim=-1)
    assert np.abs(words.numpy() - CASE["word_s"]).max() < 1e-10


@pytest.mark.parametrize("pool", ["max", "sum"])
def test_the_alternative_activation_of_the_reference(pool):
    seen = log1p_relu(given("spl_logits")) * torch.from_numpy(CASE["spl_mask"])[..., None]
    pooled = seen.amax(dim=1) if pool == "max" else seen.sum(dim=1)
    assert np.abs(pooled.detach().numpy() - CASE[f"spl_{pool}"]).max() < 1e-10


def test_the_sparse_backward_pass_is_that_of_all_products():
    random = np.random.default_rng(3)
    tokens, codebook = (torch.from_numpy(random.normal(size=size)).requires_grad_() for size in ((5, 7, 4), (9, 4)))
    weights = torch.from_numpy(random.normal(size=(5, 9)))
    sparse = torch.autograd.grad((weights * max_dot(tokens, codebook)[0]).sum(), (tokens, codebook))
    dense = torch.autograd.grad((weights * (tokens @ codebook.T).max(dim=1).values).sum(), (tokens, codebook))
    for one, other in zip(sparse, dense, strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-12)


def test_a_token_that_wins_no_word_gets_no_gradient():
    tokens = torch.ones(1, 3, 2)
    tokens[0, 1] = -1
    tokens.requires_grad_()
    best, _ = max_dot(tokens, torch.rand(6, 2) + 0.1)
    assert (torch.autograd.grad(best.sum(), tokens)[0][0, 1] == 0).all()


def test_many_samples_are_worked_on_in_parts(monkeypatch):
    tokens, codebook = torch.randn(6, 5, 4), torch.randn(8, 4)
    whole = max_dot(tokens, codebook)
    monkeypatch.setattr("training.models.max_dot._PRODUCTS_AT_ONCE", 2 * 5 * 8)
    for one, other in zip(max_dot(tokens, codebook), whole, strict=True):
        assert torch.allclose(one, other)


def test_operations_of_the_sparse_backward_pass_are_counted_without_numbers():
    from torch.utils.flop_counter import FlopCounterMode

    batch, number, width, words = 3, 5, 4, 7
    tokens = torch.empty(batch, number, width, device="meta", requires_grad=True)
    codebook = torch.empty(words, width, device="meta", requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        max_dot(tokens, codebook)[0].sum().backward()
    assert tokens.grad.shape == tokens.shape and codebook.grad.shape == codebook.shape
    assert counter.get_total_flops() == 2 * batch * words * width * (number + 2)


def test_vectors_are_non_negative_and_of_unit_norm():
    images = model().encode_image(IMAGES, normalize=True)
    texts = model().encode_rows(ROWS)
    for vectors in (images, texts):
        assert vectors.shape[1] == WORDS and (vectors >= 0).all()
        assert torch.allclose(vectors.norm(dim=1), torch.ones(len(vectors)), atol=1e-6)
    assert ((images @ texts.T) <= 1 + 1e-6).all()


def test_the_maximum_over_patches_is_the_image():
    without = model(pool_cls=False)
    patches = without.encode_patches(IMAGES)
    assert patches.shape == (3, 16, WORDS)
    assert torch.allclose(patches.amax(dim=1), without.encode_image(IMAGES), atol=1e-5)
    assert (model().encode_image(IMAGES) >= model().encode_patches(IMAGES).amax(dim=1) - 1e-5).all()


def test_a_sum_over_patches():
    summed = model(pool_cls=False, pool_sum=True, activation="log1p_relu")
    assert torch.allclose(summed.encode_patches(IMAGES).sum(dim=1), summed.encode_image(IMAGES), atol=1e-4)


def test_the_text_side_begins_as_the_language_model():
    raw = elu1p(3.0 * ROWS @ torch.from_numpy(lexicon().codebook).T)
    for rank in (0, 2):
        assert torch.allclose(model(text_rank=rank).encode_rows(ROWS), normalize(raw, dim=-1), atol=1e-6)


def test_what_is_trained_and_what_is_not():
    whole = model()
    (whole.encode_image(IMAGES, True).sum() + whole.encode_rows(ROWS).square()[:, :3].sum()).backward()
    grads = {name: p.grad for name, p in whole.named_parameters()}
    for name in ("head.codebook", "text_correction.up.weight", "head.adapter.layers.0.weight", "visual.conv1.weight"):
        assert grads[name] is not None and grads[name].abs().max() > 0, name
    assert "text_codebook" not in grads and "text_codebook" not in whole.state_dict()
    assert torch.equal(whole.head.codebook, torch.from_numpy(lexicon().codebook))


def test_centred_rows_are_brought_to_the_size_that_is_left():
    words = lexicon()
    assert text_scale(words, None) == 3.0
    mean = np.zeros((1, WIDTH), dtype=np.float32)
    mean[0, 0] = 0.8
    assert text_scale(words, mean) == pytest.approx(3.0 * 0.6)
