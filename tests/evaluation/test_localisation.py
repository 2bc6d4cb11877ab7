import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch

from evaluation.evaluate import evaluate
from evaluation.features import Features, SplitFeatures
from evaluation.intervals import Bootstrap
from evaluation.localisation import Localisation, LocalisationConfig, point
from evaluation.open_clip_export import OpenClipImages
from evaluation.samples import ClassFacts
from evaluation.sides import PatchFeatures
from tests.evaluation import squares as project
from tests.evaluation.squares import EVALUATION, MODEL, RUNS, write_params, write_raw, write_valid

NAMES = ("cup", "hat", "soccer ball")
CLASSES = tuple(ClassFacts(i, name, f"{name}s", "thing", 1, "head") for i, name in enumerate(NAMES))
EYE = np.eye(4, dtype=np.float32)
KEYS = [f"k{i}" for i in range(8)]


def scene(number: int) -> dict:
    """Two things on a grid of 4 x 4 patches of 4 pixels: one fills the upper left quarter, one the lower right."""
    first, second = number % 3, (number + 1) % 3
    boxes = ([0, 0, 8, 8], [8, 8, 16, 16])
    return {"objects": [{"name": NAMES[c], "box": box} for c, box in zip((first, second), boxes, strict=True)]}


def true_patches(number: int) -> np.ndarray:
    """The one-hot vector of what each patch shows; the fourth axis is background."""
    grid = np.full((4, 4), 3)
    grid[:2, :2], grid[2:, 2:] = number % 3, (number + 1) % 3
    return EYE[grid.ravel()]


class Texts:
    lexicon = None

    def encode(self, captions, query="caption"):
        return EYE[[[name in caption for name in NAMES].index(True) for caption in captions]]

    def count_cut(self, captions, query="caption"):
        return 0


class Patches:
    """Reads stored patches three pictures at a time."""

    grid = (4, 4)

    def __init__(self, of):
        self.of = of

    def read(self, rows):
        for start in range(0, len(rows), 3):
            part = rows[start : start + 3]
            yield PatchFeatures(np.stack([self.of(row) for row in part]), [(16, 16)] * len(part), (16, 16))


def features(of=true_patches, metadata=None, text=None) -> Features:
    told = [scene(i) for i in range(8)] if metadata is None else metadata
    patches = None if of is None else Patches(of)
    split = SplitFeatures("test", "retrieval", "in_domain", KEYS, EYE[[0] * 8], None, [], None, None)
    return Features((replace(split, metadata=told, patches=patches),), CLASSES, text or Texts())


def run(found: Features, **config):
    return Localisation(LocalisationConfig(**config), Bootstrap(50, 0)).run(found)


def test_patches_that_know_what_they_show_score_one_in_everything():
    result = run(features())
    metrics = result.metrics["in_domain"]
    for name in ("patchdis_all", "patchdis_present", "patchdis_bg", "pointing"):
        assert metrics[name] == 1.0, name
        assert result.intervals["in_domain"][name] == (1.0, 1.0)
    assert (metrics["num_images"], metrics["num_pointing"], metrics["chance_pointing"]) == (8, 16, 0.25)
    assert metrics["chance_patchdis_all"] < 0.5 and metrics["chance_patchdis_bg"] < 0.5
    assert metrics["chance_patchdis_present"] < 0.8
    assert "word_pointing" not in metrics and not result.notes


def test_patches_that_are_all_alike_point_by_chance():
    metrics = run(features(of=lambda row: np.tile(EYE[:1], (16, 1)))).metrics["in_domain"]
    assert metrics["pointing"] == metrics["chance_pointing"] == 0.25


def test_patches_that_swap_their_classes_score_nothing():
    swapped = run(features(of=lambda row: true_patches(row + 2))).metrics["in_domain"]
    assert swapped["patchdis_all"] < 0.2 and swapped["pointing"] < 0.4


def test_random_patches_score_near_the_stated_chance():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(8, 16, 4)).astype(np.float32)
    metrics = run(features(of=lambda row: vectors[row])).metrics["in_domain"]
    assert metrics["patchdis_all"] == pytest.approx(metrics["chance_patchdis_all"], abs=0.12)


def test_a_model_over_words_also_points_by_the_last_word_of_a_name():
    text = Texts()
    # of the lexicon, "balls" lies where patches of the ball are, "cup" where nothing is, and "hat" is no word
    text.lexicon = SimpleNamespace(words=("zebra", "cup", "Balls", "junk"))
    metrics = run(features(text=text)).metrics["in_domain"]
    balls = sum(2 in (i % 3, (i + 1) % 3) for i in range(8))
    cups = sum(0 in (i % 3, (i + 1) % 3) for i in range(8))
    assert metrics["num_word_pointing"] == balls + cups
    # the axis of "cup" is that of hats: where a picture shows no hat all patches tie, elsewhere the hat is pointed at
    ties = sum(0 in (i % 3, (i + 1) % 3) and 1 not in (i % 3, (i + 1) % 3) for i in range(8))
    assert metrics["word_pointing"] == pytest.approx((balls + 0.25 * ties) / (balls + cups))
    assert metrics["chance_word_pointing"] == 0.25


def test_only_so_many_pictures_are_read_and_those_without_known_objects_never():
    told = [scene(i) if i < 5 else {"objects": [{"name": "owl", "box": [0, 0, 8, 8]}]} for i in range(8)]
    seen = []

    def of(row):
        seen.append(row)
        return true_patches(row)

    assert run(features(of, told), images=4).metrics["in_domain"]["num_images"] == 4
    assert len(seen) == 4 and max(seen) < 5


def test_the_best_patch_is_asked_where_its_centre_is():
    found = np.array([[0.1, 0.9], [0.2, 0.3]])
    assert point(found, np.array([[8.0, 0, 16, 8]]), (16, 16)) == (1.0, 0.25)
    assert point(found, np.array([[0.0, 0, 16, 3]]), (16, 16)) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"of": None}, "has no patches"),
        ({"metadata": [{}] * 8}, "split test has fewer than two pictures with a box"),
    ],
)
def test_what_cannot_be_localised_is_noted(changes, note):
    result = run(features(**changes))
    assert not result.metrics and note in result.notes[0]


def test_data_without_classes_are_noted():
    assert "no zero-shot classes" in run(replace(features(), classes=())).notes[0]


@pytest.mark.parametrize("late", [True, False])
def test_patches_of_open_clip_go_through_the_final_norm_and_the_projection(late):
    torch.manual_seed(0)
    model = open_clip.CLIP(**{**MODEL, "vision_cfg": {**MODEL["vision_cfg"], "final_ln_after_pool": late}}).eval()
    torch.nn.init.normal_(model.visual.ln_post.bias)
    side = OpenClipImages(model, None, torch.device("cpu"))
    images = torch.randn(3, 3, 32, 32)
    found = side.encode_patches(images)
    assert side.grid == (2, 2) and found.shape == (3, 4, 16)
    assert np.linalg.norm(found, axis=-1) == pytest.approx(1, abs=1e-5)
    # in the place of the class token, a patch token gives what the tower then says of the picture
    with torch.no_grad():
        tokens = model.visual.transformer(model.visual._embeds(images))
        pooled = torch.stack([model.visual._pool(tokens[:, place:])[0] for place in range(1, 5)], dim=1)
        projected = torch.nn.functional.normalize(pooled @ model.visual.proj, dim=-1)
    assert found == pytest.approx(projected.numpy(), abs=1e-5)


def test_a_resnet_has_no_patches():
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}
    model = open_clip.CLIP(**{**MODEL, "vision_cfg": vision})
    assert OpenClipImages(model.eval(), None, torch.device("cpu")).grid is None


@pytest.fixture
def report(squares, tmp_path, monkeypatch):
    """What ``evaluate`` writes for an untrained model on squares that say where they are."""
    plain = project.sample

    def with_objects(split, number, role):
        item = plain(split, number, role)
        inner = item.caption.split()[1]
        item.metadata["objects"] = [{"name": inner, "box": [10, 10, 30, 30], "colour": inner}]
        return item

    monkeypatch.setattr(project, "sample", with_objects)
    raw = write_raw(tmp_path / "raw")
    evaluation = {**EVALUATION, "evaluators": {"localisation": {"images": 20}, "words": {}}}
    params = write_params(tmp_path / "params.yaml", RUNS, evaluation=evaluation)
    valid = write_valid(tmp_path / "valid", raw)
    evaluate("clip-s0", params, squares / "models/clip-s0", raw, valid, tmp_path / "out")
    return json.loads((tmp_path / "out/metrics.json").read_text())


def test_the_stage_scores_patches_and_notes_that_there_are_no_words(report):
    for suite in ("in_domain", "held_out_style"):
        found = report["localisation"][suite]
        assert (found["num_images"], found["num_pointing"]) == (20, 20)
        # the centres of all four patches, at 8 and 24 of 32, lie on the edge of the square, of which one counts
        assert found["chance_pointing"] == 0.25
        assert 0 <= found["pointing"] <= 1 and 0 < found["patchdis_all"] < 1
    assert report["words"] == {}
