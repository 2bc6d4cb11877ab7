from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from assets.errors import ConfigError, DataError
from assets.index import write_table
from assets.reduction.captions import (
    Kept,
    budgeted_concat,
    clean,
    common_captions,
    concat,
    dropped_because,
    final_captions,
    read_generated,
)
from assets.reduction.config import (
    BudgetedConcatCaptions,
    CaptionFilter,
    ConcatCaptions,
    SampleCaptions,
)

CASE = Path(__file__).resolve().parents[2] / "fixtures" / "tldr" / "case_a.npz"


@pytest.fixture(scope="module")
def case():
    with np.load(CASE, allow_pickle=False) as arrays:
        return {name: arrays[name].tolist() for name in arrays.files if name.startswith("cap_")}


def published_join(case) -> list[list[str]]:
    """Original and generated captions of each annotation, joined as the published script does it."""
    parts = {key.rpartition("_")[2]: [caption] for key, caption in zip(case["cap_key"], case["cap_orig"], strict=True)}
    stems = list(parts)
    for row, text in zip(case["cap_gen_row"], case["cap_gen_text"], strict=True):
        if row < len(stems):
            parts[stems[row]].append(text)
    images = [image.rpartition("/")[2].partition(".")[0] for image in case["cap_ann_image"]]
    assert sum(stem in parts for stem in images) == case["cap_matched"]
    return [parts.get(stem, [own]) for stem, own in zip(images, case["cap_ann_caption"], strict=True)]


def test_appending_equals_the_published_script(case):
    assert [concat(own, generated) for own, *generated in published_join(case)] == case["cap_out"]


@pytest.mark.parametrize("words", [30, 50])
def test_cleaning_equals_the_published_one(case, words):
    assert [clean(text, words) for text in case["cap_out"]] == case[f"cap_norm_{words}"]


NASTY = ["", " ", "\n", "A\tB.C", "a\n b\n", "!!!", "  Two   WORDS ", "\u0130stanbul", "a " * 90, "x.\n"]


@pytest.mark.parametrize("words", [1, 3, 30])
def test_cleaning_twice_is_cleaning_once_and_never_leaves_too_many_words(case, words):
    for text in [*NASTY, *case["cap_out"]]:
        once = clean(text, words)
        assert clean(once, words) == once
        assert len(once.split()) <= words


def test_a_caption_within_the_budget_stays_byte_for_byte():
    assert budgeted_concat("a  b", "c  d", 10, 4) == "a  b; c  d"


@pytest.mark.parametrize(("own", "new"), [(3, 2), (50, 2), (50, 40), (3, 40), (0, 40), (12, 20), (29, 1)])
def test_the_reserved_words_of_a_generated_caption_always_stay(own, new):
    original, generated = (" ".join(f"{name}{n}" for n in range(size)) for name, size in (("o", own), ("g", new)))
    head, _, tail = budgeted_concat(original, generated, 30, 16).rpartition("; ")
    assert len(head.split()) + len(tail.split()) == min(own + new, 30)
    assert tail.split()[: min(16, new)] == generated.split()[: min(16, new)]
    assert original.startswith(head) and len(head.split()) >= min(own, 14)


def kept(originals, generated, sureness=-0.1, worse_by=np.nan) -> Kept:
    number = len(originals)
    keys = [f"k{n}" for n in range(number)]
    return Kept(keys, originals, generated, np.full(number, sureness), np.full(number, worse_by))


def test_a_pair_without_a_generated_caption_keeps_its_own():
    rule = ConcatCaptions(kind="concat")
    final = final_captions(rule, kept(["A dog.", "a cat"], [None, "on a mat"]), frozenset(), 0)
    assert final.captions.to_pylist() == [None, "a cat; on a mat"]
    assert final.outcomes == {"none generated": 1, "used": 1}


def test_cleaned_captions_lose_the_separator_and_differ_even_without_a_generated_one():
    rule = ConcatCaptions(kind="concat", clean_words=4)
    final = final_captions(rule, kept(["A dog.", "a cat"], [None, "on a mat"]), frozenset(), 0)
    assert final.captions.to_pylist() == ["a dog", "a cat on a"]


def test_sampling_draws_each_caption_with_its_probability_whatever_the_company():
    rule = SampleCaptions(kind="sample", p=0.25)
    pairs = kept([f"own {n}" for n in range(4000)], [f"new {n}" for n in range(4000)])
    final = final_captions(rule, pairs, frozenset(), 3)
    assert 0.21 < final.outcomes["original drawn"] / 4000 < 0.29
    part = Kept(pairs.keys[:9], pairs.originals[:9], pairs.generated[:9], pairs.sureness[:9], pairs.worse_by[:9])
    assert final_captions(rule, part, frozenset(), 3).captions.to_pylist() == final.captions.to_pylist()[:9]


def test_the_budgeted_rule_is_what_training_gets():
    rule = BudgetedConcatCaptions(kind="budgeted_concat", words=4, reserve=2)
    final = final_captions(rule, kept(["one two three four"], ["five six seven"]), frozenset(), 0)
    assert final.captions.to_pylist() == ["one two; five six"]


@pytest.mark.parametrize(
    ("limits", "generated", "facts", "why"),
    [
        ({}, "a red apple", {}, ""),
        ({}, None, {}, "none generated"),
        ({}, "  ", {}, "none generated"),
        ({}, "A  dog!", {}, "repeats the original"),
        ({"repeats": False}, "A  dog!", {}, ""),
        ({}, "a thing", {}, "too common"),
        ({"min_log_probability": -1.0}, "a red apple", {"sureness": -1.5}, "captioner unsure"),
        ({"margin": 0.1}, "a red apple", {"worse_by": 0.2}, "scores below the original"),
        ({"margin": 0.1}, "a red apple", {"worse_by": 0.05}, ""),
        ({"margin": 0.1}, "a red apple", {}, ""),
    ],
)
def test_the_filter_says_why_it_drops_a_generated_caption(limits, generated, facts, why):
    known = {"sureness": -0.1, "worse_by": float("nan"), **facts}
    assert dropped_because("a dog", generated, frozenset({"a thing"}), CaptionFilter(**limits), **known) == why


def test_common_captions_are_counted_over_the_whole_pool():
    generated = pa.array(["same"] * 12 + ["rare"] * 10 + [None] * 30 + [f"c{n}" for n in range(5000)])
    assert common_captions(generated, CaptionFilter()) == {"same"}
    assert common_captions(generated, CaptionFilter(common_at_least=9)) == {"same", "rare"}
    assert common_captions(generated, CaptionFilter(most_common_share=0.01)) == frozenset()


def test_generated_captions_are_joined_by_key_and_scores_are_asked_for_only_where_compared(tmp_path):
    table = {"key": ["b", "a", "z"], "caption": ["cb", "ca", "cz"], "mean_log_probability": [-1.0, -2.0, -3.0]}
    write_table(pa.table(table), tmp_path / "captions.parquet")
    rule = ConcatCaptions(kind="concat")
    found = read_generated(tmp_path, pa.array(["a", "b", "c"]), rule)
    assert found.captions.to_pylist() == ["ca", "cb", None]
    assert found.log_probabilities[:2].tolist() == [-2, -1] and np.isnan(found.log_probabilities[2])
    with pytest.raises(ConfigError, match="has no column score"):
        read_generated(tmp_path, pa.array(["a"]), ConcatCaptions(kind="concat", filter=CaptionFilter(margin=0.0)))
    write_table(pa.table({name: [values[0], *values] for name, values in table.items()}), tmp_path / "captions.parquet")
    with pytest.raises(DataError, match="names keys twice"):
        read_generated(tmp_path, pa.array(["a"]), rule)
