"""Samples that come in twos, each one's caption a foil of the other: the measures of Winoground.

Thrush et al. 2022 (https://arxiv.org/abs/2204.03162): ``pair_text`` asks whether both pictures prefer their own
caption, ``pair_image`` whether both captions prefer their own picture, ``pair_group`` whether both hold. Ties count as
wrong, as published, so a model without skill that scores continuously gets 1/4, 1/4 and 1/6.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from assets.errors import DataError, message
from evaluation.ranking import STEP
from evaluation.sides import Array

MEASURES = ("pair_text", "pair_image", "pair_group")
CHANCES = {"chance_pair_text": 1 / 4, "chance_pair_image": 1 / 4, "chance_pair_group": 1 / 6}


def paired_rows(metadata: Sequence[Mapping[str, Any]], split: str) -> list[tuple[int, int]]:
    """Find the samples that share a ``pair`` in KEY.json.

    Args:
        metadata: The content of KEY.json of every sample.
        split: The split's name, for errors.

    Returns:
        Places of both samples of each pair, in the order of their first.

    Raises:
        DataError: Three or more samples share a pair. One alone, whose partner validation rejected, is left out.
    """
    found: dict[str, list[int]] = defaultdict(list)
    for row, told in enumerate(metadata):
        if isinstance(name := told.get("pair"), str | int):
            found[str(name)].append(row)
    if crowd := [name for name, rows in found.items() if len(rows) > 2]:
        what = f"split {split}: pair {crowd[0]!r} of KEY.json"
        raise DataError(message(what, len(found[crowd[0]]), "two samples", "number the pairs anew"))
    return [(rows[0], rows[1]) for rows in found.values() if len(rows) == 2]


def pair_scores(
    image_features: Array, caption_features: Array, pairs: Sequence[tuple[int, int]]
) -> npt.NDArray[np.float64]:
    """Score pairs.

    Args:
        image_features: Unit norm, [n, D].
        caption_features: Of each sample's caption, unit norm, [n, D].
        pairs: Places of both samples of each pair, [P].

    Returns:
        1 or 0 under each of ``MEASURES``, [P, 3].
    """
    rows = np.array(pairs)
    images, captions = (side.astype(np.float64)[rows] for side in (image_features, caption_features))  # [P, 2, D]
    own = np.rint(np.einsum("pad,pad->pa", images, captions) / STEP)
    crossed = np.rint(np.einsum("pad,pad->pa", images, captions[:, ::-1]) / STEP)  # image a with the other caption
    by_text = (own > crossed).all(axis=1)
    by_image = (own > crossed[:, ::-1]).all(axis=1)
    return np.stack([by_text, by_image, by_text & by_image], axis=1).astype(np.float64)
