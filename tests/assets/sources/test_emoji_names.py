import inflect
import pytest

from assets.sources.emoji_scenes import names
from assets.sources.emoji_scenes.concepts import all_concepts

# Where dictionaries allow both, or inflect errs on "DVD".
BOTH_ARE_RIGHT = {
    "burrito", "dango", "fried shrimp", "DVD", "moai", "shrimp", "squid", "dodo", "flamingo", "bison", "banjo",
    "skull and crossbones",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "one", "two"),
    [
        ("red apple", "a red apple", "two red apples"),
        ("cherries", "some cherries", "two sets of cherries"),
        ("glasses", "some glasses", "two pairs of glasses"),
        ("bacon", "some bacon", "two pieces of bacon"),
        ("octopus", "an octopus", "two octopuses"),
        ("wine glass", "a wine glass", "two wine glasses"),
        ("person juggling", "a person juggling", "two people juggling"),
        ("house with garden", "a house with garden", "two houses with garden"),
        ("bow and arrow", "a bow and arrow", "two bows and arrows"),
        ("glass of milk", "a glass of milk", "two glasses of milk"),
        ("woman dancing", "a woman dancing", "two women dancing"),
        ("kitchen knife", "a kitchen knife", "two kitchen knives"),
        ("computer mouse", "a computer mouse", "two computer mice"),
        ("wedding ring", "a wedding ring", "two wedding rings"),
        ("unicorn", "a unicorn", "two unicorns"),
        ("hourglass", "an hourglass", "two hourglasses"),
        ("X-ray picture", "an X-ray picture", "two X-ray pictures"),
    ],
)
def test_names_are_counted_as_english_does(name, one, two):
    assert names.counted(name, 1) == one
    assert names.counted(name, 2) == two


@pytest.mark.slow
def test_articles_and_plurals_agree_with_inflect_over_all_concepts():
    engine = inflect.engine()
    for concept in all_concepts():
        name = concept.name
        assert engine.a(name) == f"{names.article(name)} {name}"
        if name in BOTH_ARE_RIGHT or names.is_mass(name) or names.is_plural(name):
            continue
        if " " not in name:
            assert concept.plural == engine.plural_noun(name)


def test_no_name_is_inflected_twice():
    for concept in all_concepts():
        many = names.counted(concept.name, 2)
        assert not many.endswith(("ss", "sses's", "ieses")) or concept.name.endswith("ss"), many
        assert many.startswith("two ")
        if names.is_plural(concept.name):
            assert concept.plural == concept.name


def test_names_are_unique_and_clean():
    found = [concept.name for concept in all_concepts()]
    assert len(set(found)) == len(found)
    for name in found:
        assert not set(name) & set(":_\u2019\u201c\u201d,.") or name.startswith("Mrs. "), name


def test_lists_follow_the_rules_of_each_language():
    assert names.join(["A", "B", "C"]) == "A, B, and C"
    assert names.join(["A", "B", "C"], "de") == "A, B und C"
    assert names.join(["A", "B"], "es") == "A y B"
    assert names.join(["A", "B", "C"], "ja") == "A\u3001B\u3001C"
    assert names.join(["A"], "zh") == "A"


def test_every_concept_has_a_name_in_every_language():
    for concept in all_concepts():
        assert set(concept.localised) == set(names.LANGUAGES)
        assert all(concept.localised.values())
