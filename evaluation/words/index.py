"""An inverted index over sparse word vectors: for each word the pictures that show it, and how much.

    score(query, picture) = sum over words j of query_j * picture_j

Only the words of the query are read. Weights are multiples of 2**-20, so scores are exact in float64: they equal the
dense inner product of the cut vectors, and the contributions of single words add up to them, bit for bit.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

# the kernel behind scipy's sparse products, because the product itself goes through all words, or copies the postings
# of those it needs
from scipy.sparse import (
    _sparsetools,  # pyright: ignore[reportPrivateUsage]
    csc_matrix,
)

from assets.errors import ConfigError, DataError, message
from assets.index import write_table
from assets.row_files import write_array
from evaluation.words.cut import rounded

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Query = Mapping[int, float]
"""Word number -> weight above 0."""
KIND = "index"
PICTURES = "pictures.parquet"
POSTINGS = {"starts": np.dtype(np.int64), "images": np.dtype(np.int32), "weights": np.dtype(np.float32)}
"""Files of the postings, without ``.npy``."""
_LARGEST_SUM = 4096.0
"""Of a query's weights: with twice as much, sums of products would no longer be exact."""
_AGAIN = "make the index anew"


@dataclass(frozen=True, slots=True)
class Hit:
    """A picture that was found.

    Attributes:
        image: Its number.
        score: The exact sum of its words' contributions.
    """

    image: int
    score: float


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to a query.

    Attributes:
        hits: By falling score; of equal ones the lower number first.
        matching: Pictures that share a word with the query and pass its conditions.
        touched: Postings that were read.
    """

    hits: tuple[Hit, ...]
    matching: int
    touched: int


class InvertedIndex:
    """Postings by word.

    Attributes:
        pictures: ``key``, ``split`` and ``caption`` of each picture, by number.
        starts: Where the postings of each word begin; those of word j end at ``starts[j + 1]``, int64 [V + 1].
        images: Picture of each posting, ascending within a word, int32.
        weights: Weight of each posting, float32 multiples of 2**-20.
    """

    def __init__(
        self,
        pictures: pa.Table,
        starts: npt.NDArray[np.int64],
        images: npt.NDArray[np.int32],
        weights: npt.NDArray[np.float32],
    ) -> None:
        """Keep the parts, see the attributes.

        Raises:
            DataError: They do not fit each other.
        """
        if starts[0] or starts[-1] != len(images) or len(images) != len(weights) or np.any(np.diff(starts) < 0):
            got = f"{starts[-1]}, {len(images)} and {len(weights)}"
            raise DataError(message("the postings of an index do not fit each other", got, "equal lengths", _AGAIN))
        self.pictures, self.starts, self.images, self.weights = pictures, starts, images, weights

    @classmethod
    def build(cls, matrix: "csr_matrix", pictures: pa.Table) -> "InvertedIndex":
        """Turn cut and rounded vectors into postings.

        Args:
            matrix: From :func:`evaluation.words.cut.fixed_point`, [n, V].
            pictures: ``key``, ``split`` and ``caption`` of each row.
        """
        columns: Any = matrix.tocsc()
        assert columns.shape[0] == len(pictures)
        columns.sort_indices()
        return cls(
            pictures,
            columns.indptr.astype(np.int64),
            columns.indices.astype(np.int32),
            columns.data.astype(np.float32),
        )

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def num_words(self) -> int:
        """V, with the words that no picture shows."""
        return len(self.starts) - 1

    @property
    def posting_lengths(self) -> npt.NDArray[np.int64]:
        """Pictures of each word, [V]."""
        return np.diff(self.starts)

    def to_rows(self) -> "csr_matrix":
        """Return the vectors of the pictures, float32 [n, V]."""
        columns: Any = csc_matrix((self.weights, self.images, self.starts), shape=(len(self), self.num_words))
        return columns.tocsr()

    def search(self, query: Query, k: int, must: Collection[int] = (), must_not: Collection[int] = ()) -> Found:
        """Find the pictures with the highest scores.

        Args:
            query: Weights by word; rounded to multiples of 2**-20.
            k: How many pictures are wanted; fewer come where fewer share a word with the query.
            must: Words that a picture must show.
            must_not: Words that a picture must not show.

        Raises:
            ConfigError: The query has no words, its weights are not positive, or their sum is above 4,096.
            DataError: The index has no postings.
        """
        if not len(self.images):
            raise DataError(message("the index is empty: no word of any picture was kept", fix="lower its cut"))
        weights = exact_query(query)
        total = np.zeros(len(self))
        for word, weight in weights.items():
            self._add(word, weight, total)
        for word in must:
            shown = np.zeros(len(self), dtype=bool)
            shown[self.images[self._place(word)]] = True
            total[~shown] = 0
        for word in must_not:
            total[self.images[self._place(word)]] = 0
        lengths = self.posting_lengths
        touched = sum(int(lengths[word]) for word in {*weights, *must, *must_not})
        return Found(_best(total, k), int(np.count_nonzero(total)), touched)

    def explain(self, query: Query, image: int) -> dict[int, float]:
        """Say what each word of a query contributes to the score of a picture.

        Args:
            query: As for :meth:`search`.
            image: Number of the picture.

        Returns:
            Word -> its part of the score, the largest first, equal ones by number; the sum is the score exactly.

        Raises:
            ConfigError: As :meth:`search`.
        """
        parts: dict[int, float] = {}
        for word, weight in exact_query(query).items():
            place = self._place(word)
            row = place.start + int(np.searchsorted(self.images[place], image))
            if row < place.stop and self.images[row] == image:
                parts[word] = weight * float(self.weights[row])
        return dict(sorted(parts.items(), key=lambda part: (-part[1], part[0])))

    def _add(self, word: int, weight: float, scores: npt.NDArray[np.float64]) -> None:
        """Add what a word contributes to the scores of all pictures, [n], in place."""
        place = self._place(word)
        kernel: Any = _sparsetools
        column = np.array([0, place.stop - place.start], dtype=np.int32)
        values = self.weights[place].astype(np.float64)
        kernel.csc_matvec(len(scores), 1, column, self.images[place], values, np.array([weight]), scores)

    def _place(self, word: int) -> slice:
        return slice(int(self.starts[word]), int(self.starts[word + 1]))

    def save(self, folder: Path) -> None:
        """Write ``starts.npy``, ``images.npy``, ``weights.npy`` and ``pictures.parquet``."""
        for name in POSTINGS:
            write_array(folder / f"{name}.npy", getattr(self, name))
        write_table(self.pictures, folder / PICTURES)


def exact_query(query: Query) -> dict[int, float]:
    """Round the weights of a query as those of pictures are.

    Args:
        query: Weights by word.

    Raises:
        ConfigError: There is none, one is not positive, or their sum is above 4,096.
    """
    if not query:
        raise ConfigError(message("the query is empty: none of its words is left", fix="ask for other words"))
    given = np.array(list(query.values()), dtype=np.float64)
    if not (given > 0).all() or not given.sum() <= _LARGEST_SUM:  # nan fails both
        wanted = f"weights above 0 and at most {_LARGEST_SUM:.0f} in all"
        raise ConfigError(message("the weights of a query", f"{given.min():g} to {given.max():g}", wanted))
    return dict(zip(query, rounded(given).astype(np.float64).tolist(), strict=True))


def _best(scores: npt.NDArray[np.float64], k: int) -> tuple[Hit, ...]:
    """Return the k highest scores above 0, without sorting the others; of equal ones those with the lower number."""
    found = np.flatnonzero(scores)  # ascending
    if len(found) > k:
        values = scores[found]
        last = np.partition(values, len(values) - k)[len(values) - k]
        above, equal = found[values > last], found[values == last]
        found = np.concatenate([above, equal[: k - len(above)]])
    order = found[np.lexsort((found, -scores[found]))]
    return tuple(Hit(int(image), float(scores[image])) for image in order)


def load_index(folder: Path) -> InvertedIndex:
    """Open an index; postings are mapped into memory and read when a query asks for them.

    Args:
        folder: Where :meth:`InvertedIndex.save` wrote.

    Raises:
        DataError: A file is missing, damaged, or does not fit the others.
    """
    parts: dict[str, npt.NDArray[Any]] = {}
    try:
        for name, dtype in POSTINGS.items():
            parts[name] = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            if parts[name].dtype != dtype or parts[name].ndim != 1:
                raise ValueError(f"{name}.npy is {parts[name].dtype}, not {dtype}")
        pictures: pa.Table = pq.read_table(folder / PICTURES)
    except (OSError, ValueError) as error:
        raise DataError(message(f"the index in {folder} is damaged ({error})", fix=_AGAIN)) from error
    return InvertedIndex(pictures, parts["starts"], parts["images"], parts["weights"])


def query_of(row: "csr_matrix") -> dict[int, float]:
    """Return a cut vector, [1, V], as a query."""
    kept: Any = row
    return dict(zip(kept.indices.tolist(), kept.data.tolist(), strict=True))
