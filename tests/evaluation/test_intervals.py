import numpy as np
import pytest

from evaluation.intervals import Bootstrap, seed_interval


def test_bootstrap_agrees_with_the_normal_interval_of_a_large_sample():
    rng = np.random.default_rng(1)
    scores = (rng.random((2000, 1)) < 0.3).astype(float)
    low, high = Bootstrap(2000, 0).means(scores)[0]
    mean, error = scores.mean(), scores.std() / np.sqrt(len(scores))
    assert low == pytest.approx(mean - 1.96 * error, abs=0.003)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.003)


def test_bootstrap_agrees_with_a_slow_loop():
    scores = np.random.default_rng(2).random(50)
    rng = np.random.default_rng(3)
    slow = np.percentile([rng.choice(scores, 50).mean() for _ in range(4000)], [2.5, 97.5])
    assert Bootstrap(4000, 0).means(scores[:, None])[0] == pytest.approx(slow, abs=0.01)


def test_bootstrap_intervals_cover_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(4)
    inside = 0
    for _ in range(300):
        low, high = Bootstrap(200, 0).means((rng.random((200, 1)) < 0.4).astype(float))[0]
        inside += low <= 0.4 <= high
    assert 0.90 <= inside / 300 <= 0.98


def test_equal_columns_get_equal_intervals_and_the_same_seed_the_same_draws():
    scores = np.random.default_rng(5).random((30, 1))
    bounds = Bootstrap(150, 7).means(np.repeat(scores, 2, axis=1))
    assert (bounds[0] == bounds[1]).all()
    assert Bootstrap(150, 7).means(scores)[0] == pytest.approx(bounds[0], abs=1e-12)
    assert Bootstrap(150, 8).means(scores)[0] != pytest.approx(bounds[0], abs=1e-6)


def test_scores_without_spread_get_an_interval_without_width():
    assert Bootstrap(100, 0).means(np.ones((9, 1))).tolist() == [[1.0, 1.0]]


def test_many_draws_in_parts_keep_their_number(monkeypatch):
    monkeypatch.setattr("evaluation.intervals._DRAWS_AT_ONCE", 64)
    low, high = Bootstrap(500, 0).means(np.array([[0.0], [1.0], [1.0], [1.0]]))[0]
    assert 0.0 <= low < 0.75 <= high <= 1.0


def test_seed_interval_of_a_textbook_case():
    # mean 5, standard deviation 1, three scores: 5 +- 4.303 / sqrt(3)
    mean, low, high = seed_interval([4.0, 5.0, 6.0])
    assert (mean, low, high) == pytest.approx((5.0, 5 - 4.303 / 3**0.5, 5 + 4.303 / 3**0.5))
    with pytest.raises(ValueError, match="at least 2"):
        seed_interval([1.0])


def test_t_quantiles_agree_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    for number in (2, 3, 5, 10, 31, 60):
        values = list(np.random.default_rng(number).random(number))
        mean, low, high = seed_interval(values)
        half = stats.t.ppf(0.975, number - 1) * np.std(values, ddof=1) / number**0.5
        assert high - mean == pytest.approx(half, rel=0.025)
        assert mean - low == pytest.approx(half, rel=0.025)
