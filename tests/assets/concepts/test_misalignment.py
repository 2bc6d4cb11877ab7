import numpy as np
import pytest

from assets.concepts.misalignment import disjoint, misalignment
from tests.assets.concepts.case_a import CASE, CONCEPTS, PAIRS, from_postings, rows_of


def whole_name_hits():
    """What the published script does for most data sets: look the whole name up in the index of single words."""
    index: dict[str, set[int]] = {}
    for number, key in enumerate(CASE["index_keys"].tolist()):
        start, stop = CASE["index_ptr"][number : number + 2]
        index[key] = set(CASE["index_docs_raw"][start:stop].tolist())
    rows: list[list[int]] = [[] for _ in range(PAIRS)]
    for concept, name in enumerate(CASE["concepts"].tolist()):
        for row in index.get(name, ()):
            rows[row].append(concept)
    return rows_of(rows)


@pytest.mark.parametrize("which", ["misalign_ref", "misalign_consistent"])
def test_published_figures_of_the_fixture(which):
    text = whole_name_hits() if which == "misalign_ref" else from_postings("text_hits")
    image = from_postings("img_hits")
    found = misalignment(text, image)
    assert [found.disjoint, found.degree_extracted, found.degree_fixed] == pytest.approx(
        CASE[which].tolist(), abs=1e-12
    )
    assert disjoint(text, image).sum() == found.disjoint


def test_every_pair_is_counted_once_and_empty_sides_are_never_misaligned():
    text = rows_of([[0, 1], [0], [], [2], [], [1]])
    image = rows_of([[1, 2], [1], [1], [], [], [2]])
    found = misalignment(text, image)
    assert (found.no_text, found.no_image, found.neither, found.overlap, found.disjoint) == (2, 2, 1, 1, 2)
    assert found.no_text + found.no_image - found.neither + found.overlap + found.disjoint == found.pairs == 6
    assert disjoint(text, image).tolist() == [False, True, False, False, False, True]
    assert found.rate_given_both == 2 / 3 and found.degree_fixed == 2 / 6 and found.degree_extracted == 2 / 4
    assert set(found.facts()) >= {"no_text", "no_image", "overlap", "disjoint", "rate_given_both"}


def test_equal_sides_are_aligned_and_other_vocabularies_are_not():
    text = from_postings("text_hits")
    filled = [row for row in range(PAIRS) if text.pointer[row + 1] > text.pointer[row]]
    assert misalignment(text, text).rate_given_both == 0.0
    apart = rows_of([[CONCEPTS + 1]] * PAIRS)
    assert misalignment(text, apart).rate_given_both == 1.0 and misalignment(text, apart).disjoint == len(filled)


def test_names_of_concepts_do_not_matter():
    text, image = from_postings("text_hits"), from_postings("img_hits")
    renamed = np.random.default_rng(0).permutation(CONCEPTS)

    def changed(found):
        rows = [renamed[found.concepts[a:b]].tolist() for a, b in zip(found.pointer, found.pointer[1:], strict=False)]
        return rows_of(rows)

    assert misalignment(changed(text), changed(image)) == misalignment(text, image)


def test_where_no_pair_has_both_sides_there_is_no_rate():
    found = misalignment(rows_of([[0], []]), rows_of([[], []]))
    assert found.rate_given_both is None and found.degree_extracted == 0.0
    assert misalignment(rows_of([[]]), rows_of([[]])).degree_extracted is None
