import pytest
import torch
from torch.nn import functional

from training.config import load_recipe
from training.data.holdout import hold_out, take, whole_images
from training.data.loader import Batch, ViewPlan
from training.data.pairs import load_pairs
from training.engine.holdout import holdout_scores
from training.models.build import build_method, build_tokenizer

CPU = torch.device("cpu")


def test_scores_equal_those_written_out_pair_by_pair(params, colour_batch: Batch):
    method, _ = build_method(load_recipe(params(), "clip"), 0)
    parts = [{name: value[rows] for name, value in colour_batch.items()} for rows in (slice(0, 10), slice(10, 16))]
    scores = holdout_scores(method, parts, CPU)
    with torch.no_grad():
        images = functional.normalize(method.model.encode_image(method.normalize(colour_batch["image"])), dim=-1)
        texts = functional.normalize(method.model.encode_text(colour_batch["text"]), dim=-1)
        logits = (method.model.logit_scale.exp() * images @ texts.T).tolist()
    losses, hits = [], 0
    for i, row in enumerate(logits):
        column = [other[i] for other in logits]
        losses += [torch.logsumexp(torch.tensor(line), 0).item() - row[i] for line in (row, column)]
        hits += max(row) == row[i]
    assert scores["holdout/loss"] == pytest.approx(sum(losses) / 32, abs=1e-4)
    assert scores["holdout/image_to_text_r1"] == pytest.approx(hits / 16)


def test_equal_features_are_no_hit(params, colour_batch: Batch):
    method, _ = build_method(load_recipe(params(), "clip"), 0)
    same = {name: value[:1].expand(4, *value.shape[1:]) for name, value in colour_batch.items()}
    assert holdout_scores(method, [same], CPU)["holdout/image_to_text_r1"] == 0


def test_the_method_trains_on_as_before(params, colour_batch: Batch):
    method, _ = build_method(load_recipe(params(), "clip"), 0)
    method.train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    holdout_scores(method, [colour_batch], CPU)
    assert method.training
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_held_out_pairs_are_the_same_whatever_else_is_in_the_data(toy_data):
    pairs = load_pairs(*toy_data)
    kept, out = hold_out(pairs, 10)
    assert len(kept) == 53
    assert len(out) == 10
    assert not set(kept.keys.to_pylist()) & set(out.keys.to_pylist())
    half, _ = hold_out(pairs, 5)
    assert set(kept.keys.to_pylist()) < set(half.keys.to_pylist())
    some = [i for i, key in enumerate(pairs.keys.to_pylist()) if key not in set(kept.keys.to_pylist()[:20])]
    _, again = hold_out(take(pairs, torch.tensor(some).numpy()), 10)
    assert again.keys.to_pylist() == out.keys.to_pylist()


def test_held_out_pictures_are_shown_whole_and_once(toy_data, params):
    pairs = load_pairs(*toy_data)
    recipe = load_recipe(params(), "clip")
    _, config = build_method(recipe, 0)
    plan = ViewPlan({"image": recipe.views}, build_tokenizer(config), 32, 0)
    batches = whole_images(pairs, plan)
    assert sum(len(batch["image"]) for batch in batches) == 63
    corners = torch.cat([batch["image"] for batch in batches])[:, :, :2, :2].float()
    assert corners.std(dim=(2, 3)).max() < 12  # the background of the disc, up to what JPEG leaves
