"""What a kept pair is called: its own caption, a generated one, or both.

Appending is the published rule, "ORIGINAL; GENERATED". A text tower reads a bounded number of tokens, so that a long
original would push the generated part out; the budgeted rule keeps room for it.
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported, out of a type checker's sight

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from assets.errors import ConfigError, DataError, message
from assets.reduction.config import (
    BudgetedConcatCaptions,
    CaptionFilter,
    CaptionRule,
    ConcatCaptions,
    ExchangedCaptions,
    OriginalCaptions,
    SampleCaptions,
)
from assets.reduction.hash_order import key_hashes, uniforms

SEPARATOR = "; "
FILE = "captions.parquet"
_PUNCTUATION = re.compile(r"[.!\"()*#:;~]")
_FIX = 'rerun "dvc repro captioner"'


def clean(caption: str, words: int) -> str:
    """Clean a caption as BLIP does before it cuts tokens, but for single tabs and line ends, which are spaces here too.

    Args:
        caption: Any text.
        words: The most words that stay.
    """
    return " ".join(_PUNCTUATION.sub(" ", caption.lower()).split()[:words])


def concat(original: str, generated: Sequence[str]) -> str:
    """Append generated captions in order; without any, the original stays byte for byte."""
    return SEPARATOR.join([original, *generated])


def budgeted_concat(original: str, generated: str, words: int, reserve: int) -> str:
    """Append a generated caption within a budget of words.

    Args:
        original: Cut so far as the reserve needs room.
        generated: Its first ``reserve`` words always stay; more of them where the original leaves room.
        words: The most words in all.
        reserve: Fewer than ``words``.

    Returns:
        Both; a part that fits stays byte for byte.
    """
    said = len(generated.split())
    head = _first(original, words - min(said, reserve))
    return concat(head, [_first(generated, words - len(head.split()))])


def _first(text: str, words: int) -> str:
    """Return the first words of a text, which stays as it is when it has no more."""
    parts = text.split()
    return text if len(parts) <= words else " ".join(parts[:words])


@dataclass(frozen=True, slots=True)
class Generated:
    """Generated captions of a pool.

    Attributes:
        captions: Of each pair, null where none was generated, [n].
        log_probabilities: Mean per token, NaN where unknown, float32 [n].
        scores: Likeness of picture and generated caption, float32 [n]; None where nobody measured it.
    """

    captions: pa.StringArray
    log_probabilities: NDArray[np.float32]
    scores: NDArray[np.float32] | None


def read_generated(folder: Path, keys: pa.StringArray, rule: CaptionRule) -> Generated:
    """Read the generated captions of a pool; pairs without one keep their original.

    Args:
        folder: Folder ``data/captioned/C``.
        keys: Of the pool, [n].
        rule: The rule of captions, which says what must be known.

    Raises:
        DataError: The table is missing, or names a key twice.
        ConfigError: The rule compares scores, and the table has none.
    """
    path = folder / FILE
    try:
        table: pa.Table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(message(f"{path} is not readable as parquet ({error})", fix=_FIX)) from error
    found_keys = table.column("key").combine_chunks()
    if (distinct := pc.count_distinct(found_keys).as_py()) != len(found_keys):
        raise DataError(message(f"{path} names keys twice", len(found_keys), f"{distinct} distinct ones", _FIX))
    if not isinstance(rule, OriginalCaptions) and rule.filter.margin is not None and "score" not in table.column_names:
        what = f"captions.filter.margin compares scores, and {path} has no column score"
        raise ConfigError(message(what, fix="take the margin out, or add the column"))
    rows = pc.index_in(keys, value_set=found_keys)

    def numbers(name: str) -> NDArray[np.float32]:
        values = table.column(name).combine_chunks().take(rows)
        return pc.fill_null(values.cast(pa.float32()), float("nan")).to_numpy(zero_copy_only=False)

    return Generated(
        table.column("caption").combine_chunks().take(rows),
        numbers("mean_log_probability"),
        numbers("score") if "score" in table.column_names else None,
    )


def common_captions(generated: pa.StringArray, limits: CaptionFilter) -> frozenset[str]:
    """Return the strings that were generated for too many pairs of a pool.

    Args:
        generated: Of the whole pool, null where none, [n].
        limits: ``most_common_share`` and ``common_at_least``.
    """
    most = max(limits.most_common_share * len(generated), limits.common_at_least)
    counts = pc.value_counts(generated.drop_null())
    return frozenset(counts.field("values").filter(pc.greater(counts.field("counts"), most)).to_pylist())


def dropped_because(
    original: str,
    generated: str | None,
    common: frozenset[str],
    limits: CaptionFilter,
    sureness: float,
    worse_by: float,
) -> str:
    """Say why a generated caption is not used; empty when it is.

    Args:
        original: The pair's own caption.
        generated: The generated one, None where there is none.
        common: See :func:`common_captions`.
        limits: The filter.
        sureness: Mean log-probability per token, NaN where unknown.
        worse_by: Score of the original less that of the generated one, NaN where unknown.
    """
    if generated is None or not generated.strip():
        return "none generated"
    if limits.repeats and _said(generated) == _said(original):
        return "repeats the original"
    if generated in common:
        return "too common"
    if limits.min_log_probability is not None and sureness < limits.min_log_probability:
        return "captioner unsure"
    if limits.margin is not None and worse_by > limits.margin:
        return "scores below the original"
    return ""


def _said(caption: str) -> str:
    return clean(caption, len(caption) + 1)


@dataclass(frozen=True, slots=True)
class Kept:
    """What is known of kept pairs.

    Attributes:
        keys: [n].
        originals: Their own captions, [n].
        generated: None where none was generated, [n].
        sureness: Mean log-probability per token, NaN where unknown, float32 [n].
        worse_by: Score of the original less that of the generated one, NaN where unknown, float32 [n].
    """

    keys: list[str]
    originals: list[str]
    generated: list[str | None]
    sureness: NDArray[np.float32]
    worse_by: NDArray[np.float32]


def kept_pairs(
    keys: pa.StringArray,
    originals: pa.StringArray,
    scores: NDArray[np.float32],
    generated: Generated,
    rows: NDArray[np.int64],
) -> Kept:
    """Collect what is known of some pairs of a pool.

    Args:
        keys: Of the pool, [n].
        originals: Captions of the pool, [n].
        scores: Likeness of picture and original, NaN where unknown, float32 [n].
        generated: Of the pool.
        rows: Which pairs, int64 [m].
    """
    places = pa.array(rows)
    worse = np.full(len(rows), np.nan, dtype=np.float32)
    if generated.scores is not None:
        worse = scores[rows] - generated.scores[rows]
    return Kept(
        keys.take(places).to_pylist(),
        originals.take(places).to_pylist(),
        generated.captions.take(places).to_pylist(),
        generated.log_probabilities[rows],
        worse,
    )


@dataclass(frozen=True, slots=True)
class Final:
    """The captions of kept pairs.

    Attributes:
        captions: Of each pair, null where the original stands, [n].
        outcomes: Why a generated caption was or was not used -> pairs.
    """

    captions: pa.StringArray
    outcomes: dict[str, int]


def final_captions(rule: CaptionRule, kept: Kept, common: frozenset[str], seed: int) -> Final:
    """Apply a rule that uses generated captions.

    Args:
        rule: The rule.
        kept: The pairs.
        common: See :func:`common_captions`.
        seed: Of the policy.

    Returns:
        Captions and counts; those of a pair do not depend on the others.
    """
    assert not isinstance(rule, OriginalCaptions | ExchangedCaptions)
    # a word before the key, since the hash order that chose the pairs would favour one of the two captions
    salted = [f"caption:{key}" for key in kept.keys] if isinstance(rule, SampleCaptions) else []
    draws = uniforms(key_hashes(salted, seed)).tolist()
    texts: list[str | None] = []
    outcomes: Counter[str] = Counter()
    for row, (original, new) in enumerate(zip(kept.originals, kept.generated, strict=True)):
        sureness, worse_by = float(kept.sureness[row]), float(kept.worse_by[row])
        why = dropped_because(original, new, common, rule.filter, sureness, worse_by)
        if not why and isinstance(rule, SampleCaptions) and draws[row] < rule.p:
            why = "original drawn"
        text = original if why or new is None else _combined(rule, original, new)
        if rule.clean_words is not None:
            text = clean(text, rule.clean_words)
        outcomes[why or "used"] += 1
        texts.append(None if text == original else text)
    return Final(pa.array(texts, pa.string()), dict(sorted(outcomes.items())))


def _combined(rule: CaptionRule, original: str, generated: str) -> str:
    if isinstance(rule, BudgetedConcatCaptions):
        return budgeted_concat(original, generated, rule.words, rule.reserve)
    return concat(original, [generated]) if isinstance(rule, ConcatCaptions) else generated
