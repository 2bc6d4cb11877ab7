"""Nearest neighbours: an image takes the class of the training images that its frozen features resemble most.

Votes are weighted by ``exp(cosine / temperature)`` (Wu et al. 2018, section 3.4, https://arxiv.org/abs/1805.01978).
Nothing is trained, so the score says how the features lie and not what a classifier can make of them. Training images
tied for the last of the ``neighbours`` places share what is left of them: features that are all the same get chance.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from assets.section import Section
from evaluation.base import Result
from evaluation.intervals import Bootstrap
from evaluation.probing import Labelled, ProbeConfig, Scores, run_probe
from evaluation.ranking import STEP, cosines

if TYPE_CHECKING:
    from evaluation.features import Features

_IMAGES_AT_ONCE = 1024


class NearestNeighboursConfig(ProbeConfig):
    """Settings of the evaluator ``nearest_neighbours``."""

    neighbours: int = Field(ge=1, le=1000)
    """Training images that vote."""
    temperature: float = Field(gt=0, le=10)
    """The lower, the more the nearest of them decide."""


class NearestNeighbours:
    """The evaluator ``nearest_neighbours``: top-1, top-5 and mean per class, within and across suites."""

    Config: ClassVar[type[Section]] = NearestNeighboursConfig
    needs: ClassVar[Mapping[str, frozenset[str]]] = {"zero_shot": frozenset({"images", "pooled"})}

    def __init__(self, config: NearestNeighboursConfig, bootstrap: Bootstrap) -> None:
        self._config = config
        self._bootstrap = bootstrap

    def run(self, features: "Features") -> Result:
        """Classify the images of every split of the role ``zero_shot`` by their neighbours.

        Args:
            features: Image features of the splits, and the classes.

        Returns:
            Metrics and intervals per suite.
        """

        def classify(train: Labelled, tested: npt.NDArray[np.float32], suite: str, part: str) -> Scores:
            return class_votes(train, tested, self._config.neighbours, self._config.temperature)

        return run_probe(features, self._config, self._bootstrap, classify)


def class_votes(train: Labelled, tested: npt.NDArray[np.float32], neighbours: int, temperature: float) -> Scores:
    """Let the nearest training images vote.

    Args:
        train: The training images.
        tested: Features of the images to classify, [m, D].
        neighbours: How many vote; all when there are fewer.
        temperature: Of the weights.

    Returns:
        Votes of every class in whole multiples of ``STEP``; the nearest image's vote is 1, [m, C].
    """
    candidates = _unit(train.features)
    classes = np.eye(train.num_classes)[train.labels]  # [n, C]
    places = min(neighbours, len(candidates))
    votes: list[Scores] = []
    for start in range(0, len(tested), _IMAGES_AT_ONCE):
        near = cosines(_unit(tested[start : start + _IMAGES_AT_ONCE]), candidates)  # [images, n]
        last = np.partition(near, len(candidates) - places, axis=1)[:, len(candidates) - places, None]
        above, tied = near > last, near == last
        left = (places - above.sum(axis=1, keepdims=True)) / tied.sum(axis=1, keepdims=True)
        behind = near.max(axis=1, keepdims=True) - near
        weights = np.exp(-behind * (STEP / temperature)) * (above + tied * left)
        votes.append(np.rint(weights @ classes / STEP).astype(np.int32))
    return np.concatenate(votes)


def _unit(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    return (features / np.maximum(lengths, 1e-12)).astype(np.float32)
