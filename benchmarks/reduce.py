"""Measure the selection of pairs at scale: clusters, a TL;DR plan, and SemDeDup, on a million feature rows.

Run ``python benchmarks/reduce.py [--rows N]`` in the repository root; it writes benchmarks/results/reduce.json. The
features are synthetic float16 rows, mapped into memory from a file below work/: blobs of very different sizes, a tenth
of the rows near-copies of others, and one heap of copies, a twentieth of all. Every phase is a process of its own, so
its memory is its own, too (pages of the mapped file included), and uses one thread. The bars are 10 minutes and 4 GB
for each of TL;DR (order, clusters, plan) and SemDeDup (order, clusters of unit rows, near-copies); where other work
keeps the machine busy, seconds of the processor tell more than those of the wall.

What 15 million pairs take is calculated, not measured: operations by the formulas in ``operations``, divided by what
each phase did per second of processor time here.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pyarrow as pa
import torch
from record import record

from assets.reduction import semdedup
from assets.reduction.clusters import ClusteringConfig, cluster
from assets.reduction.hash_order import key_hashes, ranks
from assets.reduction.tldr import half_then_stratify
from assets.unit import unit

WORK = Path(__file__).resolve().parent.parent / "work" / "reduce-benchmark"
ROWS, WIDTH, CLUSTERS, SHARE, SEED = 1_000_000, 256, 1000, 4, 0
COPIES, HEAP, ROWS_AT_ONCE = 10, 20, 50_000
MOST_S, MOST_MB, THREADS = 600, 4096, 1
WHITENED = ClusteringConfig(clusters=CLUSTERS, components=WIDTH)
AS_THEY_ARE = ClusteringConfig(clusters=CLUSTERS, components=None)
LARGE_ROWS, LARGE_WIDTH, LARGE_CLUSTERS = 15_000_000, 512, 3000
FIT_ROWS, PER_CLUSTER = 1_000_000, WHITENED.most_rows_per_cluster


def make(folder: Path, rows: int) -> None:
    """Write features and scores."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(SEED)
    centres = unit(rng.standard_normal((3 * CLUSTERS, WIDTH), dtype=np.float32))
    share = 1 / np.arange(1, len(centres) + 1) ** 0.7
    features = np.lib.format.open_memmap(folder / "features.npy", "w+", np.float16, (rows, WIDTH))
    heap = unit(rng.standard_normal(WIDTH, dtype=np.float32))
    for begin in range(0, rows, ROWS_AT_ONCE):
        count = min(ROWS_AT_ONCE, rows - begin)
        blob = rng.choice(len(centres), count, p=share / share.sum())
        made = unit(centres[blob] + 0.07 * rng.standard_normal((count, WIDTH), dtype=np.float32))
        copied = np.arange(0, count - count % COPIES, COPIES)
        made[copied] = made[rng.integers(0, count, len(copied))]
        made[copied] += 0.005 * rng.standard_normal((len(copied), WIDTH), dtype=np.float32)
        made[1::HEAP] = heap
        features[begin : begin + count] = unit(made)
    features.flush()
    np.save(folder / "scores.npy", rng.standard_normal(rows, dtype=np.float32))


def order(folder: Path) -> dict[str, int]:
    """Hash keys and rank them."""
    rows = len(np.load(folder / "scores.npy", mmap_mode="r"))
    keys = pa.array([f"train-{row:08d}" for row in range(rows)])
    np.save(folder / "ranks.npy", ranks(keys, key_hashes(keys, SEED)))
    return {}


def clusters(folder: Path, config: ClusteringConfig) -> dict[str, int]:
    """Cluster and keep labels and centroids."""
    features = np.load(folder / "features.npy", mmap_mode="r")
    found = cluster(features, np.load(folder / "ranks.npy"), config, SEED)
    np.savez(folder / f"clusters_{config.components}.npz", labels=found.labels, centroids=found.centroids)
    counts = np.bincount(found.labels, minlength=CLUSTERS)
    return {"largest_cluster": int(counts.max()), "empty_clusters": int((counts == 0).sum())}


def plan(folder: Path) -> dict[str, int]:
    """Keep a quarter by half_then_stratify."""
    labels = np.load(folder / f"clusters_{WIDTH}.npz")["labels"]
    scores, places = np.load(folder / "scores.npy"), np.load(folder / "ranks.npy")
    kept = half_then_stratify(labels, scores, places, CLUSTERS, len(labels) // SHARE).kept
    assert int(kept.sum()) == len(labels) // SHARE
    return {"kept": int(kept.sum()), "clusters_represented": len(np.unique(labels[kept]))}


def near_copies(folder: Path) -> dict[str, int]:
    """Keep a quarter by SemDeDup."""
    features = np.load(folder / "features.npy", mmap_mode="r")
    found, places = np.load(folder / "clusters_None.npz"), np.load(folder / "ranks.npy")
    nearest = semdedup.nearest_earlier(features, found["labels"], found["centroids"], places)
    kept = semdedup.keep(nearest, places, budget=len(places) // SHARE)
    by_eps = int(semdedup.keep(nearest, places, eps=0.02).sum())
    heap = np.arange(len(places)) % ROWS_AT_ONCE % HEAP == 1
    assert int(kept.sum()) == len(places) // SHARE
    return {"kept": int(kept.sum()), "kept_by_eps_0.02": by_eps, "kept_of_the_heap": int(kept[heap].sum())}


PHASES: dict[str, Callable[[Path], dict[str, int]]] = {
    "order": order,
    "cluster_whitened": lambda folder: clusters(folder, WHITENED),
    "plan": plan,
    "cluster_unit": lambda folder: clusters(folder, AS_THEY_ARE),
    "semdedup": near_copies,
}
POLICIES = {"tldr": ("order", "cluster_whitened", "plan"), "semdedup": ("order", "cluster_unit", "semdedup")}


def run(name: str, folder: Path) -> dict[str, float]:
    """Run one phase in this process and measure it."""
    torch.set_num_threads(THREADS)
    wall, cpu = time.perf_counter(), time.process_time()
    facts = PHASES[name](folder)
    return {
        "wall_s": round(time.perf_counter() - wall, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        **facts,
    }


def operations(rows: int, width: int, clusters: int) -> dict[str, float]:
    """Floating point operations by formula; clusters of equal size, whitening to ``WIDTH`` directions."""
    fit = min(rows, FIT_ROWS)
    part = min(rows, PER_CLUSTER * clusters)
    passes = WHITENED.iterations + 2  # the objective after the last update, and the labels of the part

    def of_kmeans(directions: int) -> float:
        return 2.0 * clusters * directions * (part * passes + rows)

    whitening = 2.0 * fit * width**2 + 2.0 * (part + rows) * width * WIDTH
    return {
        "cluster_whitened": of_kmeans(WIDTH) + whitening,
        "cluster_unit": of_kmeans(width),
        "semdedup": 1.0 * width * rows**2 / clusters,
    }


def calculated(phases: dict[str, dict[str, float]], rows: int) -> dict[str, object]:
    """Scale what was measured to a large pool, by operations or, where there are none to speak of, by rows."""
    here, large = operations(rows, WIDTH, CLUSTERS), operations(LARGE_ROWS, LARGE_WIDTH, LARGE_CLUSTERS)
    seconds = {
        name: round(figures["cpu_s"] * (large[name] / here[name] if name in here else LARGE_ROWS / rows))
        for name, figures in phases.items()
    }
    part = PER_CLUSTER * LARGE_CLUSTERS
    return {
        "rows": LARGE_ROWS,
        "width": LARGE_WIDTH,
        "clusters": LARGE_CLUSTERS,
        "operations": large,
        "cpu_s": seconds,
        "gflops_per_cpu_s_here": {name: round(here[name] / phases[name]["cpu_s"] / 1e9, 1) for name in here},
        "features_gb": round(LARGE_ROWS * LARGE_WIDTH * 2 / 1e9, 1),
        "rows_of_the_fit_gb": round(part * WIDTH * 4 / 1e9, 2),
        # rank, hash, score, label, distance, similarity
        "columns_gb": round(LARGE_ROWS * (8 + 8 + 4 + 4 + 4 + 4) / 1e9, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--phase", choices=list(PHASES), help="run one phase on what was made, and print its figures")
    arguments = parser.parse_args()
    if arguments.phase:
        print(json.dumps(run(arguments.phase, WORK)))
        return
    shutil.rmtree(WORK, ignore_errors=True)
    make(WORK, arguments.rows)
    phases: dict[str, dict[str, float]] = {}
    for name in PHASES:
        command = [sys.executable, __file__, "--phase", name]
        # threads that wait for each other on a busy machine burn the time that is measured
        env = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout
        phases[name] = json.loads(output.splitlines()[-1])
        print(name, phases[name], file=sys.stderr, flush=True)
    shutil.rmtree(WORK)
    policies = {
        policy: {
            "wall_s": round(sum(phases[name]["wall_s"] for name in names), 1),
            "cpu_s": round(sum(phases[name]["cpu_s"] for name in names), 1),
            "peak_rss_mb": max(phases[name]["peak_rss_mb"] for name in names),
        }
        for policy, names in POLICIES.items()
    }
    for figures in policies.values():
        small = figures["peak_rss_mb"] <= MOST_MB
        figures["within_bars_by_cpu"] = small and figures["cpu_s"] <= MOST_S
        figures["within_bars_by_wall"] = small and figures["wall_s"] <= MOST_S
    record(
        "reduce",
        {
            "rows": arguments.rows,
            "width": WIDTH,
            "clusters": CLUSTERS,
            "threads": THREADS,
            "phases": phases,
            "policies": policies,
            "calculated_not_measured": calculated(phases, arguments.rows),
        },
    )


if __name__ == "__main__":
    main()
