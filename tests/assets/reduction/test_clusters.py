from pathlib import Path

import numpy as np
import pytest
import torch

from assets.clustering.kmeans import KMeansConfig, Rows, kmeans
from assets.errors import ConfigError, DataError
from assets.reduction import clusters as clusters_module
from assets.reduction.clusters import (
    ClusteringConfig,
    assign,
    cluster,
    code_histograms,
    code_means,
    code_numbers,
    fit_whitening,
    preprocess,
)
from assets.unit import unit

CASE = np.load(Path(__file__).parents[2] / "fixtures/tldr/case_a.npz")


def ranks_of(size, seed=0):
    return np.random.default_rng(seed).permutation(size)


def blobs(size=900, centres=12, width=16, seed=0):
    rng = np.random.default_rng(seed)
    middle = unit(rng.standard_normal((centres, width), dtype=np.float32))
    return unit(middle[np.arange(size) % centres] + 0.03 * rng.standard_normal((size, width), dtype=np.float32))


def small(clusters, **more):
    return ClusteringConfig(clusters=clusters, **{"components": None, "iterations": 8, "restarts": 1, **more})


def test_preprocessed_rows_are_the_published_ones_up_to_signs():
    codes = CASE["pw_codes"]
    found = preprocess(code_numbers(codes), ranks_of(len(codes)), int(CASE["pw_dim"]))[:]
    assert np.abs(np.abs(found) - CASE["pw_absy"]).max() < 2e-4
    assert np.abs(found @ found.T - CASE["pw_gram"]).max() < 2e-4


def test_preprocessing_ignores_shifts_and_rotations():
    rows = np.random.default_rng(0).standard_normal((200, 6)) * np.arange(1, 7)
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))[0]
    one = preprocess(rows, ranks_of(200), 4)[:]
    two = preprocess(rows @ rotation + 50, ranks_of(200), 4)[:]
    assert np.allclose(np.linalg.norm(one, axis=1), 1, atol=1e-6)
    assert np.allclose(one @ one.T, two @ two.T, atol=1e-5)


def test_whitened_rows_vary_equally_in_all_directions():
    rows = np.random.default_rng(0).standard_normal((500, 5)) @ np.diag([9.0, 4.0, 1.0, 0.5, 0.1])
    whitening = fit_whitening(rows, ranks_of(500), 3)
    white = (rows - whitening.mean) @ whitening.directions
    assert np.allclose(np.cov(white.T, bias=True), np.eye(3), atol=1e-9)


def test_constant_columns_zero_rows_and_the_mean_itself_are_harmless():
    rows = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    rows[:, 2] = 7
    rows[0] = 0
    found = preprocess(rows, ranks_of(50), 4)[:]
    assert np.isfinite(found).all()
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    same = preprocess(np.ones((9, 3), dtype=np.float32), ranks_of(9), 2)[:]
    assert same.tolist() == [[0, 0]] * 9
    nothing = preprocess(np.zeros((9, 3), dtype=np.float32), ranks_of(9), None)[:]
    assert nothing.tolist() == [[0, 0, 0]] * 9


def test_more_components_than_columns_are_as_many_as_there_are():
    assert preprocess(blobs(width=5), ranks_of(900), 256).shape == (900, 5)


def test_assignment_to_the_published_centroids_is_the_published_one():
    labels, distances = assign(CASE["km_x"], CASE["km_centroids"])
    assert np.array_equal(labels, CASE["km_assign"])
    assert distances.sum() <= float(CASE["km_last_objective"]) * (1 + 1e-5)


def test_separate_blobs_are_the_published_partition():
    rows, wanted = torch.from_numpy(CASE["kb_x"]), CASE["kb_partition"]
    found = kmeans(Rows(rows, torch.arange(90), 90), len(np.unique(wanted)), KMeansConfig(restarts=5), (0,))
    assert found.objectives[-1] == pytest.approx(float(CASE["kb_objective"]), rel=1e-2)
    assert len(set(zip(found.labels.tolist(), wanted.tolist(), strict=True))) == len(np.unique(wanted))


def test_labels_are_those_of_the_least_distance_and_the_objective_never_rises():
    rows = unit(np.random.default_rng(2).standard_normal((700, 8), dtype=np.float32))
    found = cluster(rows, ranks_of(700), small(20), 0)
    apart = np.square(rows[:, None].astype(np.float64) - found.centroids[None]).sum(axis=2)
    assert np.array_equal(found.labels, apart.argmin(axis=1))
    assert np.allclose(found.distances, apart.min(axis=1), atol=1e-6)
    assert (np.diff(found.objectives) <= 1e-4).all()
    again, _ = assign(rows, found.centroids)
    assert np.array_equal(again, found.labels)


@pytest.mark.parametrize("components", [None, 12])
def test_the_order_of_rows_and_the_number_of_threads_change_nothing(components):
    rows, ranks = blobs().astype(np.float16), ranks_of(900)
    config = small(30, components=components, most_rows_per_cluster=12)
    found = cluster(rows, ranks, config, 4)
    mixed = np.random.default_rng(9).permutation(900)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2 if before == 1 else 1)
        again = cluster(rows[mixed], ranks[mixed], config, 4)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(again.labels, found.labels[mixed])
    assert np.allclose(again.centroids, found.centroids, atol=1e-6)


def test_pieces_change_nothing(monkeypatch):
    rows, ranks = blobs(), ranks_of(900)
    config = small(12, components=8)
    whole = cluster(rows, ranks, config, 0)
    monkeypatch.setattr(clusters_module, "_ROWS", 77)
    parts = cluster(rows, ranks, config, 0)
    assert np.array_equal(whole.labels, parts.labels)
    assert np.allclose(whole.distances, parts.distances, atol=1e-5)


def test_equally_near_centroids_give_the_lower_label():
    centroids = np.array([[0, 1], [1, 0], [0, 1], [1, 0]], dtype=np.float32)
    rows = np.array([[0, 1], [1, 0], [0.6, 0.8], [np.sqrt(0.5), np.sqrt(0.5)]], dtype=np.float32)
    assert assign(rows, centroids)[0].tolist() == [0, 1, 0, 0]


def test_blobs_are_found_in_a_mapped_file_of_half_precision(tmp_path):
    mapped = np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", np.float16, (900, 16))
    mapped[:] = blobs()
    found = cluster(mapped, ranks_of(900), small(12, restarts=5, components=11), 0)
    for k in range(12):
        assert len(set(found.labels[k::12].tolist())) == 1
    assert found.labels.dtype == np.int32


def test_copies_leave_clusters_empty_and_every_row_at_a_centroid():
    rows = np.eye(3, dtype=np.float32)[np.arange(30) % 3]
    found = cluster(rows, ranks_of(30), small(6), 0)
    assert len(np.unique(found.labels)) == 3
    assert found.distances.max() == 0


def test_more_clusters_than_pairs_are_refused_with_what_to_lower():
    with pytest.raises(
        ConfigError, match="pool of 5 pairs cannot be put into 6 clusters, got 6, wanted at most 5; lower"
    ):
        cluster(np.eye(5, dtype=np.float32), ranks_of(5), small(6), 0)
    assert sorted(cluster(np.eye(5, dtype=np.float32), ranks_of(5), small(5), 0).labels) == list(range(5))


@pytest.mark.parametrize("most", [1, 256])
def test_rows_that_are_not_finite_are_refused(most):
    rows = blobs()
    rows[899, 3] = np.nan
    ranks = np.arange(900)  # the last one is beyond the part that is fitted
    with pytest.raises(DataError, match="not finite"):
        cluster(rows, ranks, small(12, most_rows_per_cluster=most), 0)


def test_code_features_are_those_of_a_slow_count():
    rng = np.random.default_rng(0)
    codes, codebook = rng.integers(0, 7, (20, 9)).astype(np.uint16), rng.standard_normal((7, 3), dtype=np.float32)
    means, roots = code_means(codes, codebook)[:], code_histograms(codes, 7)[:]
    for row in range(20):
        assert np.allclose(means[row], codebook[codes[row]].mean(axis=0), atol=1e-6)
        assert np.allclose(np.square(roots[row]) * 9, np.bincount(codes[row], minlength=7), atol=1e-5)
    assert np.allclose(np.linalg.norm(roots, axis=1), 1, atol=1e-6)
    assert code_numbers(codes)[np.array([3, 1])].tolist() == codes[[3, 1]].tolist()
    with pytest.raises(DataError, match="a code is outside the codebook, got 6, wanted below 6"):
        code_histograms(codes, 6)[:]
