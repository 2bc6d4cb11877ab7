import io
import re
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from assets.errors import ConfigError
from assets.section import parse
from assets.sources.emoji_scenes import noise
from assets.sources.emoji_scenes.captions import full
from assets.sources.emoji_scenes.claims import position, true_claims
from assets.sources.emoji_scenes.config import EmojiScenesConfig
from assets.sources.emoji_scenes.render import render
from assets.sources.emoji_scenes.scene import Box, Scene, moved, overlap
from assets.sources.emoji_scenes.source import LANGUAGES, EmojiScenes

TRAIN = 1500


@pytest.fixture(scope="module")
def source(emoji_config):
    return EmojiScenes(emoji_config(sizes={"train": TRAIN}))


@pytest.fixture(scope="module")
def train(source):
    return list(source.samples("train", 0, TRAIN))


def test_sample_i_does_not_depend_on_the_others(source, train, emoji_config):
    fresh = EmojiScenes(emoji_config(sizes={"train": 10}))
    assert next(iter(fresh.samples("train", 777, 778))) == train[777]


def test_another_seed_gives_other_samples(train, emoji_config):
    other = list(EmojiScenes(emoji_config(seed=8)).samples("train", 0, 20))
    assert not {sample.image for sample in other} & {sample.image for sample in train}


def test_keys_are_unique(source, train):
    keys = [sample.key for sample in train]
    for split in source.splits()[1:]:
        keys += [sample.key for sample in source.samples(split.name, 0, split.size)]
    assert len(set(keys)) == len(keys)


def test_held_out_pairs_stand_together_in_test_pairs_only(source, train):
    place = {concept.concept_id: rank for rank, concept in enumerate(source.concepts)}

    def pairs(sample):
        return list(combinations([place[concept] for concept in sample.concepts], 2))

    for sample in [*train, *source.samples("test", 0, 20), *source.samples("test_style", 0, 4)]:
        assert not any(source.held_out[pair] for pair in pairs(sample))
    for sample in source.samples("test_pairs", 0, 20):
        assert [bool(source.held_out[pair]) for pair in pairs(sample)] == [True]


def test_captions_of_train_never_name_a_held_out_pair(source, train):
    # a mismatched caption speaks of another scene, which must obey the rule as well
    names = {concept.localised["de"]: rank for rank, concept in enumerate(source.concepts)}
    for sample in train:
        said = re.split(r", | und ", sample.metadata["captions"]["de"])
        ranks = [names[name] for text in said if (name := re.sub(r"^\d\u00d7", "", text)) in names]
        assert not any(source.held_out[pair] for pair in combinations(ranks, 2))


def test_noise_has_the_planted_share_and_all_kinds(train):
    kinds = Counter(sample.metadata["noise"] for sample in train)
    assert set(kinds) == {None, *noise.KINDS}
    assert 1 - kinds[None] / TRAIN == pytest.approx(0.15, abs=0.035)


def test_duplicates_have_the_planted_share_and_point_at_earlier_originals(train):
    pointers = {sample.key: sample.metadata["duplicate_of"] for sample in train}
    copies = {key: target for key, target in pointers.items() if target}
    assert len(copies) / TRAIN == pytest.approx(0.05, abs=0.025)
    for key, target in copies.items():
        assert target < key
        assert pointers[target] is None


def test_a_duplicate_shows_the_scene_of_its_original_moved_a_little(train):
    by_key = {sample.key: sample for sample in train}
    for copy in (sample for sample in train if sample.metadata["duplicate_of"]):
        original = by_key[copy.metadata["duplicate_of"]]
        move = copy.metadata["moved"]
        assert max(abs(move["dx"]), abs(move["dy"])) <= 2
        assert 0.92 <= move["brightness"] <= 1.06
        assert copy.metadata["background"] == original.metadata["background"]
        for ours, theirs in zip(copy.metadata["objects"], original.metadata["objects"], strict=True):
            dx, dy = move["dx"], move["dy"]
            assert np.subtract(ours["box"], theirs["box"]).tolist() == [dx, dy, dx, dy]


def test_shares_of_zero_plant_nothing(emoji_config):
    clean = EmojiScenes(emoji_config(noise_share=0.0, duplicate_share=0.0))
    for sample in clean.samples("train", 0, 100):
        assert sample.metadata["noise"] is None
        assert sample.metadata["duplicate_of"] is None


def test_evaluation_splits_are_clean(source):
    for split in source.splits()[1:]:
        for sample in source.samples(split.name, 0, split.size):
            assert sample.metadata["noise"] is None
            assert sample.metadata["duplicate_of"] is None
            assert sample.caption == sample.metadata["clean_caption"]


def test_noisy_captions_fail_their_picture_and_clean_ones_do_not(train):
    for sample in train:
        truth, texts = sample.metadata, sample.metadata["captions"]
        names = {item["name"] for item in truth["objects"]}
        if truth["noise"] == "file_name":
            assert re.fullmatch(r"[\w-]+\.\w+", sample.caption)
            assert set(texts.values()) == {sample.caption}
        elif truth["noise"] == "generic":
            assert not any(name in sample.caption for name in names)
            assert texts["long"] == sample.caption
        elif truth["noise"] == "wrong_count":
            assert f"shows {truth['clean_caption'].rpartition(' on a ')[0]}." not in texts["long"]
        elif truth["noise"] is None:
            assert f"shows {truth['clean_caption'].rpartition(' on a ')[0]}." in texts["long"]


def test_captions_hold_every_language_and_a_long_one(train):
    for sample in train[:200]:
        texts = sample.metadata["captions"]
        assert set(texts) == {*LANGUAGES, "long"}
        assert texts["en"] == sample.caption
        assert all(texts.values())
        if sample.metadata["noise"] not in ("generic", "file_name"):
            sentences = re.findall(r"[.](?: |$)", texts["long"].replace("Mrs. ", "Mrs "))
            assert 7 <= len(sentences) <= 10


def test_long_captions_tell_colour_and_place_of_the_first_object(train):
    for sample in (sample for sample in train[:100] if sample.metadata["noise"] is None):
        first = sample.metadata["objects"][0]
        assert f"mainly {first['colour']}" in sample.metadata["captions"]["long"]
        assert first["position"] in sample.metadata["captions"]["long"]
        assert f"a {sample.metadata['background']['colour']} background" in sample.metadata["captions"]["long"]


def test_test_captions_are_nearly_all_distinct(emoji_config):
    source = EmojiScenes(emoji_config(num_concepts=300, sizes={"test": 500}))
    captions = [sample.caption for sample in source.samples("test", 0, 500)]
    assert len(set(captions)) >= 498


def test_boxes_are_tight_around_the_pixels_that_changed(source):
    for i in range(60):
        scene = source.scene("train", i)
        empty = Scene(scene.style, (), scene.background, 1.0)
        bare = render(empty, source.concepts, 64).astype(int)
        for placed in scene.objects:
            alone = render(Scene(scene.style, (placed,), scene.background, 1.0), source.concepts, 64).astype(int)
            changed = np.abs(alone - bare).max(axis=-1) > 0
            rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
            seen = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            # a pixel of slack where the rim of the drawing happens to have the background's colour
            assert np.abs(np.subtract(seen, placed.box)).max() <= 2
            assert seen[0] >= placed.box.x0
            assert seen[2] <= placed.box.x1


def test_pictures_have_the_size_asked_for_and_boxes_lie_inside(emoji_config):
    for side in (32, 64, 100):
        source = EmojiScenes(emoji_config(image_size=side))
        for sample in source.samples("train", 0, 40):
            assert Image.open(io.BytesIO(sample.image)).size == (side, side)
            for item in sample.metadata["objects"]:
                x0, y0, x1, y1 = item["box"]
                assert 0 <= x0 < x1 <= side
                assert 0 <= y0 < y1 <= side


def test_sprites_stand_out_from_their_background(train):
    contrasts = [sample.metadata["contrast"] for sample in train]
    assert min(contrasts) >= 0.5
    assert np.mean(np.array(contrasts) < 0.7) < 0.02


def test_objects_hardly_overlap(source):
    for i in range(200):
        boxes = [placed.box for placed in source.scene("train", i).objects]
        assert all(overlap(a, b) <= 0.15 for a, b in combinations(boxes, 2))


def test_counts_exist_and_frequencies_follow_zipf(source, train):
    assert np.mean([max(sample.metadata["counts"].values()) > 1 for sample in train]) > 0.1
    seen = Counter(concept for sample in train for concept in sample.concepts)
    first, tenth = (seen[source.concepts[rank].concept_id] for rank in (0, 9))
    assert first > 4 * tenth


def test_zero_shot_is_balanced_and_shows_its_class(source):
    classes = source.classes({})
    samples = list(source.samples("zero_shot", 0, 12))
    assert Counter(sample.metadata["class_id"] for sample in samples) == dict.fromkeys(range(6), 2)
    for sample in samples:
        assert [item["name"] for item in sample.metadata["objects"]] == [classes[sample.metadata["class_id"]].name]


def test_classes_are_ranked_in_thirds_by_their_train_counts(source):
    counts = {source.concepts[rank].concept_id: 1000 - rank for rank in range(60)}
    classes = source.classes(counts)
    assert [entry.frequency for entry in classes] == ["head"] * 2 + ["mid"] * 2 + ["tail"] * 2
    assert [entry.train_count for entry in classes] == sorted((entry.train_count for entry in classes), reverse=True)
    assert all(entry.group != "smileys" for entry in classes)


def test_held_out_style_is_seen_in_its_splits_only(source, train):
    assert {sample.metadata["style"] for sample in train} == {"twemoji"}
    assert {sample.metadata["style"] for sample in source.samples("test_style", 0, 4)} == {"openmoji"}
    assert {sample.metadata["style"] for sample in source.samples("zero_shot_style", 0, 4)} == {"openmoji"}


def test_licence_names_only_the_art_that_is_used(emoji_config):
    without = EmojiScenes(emoji_config(sizes={"test_style": 0, "zero_shot_style_per_class": 0}))
    assert "SA" not in without.about().licence
    assert "OpenMoji" not in " ".join(without.about().attribution)
    assert "CC-BY-SA" in EmojiScenes(emoji_config()).about().licence


def test_splits_of_size_zero_are_left_out(emoji_config):
    source = EmojiScenes(emoji_config(sizes={"test": 0, "test_style": 0}))
    assert [split.name for split in source.splits()] == ["train", "test_pairs", "zero_shot", "zero_shot_style"]


def test_positions_are_the_ninths_of_the_picture():
    assert position(Box(0, 0, 10, 10), 60) == "top left"
    assert position(Box(25, 25, 35, 35), 60) == "centre"
    assert position(Box(50, 25, 60, 35), 60) == "right"
    assert position(Box(25, 50, 35, 60), 60) == "bottom"


def test_overlap_is_the_share_of_the_smaller_box():
    assert overlap(Box(0, 0, 10, 10), Box(5, 5, 25, 25)) == 0.25
    assert overlap(Box(0, 0, 10, 10), Box(10, 0, 20, 10)) == 0.0


def test_moving_a_scene_moves_its_boxes(source):
    scene = source.scene("train", 3)
    there_and_back = moved(moved(scene, 2, -1), -2, 1)
    assert there_and_back == scene
    assert full(true_claims(there_and_back, source.concepts, 64)) == full(true_claims(scene, source.concepts, 64))


def test_a_config_that_trains_on_the_held_out_style_is_refused(emoji_config):
    data = emoji_config().model_dump(mode="json") | {"train_styles": ["twemoji", "openmoji"]}
    with pytest.raises(ConfigError, match="held_out_style is among train_styles"):
        parse(EmojiScenesConfig, data, "params.yaml: datasets.emoji.source")


def test_too_few_concepts_for_a_held_out_pair_are_refused(emoji_config):
    with pytest.raises(ConfigError, match="no held-out pair"):
        EmojiScenes(emoji_config(num_concepts=4, held_out_pair_share=1e-9))
