import numpy as np
import pyarrow as pa
import pytest

from assets.errors import DataError
from assets.sources.emoji_scenes.source import EmojiScenes
from assets.validation import duplicates
from assets.validation.config import DuplicateRules
from assets.validation.duplicates import (
    REASONS,
    Hashes,
    Rows,
    find_duplicates,
    hash_numbers,
    near,
    near_pairs,
    repeated,
    same,
    shared,
)
from assets.validation.resemblance import distances
from assets.validation.scan import measure
from assets.validation.signature import signature
from assets.validation.traits import Traits, traits_of


def numbers(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint64)


def listed(matches) -> dict[int, int]:
    return dict(zip(matches.rows.tolist(), matches.partners.tolist(), strict=True))


def pictures(count: int) -> np.ndarray:
    """Signatures of unlike soft pictures, uint8 [count, 972]."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return np.stack([signature(np.kron(grid, np.ones((16, 16, 1), np.uint8))) for grid in coarse])


class Held:
    """Pictures whose signatures are held in memory."""

    def __init__(self, signatures: np.ndarray) -> None:
        self._signatures = signatures

    def traits(self, rows: np.ndarray) -> Traits:
        return traits_of(self._signatures[rows])

    def signatures(self, rows: np.ndarray) -> np.ndarray:
        return self._signatures[rows]


def find(image: np.ndarray, signatures: np.ndarray, train: np.ndarray, evaluation: np.ndarray, rules: DuplicateRules):
    hashes = Hashes(image, image, Held(signatures))
    found = find_duplicates(hashes, Rows(train, evaluation), rules, 0)
    return {reason: listed(matches) for reason, matches in found.items()}


ALL = DuplicateRules(exact=True, near=True, evaluation=True, max_distance=0.06)
NONE = np.array([], dtype=np.int64)


def test_hashes_become_numbers_and_nonsense_is_refused():
    assert hash_numbers(pa.array(["00000000000000ff", ""]), "x").tolist() == [255, 0]
    with pytest.raises(DataError, match="image_hash"):
        hash_numbers(pa.array(["xyz"]), "image_hash")


def test_the_first_of_equal_images_stays():
    assert listed(same(numbers(7, 5, 7, 7, 5, 9), np.array([0, 1, 2, 3, 4, 5]))) == {2: 0, 3: 0, 4: 1}


def test_rows_that_are_no_candidates_displace_nobody():
    assert listed(same(numbers(7, 7, 7), np.array([1, 2]))) == {2: 1}


def test_images_shared_with_the_evaluation_name_their_twin():
    assert listed(shared(numbers(1, 2, 3, 3, 9), np.array([0, 1, 2]), np.array([3, 4]))) == {2: 3}
    assert listed(shared(numbers(1, 2), np.array([0, 1]), np.array([], dtype=np.int64))) == {}


def test_captions_repeated_beyond_the_limit_go_altogether():
    captions = numbers(4, 4, 4, 6, 6)
    assert listed(repeated(captions, np.arange(5), 2)) == {0: 0, 1: 0, 2: 0}
    assert listed(repeated(captions, np.arange(5), 0)) == {}


def test_near_duplicates_do_not_chain():
    pairs = np.array([[0, 1], [1, 2]])
    assert listed(near(pairs, np.arange(3))) == {1: 0}  # row 2 is near row 1 alone, which is gone


def test_near_pairs_equal_an_all_pairs_search_among_few():
    grid, taken = pictures(20), np.arange(40)
    signatures = np.concatenate([grid, np.rint(grid * 0.95).astype(np.uint8)])
    first, second = np.array([(a, b) for b in range(40) for a in range(b)]).T
    close = distances(signatures, first, second) <= ALL.max_distance
    wanted = np.stack([first, second], axis=1)[close].tolist()
    assert near_pairs(Held(signatures), taken, 0, ALL).tolist() == wanted
    assert wanted == [[row, row + 20] for row in range(20)]


def test_many_pairs_are_looked_at_in_parts(monkeypatch):
    signatures = np.repeat(pictures(3), 4, axis=0)
    whole = near_pairs(Held(signatures), np.arange(12), 0, ALL)
    monkeypatch.setattr(duplicates, "_PAIRS_AT_ONCE", 2)
    assert np.array_equal(near_pairs(Held(signatures), np.arange(12), 0, ALL), whole)
    assert len(whole) == 3 * 6


def test_few_or_no_candidates_are_no_problem():
    for rows in (NONE, np.array([0])):
        assert find(numbers(5), pictures(1), rows, NONE, ALL) == {reason: {} for reason in REASONS[1:]}


def test_rules_apply_in_order_and_each_row_gets_one_reason():
    a, b, c = pictures(3)
    darker = (a * 0.95).astype(np.uint8)
    signatures = np.stack([a, a, darker, b, c, c, b])
    found = find(numbers(1, 1, 2, 3, 4, 4, 5), signatures, np.arange(5), np.array([5, 6]), ALL)
    assert found == {
        "in_evaluation": {4: 5},
        "near_evaluation": {3: 6},
        "duplicate_image": {1: 0},
        "near_duplicate": {2: 0},
    }


def test_evaluation_alone_compares_training_with_it_and_not_with_itself():
    rules = ALL.model_copy(update={"near": False, "exact": False})
    a, b = pictures(2)
    found = find(np.arange(5, dtype=np.uint64), np.stack([a, a, b, b, b]), np.arange(3), np.array([3, 4]), rules)
    assert found == {"in_evaluation": {}, "near_evaluation": {2: 3}}


def test_switched_off_rules_do_not_run():
    off = DuplicateRules(exact=False, near=False, evaluation=False, max_distance=0)
    assert find(numbers(1, 1), np.repeat(pictures(1), 2, axis=0), np.arange(2), NONE, off) == {}


@pytest.mark.slow
def test_planted_near_duplicates_are_found_and_others_left_alone(emoji_config):
    config = emoji_config(
        sizes={"train": 1500}, num_concepts=800, num_classes=200, duplicate_share=0.2, zipf_exponent=0.7, seed=3
    )
    samples = list(EmojiScenes(config).samples("train", 0, 1500))
    planted = np.array([sample.metadata["duplicate_of"] is not None for sample in samples])
    signatures = np.zeros((1500, 972), np.uint8)
    for sample, small in zip(samples, signatures, strict=True):
        measure(sample.image, small)
    pairs = near_pairs(Held(signatures), np.arange(1500), 0, ALL)
    rejected = np.isin(np.arange(1500), near(pairs, np.arange(1500)).rows)
    assert planted.sum() > 250
    assert rejected[planted].mean() >= 0.95
    assert rejected[~planted].mean() <= 0.01
