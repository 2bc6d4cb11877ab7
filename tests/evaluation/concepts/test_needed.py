import math

import numpy as np
import pytest

from evaluation.concepts.fits import Points
from evaluation.concepts.needed import data_needed, fit_odds, linear_line, logistic_line
from evaluation.intervals import Bootstrap

FEW = Bootstrap(200, 0)


def planted(n=300, slope=0.2, noise=0.05, seed=0):
    rng = np.random.default_rng(seed)
    counts = np.rint(10 ** rng.uniform(0, 3, n)).astype(np.int64)
    scores = np.clip(0.1 + slope * np.log10(counts) + rng.normal(0, noise, n), 0, 1)
    return Points(counts, scores, np.zeros(n, dtype=np.int64))


def test_the_linear_line_read_backwards_gives_the_planted_count():
    found = data_needed(linear_line(planted(noise=0.01), FEW), [0.5])[0]
    assert found.count == pytest.approx(100, rel=0.1)
    assert found.low < 100 < found.high
    assert "100 pairs" in found.sentence


def test_the_logistic_line_is_the_planted_one():
    rng = np.random.default_rng(1)
    counts = np.rint(10 ** rng.uniform(0, 3, 2000)).astype(np.int64)
    chance = 1 / (1 + np.exp(3 - 2 * np.log10(counts)))
    trials = rng.integers(20, 60, 2000)
    points = Points(counts, rng.binomial(trials, chance) / trials, np.zeros(2000, dtype=np.int64))
    line = logistic_line(points, trials, FEW)
    assert (line.intercept, line.slope) == pytest.approx((-3, 2), abs=0.1)
    assert line.predict(np.log10([1.0, 1000.0])) == pytest.approx([0.047, 0.953], abs=0.01)
    assert data_needed(line, [0.5])[0].count == pytest.approx(10**1.5, rel=0.1)


def test_the_logistic_fit_is_where_the_likelihood_has_no_slope():
    rng = np.random.default_rng(2)
    x, shares, trials = rng.uniform(0, 3, 50), rng.random(50), rng.integers(1, 30, 50).astype(float)
    intercept, slope = fit_odds(x, shares, trials)
    missed = trials * (shares - 1 / (1 + np.exp(-intercept - slope * x)))
    assert [missed.sum(), (missed * x).sum()] == pytest.approx([0, 0], abs=1e-6)


@pytest.mark.filterwarnings("error")
def test_a_threshold_has_no_logistic_line():
    x = np.linspace(0, 3, 20)
    assert np.isnan(fit_odds(x, (x > 1.5).astype(float), np.full(20, 30.0))).all()


def test_two_decades_beyond_what_was_seen_is_refused():
    line = linear_line(planted(slope=0.1, noise=0.01), FEW)
    near, far = data_needed(line, [0.55, 0.85])
    assert near.count == pytest.approx(10**4.5, rel=0.3)
    assert "beyond the counts" in near.sentence
    assert far.count is None
    assert "decades above" in far.sentence
    below = data_needed(linear_line(Points(10**5 * planted().counts, planted().scores, planted().pools), FEW), [0.05])
    assert below[0].count is not None
    low = data_needed(linear_line(planted(slope=0.03, noise=0.001), FEW), [0.02])[0]
    assert low.count is None
    assert "decades below" in low.sentence


def test_a_slope_that_may_be_zero_is_refused_whatever_the_target():
    line = linear_line(planted(slope=0.0, noise=0.3), FEW)
    assert all(need.count is None and "not told apart from zero" in need.sentence for need in data_needed(line, [0.2]))
    falling = data_needed(linear_line(planted(slope=-0.03, noise=0.01), FEW), [0.5])[0]
    assert falling.count is None
    assert "falls" in falling.sentence


def test_without_concepts_there_is_no_line():
    nothing = Points(np.zeros(4, dtype=np.int64), np.full(4, 0.2), np.zeros(4, dtype=np.int64))
    for line in (linear_line(nothing, FEW), logistic_line(nothing, np.full(4, 9), FEW)):
        assert math.isnan(line.slope)
        assert "cannot be fitted" in data_needed(line, [0.5])[0].sentence


def test_targets_are_shares():
    with pytest.raises(ValueError, match=r"got 50.*write 0\.5"):
        data_needed(linear_line(planted(), FEW), [50])
