from pathlib import Path

import numpy as np
import pytest
import torch

from assets.clustering.kmeans import KMeansConfig, Rows, kmeans, nearest
from assets.errors import ConfigError

CASE = np.load(Path(__file__).parents[2] / "fixtures/protoclip/case_a.npz")


def table(values) -> Rows:
    values = torch.as_tensor(values, dtype=torch.float32)
    return Rows(values, torch.arange(len(values)), len(values))


def blobs(count=60, centres=4, spread=0.05, width=3) -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    middle = 4 * torch.randn(centres, width, generator=random)
    return middle[torch.arange(count) % centres] + spread * torch.randn(count, width, generator=random)


def slow_lloyd(values, begin, iterations):
    """Follow the definition, a row and a cluster at a time; no cluster may run empty."""
    centroids = [np.asarray(values[row], dtype=np.float64) for row in begin]
    objectives = []
    for turn in range(iterations + 1):
        labels, total = [], 0.0
        for row in values:
            distances = [float(((np.asarray(row, dtype=np.float64) - c) ** 2).sum()) for c in centroids]
            labels.append(distances.index(min(distances)))
            total += min(distances)
        objectives.append(total)
        if turn < iterations:
            for k in range(len(centroids)):
                centroids[k] = np.mean([values[n] for n in range(len(values)) if labels[n] == k], axis=0)
    return np.array(centroids), np.array(labels), objectives


def test_iterations_are_those_of_the_slow_version():
    values = blobs(spread=1.5)
    # one restart from the rows that the seed draws; the slow version begins there, too
    begin = np.random.default_rng(np.random.SeedSequence((7, 0))).permutation(60)[:5]
    found = kmeans(table(values), 5, KMeansConfig(iterations=4, restarts=1), (7,))
    centroids, labels, objectives = slow_lloyd(values.numpy(), begin, 4)
    assert np.allclose(found.centroids, centroids, atol=1e-5)
    assert found.labels.tolist() == labels.tolist()
    assert found.objectives == pytest.approx(objectives, rel=1e-5)
    assert found.counts.tolist() == np.bincount(labels, minlength=5).tolist()


@pytest.mark.parametrize("space", ["img", "txt", "ext"])
def test_objectives_come_near_the_published_ones(space):
    values = CASE["E" if space == "ext" else f"H_{space}"]
    found = kmeans(table(values), 12, KMeansConfig(iterations=20, restarts=3), (1234,))
    assert found.objectives[-1] <= 1.05 * float(CASE[f"km_{space}_objective"])


@pytest.mark.parametrize("space", ["img", "txt", "ext"])
def test_nearest_agrees_with_the_published_labels(space):
    values = torch.from_numpy(CASE["E" if space == "ext" else f"H_{space}"])
    labels, distances = nearest(values, torch.from_numpy(CASE[f"km_{space}_centroids"]))
    assert labels.tolist() == CASE[f"km_{space}_labels"].tolist()
    assert float(distances.sum()) == pytest.approx(float(CASE[f"km_{space}_objective"]), rel=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_the_objective_never_rises_even_when_clusters_run_empty(seed):
    values = torch.cat([blobs(), blobs()[:30], 20 + blobs()[:2]])
    found = kmeans(table(values), 20, KMeansConfig(iterations=12, restarts=1), (seed,))
    steps = np.diff(found.objectives)
    assert (steps <= 1e-5 * found.objectives[0]).all()
    assert found.objectives[-1] < found.objectives[0]


def test_labels_are_those_of_the_least_distance():
    values = blobs(spread=2.0)
    found = kmeans(table(values), 7, KMeansConfig(restarts=2), (0,))
    distances = torch.cdist(values.double(), found.centroids.double())
    assert found.labels.tolist() == distances.argmin(dim=1).tolist()
    assert float(found.mean_distance) == pytest.approx(float(distances.min(dim=1).values.square().mean()), rel=1e-5)


def test_separate_blobs_are_found():
    found = kmeans(table(blobs()), 4, KMeansConfig(), (3,))
    for k in range(4):
        assert len(set(found.labels[k::4].tolist())) == 1
    assert sorted(found.counts.tolist()) == [15] * 4


def test_one_cluster_per_row_leaves_no_distance():
    found = kmeans(table(blobs()), 60, KMeansConfig(iterations=5, restarts=1), (0,))
    assert found.objectives[-1] == 0
    assert found.counts.tolist() == [1] * 60


def test_duplicates_leave_clusters_empty_and_every_row_at_a_centroid():
    values = torch.eye(3).repeat(5, 1)
    found = kmeans(table(values), 6, KMeansConfig(restarts=1), (0,))
    assert found.objectives[-1] == 0
    assert (found.counts > 0).sum() == 3
    assert torch.equal(found.centroids[found.labels], values)
    assert torch.isfinite(found.centroids).all()


def test_a_cluster_that_runs_empty_moves_to_the_farthest_row():
    # two far rows and a heap; beginnings inside the heap must not leave the far rows together
    values = torch.cat([torch.zeros(30, 2), torch.tensor([[50.0, 0.0], [0.0, 80.0]])])
    for seed in range(5):
        found = kmeans(table(values), 3, KMeansConfig(iterations=8, restarts=1), (seed,))
        assert found.objectives[-1] == 0, seed
        assert sorted(found.counts.tolist()) == [1, 1, 30]


def test_the_best_restart_counts_and_the_seed_decides():
    values = table(blobs(spread=2.0))
    single = [kmeans(values, 9, KMeansConfig(iterations=3, restarts=1), (s,)).objectives[-1] for s in range(4)]
    assert len(set(single)) > 1
    many = kmeans(values, 9, KMeansConfig(iterations=3, restarts=8), (0,))
    assert many.objectives[-1] <= single[0]
    again = kmeans(values, 9, KMeansConfig(iterations=3, restarts=8), (0,))
    assert torch.equal(many.centroids, again.centroids)


def test_a_part_of_the_rows_finds_centroids_and_all_get_labels():
    values = blobs(count=400)
    found = kmeans(table(values), 4, KMeansConfig(most_rows_per_cluster=10), (0,))
    assert len(found.labels) == 400
    assert int(found.counts.sum()) == 400
    assert found.objectives[-1] < float(found.mean_distance) * 100  # of 40 rows
    assert len({tuple(found.labels[k::4].unique().tolist()) for k in range(4)}) == 4


def test_more_clusters_than_rows_are_refused():
    with pytest.raises(ConfigError, match="more clusters than rows to cluster, got 5, wanted at most 4"):
        kmeans(table(torch.eye(4)), 5, KMeansConfig(), (0,))
