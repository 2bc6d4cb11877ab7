import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from assets.errors import ConfigError, DataError
from assets.section import parse
from evaluation import EVALUATORS
from evaluation.composition.evaluator import Composition, CompositionConfig, blind_preferences, preferences
from evaluation.composition.kinds import given_foils
from evaluation.composition.pairs import pair_scores, paired_rows
from evaluation.evaluate import evaluate
from evaluation.features import Features, SplitFeatures
from evaluation.intervals import Bootstrap
from evaluation.samples import ClassFacts
from evaluation.sides import distinct
from tests.evaluation import squares as project
from tests.evaluation.squares import EVALUATION, RUNS, write_params, write_raw, write_valid

NAMES = ("dog", "owl", "cow", "car", "bus", "van")
CLASSES = tuple(
    ClassFacts(i, name, f"{name}s", "animals" if i < 3 else "travel", 1, "head") for i, name in enumerate(NAMES)
)
COLOURS = ("red", "blue", "green")


def scene(number: int) -> dict:
    names = (NAMES[number % 3], NAMES[3 + (number // 3) % 3])
    boxes = ([0, 0, 20, 20], [30, 0, 60, 20]) if number % 2 else ([30, 0, 60, 20], [0, 0, 20, 20])
    objects = [
        {"name": name, "box": box, "colour": COLOURS[(number + place) % 3]}
        for place, (name, box) in enumerate(zip(names, boxes, strict=True))
    ]
    background = {"texture": "plain", "colour": COLOURS[number % 3]}
    return {"objects": objects, "counts": {name: 1 for name in names}, "background": background}


def caption(told: dict) -> str:
    things = [f"{'an' if item['name'] == 'owl' else 'a'} {item['name']}" for item in told["objects"]]
    return f"{' and '.join(things)} on a plain {told['background']['colour']} background"


class Oracle:
    """Texts become hashes of themselves; a picture is the sum of the texts that are true of it."""

    def __init__(self):
        self.asked = []

    def encode(self, captions, query="caption"):
        self.asked += captions
        rows = [np.random.default_rng(list(text.encode())).normal(size=256) for text in captions]
        return np.array([row / np.linalg.norm(row) for row in rows], dtype=np.float32)


class Blind:
    """Every text is the same to it."""

    def encode(self, captions, query="caption"):
        return np.full((len(captions), 4), 0.5, dtype=np.float32)


def features(text, image_features, metadata, captions) -> Features:
    texts, rows = distinct(captions)
    keys = [f"k{i}" for i in range(len(metadata))]
    split = SplitFeatures("test", "retrieval", "in_domain", keys, image_features, None, texts, text.encode(texts), rows)
    return Features((replace(split, metadata=metadata),), CLASSES, text)


def run(found: Features, **config):
    return Composition(CompositionConfig(**config), Bootstrap(100, 0)).run(found)


SCENES = [scene(number) for number in range(18)]
CAPTIONS = [caption(told) for told in SCENES]


def seen_by_oracle() -> Features:
    """Pictures that are the sum of all captions that the evaluator calls true of them."""
    table = run(features(Blind(), np.full((18, 4), 0.5, dtype=np.float32), SCENES, CAPTIONS)).tables["foils"]
    oracle = Oracle()
    images = oracle.encode(CAPTIONS)
    for row in table:
        if row["caption"] != CAPTIONS[int(row["key"][1:])]:
            images[int(row["key"][1:])] += oracle.encode([row["caption"]])[0]
    return features(oracle, images / np.linalg.norm(images, axis=1, keepdims=True), SCENES, CAPTIONS)


def test_a_model_that_knows_what_is_true_is_always_right():
    result = run(seen_by_oracle())
    metrics = result.metrics["in_domain"]
    kinds = ("replace_thing", "replace_number", "replace_colour", "swap_colours", "swap_places")
    for kind in kinds:
        assert metrics[f"{kind}_accuracy"] == 1.0 and metrics[f"num_{kind}"] == 18
        assert result.intervals["in_domain"][f"{kind}_accuracy"] == (1.0, 1.0)
    assert metrics["accuracy"] == 1.0 and metrics["num_images"] == 18
    assert 0.25 < metrics["num_blind_accuracy"] < 0.75
    assert all(row["right"] == 1 and row["caption"] != row["foil"] for row in result.tables["foils"])
    # one texture and equal numbers leave nothing to replace or to swap
    assert "num_replace_texture" not in metrics and "num_swap_numbers" not in metrics


def test_a_model_to_which_all_texts_are_alike_lands_on_chance():
    metrics = run(features(Blind(), np.full((18, 4), 0.5, dtype=np.float32), SCENES, CAPTIONS)).metrics["in_domain"]
    assert metrics["accuracy"] == metrics["chance_accuracy"] == metrics["num_blind_accuracy"] == 0.5


def test_a_model_that_only_reads_is_as_good_on_other_pictures():
    class Reader(Oracle):
        """Dislikes texts that speak of two or more."""

        def encode(self, captions, query="caption"):
            odd = [any(word in text for word in ("two", "three", "four")) for text in captions]
            return np.eye(2, dtype=np.float32)[np.array(odd, dtype=int)]

    images = np.tile(np.eye(2, dtype=np.float32)[:1], (18, 1))
    metrics = run(features(Reader(), images, SCENES, CAPTIONS), kinds=("replace_number",)).metrics["in_domain"]
    assert metrics["replace_number_accuracy"] == metrics["num_blind_replace_number"] == 1.0


def test_accuracy_is_the_mean_of_kinds_whatever_their_number():
    told = [{"foils": {"verb": "bad"}}, {"foils": {"verb": ["bad", "worse"], "noun": "bad"}}, {}]

    class Text(Oracle):
        def encode(self, captions, query="caption"):
            return np.array([[1, 0] if said in ("good", "worse") else [0, 1] for said in captions], dtype=np.float32)

    images = np.array([[1, 0], [0, 1], [1, 0]], dtype=np.float32)  # the second prefers what is bad
    result = run(features(Text(), images, told, ["good"] * 3))
    metrics = result.metrics["in_domain"]
    # verb: right, wrong, tied; noun: wrong
    assert (metrics["num_verb"], metrics["num_noun"], metrics["num_images"]) == (3, 1, 2)
    assert metrics["verb_accuracy"] == pytest.approx(0.5) and metrics["noun_accuracy"] == 0
    assert metrics["accuracy"] == pytest.approx(0.25)
    # one picture alone has no other to ask
    assert "num_blind_noun" not in metrics and metrics["num_blind_verb"] == pytest.approx((0 + 1 + 0.5) / 3)
    low, high = result.intervals["in_domain"]["accuracy"]
    assert low <= 0.25 <= high
    assert len(run(features(Text(), images, told, ["good"] * 3), examples=1).tables["foils"]) == 2


def test_given_foils_take_the_place_of_made_ones_and_equal_ones_are_left_out():
    told = [{**each, "foils": {"replace_thing": "nothing", "same": caption(each)}} for each in SCENES]
    result = run(features(Oracle(), np.ones((18, 256), dtype=np.float32) / 16, told, CAPTIONS))
    assert {row["foil"] for row in result.tables["foils"] if row["kind"] == "replace_thing"} == {"nothing"}
    assert "num_same" not in result.metrics["in_domain"] and "18 foils" in result.notes[0]


def test_only_so_many_pictures_are_asked_about():
    metrics = run(seen_by_oracle(), images=5, kinds=("swap_places",)).metrics["in_domain"]
    assert metrics["num_images"] == metrics["num_swap_places"] == 5


def test_preferences_agree_with_one_by_one_comparison_and_ties_count_half():
    rng = np.random.default_rng(0)
    sides = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in rng.normal(size=(3, 30, 8))]
    images, true, false = (each.astype(np.float32) for each in sides)
    false[4] = true[4]
    expected = [1.0 if a @ b > a @ c else 0.0 for a, b, c in zip(images, true, false, strict=True)]
    expected[4] = 0.5
    assert preferences(images, true, false).tolist() == expected
    swapped = preferences(images, false, true)
    assert (preferences(images, true, false) + swapped).tolist() == [1.0] * 30
    rows = [0, 0, 3, 7]
    others = {0: (3, 7), 3: (7, 0), 7: (0, 3)}
    slow = [
        np.mean([preferences(images[[o]], true[[i]], false[[i]])[0] for o in others[r]]) for i, r in enumerate(rows)
    ]
    assert blind_preferences(images, rows, true[:4], false[:4]).tolist() == slow
    assert blind_preferences(images, [2, 2], true[:2], false[:2]) is None


def test_pairs_are_scored_as_winoground_does():
    # texts on the axes; a picture is how much it likes each text
    texts = np.eye(6, dtype=np.float32)
    likes = np.zeros((6, 6))
    likes[:2, :2] = [[0.9, 0.1], [0.2, 0.8]]  # all right
    likes[2:4, 2:4] = [[0.5, 0.4], [0.7, 0.8]]  # texts right, but the first caption prefers the second picture
    likes[4:, 4:] = [[0.3, 0.3], [0.3, 0.3]]  # ties are wrong
    found = pair_scores(likes.astype(np.float32), texts, [(0, 1), (2, 3), (4, 5)])
    assert found.tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    told = [{"pair": 7}, {}, {"pair": "b"}, {"pair": 7}, {"pair": "alone"}, {"pair": "b"}]
    assert paired_rows(told, "test") == [(0, 3), (2, 5)]
    with pytest.raises(DataError, match=r"pair '7' of KEY\.json, got 3, wanted two samples"):
        paired_rows([{"pair": 7}] * 3, "test")


def test_random_features_have_the_stated_chance_in_pairs():
    rng = np.random.default_rng(1)
    images, texts = (rng.normal(size=(8000, 8)).astype(np.float32) for _ in range(2))
    found = pair_scores(images, texts, [(i, i + 1) for i in range(0, 8000, 2)]).mean(axis=0)
    # within a pair two vectors of a side are shared, so the four scores are not quite independent
    assert found == pytest.approx([1 / 4, 1 / 4, 1 / 6], abs=0.03)


def test_pairs_and_foils_stand_side_by_side():
    told = [{"pair": number // 2} for number in range(4)]
    texts = ["one", "two", "three", "four"]
    result = run(features(Oracle(), Oracle().encode(texts), told, texts))
    metrics = result.metrics["in_domain"]
    assert (metrics["pair_text"], metrics["pair_image"], metrics["pair_group"], metrics["num_pairs"]) == (1, 1, 1, 2)
    assert "accuracy" not in metrics and not result.tables and not result.notes


def test_data_without_foils_are_noted():
    result = run(features(Blind(), np.full((2, 4), 0.5, dtype=np.float32), [{}, {}], ["a", "b"]))
    assert not result.metrics and "split test: KEY.json has no foils" in result.notes[0]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (["text"], "a mapping of kinds to texts"),
        ({"Verb": "x"}, "name of a kind, got 'Verb'"),
        ({"blind_x": "x"}, "name of a kind, got 'blind_x'"),
        ({"verb": ""}, "verb, got '', wanted a text or a list of texts"),
        ({"verb": []}, "a text or a list of texts"),
        ({"verb": [1]}, "a text or a list of texts"),
    ],
)
def test_foils_that_are_none_are_refused_before_texts_are_encoded(value, told):
    oracle = Oracle()
    found = features(oracle, Oracle().encode(["a"]), [{"foils": value}], ["a"])
    oracle.asked.clear()
    with pytest.raises(DataError, match=f"sample k0.*{told}"):
        run(found)
    assert not oracle.asked


def test_foils_of_key_json_may_be_one_or_several():
    assert given_foils({"foils": {"verb": "x", "noun": ["y", "z"]}}, "k") == {"verb": ["x"], "noun": ["y", "z"]}
    assert given_foils({}, "k") == {}


@pytest.mark.parametrize("values", [{"kinds": ["verb"]}, {"kinds": ["swap_places"] * 2}, {"images": 1}])
def test_wrong_settings_are_refused(values):
    with pytest.raises(ConfigError):
        parse(CompositionConfig, values, "evaluators.composition")


def test_the_stage_asks_about_foils_of_the_data(squares, tmp_path, monkeypatch):
    plain = project.sample

    def with_foils(split, number, role):
        item = plain(split, number, role)
        inner, _, _, outer = item.caption.split()[1:]
        item.metadata["foils"] = {"swap_colours": f"a {outer} square on {inner}"}
        return item

    monkeypatch.setattr(project, "sample", with_foils)
    monkeypatch.setitem(EVALUATORS, "composition", "evaluation.composition.evaluator:Composition")
    raw = write_raw(tmp_path / "raw")
    evaluation = {**EVALUATION, "evaluators": {"composition": {"examples": 3}}}
    params = write_params(tmp_path / "params.yaml", RUNS, evaluation=evaluation)
    evaluate("clip-s0", params, squares / "models/clip-s0", raw, write_valid(tmp_path / "valid", raw), tmp_path / "out")
    found = json.loads((tmp_path / "out/metrics.json").read_text())["composition"]
    for suite in ("in_domain", "held_out_style"):
        assert found[suite]["num_swap_colours"] == 30 and 0 <= found[suite]["accuracy"] <= 1
        # every foil is the caption of another picture here, and for the model each pair is asked both ways
        assert found[suite]["accuracy"] == pytest.approx(found[suite]["swap_colours_accuracy"])
    assert len(pq.read_table(tmp_path / "out/foils.parquet")) == 6
