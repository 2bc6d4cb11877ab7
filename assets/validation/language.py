"""In which language captions are, by py3langid (Lui and Baldwin 2012; Barbaresi 2022), a naive Bayes over byte n-grams.

It is 1 MB and quick, and knows 140 languages. A caption of three words carries little to judge by: single answers are
often wrong, shares over thousands of captions are not (docs/validation.md holds what was measured).
"""

import importlib.metadata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from assets.code_stamp import code_digest
from assets.errors import DataError, message
from assets.validation.shard_pass import ShardPass, ShardSamples

_PACKAGE = "py3langid"


@cache
def _identifier() -> Any:
    # imported late: its table takes 0.7 s to unpack
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@cache
def labels() -> tuple[str, ...]:
    """Return the codes that :func:`identify` can answer, sorted; ``zxx`` is what is no language, such as code."""
    return tuple(sorted(_identifier().labels))


def identify(captions: Iterable[str]) -> tuple[list[str], list[float]]:
    """Name the language of captions.

    Args:
        captions: The texts.

    Returns:
        Codes of ISO 639 and their probabilities.
    """
    answers = [_identifier().classify(caption) for caption in captions]
    return [code for code, _ in answers], [probability for _, probability in answers]


def base_codes(languages: Iterable[str]) -> frozenset[str]:
    """Return declared languages without script and region: ``zh-Hant`` -> ``zh``."""
    return frozenset(language.replace("_", "-").partition("-")[0].lower() for language in languages)


def declared_share(counts: Counter[str], languages: Sequence[str]) -> float:
    """Return the share of captions that are in a declared language; 1 when none is declared or none was looked at.

    Args:
        counts: Code -> number of captions.
        languages: ``languages`` of dataset.json.
    """
    if not languages or not counts:
        return 1.0
    declared = base_codes(languages)
    return sum(number for code, number in counts.items() if code in declared) / counts.total()


@dataclass(frozen=True, slots=True)
class CaptionLanguages:
    """The language of every caption.

    Attributes:
        answers: Number of the code in ``labels()`` and its probability, float32 [rows, 2].
        declared: The codes that are expected.
    """

    answers: np.ndarray
    declared: frozenset[str]

    def part(self, start: int, stop: int) -> "CaptionLanguages":
        """Return the rows from ``start`` to ``stop``."""
        return CaptionLanguages(self.answers[start:stop], self.declared)

    def foreign(self, min_probability: float) -> tuple[np.ndarray, list[str]]:
        """Find captions in another language.

        Args:
            min_probability: How sure the answer must be.

        Returns:
            Their numbers, and code and probability of each as text.
        """
        known = labels()
        expected = [place for place, code in enumerate(known) if code in self.declared]
        codes, sure = self.answers[:, 0].astype(np.int64), self.answers[:, 1] >= min_probability
        rows = np.flatnonzero(sure & ~np.isin(codes, expected))
        return rows, [f"{known[codes[row]]} {self.answers[row, 1]:.2f}" for row in rows.tolist()]


def language_pass(name: str, languages: Sequence[str]) -> ShardPass:
    """Return the pass that names the language of every caption, float32 [rows, 2].

    Args:
        name: Name of the data set, for the error.
        languages: ``languages`` of dataset.json.

    Raises:
        DataError: None is declared, or none that could be told.
    """
    if not base_codes(languages) & set(labels()):
        raise DataError(
            message(
                f"datasets.{name}.validation.caption.language: dataset.json declares no language that can be told",
                ", ".join(languages) or "none",
                f"codes such as en, of the {len(labels())} known ones",
                f"name them in datasets.{name}.source, or set caption.language to null",
            )
        )
    version = f"{importlib.metadata.version(_PACKAGE)}-{code_digest(__name__)}"
    return ShardPass("language", version, ("caption",), identify_shard)


def identify_shard(samples: ShardSamples) -> np.ndarray:
    """Name the language of a shard's captions.

    Args:
        samples: With the column ``caption``.

    Returns:
        As ``CaptionLanguages.answers``.
    """
    codes, probabilities = identify(samples.rows["caption"])
    numbers = {code: number for number, code in enumerate(labels())}
    return np.array([[numbers[code] for code in codes], probabilities], dtype=np.float32).T.reshape(-1, 2)
