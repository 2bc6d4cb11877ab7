"""The figures of a promotion: differences from the champion against what is asked of them, and the champions so far."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from evaluation.promotion.champions import ChampionVersion, History
from evaluation.promotion.config import PromotionConfig
from evaluation.promotion.rules import Decision, Facts
from evaluation.svg import INK, MUTED, STYLE, SURFACE, colour, limits, panel, percent_axis, standalone, to_svg
from evaluation.wording import metric_words, percent, points

_LETTERS, _ROW = 24, 0.44
_GOOD, _BAD = colour(2), colour(1)


class Bar(NamedTuple):
    """One row of the figure.

    Attributes:
        label: The metric in words.
        value: Difference from the champion, or a score, as a share.
        low: Low end of its interval; the value where it has none.
        high: High end.
        limit: What it must reach; None where nothing is asked.
        holds: Whether it does.
    """

    label: str
    value: float
    low: float
    high: float
    limit: float | None
    holds: bool


def rows(config: PromotionConfig, facts: Facts, decision: Decision) -> list[Bar]:
    """Return what the figure shows: differences where there are two models, else scores.

    Args:
        config: The promotion.
        facts: The numbers.
        decision: Which rules hold.
    """
    holds = {rule.name: rule.passed for rule in decision.rules}
    champion = facts.champion_scores
    if facts.difference is not None and champion is not None:
        main, value = facts.difference, facts.difference.value
        name = f"main {config.metric}"
        found = [Bar(metric_words(config.metric), value, main.low, main.high, -config.margin, holds[name])]
        for metric, fall in config.slices.items():
            value = facts.scores[metric] - champion[metric]
            found.append(Bar(metric_words(metric), value, value, value, -fall, holds[f"slice {metric}"]))
    else:
        found: list[Bar] = []
        for metric in dict.fromkeys((config.metric, *config.floors)):
            value, limit = facts.scores[metric], config.floors.get(metric)
            found.append(Bar(metric_words(metric), value, value, value, limit, holds.get(f"floor {metric}", True)))
    return [row for row in found if abs(row.value) < float("inf")]  # false for what is no number too


def decision_svg(name: str, config: PromotionConfig, facts: Facts, decision: Decision) -> str:
    """Draw the figure of a decision for inlining in a page.

    Args:
        name: Unique in the page.
        config: The promotion.
        facts: The numbers.
        decision: Which rules hold.
    """
    found = rows(config, facts, decision)
    compares = facts.difference is not None
    title = "Challenger minus champion" if compares else "Scores of the challenger"
    with rc_context(STYLE):
        figure, axes = panel(1.2 + _ROW * max(len(found), 1))
        for place, row in enumerate(found):
            _draw_row(axes, row, place)
        labels = [textwrap.fill(row.label, _LETTERS, break_long_words=False) for row in found]
        axes.set_yticks(range(len(found)), labels, fontsize=8)
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.set_title(title)
        values = [0.0, *(end for row in found for end in (row.low, row.high, row.limit) if end is not None)]
        axes.set_xlim(*limits(values, 0.08))
        percent_axis(axes, "x")
        if compares:
            axes.axvline(0, color=MUTED, linewidth=1, zorder=1)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: points(value)))
            axes.set_xlabel("points; bar: 95 % interval; line: what is asked", fontsize=8)
        else:
            axes.set_xlabel("line: floor", fontsize=8)
        return to_svg(figure, name, f"{title}: {'; '.join(_row_words(row, compares) for row in found)}")


def _draw_row(axes: Axes, row: Bar, place: int) -> None:
    """Draw a value with its interval and its limit; what breaks its rule has another colour and another mark."""
    tint = _GOOD if row.holds else _BAD
    axes.plot([row.low, row.high], [place, place], color=tint, linewidth=2.2, solid_capstyle="butt", zorder=2)
    mark = "o" if row.holds else "X"
    axes.scatter([row.value], [place], s=52, marker=mark, color=tint, edgecolors=SURFACE, linewidths=1, zorder=3)
    if row.limit is not None:
        axes.plot([row.limit, row.limit], [place - 0.3, place + 0.3], color=INK, linewidth=1.4, zorder=4)


def _row_words(row: Bar, compares: bool) -> str:
    value = f"{points(row.value)} points" if compares else f"{percent(row.value)} %"
    limit = "" if row.limit is None else f", asked {points(row.limit) if compares else percent(row.limit)}"
    return f"{row.label} {value}{limit}, {'holds' if row.holds else 'broken'}"


def figure_svg(config: PromotionConfig, facts: Facts, decision: Decision) -> str:
    """Draw the figure of a decision as a file that carries its own colours, light and dark.

    Args:
        config: The promotion.
        facts: The numbers.
        decision: Which rules hold.
    """
    return standalone(decision_svg("promotion", config, facts, decision))


def history_svg(name: str, metric: str, history: History) -> str | None:
    """Draw the main metric of every champion so far; None where no version has it.

    Args:
        name: Unique in the page.
        metric: Dotted name.
        history: Of the champion.
    """
    known = [version for version in history.versions if metric in version.scores]
    if not known:
        return None
    title = metric_words(metric)
    with rc_context(STYLE):
        figure, axes = panel(2.6)
        _draw_history(axes, known, metric, history.current)
        axes.set_title(textwrap.fill(title, 48))
        words = "; ".join(f"version {one.version} {percent(one.scores[metric])} %" for one in known)
        return to_svg(figure, name, f"{title} of every champion: {words}")


def _draw_history(axes: Axes, known: Sequence[ChampionVersion], metric: str, current: int | None) -> None:
    places = [version.version for version in known]
    scores = [version.scores[metric] for version in known]
    axes.plot(places, scores, color=colour(0), linewidth=1.4, zorder=2)
    axes.scatter(places, scores, s=36, color=colour(0), edgecolors=SURFACE, linewidths=1, zorder=3)
    for version, score in zip(known, scores, strict=True):
        if version.version == current:
            axes.scatter([version.version], [score], s=120, facecolors="none", edgecolors=INK, linewidths=1.4, zorder=4)
            axes.annotate(
                "champion", (version.version, score), xytext=(0, 9), textcoords="offset points", ha="center", fontsize=8
            )
    axes.set_xticks(places, [f"v{place}" for place in places])
    axes.set_xlim(min(places) - 0.6, max(places) + 0.6)
    low, high = limits(scores, 0.3)
    axes.set_ylim(low, high)
    percent_axis(axes, "y")
