"""What changed since the baseline: every split of two profiles compared, distribution by distribution.

Distributions are compared by the population stability index (Siddiqi 2006, "Credit Risk Scorecards"): over the bins,
the sum of (p - q) ln(p / q), which is the Kullback-Leibler divergence in both directions together. Its usual reading:
below 0.1 stable, above 0.25 changed. Two samples of one distribution are never equal, though: with n and m samples in B
bins the index is about (1/n + 1/m) times a chi-squared variable of B - 1 degrees of freedom (Yurdakul 2018,
"Statistical properties of population stability index"). So what a thousandth of such pairs exceed by chance is allowed
for; it vanishes for large data and matters for an evaluation split of 500.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from assets.validation.config import DriftLimit, DriftLimits
from assets.validation.profile import EDGES

_ONCE_IN_A_THOUSAND = 3.0902
"""Of a standard normal variable, in one direction."""
_DECIMALS = 6
PSI, REJECTED, LOST = "psi", "rejected_share", "lost_share"
CATEGORIES = ("formats", "languages")


@dataclass(frozen=True, slots=True)
class Change:
    """One thing compared.

    Attributes:
        split: The split.
        what: A distribution, a reason of rejection, or ``rejected`` or ``accepted``.
        kind: Which limit applies: ``psi``, ``rejected_share`` or ``lost_share``.
        old: Its median, share or number in the baseline; None where it has none.
        new: The same now.
        value: How far they are apart.
        chance: How far chance alone may take them.
    """

    split: str
    what: str
    kind: str
    old: float | None
    new: float | None
    value: float
    chance: float

    def limit(self, limits: DriftLimit) -> float:
        """Return what the value may be, chance included."""
        return round(float(getattr(limits, self.kind)) + self.chance, _DECIMALS)

    def exceeds(self, limits: DriftLimit) -> bool:
        """Say whether the value is above its limit."""
        return round(self.value, _DECIMALS) > self.limit(limits)

    def nearness(self, limits: DriftLimit) -> float:
        """Return the value as a multiple of its limit."""
        limit = self.limit(limits)
        return self.value / limit if limit else math.inf if self.value else 0.0


def stability_index(old: Sequence[int], new: Sequence[int]) -> tuple[float, float]:
    """Compare two histograms.

    Args:
        old: Counts per bin.
        new: Counts in the same bins.

    Returns:
        The population stability index, half a sample added to every bin that holds any, so that an empty one does not
        make it infinite; and what chance alone exceeds once in a thousand times. 0 and 0 where one side is empty.
    """
    used = [(first, second) for first, second in zip(old, new, strict=True) if first or second]
    n, m = sum(first for first, _ in used), sum(second for _, second in used)
    if not n or not m or len(used) < 2:
        return 0.0, 0.0
    spare = len(used) / 2
    index = 0.0
    for first, second in used:
        p, q = (first + 0.5) / (n + spare), (second + 0.5) / (m + spare)
        index += (p - q) * math.log(p / q)
    return index, (1 / n + 1 / m) * _chi_squared(len(used) - 1)


def _chi_squared(degrees: int) -> float:
    """Return the value exceeded once in a thousand times (Wilson and Hilferty 1931)."""
    part = 2 / (9 * degrees)
    return degrees * (1 - part + _ONCE_IN_A_THOUSAND * math.sqrt(part)) ** 3


def _share_change(split: str, what: str, old: tuple[int, int], new: tuple[int, int]) -> Change:
    """Compare two shares, each given as (part, whole)."""
    p, q = old[0] / max(old[1], 1), new[0] / max(new[1], 1)
    pooled = (old[0] + new[0]) / max(old[1] + new[1], 1)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / max(old[1], 1) + 1 / max(new[1], 1)))
    return Change(split, what, REJECTED, p, q, abs(p - q), _ONCE_IN_A_THOUSAND * spread)


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Compare two profiles of the same format.

    Args:
        old: The baseline.
        new: The data as they are.

    Returns:
        What was compared, split by split. A split that is new has nothing to be compared with; one that is gone has
        lost all its samples.
    """
    changes: list[Change] = []
    for split, before in old["splits"].items():
        after = new["splits"].get(split)
        kept = after["accepted"] if after else 0
        lost = max(0.0, 1 - kept / before["accepted"]) if before["accepted"] else 0.0
        changes.append(Change(split, "accepted", LOST, before["accepted"], kept, lost, 0.0))
        if after:
            changes += _compare_rejects(split, before, after)
            changes += [_compare_histogram(split, name, before, after) for name in EDGES]
            changes += [_compare_categories(split, name, before[name], after[name]) for name in CATEGORIES]
    return changes


def _compare_rejects(split: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    first, second = before["rejected"], after["rejected"]
    n, m = before["accepted"] + sum(first.values()), after["accepted"] + sum(second.values())
    return [
        _share_change(split, "rejected", (sum(first.values()), n), (sum(second.values()), m)),
        *(
            _share_change(split, f"rejected/{reason}", (first.get(reason, 0), n), (second.get(reason, 0), m))
            for reason in sorted({*first, *second})
        ),
    ]


def _compare_histogram(split: str, name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Change:
    value, chance = stability_index(before["histograms"][name], after["histograms"][name])
    medians = [_median(side["quantiles"][name]) for side in (before, after)]
    return Change(split, name, PSI, medians[0], medians[1], value, chance)


def _median(quantiles: Sequence[float]) -> float | None:
    return quantiles[len(quantiles) // 2] if quantiles else None


def _compare_categories(split: str, name: str, before: Mapping[str, int], after: Mapping[str, int]) -> Change:
    keys = sorted({*before, *after})
    value, chance = stability_index([before.get(key, 0) for key in keys], [after.get(key, 0) for key in keys])
    return Change(split, name, PSI, None, None, value, chance)


def drift_table(changes: Sequence[Change], limits: DriftLimits) -> pd.DataFrame:
    """Return the table ``drift`` that the checks look at, what is nearest to its error limit first.

    Args:
        changes: What :func:`compare` returned; nothing without a baseline.
        limits: The limits.
    """
    ordered = sorted(changes, key=lambda change: (-change.nearness(limits.error), change.split, change.what))
    rows = [
        {
            "name": f"{change.split}/{change.what}",
            "kind": change.kind,
            "value": round(change.value, _DECIMALS),
            "warn": change.limit(limits.warn),
            "error": change.limit(limits.error),
        }
        for change in ordered
    ]
    return pd.DataFrame(rows, columns=["name", "kind", "value", "warn", "error"])
