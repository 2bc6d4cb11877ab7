"""Spectra: how a model spreads its image features over directions, measured without labels or training.

With the singular values sigma_i of the features of a split and ``p_i = sigma_i / sum_j sigma_j`` (Chen et al. 2024,
https://arxiv.org/abs/2309.17002):

- SVE ``= -sum_i p_i ln p_i``, the singular value entropy: high when many directions are used;
- LSVR ``= -ln p_1``, the largest singular value ratio; mind the sign: it is high when the first direction is *weak*.

Both are reported to rise with the noise of the captions that a model was trained on. They depend on the number of
images, on D, on the classes and on the centring: compare them only where these are the same. None is a score.

The singular values are roots of the eigenvalues of the Gram matrix, which is summed in float64 over parts of any size.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from assets.section import Section
from evaluation.base import Result
from evaluation.intervals import Bootstrap

if TYPE_CHECKING:
    from evaluation.features import Features, SplitFeatures

Floats = npt.NDArray[np.float64]
Center = Literal["row", "none", "column", "row_column"]

# shares below this count as no direction at all: centring leaves one of them as a rounding error
_NOTHING = 1e-12
_ROWS_AT_ONCE = 4096
_TOPS = (1, 5, 20)


class SpectraConfig(Section):
    """Settings of the evaluator ``spectra``."""

    features: Literal["pooled", "projected"] = "projected"
    """Image features before the projection, or after it, which is what the published numbers of CLIP models are of."""
    center: Center = "row"
    """``row`` takes from each image's feature its mean over the D dimensions, as published; ``column`` takes the mean
    over images, as a principal component analysis does; ``row_column`` both, ``none`` neither. For features that are
    never negative, ``row`` takes most of the first direction away."""
    unit_rows: bool = True
    """Whether features are first brought to unit length, as published."""
    images: int = Field(default=10_000, ge=2)
    """Images per split at most, chosen by a hash of seed and key."""
    seed: int = 0
    """Of that choice."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Singular values and what is read off them.

    Attributes:
        values: Descending, [r] with r the smaller of images and dimensions.
    """

    values: Floats

    @property
    def shares(self) -> Floats:
        """The p_i, [r]; all 0 where nothing is left of the features."""
        total = self.values.sum()
        return self.values / total if total > 0 else np.zeros_like(self.values)

    @property
    def sve(self) -> float:
        """Singular value entropy, 0..ln r."""
        shares = self.shares
        shares = shares[shares > _NOTHING]
        return float(-(shares * np.log(shares)).sum()) + 0.0

    @property
    def sve_share(self) -> float:
        """The entropy over the most it can be, ln r."""
        return self.sve / float(np.log(len(self.values))) if len(self.values) > 1 else 0.0

    @property
    def lsvr(self) -> float:
        """Minus the logarithm of the first share, 0..SVE."""
        first = float(self.shares[0])
        return float(-np.log(first)) + 0.0 if first > 0 else 0.0

    @property
    def participation(self) -> float:
        """Square of the sum over the sum of squares, 1..r: how many directions, if all were used alike."""
        squares = float(np.square(self.values).sum())
        return float(self.values.sum()) ** 2 / squares if squares > 0 else 0.0

    @property
    def stable_rank(self) -> float:
        """Sum of squares over the first square, 1..r."""
        return float(np.square(self.values).sum() / self.values[0] ** 2) if self.values[0] > 0 else 0.0

    def top_share(self, count: int) -> float:
        """Return the sum of the first shares, 0..1."""
        return float(self.shares[:count].sum())


class GramSum:
    """Sums what the spectrum of features needs, part by part; sums of several processes may be added up."""

    def __init__(self, dims: int, center: Center, unit_rows: bool) -> None:
        """Begin with nothing.

        Args:
            dims: D.
            center: See :class:`SpectraConfig`.
            unit_rows: Whether rows are brought to unit length first.
        """
        self.gram = np.zeros((dims, dims))
        self.total = np.zeros(dims)
        self.count = 0
        self._center, self._unit_rows = center, unit_rows

    def add(self, features: npt.NDArray[np.floating[Any]]) -> None:
        """Add rows, [n, D]."""
        rows = features.astype(np.float64)
        if self._unit_rows:
            rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        if self._center in ("row", "row_column"):
            rows -= rows.mean(axis=1, keepdims=True)
        self.gram += rows.T @ rows
        self.total += rows.sum(axis=0)
        self.count += len(rows)

    def spectrum(self) -> Spectrum:
        """Return the spectrum of all rows that were added."""
        gram = self.gram
        if self._center in ("column", "row_column"):
            gram = gram - np.outer(self.total, self.total) / self.count
        squares = np.linalg.eigvalsh(gram)[::-1][: min(self.count, len(gram))]
        # below this an eigenvalue is rounding, and its root would be a direction that is not there
        rounding = len(gram) * np.finfo(np.float64).eps * max(float(np.trace(self.gram)), 0.0)
        return Spectrum(np.sqrt(np.where(squares > rounding, squares, 0.0)))


def spectrum(features: npt.NDArray[np.floating[Any]], center: Center = "row", unit_rows: bool = True) -> Spectrum:
    """Measure features in one go.

    Args:
        features: [n, D].
        center: See :class:`SpectraConfig`.
        unit_rows: Whether rows are brought to unit length first.
    """
    sums = GramSum(features.shape[1], center, unit_rows)
    for start in range(0, len(features), _ROWS_AT_ONCE):
        sums.add(features[start : start + _ROWS_AT_ONCE])
    return sums.spectrum()


def choose_rows(keys: Sequence[str], count: int, seed: int) -> list[int]:
    """Choose samples by a hash of seed and key, so that the choice does not depend on their order.

    Args:
        keys: Sample keys, [n].
        count: How many at most.
        seed: Another seed chooses others.

    Returns:
        Positions, ascending.
    """

    def place(row: int) -> tuple[bytes, str]:
        return hashlib.blake2b(f"{seed}/{keys[row]}".encode(), digest_size=8).digest(), keys[row]

    return sorted(sorted(range(len(keys)), key=place)[:count])


class Spectra:
    """The evaluator ``spectra``: numbers of every suite, from its labelled images, or else its retrieval images."""

    Config: ClassVar[type[Section]] = SpectraConfig
    needs: ClassVar[Mapping[str, frozenset[str]]] = {
        "zero_shot": frozenset({"images", "pooled"}),
        "retrieval": frozenset({"images", "pooled"}),
    }

    def __init__(self, config: SpectraConfig, bootstrap: Bootstrap) -> None:
        self._config = config

    def run(self, features: "Features") -> Result:
        """Measure the image features of every split of the roles ``zero_shot`` and ``retrieval``.

        Args:
            features: Image features of the splits.

        Returns:
            Metrics per suite, of the role ``zero_shot`` where both roles have the suite, and the document ``spectra``
            with the numbers and the shares p_i of both roles.
        """
        result = Result({}, {})
        roles: dict[str, dict[str, Any]] = {}
        for role in self.needs:
            for split in features.with_role(role):
                found, images = self._measure(split)
                numbers = {**metrics_of(found), "num_images": images}
                result.metrics.setdefault(split.suite, numbers)
                tops = {str(count): found.top_share(count) for count in _TOPS}
                shares = found.shares.tolist()
                roles.setdefault(role, {})[split.suite] = {**numbers, "top_shares": tops, "shares": shares}
        result.documents["spectra"] = {"settings": self._config.model_dump(mode="json"), "roles": roles}
        return result

    def _measure(self, split: "SplitFeatures") -> tuple[Spectrum, int]:
        """Return the spectrum of a split, and of how many images it is."""
        config = self._config
        chosen = split.pooled_features if config.features == "pooled" else split.image_features
        assert chosen is not None
        rows = choose_rows(split.keys, config.images, config.seed)
        return spectrum(chosen[rows], config.center, config.unit_rows), len(rows)


def metrics_of(found: Spectrum) -> dict[str, float | int]:
    """Return the numbers of a spectrum under their names; none is a score."""
    return {
        "num_sve": found.sve,
        "num_sve_share": found.sve_share,
        "num_lsvr": found.lsvr,
        "num_participation": found.participation,
        "num_stable_rank": found.stable_rank,
        "num_top5_share": found.top_share(5),
    }
