import math

import numpy as np
import pytest
import torch

from evaluation.logistic import Scaling, Stop, fit, fit_path, log_probabilities

TIGHT = Stop(2000, 1e-7)


def problem(seed: int = 0, n: int = 60, dims: int = 5, classes: int = 4):
    """Correlated features of very different scales with labels that follow them in part."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    hidden = rng.normal(size=(classes, dims))[labels] + rng.normal(size=(n, dims))
    mixed = hidden @ rng.normal(size=(dims, dims)) * 10.0 ** np.linspace(-2, 2, dims) + 3
    return mixed.astype(np.float32), labels


def slow_loss(features: np.ndarray, labels: np.ndarray, weights: np.ndarray, bias: np.ndarray, c: float) -> float:
    """The usual form, image by image: c times the summed cross-entropy plus half the squared weights."""
    total = 0.0
    for row, label in zip(features, labels, strict=True):
        scores = [float(row @ weights[:, k] + bias[k]) for k in range(weights.shape[1])]
        total += math.log(sum(math.exp(score) for score in scores)) - scores[label]
    return c * total + 0.5 * float((weights**2).sum())


@pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
def test_two_mirrored_images_have_a_closed_form(c):
    inputs = np.array([[-1.0, 1.0], [1.0, 1.0]])
    found = fit(inputs, np.array([0, 1]), c, np.zeros((2, 2)), TIGHT)
    weight = found.weights[0, 1]
    assert found.converged
    assert weight == pytest.approx(2 * c / (1 + math.exp(2 * weight)), abs=1e-5)
    assert found.weights == pytest.approx(np.array([[-weight, weight], [0, 0]]), abs=1e-5)


@pytest.mark.parametrize("c", [0.01, 1.0, 100.0])
def test_no_direction_leads_downhill_from_the_minimum(c):
    features, labels = problem()
    inputs = Scaling.of(features).apply(features)
    found = fit(inputs, labels, c, np.zeros((inputs.shape[1], 4)), TIGHT)
    weights, bias = found.weights[:-1], found.weights[-1]
    least = slow_loss(inputs[:, :-1], labels, weights, bias, c)
    rng = np.random.default_rng(1)
    for _ in range(20):
        step, tilt = 1e-3 * rng.normal(size=weights.shape), 1e-3 * rng.normal(size=bias.shape)
        up = slow_loss(inputs[:, :-1], labels, weights + step, bias + tilt, c)
        down = slow_loss(inputs[:, :-1], labels, weights - step, bias - tilt, c)
        assert least < min(up, down)
        assert up - down == pytest.approx(0, abs=0.05 * (up + down - 2 * least))


def test_scaled_features_have_mean_0_and_the_distances_of_standardised_ones():
    features, _ = problem()
    scaled = Scaling.of(features).apply(features)[:, :-1]
    plain = (features.astype(np.float64) - features.mean(axis=0)) / features.std(axis=0)
    assert scaled.mean(axis=0) == pytest.approx(np.zeros(5), abs=1e-6)
    assert scaled @ scaled.T == pytest.approx(plain @ plain.T, abs=1e-3)
    assert np.cov(scaled.T) == pytest.approx(np.diag(scaled.var(axis=0, ddof=1)), abs=1e-6)


def test_dimensions_that_do_not_vary_are_left_out():
    features, _ = problem()
    constant = np.concatenate([features, np.full((60, 1), 7.3, dtype=np.float32)], axis=1)
    assert Scaling.of(constant).axes.shape == (6, 5)
    assert Scaling.of(constant).apply(constant) == pytest.approx(Scaling.of(features).apply(features), abs=1e-9)
    assert Scaling.of(np.full((9, 3), 0.1, dtype=np.float32)).apply(np.zeros((2, 3), dtype=np.float32)).tolist() == [
        [1.0],
        [1.0],
    ]


def test_shift_and_units_of_features_do_not_matter():
    features, labels = problem()
    moved = (features * np.array([2.0, 0.5, 8.0, 1.0, 4.0]) + np.array([0, 1, -2, 0, 64])).astype(np.float32)
    logs = []
    for version in (features, moved):
        inputs = Scaling.of(version).apply(version)
        logs.append(log_probabilities(inputs, fit(inputs, labels, 1.0, np.zeros((6, 4)), TIGHT).weights))
    assert logs[0] == pytest.approx(logs[1], abs=1e-3)


def test_where_the_solver_begins_does_not_matter():
    features, labels = problem()
    inputs = Scaling.of(features).apply(features)
    cold = fit(inputs, labels, 1.0, np.zeros((6, 4)), TIGHT)
    far = fit(inputs, labels, 1.0, np.random.default_rng(3).normal(size=(6, 4)), TIGHT)
    last = list(fit_path(inputs, labels, 4, (0.01, 0.1, 1.0), TIGHT))[-1]
    for other in (far, last):
        assert log_probabilities(inputs, other.weights) == pytest.approx(
            log_probabilities(inputs, cold.weights), abs=1e-4
        )


def test_a_path_goes_from_the_prior_to_the_labels():
    features, labels = problem()
    inputs = Scaling.of(features).apply(features)
    likelihoods = [
        log_probabilities(inputs, found.weights)[np.arange(60), labels].mean()
        for found in fit_path(inputs, labels, 4, (1e-6, 1e-2, 1.0, 100.0), TIGHT)
    ]
    assert likelihoods[0] == pytest.approx(math.log(1 / 4), abs=1e-3)
    assert likelihoods == sorted(likelihoods)


def test_too_few_iterations_are_told():
    features, labels = problem()
    inputs = Scaling.of(features).apply(features)
    assert not fit(inputs, labels, 1.0, np.zeros((6, 4)), Stop(1, 1e-7)).converged


def test_the_number_of_threads_changes_no_byte():
    features, labels = problem(n=400, dims=64, classes=10)
    before = torch.get_num_threads()
    made = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            inputs = Scaling.of(features).apply(features)
            found = fit(inputs, labels, 1.0, np.zeros((inputs.shape[1], 10)), Stop(50, 1e-4))
            made.append(log_probabilities(inputs, found.weights).tobytes())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert made[0] == made[1]
