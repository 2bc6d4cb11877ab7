"""Clusters of a pool that need not fit into memory: directions and centroids from a part of it, then labels in pieces.

    y = unit(W (x - mean)),   W = eigenvectors / root of their eigenvalues, the largest first     (whitening)
    label = the nearest of K centroids of y, the lower one where two are equally near

The published code of TL;DR whitens so before it clusters. Rows take part in the fit by their rank in the hash order and
are taken in that order, so clusters depend neither on the order of rows nor on who computes them. A row that is almost
equally near to several centroids is decided in float64, on its own: how rows fall into pieces, and how a matrix product
adds up, must not matter.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from assets.errors import ConfigError, DataError, message
from assets.section import Section
from assets.unit import unit

if TYPE_CHECKING:
    from torch import Tensor

_ROWS = 1 << 14
"""Rows in memory at a time, but for those of the fit."""
_MOST_FIT_ROWS = 1_000_000
"""Rows that mean and covariance are taken from, at most."""
_MOST_DISTANCES = 1 << 24
"""Distances in memory at a time; 64 MiB."""
_CLOSE = 1e-5
"""Half squared distances of unit rows that differ by less are compared again in float64."""
_FLAT = 1e-7
"""Directions with a smaller share of the largest variance are noise of rounding, and left at 0."""


class Table(Protocol):
    """Rows of numbers of any origin: an array, one mapped into memory, or a reader that looks like it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and width, (n, D)."""
        ...

    def __getitem__(self, places: slice | NDArray[np.int64], /) -> NDArray:
        """Return some rows, [m, D]."""
        ...


class ClusteringConfig(Section):
    """How a pool is clustered."""

    clusters: int = Field(ge=1)
    """How many; the published best for 3 million pairs is 3000, 1000 is close."""
    components: int | None = Field(default=256, ge=1)
    """Principal directions that rows are whitened to, at most as many as they are wide; null takes unit rows as they
    are, as SemDeDup does."""
    iterations: int = Field(default=20, ge=1)
    """Of k-means, at most."""
    restarts: int = Field(default=1, ge=1)
    """Beginnings, of which the best counts."""
    most_rows_per_cluster: int = Field(default=256, ge=1)
    """Above this many times the clusters, centroids are found on a part of the rows; all rows get labels."""


@dataclass(frozen=True, slots=True)
class Clusters:
    """Clusters of all rows.

    Attributes:
        labels: The cluster of each row, int32 [n].
        centroids: float32 [K, P], P the width after whitening; not normalised.
        distances: Squared distance of each row to its centroid, float32 [n].
        objectives: Sum of squared distances after each iteration, of the rows that the centroids were found on.
    """

    labels: NDArray[np.int32]
    centroids: NDArray[np.float32]
    distances: NDArray[np.float32]
    objectives: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Mapped:
    """A table whose rows are computed when they are asked for.

    Attributes:
        rows: The table below.
        width: Of the computed rows.
        function: From rows of that table, [m, D], to rows [m, width].
    """

    rows: Table
    width: int
    function: Callable[[NDArray], NDArray[np.float32]]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and width."""
        return self.rows.shape[0], self.width

    def __getitem__(self, places: slice | NDArray[np.int64], /) -> NDArray[np.float32]:
        """Compute some rows, [m, width]."""
        return self.function(self.rows[places])


@dataclass(frozen=True, slots=True)
class Whitening:
    """Directions of a pool, scaled so that it varies equally along all of them.

    Attributes:
        mean: float64 [D].
        directions: Eigenvectors over the roots of their eigenvalues, float64 [D, P]; zero where there is no variance.
    """

    mean: NDArray[np.float64]
    directions: NDArray[np.float64]

    def apply(self, rows: NDArray) -> NDArray[np.float32]:
        """Whiten rows.

        Args:
            rows: [m, D].

        Returns:
            Unit rows, float32 [m, P]; zero for a row that is the mean.
        """
        return unit(((rows.astype(np.float64) - self.mean) @ self.directions).astype(np.float32))


def fit_whitening(rows: Table, ranks: NDArray[np.int64], components: int) -> Whitening:
    """Find the directions in which a table varies most.

    Args:
        rows: [n, D].
        ranks: Places in the hash order, which decide the rows looked at if there are many, int64 [n].
        components: Directions, P at most; not more than D.

    Returns:
        The whitening.
    """
    width = rows.shape[1]
    chosen = first_by_rank(ranks, _MOST_FIT_ROWS)
    total, products = np.zeros(width), np.zeros((width, width))
    # covariance of what is left after the first rows' mean: no digits are lost where the mean is large
    shift = rows[chosen[:_ROWS]].astype(np.float64).mean(axis=0)
    for begin in range(0, len(chosen), _ROWS):
        block = rows[chosen[begin : begin + _ROWS]].astype(np.float64) - shift
        total += block.sum(axis=0)
        products += block.T @ block
    mean = total / len(chosen)
    values, vectors = np.linalg.eigh(products / len(chosen) - np.outer(mean, mean))
    values, vectors = values[::-1][:components], vectors[:, ::-1][:, :components]
    sound = values > _FLAT * max(values[0], np.finfo(np.float64).tiny)
    vectors = vectors * np.where(np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], 0) < 0, -1, 1)
    return Whitening(shift + mean, np.where(sound, vectors / np.sqrt(np.where(sound, values, 1)), 0))


def preprocess(rows: Table, ranks: NDArray[np.int64], components: int | None) -> Table:
    """Prepare a table for clustering; nothing but the fit is computed now.

    Args:
        rows: [n, D].
        ranks: Places in the hash order, int64 [n].
        components: See :class:`ClusteringConfig`.

    Returns:
        Unit rows, [n, P].
    """
    if components is None:
        return Mapped(rows, rows.shape[1], lambda block: unit(block.astype(np.float32)))
    whitening = fit_whitening(rows, ranks, components)
    return Mapped(rows, whitening.directions.shape[1], whitening.apply)


def first_by_rank(ranks: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return the rows of the lowest ranks, in the order of ranks, int64 [at most ``most``]."""
    if len(ranks) > most:
        low = np.flatnonzero(ranks <= np.partition(ranks, most - 1)[most - 1])
        return low[np.argsort(ranks[low])]
    return np.argsort(ranks)


def cluster(rows: Table, ranks: NDArray[np.int64], config: ClusteringConfig, seed: int) -> Clusters:
    """Cluster all rows of a table.

    Args:
        rows: [n, D], in any order.
        ranks: Places in the hash order, all different, int64 [n].
        config: How.
        seed: Decides the beginnings.

    Returns:
        The clusters; some may be empty, where there are fewer different rows than clusters.

    Raises:
        ConfigError: There are more clusters than rows.
        DataError: A row is not finite.
    """
    # imported here: params.yaml is checked without PyTorch
    from assets.clustering.kmeans import KMeansConfig, Rows, kmeans

    size = rows.shape[0]
    if size < config.clusters:
        what = f"a pool of {size} pairs cannot be put into {config.clusters} clusters"
        fix = (
            f"lower clusters to {size} or fewer (ten pairs per cluster are sensible), or keep more in the steps before"
        )
        raise ConfigError(message(what, config.clusters, f"at most {size}", fix))
    table = preprocess(rows, ranks, config.components)
    part = _gather(table, first_by_rank(ranks, config.most_rows_per_cluster * config.clusters))
    settings = KMeansConfig(
        iterations=config.iterations,
        restarts=config.restarts,
        most_rows_per_cluster=config.most_rows_per_cluster,
    )
    found = kmeans(Rows(part, _numbers(len(part)), len(part)), config.clusters, settings, (seed,))
    centroids = found.centroids.numpy()
    del part
    labels, distances = assign(table, centroids)
    return Clusters(labels, centroids, distances, found.objectives)


def _gather(table: Table, places: NDArray[np.int64]) -> "Tensor":
    """Copy rows into a tensor, a piece at a time."""
    import torch

    part = torch.empty(len(places), table.shape[1])
    for begin in range(0, len(places), _ROWS):
        part[begin : begin + _ROWS] = torch.from_numpy(table[places[begin : begin + _ROWS]])
    if not bool(torch.isfinite(part).all()):
        raise DataError(message("rows to cluster are not finite", fix='make the embeddings again ("dvc repro embed")'))
    return part


def _numbers(count: int) -> "Tensor":
    import torch

    return torch.arange(count)


def assign(table: Table, centroids: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Find the nearest centroid of every row, the lower one where two are equally near.

    Args:
        table: Rows of about unit norm, [n, P].
        centroids: float32 [K, P].

    Returns:
        Labels, int32 [n], and squared distances, float32 [n].

    Raises:
        DataError: A row is not finite.
    """
    import torch

    size = table.shape[0]
    labels, distances = np.empty(size, dtype=np.int32), np.empty(size, dtype=np.float32)
    targets = torch.tensor(centroids)
    half = targets.square().sum(dim=1) / 2
    at_once = min(_ROWS, max(_MOST_DISTANCES // len(centroids), 1))
    for begin in range(0, size, at_once):
        rows = np.asarray(table[begin : begin + at_once], dtype=np.float32)
        if not np.isfinite(rows).all():
            raise DataError(message(f"row {begin} or one soon after it is not finite", fix="make the embeddings again"))
        # |y - c|^2 / 2 without |y|^2 / 2, which is the same for every centroid
        scores = torch.addmm(half, torch.tensor(rows), targets.T, alpha=-1)  # [m, K]
        nearest = scores.argmin(dim=1, keepdim=True)
        limits = scores.gather(1, nearest) + _CLOSE
        scores.scatter_(1, nearest, torch.inf)
        doubtful = torch.nonzero(scores.amin(dim=1) <= limits[:, 0])[:, 0]
        found = nearest[:, 0].numpy().astype(np.int32)
        for row in doubtful.tolist():
            close = torch.nonzero(scores[row] <= limits[row])[:, 0].numpy()
            found[row] = _nearest_of(rows[row], centroids, np.append(close, found[row]))
        labels[begin : begin + len(rows)] = found
        apart = rows.astype(np.float64) - centroids[found]
        distances[begin : begin + len(rows)] = np.square(apart).sum(axis=1)
    return labels, distances


def _nearest_of(row: NDArray[np.float32], centroids: NDArray[np.float32], candidates: NDArray[np.int64]) -> int:
    """Return the nearest of a few centroids, in float64; the lowest where several are equally near."""
    candidates = np.sort(candidates)
    apart = np.square(row.astype(np.float64) - centroids[candidates]).sum(axis=1)
    return int(candidates[apart.argmin()])


def code_numbers(codes: Table) -> Table:
    """Take code numbers as coordinates, as the published code does; they mean something only if neighbours are alike.

    Args:
        codes: Codebook indices of each image, [n, L].

    Returns:
        float32 [n, L].
    """
    return Mapped(codes, codes.shape[1], lambda block: block.astype(np.float32))


def code_histograms(codes: Table, size: int) -> Table:
    """Take the roots of how often each code occurs in an image, so that rows have unit norm.

    Args:
        codes: Codebook indices of each image, [n, L].
        size: Of the codebook, V.

    Returns:
        float32 [n, V].
    """
    return Mapped(codes, size, lambda block: np.sqrt(_usage(block, size)))


def code_means(codes: Table, codebook: NDArray[np.float32]) -> Table:
    """Average the quantised vectors of each image: how often a code occurs, times its row of the codebook.

    Args:
        codes: Codebook indices of each image, [n, L].
        codebook: float32 [V, D].

    Returns:
        float32 [n, D].
    """
    return Mapped(codes, codebook.shape[1], lambda block: _usage(block, len(codebook)) @ codebook)


def _usage(codes: NDArray, size: int) -> NDArray[np.float32]:
    """Return the share of each code among those of an image, [m, V]."""
    if codes.size and int(codes.max()) >= size:
        what = "a code is outside the codebook"
        raise DataError(message(what, int(codes.max()), f"below {size}", "take the codebook that the codes came with"))
    places = codes.astype(np.int64) + np.arange(len(codes))[:, None] * size
    counts = np.bincount(places.reshape(-1), minlength=len(codes) * size)
    return (counts.reshape(len(codes), size) / max(codes.shape[1], 1)).astype(np.float32)
