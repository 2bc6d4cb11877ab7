"""Measure search by words against dense vectors: CPU milliseconds a query, postings read and size, on one thread.

Run ``python benchmarks/lexical_search.py`` in the repository root; it writes benchmarks/results/lexical_search.json.
Pictures and queries are random unit vectors whose words have Zipf's frequencies: few words that most pictures show, and
many that hardly any does. Each query goes through the index and, as a float32 vector, through the dense product of all
pictures, taken in turns; its answer is compared with an exact product, hit by hit and score by score. Memory for the
dense side grows with pictures times words (100,000 x 17,149 in float32 are 6.4 GiB), so it takes the pictures in parts.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from record import record
from scipy.sparse import csr_matrix, vstack

from evaluation.words.cut import rounded
from evaluation.words.index import InvertedIndex, query_of

PART = 5_000
TOP = 10
DENSE_WIDTH = 512
MIB = 1 << 20


def shares(words: int, active: float) -> NDArray[np.float64]:
    """Return how often each word is shown: like 1 / (rank + 20)^0.8, no word in more than 95 % of the pictures."""
    share = 1 / (np.arange(words) + 20.0) ** 0.8
    factor = active / share.sum()
    for _ in range(50):  # what the limit takes from the frequent words goes to the others
        factor *= active / np.minimum(share * factor, 0.95).sum()
    return np.minimum(share * factor, 0.95)


def vectors(count: int, share: NDArray[np.float64], generator: np.random.Generator) -> csr_matrix:
    """Draw cut vectors, [count, V], rounded as an index rounds them."""
    parts: list[csr_matrix] = []
    for begin in range(0, count, PART):
        shown = generator.random((min(PART, count - begin), len(share)), dtype=np.float32) < share
        part = csr_matrix(shown.astype(np.float32))
        part.data = generator.exponential(size=part.nnz).astype(np.float32) + np.float32(0.5)
        norms = np.sqrt(np.asarray(part.multiply(part).sum(axis=1)).ravel())
        part.data = rounded(part.data / np.repeat(norms, np.diff(part.indptr)))
        parts.append(part)
    return vstack(parts, format="csr")


def dense_parts(matrix: csr_matrix) -> Iterator[NDArray[np.float32]]:
    for begin in range(0, matrix.shape[0], PART):
        yield matrix[begin : begin + PART].toarray()


def exact_best(rows: csr_matrix, query: csr_matrix) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the first hits and their scores by a product of all pictures in float64."""
    scores = rows @ query.toarray().ravel().astype(np.float64)
    order = np.lexsort((np.arange(len(scores)), -scores))[:TOP]
    return order, scores[order]


def quantiles(seconds: list[float]) -> dict[str, float]:
    return {name: round(1000 * float(np.quantile(seconds, at)), 2) for name, at in (("median", 0.5), ("p95", 0.95))}


def dense_seconds(matrix: csr_matrix, asked: csr_matrix) -> list[float]:
    """Return the seconds of each query's float32 product with all pictures, one query at a time."""
    queries = torch.from_numpy(asked.toarray())
    seconds = np.zeros(len(queries))
    for part in map(torch.from_numpy, dense_parts(matrix)):
        for number, query in enumerate(queries):
            begin = time.process_time()
            torch.mv(part, query)
            seconds[number] += time.process_time() - begin
    return seconds.tolist()


def measure(pictures: int, words: int, active: float, queries: int, dense_queries: int) -> dict[str, Any]:
    """Compare both ways on one size of vocabulary."""
    generator = np.random.default_rng(0)
    share = shares(words, active)
    matrix, asked = vectors(pictures, share, generator), vectors(queries, share, generator)
    numbers = [str(number) for number in range(pictures)]
    table = pa.table({"key": numbers, "split": [""] * pictures, "caption": [""] * pictures})
    index = InvertedIndex.build(matrix, table)
    rows = index.to_rows().astype(np.float64)
    seconds: list[float] = []
    touched: list[int] = []
    for number in range(queries):
        query = query_of(asked[number])
        begin = time.process_time()
        found = index.search(query, TOP)
        seconds.append(time.process_time() - begin)
        touched.append(found.touched)
        best, scores = exact_best(rows, asked[number])
        assert [hit.image for hit in found.hits] == best.tolist(), f"another ranking for query {number}"
        assert [hit.score for hit in found.hits] == scores.tolist(), f"other scores for query {number}"
    stored = index.starts.nbytes + index.images.nbytes + index.weights.nbytes
    return {
        "pictures": pictures,
        "words": words,
        "mean_active_words": round(len(index.images) / pictures, 1),
        "queries": queries,
        "equal_rankings_and_scores": queries,
        "index_ms": quantiles(seconds),
        "postings_read_median": int(np.median(touched)),
        "postings_read_share": round(float(np.median(touched)) / len(index.images), 3),
        "index_mib": round(stored / MIB, 1),
        "dense_float32_ms": quantiles(dense_seconds(matrix, asked[:dense_queries])),
        "dense_float32_mib": round(4 * pictures * words / MIB, 1),
        f"dense_float16_{DENSE_WIDTH}d_mib": round(2 * pictures * DENSE_WIDTH / MIB, 1),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--pictures", type=int, default=100_000)
    arguments.add_argument("--words", type=int, nargs="+", default=[2_000, 17_149], help="sizes of the vocabulary")
    arguments.add_argument("--active", type=float, default=300.0, help="mean words per picture and per query")
    arguments.add_argument("--queries", type=int, default=100)
    arguments.add_argument("--dense-queries", type=int, default=20)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    sizes = {
        f"{words}_words": measure(given.pictures, words, given.active, given.queries, given.dense_queries)
        for words in given.words
    }
    record("lexical_search", {"threads": 1, **sizes})


if __name__ == "__main__":
    main()
