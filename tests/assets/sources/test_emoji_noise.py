from dataclasses import replace
from random import Random

import pytest

from assets.sources.emoji_scenes import noise
from assets.sources.emoji_scenes.claims import true_claims
from assets.sources.emoji_scenes.source import LANGUAGES, EmojiScenes


@pytest.fixture(scope="module")
def claims(emoji_config):
    source = EmojiScenes(emoji_config())
    scenes = (source.scene("train", i) for i in range(100))
    return next(found for scene in scenes if len((found := true_claims(scene, source.concepts, 64)).things) >= 3)


def refuse():
    raise AssertionError("no other scene is wanted")


@pytest.mark.parametrize("seed", range(20))
def test_wrong_count_changes_one_count_and_nothing_else(claims, seed):
    bent = noise.bent_claims("wrong_count", claims, Random(seed), refuse)
    differing = [(a, b) for a, b in zip(claims.things, bent.things, strict=True) if a != b]
    assert len(differing) == 1
    ((before, after),) = differing
    assert after.count != before.count
    assert 1 <= after.count <= 5
    assert replace(after, count=before.count) == before


@pytest.mark.parametrize("seed", range(20))
def test_partial_leaves_something_out_and_keeps_something(claims, seed):
    bent = noise.bent_claims("partial", claims, Random(seed), refuse)
    assert 0 < len(bent.things) < len(claims.things)
    assert all(thing in claims.things for thing in bent.things)


def test_mismatch_speaks_of_the_other_scene(claims):
    other = replace(claims, things=claims.things[:1])
    assert noise.bent_claims("mismatch", claims, Random(0), lambda: other) is other


def test_partial_is_never_drawn_for_one_kind_of_thing(claims):
    single = replace(claims, things=claims.things[:1])
    drawn = {noise.choose_kind(Random(seed), single) for seed in range(200)}
    assert drawn == set(noise.KINDS) - {"partial"}
    assert {noise.choose_kind(Random(seed), claims) for seed in range(200)} == set(noise.KINDS)


@pytest.mark.parametrize("kind", ["generic", "file_name"])
def test_empty_talk_is_there_in_every_language(kind):
    talk = noise.empty_talk(kind, Random(1), LANGUAGES)
    assert set(talk) == {*LANGUAGES, "long"}
    assert all(talk.values())


def test_kinds_that_speak_of_a_scene_have_no_empty_talk():
    assert all(noise.empty_talk(kind, Random(0), LANGUAGES) is None for kind in ("mismatch", "partial", "wrong_count"))


def test_a_mismatched_caption_shares_no_concept_with_the_picture(emoji_config):
    source = EmojiScenes(emoji_config(num_concepts=500, noise_share=1.0))
    names = {concept.localised["ja"]: concept.concept_id for concept in source.concepts}
    checked = 0
    for sample in source.samples("train", 0, 200):
        if sample.metadata["noise"] == "mismatch":
            said = {names.get(part.split("\u00d7")[-1]) for part in sample.metadata["captions"]["ja"].split("\u3001")}
            assert not said & set(sample.concepts)
            checked += 1
    assert checked > 20
