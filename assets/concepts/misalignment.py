"""How many pairs have a caption that names nothing of what the picture shows.

arXiv 2404.04125 calls a pair misaligned when text and picture both have concepts and share none. Pairs with an empty
side cannot be judged. The published degree divides by all pairs, so it falls with every pair that cannot; the share of
the pairs that can be judged is what compares data sets.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assets.concepts.csr import Csr


@dataclass(frozen=True, slots=True)
class Misalignment:
    """The split of n pairs; no_text + no_image - neither + overlap + disjoint = n.

    Attributes:
        pairs: n.
        no_text: Pairs whose caption names no concept.
        no_image: Pairs whose picture shows none.
        neither: Pairs that are among both of these.
        overlap: Pairs whose caption names some of what the picture shows.
        disjoint: Pairs whose caption names other concepts than the picture shows.
    """

    pairs: int
    no_text: int
    no_image: int
    neither: int
    overlap: int
    disjoint: int

    @property
    def rate_given_both(self) -> float | None:
        """Disjoint ones among pairs with concepts on both sides; None where there are no such pairs."""
        return _share(self.disjoint, self.overlap + self.disjoint)

    @property
    def degree_fixed(self) -> float | None:
        """Disjoint ones among all pairs, as published."""
        return _share(self.disjoint, self.pairs)

    @property
    def degree_extracted(self) -> float | None:
        """Disjoint ones over the larger of: pairs with concepts in the caption, pairs with concepts in the picture."""
        return _share(self.disjoint, self.pairs - min(self.no_text, self.no_image))

    def facts(self) -> dict[str, Any]:
        """Return what summary.json says."""
        return {
            "no_text": self.no_text,
            "no_image": self.no_image,
            "neither": self.neither,
            "overlap": self.overlap,
            "disjoint": self.disjoint,
            "rate_given_both": self.rate_given_both,
            "degree_fixed": self.degree_fixed,
            "degree_extracted": self.degree_extracted,
        }


def misalignment(text: Csr, image: Csr) -> Misalignment:
    """Split pairs by what their two sides have in common.

    Args:
        text: Concepts of captions, n rows.
        image: Concepts of pictures, n rows in the same order.
    """
    has_text, has_image = _filled(text), _filled(image)
    shared = _filled(text.intersection(image))
    return Misalignment(
        pairs=len(has_text),
        no_text=int((~has_text).sum()),
        no_image=int((~has_image).sum()),
        neither=int((~has_text & ~has_image).sum()),
        overlap=int(shared.sum()),
        disjoint=int((has_text & has_image & ~shared).sum()),
    )


def disjoint(text: Csr, image: Csr) -> NDArray[np.bool_]:
    """Flag the pairs whose caption and picture have concepts and share none.

    Args:
        text: Concepts of captions, n rows.
        image: Concepts of pictures, n rows in the same order.

    Returns:
        bool [n]; pairs with an empty side are never flagged.
    """
    return _filled(text) & _filled(image) & ~_filled(text.intersection(image))


def _filled(found: Csr) -> NDArray[np.bool_]:
    return np.diff(found.pointer) > 0


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
