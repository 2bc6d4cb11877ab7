import numpy as np
import pytest
from scipy import stats

from evaluation.studies.levels import Member
from evaluation.studies.metrics import panels
from evaluation.studies.read import Observation, Report
from evaluation.studies.reading import UNDECIDED, change, claims, readings
from evaluation.studies.trends import Mean, head_gains, trend


def line(slope, seeds=(0, 1, 2), shares=(0.0, 0.05, 0.1, 0.2, 0.3), scatter=0.0, luck=0.0):
    rng = np.random.default_rng(1)
    return [
        Observation(share, seed, 0.5 + slope * share + luck * seed + scatter * rng.standard_normal())
        for share in shares
        for seed in seeds
    ]


def test_a_planted_line_is_found_exactly():
    found = trend("m", line(-0.8))
    assert found.slope and found.slope.value == pytest.approx(-0.08)
    assert found.slope.p < 1e-6 and found.slope.high - found.slope.low < 1e-6
    assert found.spearman == pytest.approx(-1.0)
    assert found.slight and found.slight.value == pytest.approx(-0.8 * 0.075)
    assert found.heavy and found.heavy.value == pytest.approx(-0.24) and found.heavy.num == 3
    assert [level.mean.value for level in found.levels] == pytest.approx([0.5, 0.46, 0.42, 0.34, 0.26])


def test_slope_interval_and_rank_equal_those_of_scipy():
    points = line(-0.3, scatter=0.1)
    found = trend("m", points)
    shares, values = [point.share for point in points], [point.value for point in points]
    wanted = stats.linregress(shares, values)
    half = stats.t.ppf(0.975, len(points) - 2) * wanted.stderr
    assert found.slope and found.slope.value == pytest.approx(wanted.slope / 10)
    assert (found.slope.low, found.slope.high) == pytest.approx(
        ((wanted.slope - half) / 10, (wanted.slope + half) / 10)
    )
    assert found.slope.p == pytest.approx(wanted.pvalue)
    assert found.spearman == pytest.approx(stats.spearmanr(shares, values).statistic)


def test_differences_are_paired_by_seed_so_that_the_luck_of_seeds_drops_out():
    found = trend("m", line(-0.1, scatter=0.001, luck=0.2))
    assert found.heavy and found.heavy.differs and found.heavy.value == pytest.approx(-0.03, abs=0.005)
    lone = trend("m", [point for point in line(-0.1, luck=0.2) if point.share == 0 or point.seed == 2])
    assert lone.heavy and lone.heavy == Mean(pytest.approx(-0.03), None, None, 1) and not lone.heavy.differs


def test_two_policies_of_one_share_and_seed_count_as_one_seed():
    points = [*line(-0.1, shares=(0.0, 0.3)), *line(-0.2, shares=(0.3,))]
    found = trend("m", points)
    assert [level.mean.num for level in found.levels] == [3, 3] and len(found.levels[1].values) == 6
    assert found.heavy and found.heavy.value == pytest.approx(-0.045) and found.heavy.num == 3


def test_what_cannot_be_known_is_none():
    two = trend("m", line(-0.1, seeds=(0,), shares=(0.05, 0.2)))
    assert two.slope is None and two.slight is None and two.heavy is None
    assert two.levels[0].mean.low is None
    flat = trend("m", line(0.0))
    assert flat.spearman is None and flat.slope and flat.slope.p == 1.0 and not flat.heavy.differs


def test_the_published_bounds_of_slight_and_heavy_are_within():
    found = trend("m", line(-1.0, shares=(0.0, 0.1, 0.15, 0.3)))
    assert found.slight and found.slight.value == pytest.approx(-0.1)
    assert found.heavy and found.heavy.value == pytest.approx(-0.3)


def reports(values):
    return [
        Report(Member(f"r{n}", n, 0.0), {f"tuning.in_domain.{head}_top1": value for head, value in row.items()}, {})
        for n, row in enumerate(values)
    ]


def test_heads_are_compared_within_runs_and_only_where_both_are_there():
    rows = [{"lp": 0.1, "nmtune": 0.12}, {"lp": 0.9, "nmtune": 0.93}, {"lp": 0.5}]
    (gain,) = head_gains(reports(rows))
    assert (gain.where, gain.control, gain.gain.num) == ("in-domain", "lp", 2)
    assert gain.gain.value == pytest.approx(0.025)
    assert gain.gain.high - gain.gain.value == pytest.approx(12.706 * 0.005, rel=1e-3)


@pytest.mark.parametrize(
    ("mean", "text"),
    [
        (Mean(-0.02, -0.03, -0.01, 3), "-2.0 points (95 % interval -3.0 to -1.0, 3 seeds)"),
        (Mean(0.02, -0.01, 0.05, 3), f"+2.0 points (95 % interval -1.0 to +5.0, 3 seeds), which is {UNDECIDED}"),
        (Mean(0.02, None, None, 1), "+2.0 points (1 seed, so there is no interval and nothing to conclude)"),
    ],
)
def test_sentences_claim_no_more_than_the_interval_allows(mean, text):
    assert change(mean, True, "seed") == text


@pytest.mark.parametrize(("slope", "verdict"), [(0.5, "agrees"), (-0.5, "disagrees"), (0.0, "undecided")])
def test_claims_are_judged_by_intervals(slope, verdict):
    metric = "spectra.in_domain.num_sve"
    (claim,) = claims({metric: trend(metric, line(slope, scatter=0.001))})
    assert (claim.text, claim.verdict) == ("noise raises SVE", verdict)


def test_a_fall_out_of_domain_agrees_with_the_claim_of_one():
    metric = "tuning.held_out_style.transfer_lp_top1"
    (claim,) = claims({metric: trend(metric, line(-0.5, scatter=0.001))})
    assert claim.verdict == "agrees"


def test_panels_hold_what_is_there_and_notes_name_the_rest():
    metrics = {
        "zero_shot.in_domain.top1",
        "spectra.b_style.num_sve",
        "spectra.a_in_domain.num_sve",
        "spectra.x.num_sve_share",
    }
    shown, notes = panels(metrics)
    assert [[line.metric for line in panel.lines] for panel in shown] == [
        ["zero_shot.in_domain.top1"],
        ["spectra.a_in_domain.num_sve", "spectra.b_style.num_sve"],
    ]
    assert "no run has zero_shot.held_out_style.top1" in notes and len(notes) == 12
    only = trend("zero_shot.in_domain.top1", line(-0.6))
    (sentence,) = readings(shown[:1], {"zero_shot.in_domain.top1": only})
    assert sentence.startswith("Zero-shot, top-1, in-domain: slight noise (10 % or less) changes it by -4.5 points")
