"""``masking: {watch: true}``: what the curves say of the masks, and that training does not notice."""

import itertools
import math

import pytest
import torch

from assets.config import load_machine
from assets.errors import DataError
from assets.progress import Stage
from tests.training.view_batches import RECIPES, TOWERS, with_views
from training.config import load_recipe
from training.engine.clock import TrainClock
from training.engine.distributed import World
from training.engine.loop import Fit, Trainer
from training.engine.metrics import read_rows
from training.engine.step import Stepper
from training.models import image_pass
from training.models.build import build_method
from training.pretrain import Paths, pretrain

CPU = torch.device("cpu")
CROPS = {"crop_area": [0.4, 0.9], "flip": 0.5}
EMA = {"momentum": 0.9}
CASES = {
    "random": {"masking": {"kind": "random", "keep": 0.4}},
    "attentive": {"masking": {"kind": "attentive"}, "ema_tower": EMA},
    "inverse": {"masking": {"kind": "inverse", "block": 1}, "ema_tower": {**EMA, "shrink": 2}},
    "oracle": {"masking": {"kind": "oracle", "rounding": "down"}},
    "random_2": {"method": {"kind": "random_mask", "num_views": 2}, "masking": {"kind": "random", "block": 2}},
    "aclip": {**RECIPES["aclip"], "views": {**RECIPES["aclip"]["views"], **CROPS}},
    "slip": {**RECIPES["slip"], "masking": {"kind": "oracle", "block": 1}},
}


def file_of(params, case, watch=True, **changes):
    recipe = {"towers": TOWERS, "views": CROPS, **CASES[case]}
    recipe["masking"] = {**recipe["masking"], "watch": watch}
    changes = {key if "." in key else f"recipes.clip.{key}": value for key, value in (recipe | changes).items()}
    return params(**changes)


def stepper_of(file):
    recipe = load_recipe(file, "clip")
    return Stepper(build_method(recipe, 0)[0], recipe, load_machine(file), World(0, 1, CPU), 0)


def covered_pixels(objects, box, kept):
    """Count the pixels of a view that objects cover, once per object: all of them, and those on kept patches of 4 x 4.

    Each pixel of the picture is cut into 4 x 4 points, so that patches need not end between pixels.
    """
    top, left, height, width, flip = box.tolist()
    found, on_kept = 0, 0
    y = top + (torch.arange(height * 4) + 0.5) / 4
    x = left + (torch.arange(width * 4) + 0.5) / 4
    row, column = ((y - top) / height * 4).long(), ((x - left) / width * 4).long()
    column = 3 - column if flip else column
    patch = row[:, None] * 4 + column[None, :]
    stays = torch.isin(patch, kept)
    for first_row, first_column, rows, columns in objects.tolist():
        in_rows = (y >= first_row) & (y < first_row + rows)
        inside = in_rows[:, None] & ((x >= first_column) & (x < first_column + columns))[None, :]
        found += int(inside.sum())
        on_kept += int((inside & stays).sum())
    return found, on_kept


@pytest.mark.parametrize("case", CASES)
def test_coverage_is_what_the_tower_really_sees_counted_point_by_point(case, params, colour_batch, monkeypatch):
    method = build_method(load_recipe(file_of(params, case), "clip"), 0)[0].train()
    batch = with_views(colour_batch, method.needs())
    seen = []
    real = image_pass._embed_kept

    def noting(tower, image, keep):
        seen.append(keep)
        return real(tower, image, keep)

    monkeypatch.setattr(image_pass, "_embed_kept", noting)
    method.encode(batch)
    views = list(method.views())
    keeps = dict(zip(views, seen[0].chunk(len(views)), strict=True))
    measured = method.watch(batch)
    assert len(seen) == 1  # the online tower does not run again
    for row in range(16):
        shares = []
        for name, keep in keeps.items():
            found, on_kept = covered_pixels(batch["objects"][row], batch[f"{name}_box"][row], keep[row])
            shares += [on_kept / found] if found else []
        expected = sum(shares) / len(shares) if shares else math.nan
        assert measured["mask/object_coverage"][row].item() == pytest.approx(expected, abs=0.03, nan_ok=True)
    assert measured["mask/kept_share"].tolist() == pytest.approx([seen[0].shape[1] / 16] * 16)
    assert ("mask/attention_entropy" in measured) == (CASES[case]["masking"]["kind"] in ("attentive", "inverse"))


def test_the_oracle_covers_most_and_entropy_is_that_of_the_scores(params, colour_batch):
    covered = {}
    for case in ("random", "attentive", "oracle"):
        masking = {**CASES[case]["masking"], "keep": 0.25, "block": 1, "rounding": "down", "watch": True}
        method = build_method(load_recipe(file_of(params, case, masking=masking), "clip"), 0)[0].train()
        batch = with_views(colour_batch, method.needs())
        batch["image_box"] = torch.tensor([[0, 0, 64, 64, 0]]).expand(16, -1)
        if case == "attentive":
            batch["ema_image_box"] = batch["image_box"]
            share = method.ema_pass(batch).scores.flatten(1).double()
            share = share / share.sum(dim=1, keepdim=True)
            expected = -(share * share.log()).sum(dim=1) / math.log(16)
            torch.testing.assert_close(method.watch(batch)["mask/attention_entropy"], expected)
            assert (expected > 0.5).all() and (expected < 1).all()
        covered[case] = method.watch(batch)["mask/object_coverage"].nanmean()
    assert covered["oracle"] > max(covered["random"], covered["attentive"]) + 0.1


@pytest.mark.parametrize("case", ["attentive", "random_2", "aclip"])
def test_a_watched_run_has_the_same_bytes_and_more_curves(case, params, colour_batch, tmp_path):
    weights, rows = [], []
    for watch in (False, True):
        file = file_of(params, case, watch, log_every=5)
        recipe, work = load_recipe(file, "clip"), tmp_path / str(watch)
        trainer = Trainer(build_method(recipe, 0)[0], Fit(recipe, load_machine(file), 0, work), World(0, 1, CPU))
        needs = stepper_of(file_of(params, case)).method.needs()
        batches = [with_views(colour_batch, needs, step) for step in range(trainer.steps)]
        looked = []
        watching = trainer.stepper.watch
        trainer.stepper.watch = lambda *args, looked=looked, watching=watching: looked.append(1) or watching(*args)
        with Stage("pretrain@test") as stage:
            trainer.run(lambda first, batches=batches: itertools.islice(batches, first, None), stage)
        weights.append(trainer.method.state_dict())
        rows.append(read_rows(work / "curves/rows.jsonl"))
        assert [row["step"] for row in rows[-1]] == [0, 5, 10, 11] and len(looked) == 4
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    trained = [[{k: v for k, v in row.items() if k.startswith("train/")} for row in part] for part in rows]
    assert trained[0] == trained[1]
    assert not any(name.startswith("mask/") for row in rows[0] for name in row)
    assert all({"mask/object_coverage", "mask/kept_share"} <= row.keys() for row in rows[1])
    assert all(0 < row["mask/object_coverage"] < 1 for row in rows[1])


def test_parts_of_a_batch_are_measured_like_the_whole(params, colour_batch):
    values = []
    for rows in (0, 5):
        stepper = stepper_of(file_of(params, "aclip", **{"machine.micro_batch": rows}))
        batch = with_views(colour_batch, stepper.method.needs())
        batch["objects"][3] = 0
        values.append(stepper.watch(batch, TrainClock({}, CPU)))
    assert values[0].keys() == {"mask/kept_share", "mask/object_coverage", "mask/attention_entropy"}
    assert values[1] == pytest.approx(values[0], rel=1e-6)


def test_views_in_which_no_object_lies_do_not_count(params, colour_batch):
    stepper = stepper_of(file_of(params, "random_2"))
    batch, clock = with_views(colour_batch, stepper.method.needs()), TrainClock({}, CPU)
    rows = stepper.method.watch(batch)["mask/object_coverage"]
    batch["objects"][2:] = 0
    assert stepper.watch(batch, clock)["mask/object_coverage"] == pytest.approx(rows[:2].mean().item())
    one_view = {**batch, "image_box": torch.tensor([[60, 60, 20, 20, 0]]).expand(16, -1)}
    one_view["objects"] = torch.tensor([[[0, 0, 10, 10]]]).expand(16, -1, -1)
    one_view["image_2_box"] = torch.tensor([[0, 0, 40, 40, 0]]).expand(16, -1)
    kept = stepper.method.watch(one_view)["mask/object_coverage"]  # the object is the first patch of the second view
    assert set(kept.tolist()) == {0.0, 1.0}
    batch["objects"][:] = 0
    assert stepper.watch(batch, clock) == {"mask/kept_share": 0.5}


def test_without_masks_at_the_end_everything_is_kept(params, colour_batch):
    masking = {"kind": "attentive", "unmasked_tail": 0.5, "watch": True}
    stepper = stepper_of(file_of(params, "attentive", masking=masking))
    batch, clock = with_views(colour_batch, stepper.method.needs()), TrainClock({}, CPU)
    kept = []
    for step in (0, 6):
        stepper.step(batch, step, clock)
        kept.append(stepper.watch(batch, clock))
    assert kept[0]["mask/kept_share"] == 0.75 and "mask/attention_entropy" in kept[0]
    assert kept[1] == {"mask/kept_share": 1.0, "mask/object_coverage": pytest.approx(1.0)}


@pytest.mark.parametrize("case", ["random", "oracle"])
def test_a_source_without_boxes_is_refused_before_training(case, toy_data, params, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = Paths(*toy_data, tmp_path / "model", tmp_path / "log")
    with pytest.raises(DataError, match=r"sample toy-0\d\d in .*tar has no object boxes.*oracle.*watch"):
        pretrain("toy-s0", file_of(params, case, watch=case == "random"), paths)
    assert not (tmp_path / "work").exists()
