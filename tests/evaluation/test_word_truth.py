from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from assets.language.lexicon import Lexicon
from evaluation.features import Features, SplitFeatures
from evaluation.intervals import Bootstrap
from evaluation.results import is_score
from evaluation.retrieval import Pairs, rank_pairs
from evaluation.true_words import WordForms, words_in
from evaluation.word_measures import (
    chance_of_one,
    cut_rows,
    mass_share,
    mean_overlap,
    overuse,
    recalls_at_one,
    scores,
    strongest,
    usage,
)
from evaluation.word_truth import Words, WordsConfig
from evaluation.words.cut import CutConfig

CASE = np.load(Path("tests/fixtures/lexvla/case_a.npz"))
WORDS = ("cup", "hat", "Red", "two", "left", "grainy", "ing", "owl", "the", "zebra", "ant", "bee")
PLACE = {word.casefold(): place for place, word in enumerate(WORDS)}


def vector(**weights: float) -> np.ndarray:
    """A unit vector over the words, the unnamed ones far below average."""
    found = np.full(len(WORDS), 1e-3)
    for word, weight in weights.items():
        found[PLACE[word]] = weight
    return (found / np.linalg.norm(found)).astype(np.float32)


@pytest.fixture(scope="module")
def forms() -> WordForms:
    return WordForms()


def test_cut_vectors_search_as_in_the_published_case():
    images, texts = (cut_rows(CASE[name], CutConfig()) for name in ("ret_img", "ret_txt"))
    assert images.getnnz(axis=1).tolist() == CASE["ret_thr_nnz_img"].tolist()
    for found, sparsity in ((images, "ret_thr_sparsity_img"), (texts, "ret_thr_sparsity_txt")):
        share = usage(found).active.sum() / (found.shape[0] * found.shape[1])
        assert 1 - share == pytest.approx(float(CASE[sparsity]), abs=1e-6)
    by_text = scores(texts, images)
    assert np.argsort(-by_text, axis=1, kind="stable")[:, :5].tolist() == CASE["ret_thr_t2i_top5"].tolist()
    assert by_text[0, 0] * 1e-6 == pytest.approx(float(CASE["ret_thr_score_00"]), abs=1e-6)
    # in the case every picture stands once, whichever of its two captions asks
    first = recalls_at_one(images, texts[np.arange(0, 60, 2)], np.arange(30))
    second = recalls_at_one(images, texts[np.arange(1, 60, 2)], np.arange(30))
    mean = (first[:, 1].mean() + second[:, 1].mean()) / 2
    assert mean == pytest.approx(float(CASE["ret_thr_t2i_R"][0]), abs=1e-6)


def test_vectors_that_are_not_cut_search_as_the_evaluator_retrieval_does():
    rng = np.random.default_rng(0)
    images, texts = (rng.random((n, 9)).astype(np.float32) for n in (40, 25))
    images, texts = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (images, texts))
    rows = rng.integers(0, 25, 40)
    pairs = Pairs(images, texts, rows, np.arange(25))
    wanted = np.stack([rank_pairs(pairs, way).hits[:, 0] for way in (True, False)], axis=1)
    assert recalls_at_one(csr_matrix(images), csr_matrix(texts), rows) == pytest.approx(wanted)


def test_empty_vectors_search_by_chance():
    nothing = csr_matrix((10, 4), dtype=np.float32)
    assert recalls_at_one(nothing, nothing, np.arange(10)) == pytest.approx(np.full((10, 2), 0.1))


def test_penalties_agree_with_the_published_case_and_its_table():
    assert overuse(CASE["pen_S"]) == pytest.approx(float(CASE["pen_overuse"]), abs=1e-10)
    assert mean_overlap(CASE["pen_S"]) == pytest.approx(float(CASE["pen_flops"]), abs=1e-10)
    one_word = np.tile(np.eye(1, 8), (5, 1))
    assert (overuse(one_word), mean_overlap(one_word)) == pytest.approx((8, 1))
    assert (overuse(np.eye(8)), mean_overlap(np.eye(8))) == pytest.approx((1 / 8, 1 / 8))
    assert overuse(np.zeros((3, 4))) == 0.0


def test_usage_counts_words_and_their_mass():
    used = usage(csr_matrix(np.array([[0.6, 0, 0.8], [0, 0, 0.5]])))
    assert used.active.tolist() == [1, 0, 2]
    assert used.weights == pytest.approx([0.6, 0, 1.3])
    assert mass_share(used, np.array([True, True, False])) == pytest.approx(0.36 / 1.25)
    assert mass_share(usage(csr_matrix((2, 3))), np.ones(3, dtype=bool)) == 0.0


def test_the_strongest_of_equal_words_is_the_first():
    assert strongest(np.array([[0.1, 0.5, 0.5, 0.2]], dtype=np.float32), 3).tolist() == [[1, 2, 3]]


def test_the_chance_of_one_word_is_that_of_drawing_it():
    rng = np.random.default_rng(0)
    draws = [bool({0, 1} & set(rng.permutation(9)[:3].tolist())) for _ in range(4000)]
    assert chance_of_one(2, 3, 9) == pytest.approx(np.mean(draws), abs=0.03)
    assert (chance_of_one(1, 3, 9), chance_of_one(4, 0, 9), chance_of_one(2, 9, 9)) == pytest.approx((1 / 3, 0, 1))


def test_words_of_a_text_are_those_between_marks():
    assert words_in("Two RED cups, a cat's hat; 3 x_y") == ["two", "red", "cups", "a", "cat's", "hat", "x", "y"]


def test_singular_and_plural_are_forms_of_each_other(forms):
    for one, many in (("ball", "balls"), ("cherry", "cherries"), ("knife", "knives"), ("person", "people")):
        assert forms.forms(one) == forms.forms(many) == {one, many}
    assert "bu" not in forms.forms("bus") and "buses" in forms.forms("bus")
    assert forms.of_head("soccer ball") == {"ball", "balls"}
    assert "of" not in forms.of_name("statue of liberty")


def test_what_is_true_of_a_picture_comes_from_all_of_its_facts(forms):
    told = {
        "objects": [{"name": "soccer ball", "box": [0, 0, 1, 1], "colour": "red", "position": "top left"}],
        "counts": {"17": 2, "18": 1},
        "background": {"colour": "light blue", "texture": "grainy"},
        "clean_caption": "two soccer balls on the left of a grainy blue background",
    }
    true = forms.of_picture(told)
    assert {"soccer", "ball", "balls", "red", "light", "blue", "grainy", "two", "left"} <= true
    assert not {"top", "one", "three", "background", "of"} & true
    assert forms.of_picture({"counts": [1], "background": "blue", "clean_caption": 3}) == frozenset()


def picture(name: str, **more) -> dict:
    return {"objects": [{"name": name, "box": [0, 0, 8, 8], "colour": "red"}], **more}


def hand_made(lexicon=True, metadata=None) -> Features:
    images = np.stack([vector(cup=0.8, red=0.5, ing=0.3), vector(hat=0.9, owl=0.4), vector(zebra=0.9, ing=0.4)])
    texts = ["red cups", "the hat"]
    rows = np.array([0, 1, 1])
    text_features = np.stack([vector(cup=0.7, red=0.6, bee=0.3), vector(hat=0.8, the=0.5, ant=0.3)])
    told = [picture("cup"), picture("soccer hat"), picture("pagoda")] if metadata is None else metadata

    class Side:
        def __init__(self):
            counts = tuple(0 if word == "ing" else 5 for word in WORDS)
            codebook = np.zeros((len(WORDS), 2), dtype=np.float32)
            words = Lexicon(WORDS, tuple(range(len(WORDS))), codebook, 1.0, counts, {})
            self.lexicon = words if lexicon else None

        def encode(self, captions, query="caption"):
            raise AssertionError("everything is encoded already")

        def count_cut(self, captions, query="caption"):
            return 0

    split = SplitFeatures(
        "test", "retrieval", "in_domain", ["a", "b", "c"], images, None, texts, text_features, rows, metadata=told
    )
    return Features((split,), (), Side())


def run(found: Features, **config):
    return Words(WordsConfig(**config), Bootstrap(50, 0)).run(found)


def test_a_hand_made_case_gives_every_metric():
    result = run(hand_made())
    metrics = result.metrics["in_domain"]
    # true words: cup and red; hat and red (soccer is no word of the model); red alone. Ties: lower number first
    strong = [
        {"cup", "red", "ing", "hat", "two"},
        {"hat", "owl", "cup", "red", "two"},
        {"zebra", "ing", "cup", "hat", "red"},
    ]
    true = [{"cup", "red"}, {"hat", "red"}, {"red"}]
    shares = [len(a & b) / 5 for a, b in zip(strong, true, strict=True)]
    assert metrics["word_precision_5"] == pytest.approx(np.mean(shares))
    assert metrics["chance_word_precision_5"] == pytest.approx(5 / 3 / 12)
    assert metrics["object_precision_5"] == pytest.approx(np.mean([1 / 5, 1 / 5, 0]))
    assert metrics["chance_object_precision_5"] == pytest.approx(2 / 3 / 12)
    assert (metrics["num_objects"], metrics["num_objects_known"]) == (3, 2)
    assert metrics["object_recall"] == metrics["object_recall_10"] == 1.0
    assert metrics["chance_object_recall"] == pytest.approx((3 + 2 + 2) / 3 / 12)
    assert metrics["chance_object_recall_10"] == pytest.approx(10 / 12)
    # "red cups" names two of its three words, "the hat" two of three
    assert metrics["caption_precision_3"] == pytest.approx(2 / 3)
    assert metrics["num_active_image"] == 2.3 and metrics["num_active_text"] == 3.0
    assert metrics["num_top_word_share_image"] == pytest.approx(2 / 3)
    assert metrics["num_top_word_share_text"] == 0.5
    assert metrics["num_junk_share_text"] == 0.0 < metrics["num_junk_share_image"] < 0.2
    assert (metrics["num_pairs"], metrics["chance_r1"], metrics["num_words"]) == (3, 1 / 3, 12)
    # two pictures share the caption "the hat"; the zebra has no word of any caption, and all three tie for it
    assert metrics["image_to_text_r1"] == pytest.approx((1 + 0.5 + 1 / 3) / 3)
    assert metrics["text_to_image_r1"] == pytest.approx(2 / 3)
    assert set(result.intervals["in_domain"]) == {name for name in metrics if is_score(f"words.in_domain.{name}")}
    for name, (low, high) in result.intervals["in_domain"].items():
        assert 0 <= low <= metrics[name] <= high <= 1, name


def test_the_table_and_the_document_tell_the_words():
    result = run(hand_made(), examples=2)
    rows = [row for row in result.tables["active_words"] if row["side"] == "image"]
    assert [row["rank"] for row in rows] == list(range(1, 7))  # the others are active nowhere
    first = rows[0]
    assert (first["word"], first["share"], first["train_captions"], first["caption_share"]) == ("ing", 2 / 3, 0, 0.0)
    cup = next(row for row in rows if row["word"] == "cup")
    assert (cup["share"], cup["caption_share"]) == (1 / 3, 0.5)
    assert cup["mean_weight"] == pytest.approx(0.8 / np.sqrt(0.98), abs=1e-3)
    examples = result.documents["words"]["suites"]["in_domain"]
    assert len(examples) == 2
    told = {example["key"]: example for example in run(hand_made()).documents["words"]["suites"]["in_domain"]}
    assert [(word["word"], word["true"]) for word in told["a"]["words"][:3]] == [
        ("cup", True), ("Red", True), ("ing", False),
    ]  # fmt: skip
    assert told["b"]["true"] == ["hat", "hats", "red", "reds", "soccer", "soccers"]


def test_at_most_one_word_finds_what_one_word_tells():
    metrics = run(hand_made(), at_most=1).metrics["in_domain"]
    # cup finds its caption, hat its own twice over, and zebra is in no caption: three captions tie for it
    assert metrics["image_to_text_at_most_r1"] == pytest.approx((1 + 0.5 + 1 / 3) / 3)
    assert metrics["text_to_image_at_most_r1"] == pytest.approx((1 + 1 + 0) / 3)


def test_pictures_without_objects_are_searched_and_noted():
    result = run(hand_made(metadata=[{}, {}, {}]))
    metrics = result.metrics["in_domain"]
    assert "image_to_text_r1" in metrics and "word_precision_5" not in metrics
    assert "no picture of split test has objects" in result.notes[0]


def test_a_model_whose_dimensions_are_no_words_is_noted():
    result = run(hand_made(lexicon=False))
    assert not result.metrics and not result.tables and "are no words" in result.notes[0]
