"""The fixture of the concept-frequency method, and rows of concepts made of it."""

from pathlib import Path

import numpy as np

from assets.concepts.csr import Csr

ROOT = Path(__file__).resolve().parents[2] / "fixtures" / "concept_frequency"
CASE: dict[str, np.ndarray] = dict(np.load(ROOT / "case_a.npz", allow_pickle=False))
PAIRS, CONCEPTS = len(CASE["captions"]), len(CASE["concepts"])


def rows_of(lists) -> Csr:
    """Rows of concepts out of a list of lists."""
    pointer = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    return Csr(pointer, np.array([concept for row in lists for concept in sorted(set(row))], dtype=np.int32))


def from_postings(name: str) -> Csr:
    """Rows of concepts out of the fixture's lists of rows, one list per concept."""
    pointer, values = CASE[f"{name}_ptr"], CASE[name]
    rows: list[list[int]] = [[] for _ in range(PAIRS)]
    for concept in range(CONCEPTS):
        for row in values[pointer[concept] : pointer[concept + 1]].tolist():
            rows[row].append(concept)
    return rows_of(rows)


def lists_of(found: Csr) -> list[list[int]]:
    """Every row as a list."""
    return [found.concepts[a:b].tolist() for a, b in zip(found.pointer[:-1], found.pointer[1:], strict=True)]
