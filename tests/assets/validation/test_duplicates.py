import numpy as np
import pyarrow as pa
import pytest

from assets.errors import DataError
from assets.validation.config import DuplicateRules
from assets.validation.duplicates import (
    Hashes,
    close_pairs,
    find_duplicates,
    hash_numbers,
    near,
    repeated,
    same,
    shared,
)


def numbers(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint64)


def listed(matches) -> dict[int, int]:
    return dict(zip(matches.rows.tolist(), matches.partners.tolist(), strict=True))


ALL = DuplicateRules(exact=True, near=True, max_distance=1, evaluation=True, min_hash_bits=0)


def test_hashes_become_numbers_and_nonsense_is_refused():
    assert hash_numbers(pa.array(["00000000000000ff", ""]), "x").tolist() == [255, 0]
    with pytest.raises(DataError, match="perceptual_hash"):
        hash_numbers(pa.array(["xyz"]), "perceptual_hash")


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


@pytest.mark.parametrize("distance", [0, 1, 2, 3])
def test_close_pairs_equal_an_all_pairs_search(distance):
    rng = np.random.default_rng(distance)
    base = rng.integers(0, 2**63, 60, dtype=np.uint64)
    flips = np.uint64(1) << rng.integers(0, 64, (3, 60), dtype=np.uint64)
    hashes = np.concatenate([base, base ^ flips[0], base ^ flips[0] ^ flips[1], base ^ flips[0] ^ flips[1] ^ flips[2]])
    wanted = sorted(
        (later, earlier)
        for later in range(len(hashes))
        for earlier in range(later)
        if int(hashes[later] ^ hashes[earlier]).bit_count() <= distance
    )
    assert [(b, a) for a, b in close_pairs(hashes, distance).tolist()] == wanted


def test_near_duplicates_do_not_chain():
    hashes = numbers(0b0000, 0b0001, 0b0011)
    assert listed(near(hashes, np.arange(3), 1)) == {1: 0}  # row 2 is close to row 1 alone, which is gone


def test_few_or_no_candidates_are_no_problem():
    none = np.array([], dtype=np.int64)
    for rows in (none, np.array([0])):
        assert listed(near(numbers(5), rows, 2)) == listed(same(numbers(5), rows)) == {}


def test_rules_apply_in_order_and_each_row_gets_one_reason():
    image, perceptual = numbers(1, 1, 2, 3, 4, 4), numbers(8, 8, 9, 200, 200, 200)
    found = find_duplicates(Hashes(image, perceptual, image), np.array([0, 1, 2, 3, 4]), np.array([5]), ALL, 0)
    assert {reason: matches.rows.tolist() for reason, matches in found.items()} == {
        "in_evaluation": [4],
        "near_evaluation": [3],
        "duplicate_image": [1],
        "near_duplicate": [2],
    }


def test_flat_images_match_nothing_by_perceptual_hash():
    rules = ALL.model_copy(update={"min_hash_bits": 3})
    hashes = Hashes(numbers(1, 2, 3), numbers(0, 0, 0b111), numbers(1, 2, 3))
    found = find_duplicates(hashes, np.arange(2), np.array([2]), rules, 0)
    assert all(not len(matches.rows) for matches in found.values())


def test_switched_off_rules_do_not_run():
    off = DuplicateRules(exact=False, near=False, max_distance=0, evaluation=False, min_hash_bits=0)
    same_everywhere = Hashes(numbers(1, 1), numbers(1, 1), numbers(1, 1))
    assert find_duplicates(same_everywhere, np.arange(2), np.array([], dtype=np.int64), off, 0) == {}
