import json

import pytest

from assets.errors import DataError
from evaluation.curves import compute_curves, step_curves
from evaluation.figures import COMPUTE, compute_panel, curve_panel
from evaluation.results import Folders, Group, Row
from evaluation.svg import colour, dashes, marker
from evaluation.wording import curve_words, is_recall

CURVE = "holdout/image_to_text_r1"


def row_of(folder, run, points, flops=1200.0, last_step=11):
    """One run of 12 steps whose curve has these points (step, value); no points, no curve."""
    log = folder / run
    log.mkdir(parents=True)
    (log / "metrics.json").write_text(json.dumps({"step": last_step}))
    if points:
        path = log / "plots/metrics" / f"{CURVE}.tsv"
        path.parent.mkdir(parents=True)
        path.write_text("step\timage_to_text_r1\n" + "".join(f"{step}\t{value}\n" for step, value in points))
    return Row(run, None, {}, {}, {"flops": flops}, {}, "cpu")


def folders_of(runs):
    return Folders(runs, runs, runs, runs, None, runs / "params.yaml")


def test_a_curve_over_compute_spreads_the_whole_over_the_steps_and_averages_the_seeds(tmp_path):
    rows = (
        row_of(tmp_path, "a-s0", [(3, 0.1), (7, 0.2), (11, 0.6)]),
        row_of(tmp_path, "a-s1", [(3, 0.3), (5, 0.9), (11, 0.2)], flops=2400.0),
        row_of(tmp_path, "a-s2", []),
    )
    curves = compute_curves(Group("a", rows), CURVE, folders_of(tmp_path))
    assert curves.runs[0] == [(400, 0.1), (800, 0.2), (1200, 0.6)]
    assert curves.runs[1] == [(800, 0.3), (1200, 0.9), (2400, 0.2)]
    assert len(curves.runs) == 2
    assert curves.mean == [(600, pytest.approx(0.2)), (1800, pytest.approx(0.4))]


def test_a_curve_that_stops_before_its_run_does_not_reach_the_whole_compute(tmp_path):
    rows = (row_of(tmp_path, "a-s0", [(0, 0.5), (5, 0.7)]),)
    curves = compute_curves(Group("a", rows), CURVE, folders_of(tmp_path))
    assert curves.mean == [(100, 0.5), (600, 0.7)] == curves.runs[0]


def test_groups_without_the_curve_are_left_out_and_seeds_must_share_a_step(tmp_path):
    bare = Group("bare", (row_of(tmp_path, "b-s0", []),))
    assert compute_curves(bare, CURVE, folders_of(tmp_path)) is None
    assert step_curves(bare, CURVE, folders_of(tmp_path)) == []
    split = Group("c", (row_of(tmp_path, "c-s0", [(3, 0.1)]), row_of(tmp_path, "c-s1", [(4, 0.1)])))
    with pytest.raises(DataError, match="image_to_text_r1 of runs c-s0, c-s1: no step in common; train them anew"):
        compute_curves(split, CURVE, folders_of(tmp_path))
    assert step_curves(split, CURVE, folders_of(tmp_path)) == [[(3, 0.1)], [(4, 0.1)]]
    (tmp_path / "c-s0/metrics.json").unlink()
    with pytest.raises(DataError, match=r"c-s0/metrics\.json does not exist; train anew"):
        compute_curves(Group("c", split.rows[:1]), CURVE, folders_of(tmp_path))


def panel_of(tmp_path, totals, **options):
    curves = {
        label: compute_curves(
            Group(label, tuple(row_of(tmp_path, f"{label}-s{seed}", [(3, 0.1), (11, 0.2)], total) for seed in (0, 1))),
            CURVE,
            folders_of(tmp_path),
        )
        for label, total in totals.items()
    }
    series = {label: number for number, label in enumerate(sorted(totals))}
    return compute_panel("p", "R@1", curves, series, **options)


def test_the_panel_tells_its_ends_to_those_who_do_not_see_it(tmp_path):
    svg = panel_of(tmp_path, {"one": 1e12, "two": 2e12}, is_share=True)
    assert f'aria-label="R@1 against {COMPUTE}: one 20.0 % at 1e+12; two 20.0 % at 2e+12"' in svg
    assert ">one<" in svg and ">two<" in svg and "2 T<" in svg  # legend and a linear axis from 0
    plain = panel_of(tmp_path / "plain", {"one": 1e12}, is_share=False)
    assert "one 0.200 at" in plain and "%" not in plain and ">one<" not in plain


def test_the_axis_is_logarithmic_where_compute_differs_much(tmp_path):
    near = panel_of(tmp_path / "near", {"one": 1e12, "two": 3.9e12}, is_share=False)
    far = panel_of(tmp_path / "far", {"one": 1e12, "two": 4e14}, is_share=False)
    assert ">0<" in near and ">0<" not in far and ">100 T<" in far


def test_sixteen_groups_are_told_apart_by_colour_with_marker_and_with_dashes():
    for look in (marker, dashes):
        assert len({(colour(number), str(look(number))) for number in range(16)}) == 16
    assert len({(colour(number), marker(number)) for number in range(64)}) == 64
    series = {f"group_{number:02d}": number for number in range(16)}
    svg = curve_panel("p", "loss", {label: [[(0, 1.0), (1, 0.5)]] for label in series}, series)
    lines = {found for found in svg.split("<path") if "stroke-dasharray" in found and "--series-1)" in found}
    assert lines  # the ninth, in the colour of the first
    height = float(svg.partition('viewBox="0 0 ')[2].split()[1].rstrip('"'))
    few = curve_panel("p", "loss", {"group_00": [[(0, 1.0), (1, 0.5)]]}, series)
    assert height > float(few.partition('viewBox="0 0 ')[2].split()[1].rstrip('"')) + 50  # room for the legend


def test_curves_have_words():
    assert curve_words(CURVE) == "Holdout: image to text R@1"
    assert curve_words("mask/object_coverage") == "Mask: object coverage"
    assert is_recall(CURVE) and not is_recall("holdout/loss") and not is_recall("mask/kept_share")
