import numpy as np
import pyarrow as pa
import pytest

from assets.concepts.csr import Csr
from assets.concepts.folder import Hits
from assets.errors import DataError
from evaluation.concepts.fits import Points
from evaluation.concepts.strata import by_decade, by_third, head_to_tail, tail_suite
from evaluation.concepts.trained import frequencies, read_measures
from evaluation.intervals import Bootstrap
from tests.evaluation.concepts.counted import DATA, NAMES, class_rows, planted, write_report

FEW = Bootstrap(100, 0)


def measures_of(folder, *rows):
    for number, some in enumerate(rows):
        write_report(folder / str(number), some)
    return read_measures(folder, [str(number) for number in range(len(rows))], NAMES, DATA)


def test_classes_join_concepts_whatever_their_case_and_blanks(tmp_path):
    rows = class_rows(planted(0), "in_domain", [name.upper().replace(" ", "_") for name in NAMES])
    found, notes = measures_of(tmp_path, rows)
    assert found["zero_shot.in_domain"].scores == pytest.approx(planted(0))
    assert notes == []


def test_classes_without_images_or_concept_are_left_out_and_said_to_be(tmp_path):
    rows = class_rows(planted(0), "in_domain")
    rows[3] |= {"num_images": 0, "top1": float("nan")}
    rows += class_rows(np.array([0.5]), "in_domain", ["Stranger"])
    found, notes = measures_of(tmp_path, rows)
    assert np.flatnonzero(np.isnan(found["zero_shot.in_domain"].scores)).tolist() == [3]
    assert any("1 of 91 classes are not among the concepts, such as Stranger" in note for note in notes)
    assert any("1 of 91 classes have no test image, such as Thing 3" in note for note in notes)


def test_classes_whose_names_collide_are_averaged_by_their_images(tmp_path):
    rows = class_rows(planted(0), "in_domain") + class_rows(np.array([1.0]), "in_domain", ["thing  89"], 120)
    rows[89]["top1"] = 0.2
    found = measures_of(tmp_path, rows)[0]["zero_shot.in_domain"]
    assert (found.scores[89], found.trials[89]) == (pytest.approx(0.8), 160)


def test_seeds_are_averaged_and_share_their_images(tmp_path):
    found = measures_of(tmp_path, *(class_rows(planted(seed), "in_domain") for seed in (0, 1)))[0]
    assert found["zero_shot.in_domain"].scores == pytest.approx((planted(0) + planted(1)) / 2)
    assert set(found["zero_shot.in_domain"].trials) == {40}


def csr(rows):
    pointer = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    return Csr(pointer, np.array([concept for row in rows for concept in row], dtype=np.int32))


HITS = Hits(pa.array(["a", "b", "c"]), csr([[0, 1], [1], [2]]), csr([[0], [1, 2], [2]]))


def plan(*rows):
    return pa.table(dict(zip(("key", "kept", "caption", "caption_of"), zip(*rows, strict=True), strict=True)))


def test_all_pairs_count_without_a_policy():
    found = frequencies(HITS, 4, None)
    counts = {side: count.tolist() for side, count in found.counts.items()}
    assert counts == {"text": [1, 2, 1, 0], "image": [1, 1, 2, 0], "joint": [1, 1, 1, 0]}
    assert (found.pairs, found.side, found.notes) == (3, "joint", ())
    assert frequencies(Hits(HITS.keys, HITS.text, None), 4, None).side == "text"


def test_dropped_pairs_do_not_count_and_exchanged_captions_count_as_what_they_are():
    found = frequencies(HITS, 4, plan(("a", True, "c's", "c"), ("b", False, None, None), ("c", True, "a's", "a")))
    counts = {side: count.tolist() for side, count in found.counts.items()}
    assert counts == {"text": [1, 1, 1, 0], "image": [1, 0, 1, 0], "joint": [0, 0, 0, 0]}
    assert found.notes == ()


def test_rewritten_captions_are_told_of():
    found = frequencies(HITS, 4, plan(("a", True, "better", None), ("b", True, None, None)))
    assert found.notes[0].startswith("1 captions were rewritten")


def test_pairs_that_were_not_counted_are_refused():
    with pytest.raises(DataError, match=r"1 pairs.*the first is z.*concepts"):
        frequencies(HITS, 4, plan(("z", True, None, None)))


def points(counts, scores):
    return Points(np.array(counts), np.array(scores, dtype=float), np.zeros(len(counts), dtype=np.int64))


def test_decades_have_a_stratum_of_their_own_for_zero():
    strata = by_decade(points([0, 1, 9, 10, 99, 1000], [0.0, 0.1, 0.3, 0.4, 0.6, 0.9]), FEW)
    assert [(stratum.name, stratum.n, round(stratum.mean, 6)) for stratum in strata] == [
        ("never shown", 1, 0.0),
        ("1 to 9", 2, 0.2),
        ("10 to 99", 2, 0.5),
        ("1,000 to 9,999", 1, 0.9),
    ]


def test_thirds_and_tail_go_by_rank():
    ranked = points(range(40), np.arange(40) / 40)
    assert [stratum.mean for stratum in by_third(ranked, FEW)] == sorted(
        (stratum.mean for stratum in by_third(ranked, FEW)), reverse=True
    )
    gap, tail = head_to_tail(ranked, FEW), tail_suite(ranked, FEW)
    assert gap.interval[0] < gap.gap < gap.interval[1]
    assert tail.rows.tolist() == [0, 1, 2, 3]
    assert tail.gap == pytest.approx(np.arange(4, 40).mean() / 40 - np.arange(4).mean() / 40)


def test_one_concept_has_no_gap():
    assert head_to_tail(points([5], [0.5]), FEW) is None
    assert tail_suite(points([5], [0.5]), FEW) is None
