import numpy as np
import pytest

from assets.concepts.csr import Csr

ROWS = [[0, 3], [], [1, 2, 3], [3]]
OTHER = [[3], [1], [2, 3, 4], []]


def lists(found: Csr) -> list[list[int]]:
    return [found.row(place).tolist() for place in range(len(found))]


def test_rows_come_back_and_are_counted():
    found = Csr.of_rows(ROWS)
    assert lists(found) == ROWS and found.concepts.dtype == np.int32
    assert found.counts(6).tolist() == [1, 1, 1, 3, 0, 0]
    assert found.rows.tolist() == [0, 0, 2, 2, 2, 3]


def test_an_intersection_is_row_by_row():
    both = Csr.of_rows(ROWS).intersection(Csr.of_rows(OTHER))
    assert lists(both) == [[3], [], [2, 3], []]
    assert lists(Csr.of_rows(OTHER).intersection(Csr.of_rows(ROWS))) == lists(both)
    nothing = Csr.of_rows([[], []])
    assert lists(nothing.intersection(nothing)) == [[], []]


@pytest.mark.parametrize("places", [[3, 0, 0, 1], [], [2]])
def test_rows_are_taken_in_any_order(places):
    assert lists(Csr.of_rows(ROWS).take(np.array(places, dtype=np.int64))) == [ROWS[place] for place in places]
