import math

import numpy as np
import pytest
from scipy.stats import linregress, pearsonr, spearmanr

from evaluation.concepts.fits import FITS, Points, cut_bins, fit_all, two_sided_p
from evaluation.intervals import Bootstrap
from tests.evaluation.concepts.fixture import case

FEW = Bootstrap(200, 0)


def points(counts, scores, pools=None):
    counts = np.asarray(counts, dtype=np.int64)
    pools = np.zeros(len(counts), dtype=np.int64) if pools is None else np.asarray(pools)
    return Points(counts, np.asarray(scores, dtype=np.float64), pools)


@pytest.fixture(scope="module")
def published():
    z = case()
    pools = np.unique(z["fit_dataset"], return_inverse=True)[1]
    return points(z["fit_counts"], z["fit_acc"], pools)


def test_bins_are_the_published_ones(published):
    z = case()
    for counts, scores, bins, name in (
        (published.counts, published.scores, 12, "fit"),
        (z["rfit_counts"], z["rfit_recall"], 7, "rfit"),
    ):
        cut = cut_bins(counts, scores, bins)
        assert np.exp(cut.edges) == pytest.approx(z[f"{name}_bin_edges_ref"], rel=1e-10)
        assert cut.means == pytest.approx(z[f"{name}_bin_means_ref"], abs=1e-9)
    assert cut_bins(published.counts, published.scores, 12).stds == pytest.approx(z["fit_bin_stds_ref"], abs=1e-9)


def test_the_four_fits_are_those_of_the_fixture(published):
    z, fits = case(), fit_all(published, 12, FEW)
    assert tuple(fits) == FITS
    binned, level, ranks, within = fits.values()
    assert (binned.values["r"], binned.p) == pytest.approx(tuple(z["fit_binned_pearson_ref"]), abs=1e-9)
    found = [level.values[name] for name in ("slope", "intercept", "r")] + [level.p, level.values["stderr"]]
    found += [ranks.values["r_zero_as_one"], ranks.values["rho"]]
    assert found == pytest.approx(z["fit_concept_level"].tolist(), abs=1e-8)
    assert [within.values["r"], within.values["slope"]] == pytest.approx(z["fit_within_dataset"].tolist(), abs=1e-8)
    assert (binned.n, level.n, ranks.n) == (10, int((published.counts > 0).sum()), len(published.counts))


def test_fits_agree_with_scipy_on_drawn_concepts():
    rng = np.random.default_rng(0)
    drawn = points(rng.integers(0, 3000, 70), rng.random(70))
    fits, shown = fit_all(drawn, 12, FEW), drawn.counts > 0
    line = linregress(np.log10(drawn.counts[shown]), drawn.scores[shown])
    level = fits["concept_level"]
    assert (level.values["slope"], level.p, level.values["stderr"]) == pytest.approx(
        (line.slope, line.pvalue, line.stderr)
    )
    ranks = spearmanr(drawn.counts, drawn.scores)
    assert (fits["spearman"].values["rho"], fits["spearman"].p) == pytest.approx((ranks.statistic, ranks.pvalue))


def test_intervals_hold_the_value_and_are_those_of_the_seed(published):
    fits = fit_all(published, 12, FEW)
    for fit in (fits["concept_level"], fits["spearman"], fits["within_data_set"]):
        for name, (low, high) in fit.intervals.items():
            assert low < fit.values[name] < high
    assert fit_all(published, 12, FEW) == fits
    assert fit_all(published, 12, Bootstrap(200, 1)) != fits


def test_interval_of_the_slope_is_as_wide_as_its_standard_error_says():
    rng = np.random.default_rng(3)
    counts = np.rint(10 ** rng.uniform(0, 3, 400))
    fit = fit_all(points(counts, 0.1 * np.log10(counts) + rng.normal(0, 0.1, 400)), 12, Bootstrap(1000, 0))
    low, high = fit["concept_level"].intervals["slope"]
    assert high - low == pytest.approx(2 * 1.96 * fit["concept_level"].values["stderr"], rel=0.15)


def test_an_exact_line_is_found_again():
    counts = np.array([1, 3, 10, 50, 200, 1000, 4000])
    level = fit_all(points(counts, 0.2 + 0.13 * np.log10(counts)), 12, FEW)["concept_level"]
    assert [level.values[name] for name in ("slope", "intercept", "r")] == pytest.approx([0.13, 0.2, 1.0])
    assert level.p == pytest.approx(0, abs=1e-12)


def test_ten_times_the_counts_shift_the_line_only():
    rng = np.random.default_rng(1)
    counts, scores = rng.integers(1, 500, 60), rng.random(60)
    one, ten = (fit_all(points(factor * counts, scores), 12, FEW) for factor in (1, 10))
    a, b = (fits["concept_level"].values for fits in (one, ten))
    assert b["slope"] == pytest.approx(a["slope"])
    assert b["intercept"] == pytest.approx(a["intercept"] - a["slope"])
    for name in ("binned_pearson", "within_data_set"):
        assert ten[name].values["r"] == pytest.approx(one[name].values["r"])


def test_bins_hold_every_concept_once_and_the_first_only_the_rarest():
    rng = np.random.default_rng(2)
    counts = rng.integers(0, 40, 300)
    cut = cut_bins(counts, rng.random(300), 12)
    assert cut.sizes.sum() == 300
    assert cut.sizes[0] == (counts <= 1).sum()


def test_empty_bins_are_left_out_of_the_correlation():
    counts = np.array([1, 2, 4, 8, 10_000, 20_000, 100_000])
    scores = np.array([0.1, 0.2, 0.25, 0.4, 0.5, 0.7, 0.9])
    cut = cut_bins(counts, scores, 12)
    assert np.isnan(cut.means[cut.sizes == 0]).all()
    assert 0 < (cut.sizes == 0).sum()
    inner = cut.used
    fit = fit_all(points(counts, scores), 12, FEW)["binned_pearson"]
    assert fit.n == inner.sum() < 10
    assert fit.values["r"] == pytest.approx(pearsonr(cut.edges[inner], cut.means[inner]).statistic)


@pytest.mark.filterwarnings("error")
def test_constant_input_has_no_correlation():
    counts = np.array([1, 5, 25, 125, 600])
    flat = fit_all(points(counts, np.full(5, 0.3)), 12, FEW)
    assert flat["concept_level"].values["slope"] == 0
    assert flat["within_data_set"].values["slope"] == 0
    for fit in flat.values():
        assert math.isnan(fit.values.get("r", fit.values.get("rho")))
        assert math.isnan(fit.p)
    for fit in fit_all(points(np.full(5, 7), np.arange(5) / 5), 12, FEW).values():
        assert all(math.isnan(value) for value in fit.values.values())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("counts", [[], [0, 0, 0], [4]], ids=["nothing", "never shown", "one"])
def test_too_few_concepts_have_no_fit(counts):
    for fit in fit_all(points(counts, np.linspace(0.1, 0.4, len(counts))), 12, FEW).values():
        assert all(math.isnan(value) for value in (*fit.values.values(), *sum(fit.intervals.values(), ())))


def test_pools_of_different_difficulty_make_no_law_within_them():
    rng = np.random.default_rng(5)
    pools = np.repeat([0, 1], 100)
    counts = np.where(pools, rng.integers(1000, 9000, 200), rng.integers(1, 9, 200))
    fits = fit_all(points(counts, pools * 0.5 + rng.normal(0, 0.05, 200), pools), 12, FEW)
    assert fits["concept_level"].values["r"] > 0.9
    assert abs(fits["within_data_set"].values["r"]) < 0.25


def test_no_degree_of_freedom_means_no_p():
    assert math.isnan(two_sided_p(0.5, 0))
    assert two_sided_p(-1.0, 3) == 0
