"""profile.json: what a data set looks like, small enough to keep beside the code and to compare with the next version.

Per split: how many samples were accepted and why the others were rejected; histograms over fixed bins and quantiles of
the accepted samples' sizes and lengths; formats; languages and words of a sample of their captions. Columns are read
one at a time, so that 15 million rows take some 200 MB.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from assets.index_parts import SplitCodes, batches
from assets.validation.caption_sample import sample_captions
from assets.validation.decisions import ACCEPTED, REASONS
from assets.validation.language import identify
from assets.validation.sample_rules import normalise

PROFILE = "profile.json"
FORMAT = 1
"""Raised when a profile of the old form cannot be compared with one of the new form."""
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
_WORDS_SHOWN = 20


def _geometric(low: float, octaves: int, steps: int) -> list[float]:
    """Return edges that double every ``steps`` bins, exact where they are powers of two times ``low``."""
    return [round(low * 2 ** (step / steps), 3) for step in range(octaves * steps + 1)]


# the first bin of a length begins at 0, and the last one has no end; ratios end at both sides in outliers
_SIDES = [0, *(round(edge) for edge in _geometric(16, 10, 4))]
EDGES: dict[str, Sequence[float]] = {
    "width": _SIDES,
    "height": _SIDES,
    "aspect_ratio": [0, *_geometric(1 / 8, 6, 4)],
    "file_bytes": [0, *(round(edge) for edge in _geometric(256, 18, 2))],
    "caption_words": [*range(17), 18, 20, 22, 24, 28, 32, 40, 48, 64, 80, 96, 128, 192, 256, 512],
    "caption_chars": [0, *(round(edge) for edge in _geometric(8, 9, 3))],
}
"""Distribution -> lower edges of its bins; a bin holds its lower edge and not its upper one."""
_COLUMNS = {
    "width": ("width",),
    "height": ("height",),
    "aspect_ratio": ("width", "height"),
    "file_bytes": ("image_size",),
    "caption_words": ("caption_words",),
    "caption_chars": ("caption_chars",),
}


def make_profile(raw: Path, splits: SplitCodes, reasons: np.ndarray, captions_per_split: int) -> dict[str, Any]:
    """Describe a data set.

    Args:
        raw: The raw data folder.
        splits: Of every row.
        reasons: 0 for an accepted row, else 1 + the number of its reason in ``REASONS``, uint8 [rows].
        captions_per_split: How many captions are looked at for languages and words.

    Returns:
        The content of profile.json: a function of index, reasons and that number alone.
    """
    accepted = reasons == ACCEPTED
    found = {split: _counts(reasons[splits.codes == code]) for code, split in enumerate(splits.names)}
    for name, columns in _COLUMNS.items():
        values = _read(raw, columns)
        for code, split in enumerate(splits.names):
            here = values[accepted & (splits.codes == code)]
            found[split]["histograms"][name] = histogram(here, EDGES[name])
            found[split]["quantiles"][name] = quantiles(here)
    formats = _formats(raw, splits, accepted)
    captions = sample_captions(raw, splits, reasons, captions_per_split)
    for code, split in enumerate(splits.names):
        found[split]["formats"] = dict(formats[code])
        found[split]["languages"] = dict(Counter(identify(captions[split])[0]))
        found[split]["words"] = _words(captions[split])
    return {"format": FORMAT, "edges": EDGES, "splits": found}


def _counts(reasons: np.ndarray) -> dict[str, Any]:
    numbers = np.bincount(reasons, minlength=len(REASONS) + 1).tolist()
    return {
        "accepted": numbers[0],
        "rejected": {reason: number for reason, number in zip(REASONS, numbers[1:], strict=True) if number},
        "histograms": {},
        "quantiles": {},
    }


def _read(raw: Path, columns: tuple[str, ...]) -> np.ndarray:
    """Read a column of whole numbers, or the ratio of two, one entry per row."""
    parts: list[np.ndarray] = []
    for batch in batches(raw, list(columns)):
        first, *rest = (batch.column(name).to_numpy() for name in columns)
        for other in rest:
            first = first.astype(np.float32) / np.maximum(other, 1).astype(np.float32)
        parts.append(first)
    return np.concatenate(parts)


def histogram(values: np.ndarray, edges: Sequence[float]) -> list[int]:
    """Count values in bins.

    Args:
        values: Not below the first edge, [n].
        edges: Lower edges of the bins, ascending.

    Returns:
        As many counts as edges; they add up to n.
    """
    bins = np.searchsorted(np.asarray(edges), values, side="right") - 1
    return np.bincount(bins, minlength=len(edges)).tolist()


def quantiles(values: np.ndarray) -> list[float]:
    """Return values that stand at ``QUANTILES`` of the sorted ones; none when there are none."""
    if not len(values):
        return []
    found = np.quantile(values, QUANTILES, method="inverted_cdf")
    return [round(float(value), 4) if found.dtype.kind == "f" else int(value) for value in found]


def _formats(raw: Path, splits: SplitCodes, accepted: np.ndarray) -> list[Counter[str]]:
    found: list[Counter[str]] = [Counter() for _ in splits.names]
    start = 0
    for batch in batches(raw, ["extension"]):
        here = slice(start, start + batch.num_rows)
        for code in np.unique(splits.codes[here]).tolist():
            rows = batch.column("extension").filter(pa.array(accepted[here] & (splits.codes[here] == code)))
            found[code].update({entry["values"]: entry["counts"] for entry in rows.value_counts().to_pylist()})
        start = here.stop
    return found


def _words(captions: list[str]) -> dict[str, Any]:
    """Count the words of captions: the most frequent ones, and how long the tail is."""
    counts = Counter(word for text in normalise(pa.array(captions, pa.string())).to_pylist() for word in text.split())
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {
        "captions": len(captions),
        "total": counts.total(),
        "distinct": len(counts),
        "once": sum(number == 1 for number in counts.values()),
        "most_frequent": dict(ranked[:_WORDS_SHOWN]),
    }
