"""Run under torchrun by test_rank_sums.py: each rank clusters its rows of one table; the main one writes the result."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from assets.clustering.kmeans import KMeansConfig, Rows, kmeans
from assets.clustering.principal import principal_components
from assets.clustering.rank_sums import cluster_means, whole_table
from assets.config import MachineConfig
from training.engine.distributed import World, world

SIZE, SHARE = 120, 4


def table() -> torch.Tensor:
    """Make rows with duplicates and far ones, so that clusters run empty on the way."""
    rows = torch.randn(SIZE, 5, generator=torch.Generator().manual_seed(4))
    rows[::3] = rows[0]
    rows[[7, 50, 101]] *= 40
    return rows


def places(here: World) -> torch.Tensor:
    """Return which rows a rank has: its share of every stretch, as in a run's batches."""
    number = torch.arange(SIZE)
    return number[number // SHARE % here.size == here.rank]


def results(here: World) -> dict[str, torch.Tensor]:
    """Cluster, all rows and a part of them, and project; return whole tables."""
    positions = places(here)
    rows = Rows(table()[positions], positions, SIZE)
    found = {"projected": whole_table(principal_components(rows.values, 3), positions, SIZE)}
    for name, most in (("all", 256), ("part", 2)):
        config = KMeansConfig(iterations=8, restarts=2, most_rows_per_cluster=most)
        clusters = kmeans(rows, 30, config, (1, 2))
        found |= {
            f"{name}_centroids": clusters.centroids,
            f"{name}_labels": whole_table(clusters.labels, positions, SIZE),
            f"{name}_counts": clusters.counts,
            f"{name}_objectives": torch.tensor(clusters.objectives, dtype=torch.float64),
            f"{name}_means": cluster_means(rows.values, clusters.labels, 30),
        }
    return found


def main(file: Path) -> None:
    """Write this world's results."""
    with world(MachineConfig(workers=0, threads=1, device="cpu", tensorboard=False)) as here:
        found = results(here)
        if here.is_main:
            save_file({name: value.contiguous() for name, value in found.items()}, file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
