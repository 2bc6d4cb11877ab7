"""What must hold of a real language model; the same is shown exactly on a toy one elsewhere."""

import numpy as np
import pytest

from assets.language.facet_encoder import FacetEncoder
from assets.language.prompts import prompt_set
from assets.unit import unit

pytestmark = pytest.mark.slow

PARAPHRASES = [
    ("A dog chases a ball on the beach.", "By the sea, a puppy runs after its toy."),
    ("A chef cuts vegetables in a kitchen.", "The cook is chopping carrots at the counter."),
    ("Two children build a snowman.", "Kids shape a figure out of snow."),
    ("An old man reads the newspaper.", "A grandfather looks at the morning news."),
    ("A red car is parked in the street.", "Beside the kerb stands a scarlet automobile."),
    ("The plane takes off at sunset.", "A jet leaves the runway in the evening light."),
    ("A cat sleeps on a sofa.", "The kitten is napping on the couch."),
    ("People wait for the train.", "Passengers stand on the railway platform."),
    ("A bowl of fresh fruit.", "Apples and bananas in a dish."),
    ("A doctor examines a patient.", "The physician checks on a sick person in hospital."),
]
FACETS = ["overall", "atmosphere"]


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (unit(one) * unit(other)).sum(axis=-1)


def test_one_pass_equals_a_pass_per_facet_whatever_the_batch_mates(smollm2):
    captions = ["A dog.", "\U0001f34e 一只苹果", "كلب يجري", ""]
    wanted = FacetEncoder(smollm2, prompt_set("brief"), strategy="separate", tokens_per_batch=1)
    alone = wanted.encode(captions, "short", FACETS)
    assert np.isfinite(alone).all() and len(np.unique(alone[:, 0, 0])) == len(captions)
    mate = "The picture shows many things. " * 12
    for strategy in ("mask", "kv"):
        encoder = FacetEncoder(smollm2, prompt_set("brief"), strategy=strategy, tokens_per_batch=10_000)
        rows = encoder.encode([*captions, mate], "short", FACETS)[: len(captions)]
        assert np.abs(rows - alone).max() <= 1e-3
        assert cosines(rows, alone).min() >= 0.99999


def test_facets_do_not_see_each_other(smollm2):
    prompts = prompt_set("brief")
    other = prompts.facets[1].model_copy(update={"text": ' another question in one word:"'})
    changed = prompts.model_copy(update={"facets": (prompts.facets[0], other, *prompts.facets[2:])})
    before, after = (
        FacetEncoder(smollm2, prompts).encode(["A dog chases a ball.", "A cat."], "short")[:, :3]
        for prompts in (prompts, changed)
    )
    assert cosines(before[:, ::2], after[:, ::2]).min() >= 0.99999
    assert cosines(before[:, 1], after[:, 1]).max() < 0.99


@pytest.mark.parametrize("name", ["full", "brief"])
def test_captions_of_the_same_meaning_are_nearest_to_each_other(smollm2, name):
    captions = [caption for pair in PARAPHRASES for caption in pair]
    rows = unit(FacetEncoder(smollm2, prompt_set(name)).encode(captions, "short", ["overall"])[:, 0])
    centred = unit(rows - rows.mean(axis=0))
    similar = centred @ centred.T - 2 * np.eye(len(captions), dtype=np.float32)
    assert np.mean(similar.argmax(axis=1) == np.arange(len(captions)) ^ 1) >= 0.9  # chance is 1 in 19
