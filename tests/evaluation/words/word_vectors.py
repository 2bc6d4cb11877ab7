"""Word vectors for tests: the published ones, and random ones with few frequent and many rare words."""

from pathlib import Path

import numpy as np
import pyarrow as pa

CASE = np.load(Path(__file__).parents[2] / "fixtures/lexvla/case_a.npz")


def skewed(rows: int, words: int, active: float, seed: int) -> np.ndarray:
    """Unit vectors whose words have falling frequencies, float32 [rows, words]."""
    generator = np.random.default_rng(seed)
    share = 1 / (np.arange(words) + 3)
    shown = generator.random((rows, words)) < np.minimum(share / share.sum() * active, 0.9)
    shown[:, -1] |= ~shown.any(axis=1)
    vectors = generator.exponential(size=(rows, words)) * shown
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def pictures(count: int) -> pa.Table:
    keys = [f"k{number:05d}" for number in range(count)]
    return pa.table({"key": keys, "split": ["test"] * count, "caption": [f"picture {key}" for key in keys]})
