"""Lloyd's k-means on rows that are spread over ranks: the same clusters whatever the number of ranks, up to rounding.

Every rank assigns its own rows by blocked matrix products; sums of [K, D + 1] numbers travel once per iteration. A
cluster that runs empty moves to the row that is farthest from its own centroid, which never raises the objective (the
sum of squared distances). With fewer distinct rows than clusters some stay empty.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor

from assets.clustering.rank_sums import blocks, cluster_sums, fetch_rows, sum_over_ranks
from assets.errors import ConfigError, message
from assets.section import Section

_DISTANCES = 1 << 24
"""Distances in memory at a time; 64 MiB."""


class KMeansConfig(Section):
    """How hard to look for good clusters; the defaults are those published for ProtoCLIP."""

    iterations: int = Field(default=20, ge=1)
    """At most; it ends earlier where nothing moves any more."""
    restarts: int = Field(default=3, ge=1)
    """Beginnings, of which the one with the least objective counts; 1 with 10 iterations is usually close."""
    most_rows_per_cluster: int = Field(default=256, ge=1)
    """Above this many times the clusters, centroids are found on a random part of the rows; all rows get labels."""


@dataclass(frozen=True, slots=True)
class Rows:
    """This rank's part of a table of vectors.

    Attributes:
        values: This rank's rows, float [n, D].
        positions: Their places in the table, ascending, int64 [n].
        size: Rows of the whole table, N.
    """

    values: Tensor
    positions: Tensor
    size: int


@dataclass(frozen=True, slots=True)
class Clusters:
    """What k-means found; all but ``labels`` is the same on every rank.

    Attributes:
        centroids: Means of the clusters as the last iteration left them, [K, D]; not normalised.
        labels: The nearest centroid of each of this rank's rows, int64 [n].
        counts: Rows per cluster, int64 [K].
        mean_distance: Squared distance to the nearest centroid, mean over all rows, a scalar.
        objectives: Sum of squared distances to the nearest centroid before each update, and after the last one, of the
            rows that the centroids were found on.
    """

    centroids: Tensor
    labels: Tensor
    counts: Tensor
    mean_distance: Tensor
    objectives: tuple[float, ...]


@torch.no_grad()
def kmeans(rows: Rows, clusters: int, config: KMeansConfig, seed: tuple[int, ...]) -> Clusters:
    """Cluster all rows of a table. All ranks must call it together.

    Args:
        rows: This rank's part.
        clusters: How many to find, K.
        config: Iterations and restarts.
        seed: Decides the beginnings, with nothing else.

    Returns:
        The restart with the least objective.

    Raises:
        ConfigError: There are more clusters than rows.
    """
    if rows.size < clusters:
        raise ConfigError(message("more clusters than rows to cluster", clusters, f"at most {rows.size}"))
    part = _part(rows, config.most_rows_per_cluster * clusters, seed)
    found = [_lloyd(part, clusters, config.iterations, (*seed, number)) for number in range(config.restarts)]
    centroids, objectives = min(found, key=lambda one: one[1][-1])
    labels, distances = nearest(rows.values, centroids)
    counts = sum_over_ranks(torch.bincount(labels, minlength=clusters))
    return Clusters(centroids, labels, counts, _total(distances) / rows.size, objectives)


def _permutation(size: int, seed: tuple[int, ...], device: torch.device) -> Tensor:
    """Draw an order of all rows, the same on every rank."""
    return torch.from_numpy(np.random.default_rng(np.random.SeedSequence(seed)).permutation(size)).to(device)


def _part(rows: Rows, most: int, seed: tuple[int, ...]) -> Rows:
    """Return a random part of at most so many rows, numbered anew."""
    if rows.size <= most:
        return rows
    kept = _permutation(rows.size, seed, rows.positions.device)[:most].sort().values
    place = torch.searchsorted(kept, rows.positions).clamp(max=most - 1)
    own = kept[place] == rows.positions
    return Rows(rows.values[own], place[own], most)


def _lloyd(rows: Rows, clusters: int, iterations: int, seed: tuple[int, ...]) -> tuple[Tensor, tuple[float, ...]]:
    """Run one restart from random rows; return the centroids and the objectives on the way."""
    begin = _permutation(rows.size, seed, rows.positions.device)[:clusters]
    centroids = fetch_rows(rows.values, rows.positions, begin)
    objectives: list[float] = []
    for _ in range(iterations):
        labels, distances = nearest(rows.values, centroids)
        objectives.append(float(_total(distances)))
        sums, counts = cluster_sums(rows.values, labels, clusters)
        moved = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centroids.double())
        moved = moved.to(centroids.dtype)
        empty = torch.nonzero(counts == 0)[:, 0]
        if len(empty):
            farthest = _farthest(rows, distances, len(empty))
            moved[empty[: len(farthest)]] = farthest
        if torch.equal(moved, centroids):
            break
        centroids = moved
    objectives.append(float(_total(nearest(rows.values, centroids)[1])))
    return centroids, tuple(objectives)


def _total(distances: Tensor) -> Tensor:
    """Add up squared distances over all rows of all ranks."""
    return sum_over_ranks(distances.sum(dtype=torch.float64))


def nearest(rows: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Find the nearest centroid of each row, the first one where several are.

    Args:
        rows: [n, D].
        centroids: [K, D].

    Returns:
        Labels, int64 [n], and squared distances, [n]; exactly zero where row and centroid are equal.
    """
    labels = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    distances = rows.new_empty(len(rows))
    half = centroids.square().sum(dim=1) / 2
    for begin, block in blocks(rows, max(_DISTANCES // len(centroids), 1)):
        # |x - c|^2 / 2 without |x|^2 / 2, which is the same for every centroid
        found = torch.addmm(half, block, centroids.T, alpha=-1).argmin(dim=1)
        labels[begin : begin + len(block)] = found
        distances[begin : begin + len(block)] = (block - centroids[found]).square().sum(dim=1)
    return labels, distances


def _farthest(rows: Rows, distances: Tensor, count: int) -> Tensor:
    """Return the rows with the largest distances above 0, ties by place, [at most count, D]."""
    count = min(count, rows.size)
    order = torch.argsort(distances, descending=True, stable=True)[:count]
    # each rank names its candidates; what it lacks counts as nearer than any row
    names = torch.full((count, 2), -1.0, dtype=torch.float64, device=distances.device)
    names[: len(order), 0] = distances[order].double()
    names[: len(order), 1] = rows.positions[order].double()
    if dist.is_initialized() and dist.get_world_size() > 1:
        every = [torch.empty_like(names) for _ in range(dist.get_world_size())]
        dist.all_gather(every, names)
        names = torch.cat(every)
        names = names[torch.argsort(names[:, 1], stable=True)]
        names = names[torch.argsort(names[:, 0], descending=True, stable=True)]
    names = names[:count]
    return fetch_rows(rows.values, rows.positions, names[names[:, 0] > 0, 1].long())
