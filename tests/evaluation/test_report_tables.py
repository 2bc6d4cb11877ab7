from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from assets.errors import DataError
from assets.index import write_table
from evaluation.concept_tables import class_tables
from evaluation.failures import confusions, preferred_foils
from evaluation.measure_tables import language_tables, measure_tables
from evaluation.report import suite_order
from evaluation.results import Group, Row
from evaluation.unit_scores import comparisons, unit_scores
from evaluation.wording import breakable, points

CLASSES = ("cup", "hat", "bow")


def write(folder, stem, names, rows):
    folder.mkdir(parents=True, exist_ok=True)
    write_table(pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows]), folder / f"{stem}.parquet")


def group(label, runs, metrics=None):
    rows = tuple(Row(run, SimpleNamespace(), metrics or {}, {}, {}, {}, "cpu") for run in runs)
    return Group(label, rows)


def write_images(folder, rows):
    """Rows of key, true class, predicted class, margin; and the classes."""
    names = ("suite", "key", "class_id", "predicted", "top1", "top5", "margin")
    write(folder, "per_image", names, [("in_domain", k, t, p, float(t == p), 1.0, m) for k, t, p, m in rows])
    write_classes(folder, (0.5, 0.25, 0.0))


def write_classes(folder, scores, suite="in_domain"):
    names = ("suite", "class_id", "name", "group", "frequency", "train_count", "num_images", "top1", "top5")
    lines = [(suite, i, name, "thing", "head", 9 - i, 4, scores[i], 1.0) for i, name in enumerate(CLASSES)]
    write(folder, "per_class", names, lines)


def test_confusions_are_counted_and_the_surest_come_first(tmp_path):
    rows = [("a", 0, 1, -0.1), ("b", 0, 1, -0.3), ("c", 0, 0, 0.2), ("d", 1, 1, 0.1), ("e", 1, 1, 0.4)]
    write_images(tmp_path, [*rows, ("f", 2, 0, -0.5), ("g", 2, 1, -0.2)])
    (block,) = confusions(tmp_path, 2, suite_order)
    assert (block.suite, block.wrong, block.images) == ("in_domain", 4, 7)
    most, next_one = block.failures
    assert (most.true, most.predicted, most.count, most.of, most.keys) == ("cup", "hat", 2, 3, ("b", "a"))
    assert most.margin == pytest.approx(-0.2) and most.likeness == "e"  # the best recognised hat
    assert (next_one.true, next_one.predicted, next_one.keys) == ("bow", "cup", ("f",))  # surer than g
    assert block.keys == {"a", "b", "e", "f", "c"}
    assert confusions(tmp_path, 0, suite_order) == [] == confusions(tmp_path / "absent", 2, suite_order)


def test_only_foils_that_won_are_shown_and_no_more_than_asked_per_kind(tmp_path):
    names = ("suite", "kind", "key", "caption", "foil", "right")
    rows = [
        ("in_domain", kind, f"k{i}", "c", f"foil {i}", right) for kind in "xy" for i, right in enumerate([0, 1, 0, 0])
    ]
    write(tmp_path, "foils", names, [(*row[:5], float(row[5])) for row in rows] + [("s", "z", "t", "c", "f", 0.5)])
    found = preferred_foils(tmp_path, 2)
    assert [foil.kind for foil in found] == ["x", "x", "y", "y"]
    assert all(foil.foil != "foil 1" for foil in found)
    assert preferred_foils(tmp_path / "absent", 2) == []


def test_classes_are_averaged_over_seeds_and_ranked(tmp_path):
    for run, scores in {"a-0": (1.0, 0.5, 0.0), "a-1": (0.5, 0.5, 0.5), "b-0": (0.0, 1.0, 0.25)}.items():
        write_classes(tmp_path / run, scores)
    groups = [group("a", ("a-0", "a-1")), group("b", ("b-0",)), group("no table", ("c-0",))]
    (table,) = class_tables(groups, tmp_path, suite_order)
    assert table.labels == ("a", "b") and table.has_frequency
    assert [(line.name, line.scores) for line in table.lines] == [
        ("cup", (0.75, 0.0)), ("hat", (0.5, 1.0)), ("bow", (0.25, 0.25)),
    ]  # fmt: skip
    assert table.lines[0].spread == 0.75 and table.lines[1].mean == 0.75
    assert table.best[0].name == "cup" and table.worst[0].name == "bow"
    assert class_tables(groups[2:], tmp_path, suite_order) == []


def test_languages_have_both_directions_and_facets_stay_out():
    metrics = {f"caption_retrieval.in_domain.{name}_r1": value for name, value in {
        "de_image_to_text": 0.2, "de_text_to_image": 0.3, "facet_mean_image_to_text": 0.9,
    }.items()}  # fmt: skip
    metrics["caption_retrieval.in_domain.chance_r1"] = 0.1
    (table,) = language_tables([group("a", ("a-0",), metrics), group("b", ("b-0",), {})], suite_order)
    assert table.labels == ("a",)
    (line,) = table.lines
    assert (line.name, line.chance, line.is_share) == ("de", 0.1, True)
    assert line.cells[0].value == 0.2 and line.further[0].value == 0.3


def test_numbers_that_are_no_scores_keep_their_size_and_stand_last():
    seeds = tuple(
        Row(f"a-{i}", SimpleNamespace(), {"spectra.s.num_sve": value, "spectra.s.top1": 0.5}, {}, {}, {}, "cpu")
        for i, value in enumerate((3.0, 5.0))
    )
    (table,) = measure_tables([Group("a", seeds)], "spectra", suite_order)
    assert [line.name for line in table.lines] == ["top-1", "SVE"]
    number = table.lines[1].cells[0]
    assert (number.value, number.low, number.high) == (4.0, 3.0, 5.0) and not table.lines[1].is_share
    assert measure_tables([Group("a", seeds)], "robustness", suite_order) == []


def test_unit_scores_join_seeds_by_key_and_compare_only_what_is_there(tmp_path):
    names = ("suite", "direction", "key", "r1", "r5", "r10")
    rng = np.random.default_rng(0)
    for run, skill in {"a-0": 0.8, "a-1": 0.8, "b-0": 0.2}.items():
        rows = [("in_domain", way, f"k{i}", *[float(rng.random() < skill)] * 3) for way in WAYS for i in range(60)]
        write(tmp_path / run, "per_query", names, rows if run != "a-1" else rows[::-1])
    a, b = group("a", ("a-0", "a-1")), group("b", ("b-0",))
    scores = unit_scores(a, "retrieval.in_domain.mean_recall", tmp_path)
    assert scores.scores.shape == (2, 60) and scores.keys[0] == "k0"
    assert unit_scores(a, "linear_probe.in_domain.top1", tmp_path) is None
    columns = ["retrieval.in_domain.image_to_text_r1", "zero_shot.in_domain.top1"]
    found = comparisons([a, b], "retrieval.in_domain.mean_recall", columns, tmp_path, "b")
    assert found.labels == ["a", "b"] and found.columns == columns[:1]
    assert found.matrix[0][1].is_significant and found.matrix[0][1].value == -found.matrix[1][0].value
    assert found.matrix[0][0] is None and found.table["a"][0].value > 0.3 and found.knows_seeds
    assert comparisons([a], "retrieval.in_domain.mean_recall", columns, tmp_path, "a") is None
    write(
        tmp_path / "b-0",
        "per_query",
        names,
        [("in_domain", way, f"x{i}", 0.0, 0.0, 0.0) for way in WAYS for i in (1, 2)],
    )
    with pytest.raises(DataError, match="a and b were not scored on the same samples"):
        comparisons([a, b], columns[0], columns, tmp_path, "b")


WAYS = ("image_to_text", "text_to_image")


def test_differences_have_a_sign_and_labels_break_without_losing_their_escape():
    assert [points(value) for value in (0.013, -0.02, -0.0001)] == ["+1.3", "\u22122.0", "0.0"]
    assert str(breakable("a_<b>")) == "a_<wbr>&lt;b&gt;"
