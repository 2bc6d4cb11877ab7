import numpy as np
import pytest

from assets.sources.emoji_scenes import sprites
from assets.sources.emoji_scenes.backgrounds import TEXTURES, draw, paint
from assets.sources.emoji_scenes.colours import COLOUR_NAMES, COLOURS, dominant, lab
from assets.sources.emoji_scenes.concepts import all_concepts, choose, class_ranks, held_out_pairs


@pytest.mark.parametrize(
    "word",
    [
        "flag",
        "o'clock",
        "-thirty",
        "skin tone",
        "heart suit",
        "breast",
        "middle finger",
        "pregnant",
        "bikini",
        "zodiac",
    ],
)
def test_unwanted_names_are_dropped(word):
    assert not [concept.name for concept in all_concepts() if word in concept.name and concept.name != "flag in hole"]


def test_no_concept_carries_a_skin_tone_or_a_gender_variant():
    for concept in all_concepts():
        points = concept.concept_id.split("-")
        assert not {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"} & set(points)
        assert concept.group not in ("people", "smileys") or "200d" not in points


def test_there_are_enough_concepts_in_every_group():
    groups = [concept.group for concept in all_concepts()]
    assert len(groups) > 900
    assert min(groups.count(group) for group in set(groups)) >= 70


def test_a_larger_number_of_concepts_only_appends(emoji_config):
    few, many = choose(emoji_config(num_concepts=20)), choose(emoji_config(num_concepts=50))
    assert many[:20] == few


def test_groups_limit_the_concepts(emoji_config):
    assert {concept.group for concept in choose(emoji_config(groups=("food",)))} == {"food"}


def test_smileys_are_no_classes_and_classes_span_the_ranks(emoji_config):
    concepts = choose(emoji_config(num_concepts=200))
    ranks = class_ranks(concepts, 30)
    assert len(set(ranks)) == 30
    assert ranks[0] < 10
    assert ranks[-1] > 190
    assert all(concepts[rank].group != "smileys" for rank in ranks)
    assert len(class_ranks(concepts, 1000)) == sum(concept.group != "smileys" for concept in concepts)


def test_held_out_pairs_are_symmetric_and_of_the_right_share(emoji_config):
    held = held_out_pairs(choose(emoji_config(num_concepts=400)), 0.1)
    assert (held == held.T).all()
    assert not held.diagonal().any()
    assert held.mean() == pytest.approx(0.1, abs=0.01)
    # independent over pairs: the share of triangles is that of independent draws
    count = np.trace(held.astype(float) @ held @ held) / 6
    assert count == pytest.approx(400**3 / 6 * 0.1**3, rel=0.15)


def test_a_pair_is_held_out_whatever_the_data_set(emoji_config):
    few, many = choose(emoji_config(num_concepts=30)), choose(emoji_config(num_concepts=90, seed=8))
    place = {concept.concept_id: rank for rank, concept in enumerate(many)}
    held_few, held_many = held_out_pairs(few, 0.2), held_out_pairs(many, 0.2)
    common = [(rank, place[concept.concept_id]) for rank, concept in enumerate(few) if concept.concept_id in place]
    assert len(common) > 1
    for a, in_many_a in common:
        for b, in_many_b in common:
            assert held_few[a, b] == held_many[in_many_a, in_many_b]


@pytest.mark.parametrize("colour", COLOUR_NAMES)
def test_a_patch_of_each_colour_gets_its_name(colour):
    assert dominant(np.array([COLOURS[colour]] * 9)) == colour


def test_lab_has_the_known_values_of_the_primaries():
    assert lab(np.array([255, 255, 255])) == pytest.approx([100, 0, 0], abs=0.1)
    assert lab(np.array([255, 0, 0])) == pytest.approx([53.2, 80.1, 67.2], abs=0.2)
    assert lab(np.array([0, 0, 255])) == pytest.approx([32.3, 79.2, -107.9], abs=0.2)


@pytest.mark.parametrize(
    ("concept_id", "colour"), [("1f34b", "yellow"), ("1f345", "red"), ("1f438", "green"), ("1f433", "blue")]
)
def test_sprites_are_named_by_the_colour_one_sees(concept_id, colour):
    for style in sprites.STYLES:
        assert sprites.load(concept_id, style).colour == colour


def test_a_yellow_thing_never_goes_on_yellow():
    lemon = sprites.load("1f34b", "twemoji")
    assert lemon.contrast[COLOUR_NAMES.index("yellow")] < 0.2
    assert lemon.contrast[COLOUR_NAMES.index("blue")] > 0.95


@pytest.mark.slow
def test_sprites_fit_several_background_colours():
    for style in sprites.STYLES:
        for concept in all_concepts()[::3]:
            assert sprites.load(concept.concept_id, style).fit.bit_count() >= 3, concept.name


def test_stamps_are_tight_and_as_long_as_asked():
    for side in (12, 24, 50):
        stamp = sprites.stamp("1f34b", "twemoji", side)
        assert side - 2 <= max(stamp.width, stamp.height) <= side
        alpha = 256 - stamp.clear[..., 0]
        assert min(alpha[0].max(), alpha[-1].max(), alpha[:, 0].max(), alpha[:, -1].max()) >= 24


def test_all_textures_paint_their_colour():
    from random import Random

    seen = set()
    for i in range(60):
        background = draw(Random(i), "teal")
        seen.add(background.texture)
        picture = paint(background, 32)
        assert picture.shape == (32, 32, 3)
        assert np.abs(picture.reshape(-1, 3).mean(axis=0) - COLOURS["teal"]).max() < 40
        assert (picture.std(axis=(0, 1)).max() < 0.1) == (background.texture == "plain")
    assert seen == set(TEXTURES)
