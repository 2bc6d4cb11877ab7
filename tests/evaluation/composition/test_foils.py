import re
from collections import Counter

import pytest

from assets.sources.emoji_scenes import names
from assets.sources.emoji_scenes.config import EmojiScenesConfig, SplitSizes
from assets.sources.emoji_scenes.source import EmojiScenes
from evaluation.composition.foils import FoilMaker, alike, edit
from evaluation.composition.kinds import KINDS
from evaluation.composition.scene import read_scene
from evaluation.samples import ClassFacts

CLASSES = tuple(
    ClassFacts(i, name, f"{name}s", group, 1, "head")
    for i, (name, group) in enumerate(
        [("dog", "animals"), ("owl", "animals"), ("guide dog", "animals"), ("car", "travel"), ("boots", "objects")]
    )
)


def told(*things, background=("striped", "blue")) -> dict:
    """KEY.json of a picture; a thing is (name, box) or (name, box, colour)."""
    objects = [{"name": name, "box": list(box), "colour": (*rest, "")[0]} for name, box, *rest in things]
    counts = dict(Counter(f"id of {item['name']}" for item in objects))
    texture, colour = background
    return {"objects": objects, "counts": counts, "background": {"texture": texture, "colour": colour}}


LEFT, RIGHT, LOW = (0, 0, 20, 20), (30, 4, 60, 24), (2, 40, 22, 60)
DOG_AND_CAR = told(("dog", LEFT, "brown"), ("car", RIGHT, "red"))


def make(kind, caption, metadata, others=(), key="k"):
    scenes = [scene for scene in map(read_scene, (metadata, *others)) if scene]
    return FoilMaker(CLASSES, scenes).make(kind, key, caption, scenes[0])


def test_a_thing_gives_way_to_another_class_of_its_group_whose_name_shares_no_word():
    made = {make("replace_thing", "a dog and a lake", DOG_AND_CAR, key=f"k{i}") for i in range(20)}
    # not "guide dog", which a dog may be, and no other class travels
    assert made == {("a dog and a lake", "an owl and a lake")}
    assert make("replace_thing", "the hound barks", DOG_AND_CAR) is None
    assert make("replace_thing", "a dog chases a dog", DOG_AND_CAR) is None


def test_numbers_only_grow_and_verbs_forbid_it():
    scene = told(("dog", LEFT), ("dog", RIGHT))
    made = {make("replace_number", "Two dogs by a lake", scene, key=f"k{i}").foil for i in range(40)}
    assert made == {f"{number} dogs by a lake" for number in ("Three", "Four", "Five")}
    assert make("replace_number", "there are two dogs here", scene) is None


def test_numbers_are_swapped_with_the_right_articles_and_plurals():
    scene = told(("owl", LEFT), ("owl", RIGHT), ("mouse", LOW))
    caption = "two owls and a mouse on a striped blue background"
    assert make("swap_numbers", caption, scene).foil == "an owl and two mice on a striped blue background"
    assert make("swap_numbers", "a dog and a car", DOG_AND_CAR) is None


def test_backgrounds_change_to_what_other_pictures_have():
    other = told(("owl", LEFT), background=("even", "red"))
    caption = "a dog and a car on a striped blue background"
    assert make("replace_colour", caption, DOG_AND_CAR, [other]).foil == caption.replace("blue", "red")
    assert make("replace_texture", caption, DOG_AND_CAR, [other]).foil == caption.replace("a striped", "an even")
    assert make("replace_colour", caption, DOG_AND_CAR) is None
    assert make("replace_colour", "a dog and a car", DOG_AND_CAR, [other]) is None


def test_colours_and_places_are_swapped_between_things():
    pairs = {make("swap_colours", "", DOG_AND_CAR, key=f"k{i}") for i in range(20)}
    assert ("a brown dog and a red car", "a red dog and a brown car") in pairs and len(pairs) == 2
    places = {make("swap_places", "", DOG_AND_CAR, key=f"k{i}") for i in range(20)}
    assert places == {
        ("the dog is to the left of the car", "the car is to the left of the dog"),
        ("the car is to the right of the dog", "the dog is to the right of the car"),
    }
    above = make("swap_places", "", told(("dog", LEFT), ("boots", LOW)))
    assert above in {
        ("the dog is above the boots", "the boots are above the dog"),
        ("the boots are below the dog", "the dog is below the boots"),
    }
    assert make("swap_places", "", told(("dog", LEFT), ("car", (10, 10, 40, 40)))) is None
    assert make("swap_colours", "", told(("dog", LEFT, "red"), ("car", RIGHT, "red"))) is None
    assert make("swap_colours", "", told(("dog", LEFT, "red"), ("red heart", RIGHT, "pink"))) is None
    assert make("swap_colours", "", told(("dog", LEFT), ("car", RIGHT, "pink"))) is None


def test_without_complete_truth_there_is_no_scene():
    assert read_scene(DOG_AND_CAR).counts == {"dog": 1, "car": 1}
    assert read_scene({**DOG_AND_CAR, "counts": {"a": 2, "b": 1}}) is None
    assert read_scene({"objects": DOG_AND_CAR["objects"]}) is None
    assert read_scene({**DOG_AND_CAR, "objects": [{"name": "dog"}]}) is None
    assert read_scene({**DOG_AND_CAR, "background": "blue"}).background is None


def test_an_edit_wants_each_phrase_once_and_apart():
    assert edit("A dog, a car", {"a dog": "an owl"}) == "An owl, a car"
    assert edit("a dogsled", {"a dog": "an owl"}) is None
    assert edit("a dog and a dog", {"a dog": "an owl"}) is None
    assert edit("a dog house", {"a dog": "x", "dog house": "y"}) is None
    assert edit("a b c", {"a": "c", "c": "a"}) == "c b a"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("soccer ball", "ball", True), ("glasses", "sunglasses", True), ("statue of a cat", "head of garlic", False)],
)
def test_names_that_share_a_word_are_alike(one, other, same):
    assert alike(one, other) == alike(other, one) == same


@pytest.fixture(scope="module")
def emoji():
    """Clean samples of the embedded data set: retrieval splits, and scenes with repeats as train has them."""
    sizes = SplitSizes(
        train=90, test=60, test_style=0, test_pairs=0, zero_shot_per_class=1, zero_shot_style_per_class=0
    )
    source = EmojiScenes(
        EmojiScenesConfig(
            kind="emoji_scenes",
            seed=0,
            image_size=64,
            sizes=sizes,
            num_concepts=60,
            num_classes=40,
            noise_share=0,
            repeat_share=0.9,
            zipf_exponent=0.3,
        )
    )
    classes = tuple(ClassFacts(*info) for info in map(_facts, source.classes({})))
    samples = [*source.samples("test", 0, 60), *source.samples("train", 0, 90)]
    return classes, samples


def _facts(info):
    return info.class_id, info.name, info.plural, info.group, info.train_count, info.frequency


def claims(sentence: str, known: set[str]) -> dict[str, int]:
    """Parse what a sentence counts, without the code under test: longest names first."""
    found = {}
    there = [name for name in known if name in sentence or names.plural(name) in sentence]
    for name in sorted(there, key=len, reverse=True):
        for count in range(1, 9):
            phrase = rf"(?<![\w-]){re.escape(names.counted(name, count))}(?![\w-])"
            if re.search(phrase, sentence):
                found[name] = count
                sentence = re.sub(phrase, "#", sentence)
    return found


def test_foils_of_emoji_scenes_are_false_of_their_pictures_and_cover_every_kind(emoji):
    classes, samples = emoji
    scenes = [read_scene(sample.metadata) for sample in samples]
    assert all(scenes)
    maker = FoilMaker(classes, scenes)
    known = {item.name for scene in scenes for item in scene.objects} | {facts.name for facts in classes}
    made = Counter()
    for sample, scene in zip(samples, scenes, strict=True):
        for kind in KINDS:
            foil = maker.make(kind, sample.key, sample.caption, scene)
            if foil is None:
                continue
            made[kind] += 1
            assert foil.foil != foil.caption
            assert maker.make(kind, sample.key, sample.caption, scene) == foil
            if kind.startswith("swap_") and kind != "swap_numbers":
                assert Counter(re.findall(r"\w+", foil.foil.replace(" an ", " a "))).keys() - {"are", "is", "an"} == (
                    Counter(re.findall(r"\w+", foil.caption.replace(" an ", " a "))).keys() - {"are", "is", "an"}
                )
                continue
            assert foil.caption == sample.caption
            said = claims(foil.foil, known)
            false_thing = any(count > scene.counts.get(name, 0) for name, count in said.items())
            background = f"{scene.background[0]} {scene.background[1]} background"
            false_background = "background" in foil.foil and background not in foil.foil
            assert false_thing != false_background, (foil, scene.counts)
            assert false_background == (kind in ("replace_colour", "replace_texture"))
    assert set(made) == set(KINDS), made
    assert made["replace_thing"] > 75 and made["swap_places"] > 25
