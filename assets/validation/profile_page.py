"""The parts of the report that show the profile and what changed since the baseline."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from assets.validation.config import DriftLimits
from assets.validation.drift import PSI, Change
from assets.validation.histograms import panels
from assets.validation.html_table import html_table
from assets.validation.profile import EDGES

_MOST_CHANGES, _MOST_LANGUAGES, _MOST_WORDS = 20, 5, 12
_LEGEND = (
    '<p><span style="background:#8fb4dc">&nbsp;&nbsp;&nbsp;</span> these data'
    ' &nbsp; <span style="color:#b3121d">&#9473;&#9473;</span> baseline; bins of sizes grow with the size</p>'
)


def changes_html(name: str, changes: Sequence[Change] | None, limits: DriftLimits) -> str:
    """Return the section "What changed".

    Args:
        name: Name of the data set.
        changes: What was compared, None without a baseline.
        limits: The limits.
    """
    command = f"<code>clipfoundry baseline {escape(name)}</code>"
    if changes is None:
        return (
            f"<p>There is no <code>baselines/{escape(name)}.json</code> to compare with. {command} makes these data "
            "the reference for the next version.</p>"
        )
    over = [change for change in changes if change.exceeds(limits.warn)]
    text = (
        f"<p>{len(changes)} distributions, shares and counts compared with <code>baselines/{escape(name)}.json</code>; "
        f"{len(over) or 'none'} beyond the usual. If the change is meant, {command} makes these data the reference.</p>"
    )
    shown = sorted(changes, key=lambda change: (change not in over, -change.nearness(limits.error)))
    rows = [_change_row(change, limits) for change in shown[: max(len(over), 5)][:_MOST_CHANGES]]
    if len(over) > _MOST_CHANGES:
        text += f"<p>The {_MOST_CHANGES} largest:</p>"
    return text + html_table(["result", "what", "baseline", "now", "distance", "warn", "error"], rows, 2)


def _change_row(change: Change, limits: DriftLimits) -> list[str]:
    if change.exceeds(limits.error):
        result = '<span class="fail">FAILED</span>'
    elif change.exceeds(limits.warn):
        result = '<span class="warn">warning</span>'
    else:
        result = '<span class="pass">as before</span>'
    sides = ["" if side is None else _side(change, side) for side in (change.old, change.new)]
    numbers = [f"{number:.3g}" for number in (change.value, change.limit(limits.warn), change.limit(limits.error))]
    return [result, f"{escape(change.split)}/{escape(change.what)}", *sides, *numbers]


def _side(change: Change, value: float) -> str:
    if change.kind == PSI:
        return f"median {value:.4g}"
    return f"{value:.2%}" if isinstance(value, float) else f"{value:,}"


def profile_html(
    profile: Mapping[str, Any], baseline: Mapping[str, Any] | None, changes: Sequence[Change] | None, drift: DriftLimits
) -> str:
    """Return pictures of the distributions: of every split that changed, and of the first one in any case.

    Args:
        profile: The content of profile.json.
        baseline: The same of the baseline, None without one.
        changes: What was compared, None without a baseline.
        drift: The limits.
    """
    changed = {change.split for change in changes or () if change.exceeds(drift.warn)}
    text = _LEGEND if baseline is not None else ""
    for place, (split, new) in enumerate(profile["splits"].items()):
        if place and split not in changed:
            continue
        old = None if baseline is None else baseline["splits"].get(split)
        text += panels(split, new, old, EDGES) + _captions(new, old)
    return text


def _captions(new: Mapping[str, Any], old: Mapping[str, Any] | None) -> str:
    """Return what a sample of the captions says, in two lines."""
    counts, words = new["languages"], new["words"]
    if not words["captions"]:
        return "<p>No captions.</p>"
    before = old["languages"] if old is not None else {}
    whole, whole_before = sum(counts.values()), max(sum(before.values()), 1)
    largest = sorted({*counts, *before}, key=lambda code: (-max(counts.get(code, 0), before.get(code, 0)), code))
    languages = ", ".join(
        f"{code} {counts.get(code, 0) / whole:.1%}"
        + (f" (was {before.get(code, 0) / whole_before:.1%})" if old is not None else "")
        for code in largest[:_MOST_LANGUAGES]
    )
    frequent = ", ".join(escape(word) for word in list(_by_count(words["most_frequent"]))[:_MOST_WORDS])
    return (
        f"<p>Languages of {whole:,} captions: {languages}.<br>{words['distinct']:,} different words, "
        f"{words['once']:,} of them once; most frequent: {frequent}.</p>"
    )


def _by_count(words: Mapping[str, int]) -> list[str]:
    return sorted(words, key=lambda word: (-words[word], word))
