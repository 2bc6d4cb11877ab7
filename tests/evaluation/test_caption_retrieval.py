import io
import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from assets.config import MachineConfig
from assets.errors import ConfigError, DataError
from assets.progress import Stage
from assets.section import parse
from evaluation.caption_retrieval import CaptionRetrieval, CaptionRetrievalConfig, is_english, metric_part
from evaluation.encoder import load_encoder
from evaluation.evaluate import evaluate
from evaluation.features import Features, SplitFeatures
from evaluation.intervals import Bootstrap
from tests.evaluation.squares import EVALUATION, RUNS, sample, write_params

MACHINE = MachineConfig(workers=0, threads=1, device="cpu", tensorboard=False)
KEYS = ["k0", "k1", "k2", "k3"]
EYE = np.eye(4, dtype=np.float32)


class Axes:
    """A text side that gives the text ``word 2`` the third axis; texts with three words are too long for it."""

    def __init__(self):
        self.asked = []

    def encode(self, captions, query="caption"):
        self.asked.append((query, captions[0].split()[0]))
        return EYE[[int(caption.split()[1]) for caption in captions]]

    def count_cut(self, captions, query="caption"):
        return sum(len(caption.split()) > 2 for caption in captions)


class Slots(Axes):
    """The same, with one slot that is right, one that is wrong everywhere, and one that is a half of both."""

    slots = ("caption/overall", "long/main-object", "long/mood")

    def encode_slots(self, captions):
        right = self.encode(captions)
        wrong = np.roll(right, 1, axis=1)
        return np.stack([right, wrong, (right + wrong) / np.sqrt(2)], axis=1)


def picture(item) -> Image.Image:
    return Image.open(io.BytesIO(item.image)).convert("RGB")


def captions(word: str, *places: int) -> list[str]:
    return [f"{word} {place}" for place in places]


def run(further, text=None, languages="all", long=(), facets=False, known=("en", "de", "fr")):
    own = captions("own", 0, 1, 2, 3)
    split = SplitFeatures(
        "test", "retrieval", "in_domain", KEYS, EYE, None, own, EYE, np.arange(4), further_captions=further
    )
    config = CaptionRetrievalConfig(languages=languages, long=long, facets=facets)
    return CaptionRetrieval(config, Bootstrap(100, 0)).run(Features((split,), (), text or Axes(), known))


def test_each_language_is_searched_and_english_is_no_other_language():
    # fr swaps two captions: half of its queries find another picture's caption, both ways
    texts = {"en": captions("en", 1, 2, 3, 0), "de": captions("de", 0, 1, 2, 3), "fr": captions("fr", 1, 0, 2, 3)}
    found = run(texts)
    metrics = found.metrics["in_domain"]
    for way in ("image_to_text_r1", "text_to_image_r1"):
        assert [metrics[f"{name}_{way}"] for name in ("en", "de", "fr", "other_languages")] == [0, 1, 0.5, 0.75]
    assert metrics["de_mean_recall"] == 1.0 and metrics["other_languages_mean_recall"] < 1
    assert metrics["chance_r1"] == 0.25 and metrics["chance_mean_recall"] == pytest.approx((1 / 4 + 1 + 1) / 3)
    assert (metrics["num_pairs"], metrics["num_languages"], metrics["num_languages_left_out"]) == (4, 3, 0)
    low, high = found.intervals["in_domain"]["other_languages_image_to_text_r1"]
    assert 0.5 <= low < 0.75 < high <= 1


def test_a_collapsed_model_gets_the_chance_level_everywhere():
    text = Axes()
    text.encode = lambda texts, query="caption": np.tile(EYE[:1], (len(texts), 1))
    further = {"de": captions("de", 0, 1, 2, 3), "long": captions("l", 0, 1, 2, 3)}
    metrics = run(further, text, long=["long"]).metrics["in_domain"]
    for name, value in metrics.items():
        if name.startswith(("de_", "other", "long_")):
            suffix = "mean_recall" if name.endswith("mean_recall") else "r1"
            assert value == pytest.approx(metrics[f"chance_{suffix}"]), name


def test_long_captions_are_asked_as_such_and_cuts_are_counted():
    text = Axes()
    long = ["long 0", "long 1 more", "long 2 more", "long 3"]
    found = run({"de": ["de 0 mehr", *captions("de", 1, 2, 3)], "long": long}, text, long=["long"])
    assert text.asked == [("caption", "de"), ("long", "long")]
    metrics = found.metrics["in_domain"]
    assert metrics["long_text_to_image_r1"] == 1.0
    assert (metrics["num_long_cut"], metrics["num_other_languages_cut"]) == (2, 1)
    assert found.documents["caption_retrieval"]["suites"]["in_domain"]["long"] == {"distinct": 4, "cut": 2}


def test_equal_captions_bound_what_a_perfect_model_gets():
    found = run({"de": captions("de", 0, 0, 2, 3)})
    told = found.documents["caption_retrieval"]["suites"]["in_domain"]["de"]
    assert told["distinct"] / len(KEYS) == 0.75
    images = np.stack([EYE[0], EYE[0], EYE[2], EYE[3]])
    split = SplitFeatures(
        *("test", "retrieval", "in_domain", KEYS, images, None, [], None, None),
        further_captions={"de": captions("de", 0, 0, 2, 3)},
    )
    config = CaptionRetrievalConfig(languages=["de"], long=[], facets=False)
    perfect = CaptionRetrieval(config, Bootstrap(100, 0)).run(Features((split,), (), Axes(), ()))
    assert perfect.metrics["in_domain"]["de_image_to_text_r1"] == 0.75


def test_all_leaves_out_and_counts_languages_that_some_pictures_lack():
    found = run({"de": captions("de", 0, 1, 2, 3), "fr": [*captions("fr", 0, 1, 2), None]})
    metrics = found.metrics["in_domain"]
    assert (metrics["num_languages"], metrics["num_languages_left_out"]) == (1, 2)
    assert not [name for name in metrics if name.startswith(("fr_", "en_"))] and found.notes == []


def test_a_language_that_is_named_must_be_whole_or_absent():
    with pytest.raises(DataError, match=r"split test: 1 of 4 pictures have no caption 'fr' in their KEY.json \(k3\)"):
        run({"fr": [*captions("fr", 0, 1, 2), None]}, languages=["fr"])
    found = run({"de": captions("de", 0, 1, 2, 3)}, languages=["de", "fr"], long=["lnog"])
    assert [note.partition(" in its")[0] for note in found.notes] == [
        f"no picture of split test has a caption {name!r}" for name in ("fr", "lnog")
    ]
    assert found.metrics["in_domain"]["num_languages_left_out"] == 1


def test_slots_are_scored_alone_and_together_where_there_are_any():
    metrics = run({}, Slots(), facets=True).metrics["in_domain"]
    both = ("image_to_text_r1", "text_to_image_r1")
    assert [metrics[f"facet_caption_overall_{way}"] for way in both] == [1, 1]
    assert [metrics[f"facet_long_main_object_{way}"] for way in both] == [0, 0]
    assert [metrics[f"facet_long_mood_{way}"] for way in both] == [0.5, 0.5]
    assert [metrics[f"facet_mean_{way}"] for way in both] == [0.5, 0.5]
    for text, facets in ((Slots(), False), (Axes(), True)):
        assert not [name for name in run({}, text, facets=facets).metrics["in_domain"] if "facet" in name]


def test_names_become_parts_of_metric_names():
    assert [metric_part(name) for name in ("zh-Hant", "en_2", "long/main-object")] == [
        "zh_hant", "en_2", "long_main_object",
    ]  # fmt: skip
    assert [is_english(name) for name in ("en", "en-GB", "EN_us", "eng", "de")] == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"languages": ["zh-Hant", "zh_hant"]}, "captions whose metrics have one name, got 'zh-Hant, zh_hant, long'"),
        ({"languages": "every"}, "languages"),
        ({"languages": ["de/fr"]}, "languages"),
        ({"langauges": "all"}, "did you mean 'languages'"),
    ],
)
def test_wrong_settings_are_named(values, fault):
    with pytest.raises(ConfigError, match=fault):
        parse(CaptionRetrievalConfig, {"languages": "all", "long": ["long"], "facets": False, **values}, "here")


def test_a_text_that_just_fits_the_context_is_not_cut(squares):
    text = load_encoder(squares / "models/clip-s0", MACHINE, 2, Stage("test")).text
    fits, longer = " ".join(["red"] * 14), " ".join(["red"] * 15)  # 16 with start and end
    assert [text.count_cut([one]) for one in ("red", fits, longer)] == [0, 0, 1]
    assert text.count_cut(["red", longer, fits, longer + " red", longer]) == 3


def test_an_open_clip_model_is_scored_on_what_key_json_holds(squares, tmp_path):
    only = {"caption_retrieval": {"languages": "all", "long": ["long"], "facets": True}}
    params = write_params(tmp_path / "p.yaml", RUNS, evaluation={**EVALUATION, "evaluators": only})
    model, data = squares / "models/clip-s0", squares / "data"
    evaluate("clip-s0", params, model, data / "raw/squares", data / "valid/squares", tmp_path / "out")
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())["caption_retrieval"]["held_out_style"]
    assert (metrics["num_pairs"], metrics["num_languages"], metrics["num_long_cut"]) == (30, 2, 30)
    assert not [name for name in metrics if name.startswith("facet")]

    tower, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{model}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{model}")
    items = [sample("test_style", number, "retrieval") for number in range(30)]
    images = load_encoder(model, MACHINE, 30, Stage("test"))
    with torch.no_grad():
        pixels = torch.stack([preprocess(picture(item)) for item in items])
        features = next(images.encode_images([pixels])).image_features
        texts = tower.eval().encode_text(tokenize([item.metadata["captions"]["de"] for item in items]), normalize=True)
    scores = np.rint(features.astype(np.float64) @ texts.numpy().T.astype(np.float64) * 1e6)
    best = np.mean([(row > row[number]).sum() == 0 for number, row in enumerate(scores)])
    assert metrics["de_image_to_text_r1"] == metrics["other_languages_image_to_text_r1"]
    assert metrics["de_image_to_text_r1"] == pytest.approx(best, abs=1 / 30)
