import numpy as np
import pytest

from assets.errors import DataError
from assets.validation.measures import Measures, is_marked, write_marker
from assets.validation.traits import traits_of


@pytest.fixture
def signatures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (900, 972), dtype=np.uint8)


@pytest.fixture
def measures(tmp_path, signatures) -> Measures:
    """Three shards of 500, 0 and 400 rows."""
    ends = np.array([500, 500, 900])
    markers = tuple(tmp_path / f"{number}.parquet" for number in range(3))
    for marker, start, stop in zip(markers, [0, 500, 500], ends.tolist(), strict=True):
        write_marker(marker, b"7", np.arange(start, stop, dtype=np.float32), signatures[start:stop])
    return Measures(markers, ends)


def test_rows_of_all_shards_come_back_in_index_order(measures, signatures):
    assert measures.num_rows == 900
    assert measures.contrast().tolist() == list(range(900))


@pytest.mark.parametrize("rows", [[], [7], [899, 0, 450, 3], list(range(900))])
def test_traits_of_any_rows_are_read_in_the_order_given(measures, signatures, rows):
    taken = np.array(rows, dtype=np.int64)
    traits, wanted = measures.traits(taken), traits_of(signatures[taken])
    assert np.array_equal(traits.moments, wanted.moments) and np.array_equal(traits.signs, wanted.signs)


@pytest.mark.parametrize("step", [1, 3, 40])
def test_signatures_of_any_rows_are_read(measures, signatures, step):
    rows = np.arange(step - 1, 900, step)
    assert np.array_equal(measures.signatures(rows), signatures[rows])
    assert measures.signatures(rows[:0]).shape == (0, 972)


def test_far_apart_rows_are_read_without_what_lies_between(measures, signatures, monkeypatch):
    read = []
    pread = np.frombuffer
    monkeypatch.setattr(np, "frombuffer", lambda content, kind: read.append(len(content)) or pread(content, kind))
    rows = np.array([0, 1, 100, 499, 899])
    assert np.array_equal(measures.signatures(rows), signatures[rows])
    assert sum(read) == 5 * 972


def test_a_marker_stands_for_what_it_was_made_of(tmp_path):
    marker = tmp_path / "deep" / "a.parquet"
    assert not is_marked(marker, b"1", signed=False)
    write_marker(marker, b"1", np.zeros(2, np.float32), None)
    assert is_marked(marker, b"1", signed=False)
    assert not is_marked(marker, b"2", signed=False)
    assert not is_marked(marker, b"1", signed=True)
    write_marker(marker, b"1", np.zeros(2, np.float32), np.zeros((2, 972), np.uint8))
    assert is_marked(marker, b"1", signed=True) and is_marked(marker, b"1", signed=False)
    marker.with_suffix(".npy").unlink()
    assert not is_marked(marker, b"1", signed=True)


def test_a_truncated_file_of_signatures_and_a_marker_of_other_length_are_named(measures):
    file = measures.markers[2].with_suffix(".npy")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"2\.npy is damaged.*400 signatures.*validate again"):
        measures.signatures(np.array([899]))
    with pytest.raises(DataError, match=r"2\.parquet is damaged, got '400 rows', wanted 401"):
        Measures(measures.markers, np.array([500, 500, 901])).contrast()
