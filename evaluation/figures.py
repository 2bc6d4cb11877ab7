"""The plots of the leaderboard page; each takes results and returns one inline SVG."""

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, StrMethodFormatter

from evaluation.curves import ComputeCurves, Curve
from evaluation.pareto import pareto_front
from evaluation.results import Estimate, Group, chance_of
from evaluation.svg import GRID, INK, MUTED, STYLE, SURFACE, colour, dashes, limits, marker, panel, percent_axis, to_svg

FREQUENCIES = ("head", "mid", "tail")
COMPUTE = "training compute, FLOPs"
_HEIGHT, _LEGEND_ROW = 3.1, 0.19
_TITLE_LETTERS, _LABEL_LETTERS, _LABEL_ROW = 44, 22, 0.14


class Point(NamedTuple):
    """A group in a plot of score against size or speed.

    Attributes:
        label: Of the group.
        cost: Its mean size, operations or time.
        estimate: Its score.
    """

    label: str
    cost: float
    estimate: Estimate


def title_over(axes: Axes, title: str) -> None:
    """Put a title over the whole figure, in as many rows as it needs: long labels leave the axes too little width."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    text = textwrap.fill(title, _TITLE_LETTERS, break_long_words=False)
    # fmt: off
    figure.suptitle(
        text, x=0.01, ha="left", fontsize=STYLE["axes.titlesize"], fontweight=STYLE["axes.titleweight"], color=INK
    )
    # fmt: on


def _rows(label: str) -> str:
    """Break a long label at its spaces and underscores, so that it leaves room for the scores beside it."""
    words = re.split(r"(?<=[ _-])", label)
    rows = [""]
    for word in words:
        if rows[-1] and len(rows[-1] + word.rstrip()) > _LABEL_LETTERS:
            rows.append("")
        rows[-1] += word
    return "\n".join(row.rstrip() for row in rows)


def metric_panel(name: str, title: str, groups: Sequence[Group], series: Mapping[str, int], metric: str) -> str:
    """Draw one metric: a dot with its 95 % interval per group, the seeds behind it, and the chance level.

    Args:
        name: Unique in the page.
        title: The metric in words.
        groups: The groups, best first; groups without the metric are left out.
        series: Group label -> number of its colour.
        metric: Dotted name.
    """
    found = [(group, estimate) for group in groups if (estimate := group.estimate(metric))]
    chance = chance_of(metric, found[0][0].rows[0].metrics)
    labels = [_rows(group.label) for group, _ in found]
    most_rows = max((label.count("\n") for label in labels), default=0)
    with rc_context(STYLE):
        figure, axes = panel(0.95 + (0.34 + _LABEL_ROW * max(most_rows - 1, 0)) * len(found))
        values = [0.0] if chance is None else [0.0, chance]
        for place, (group, estimate) in enumerate(found):
            tint = colour(series[group.label])
            _interval(axes, estimate, place, tint, marker(series[group.label]))
            values += [estimate.value, *(end for end in (estimate.low, estimate.high) if end is not None)]
        if chance is not None:
            axes.axvline(chance, color=MUTED, linestyle=(0, (4, 3)), linewidth=1)
            axes.annotate(
                "chance", (chance, 1), xycoords=("data", "axes fraction"), xytext=(3, 1), textcoords="offset points",
                fontsize=7.5, color=MUTED, va="bottom",
            )  # fmt: skip
        axes.set_yticks(range(len(found)), labels, fontsize=8.5 if most_rows else 10)
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.set_xlim(*limits(values))
        title_over(axes, title)
        percent_axis(axes, "x")
        words = "; ".join(f"{group.label} {100 * estimate.value:.1f} %" for group, estimate in found)
        return to_svg(figure, name, f"{title}: {words}")


def _interval(axes: Axes, estimate: Estimate, place: float, tint: str, shape: str) -> None:
    """Draw a horizontal interval, its seeds and its dot at a height."""
    if estimate.low is not None and estimate.high is not None:
        axes.plot([estimate.low, estimate.high], [place, place], color=tint, linewidth=2, alpha=0.55, zorder=2)
    if len(estimate.scores) > 1:
        heights = [place] * len(estimate.scores)
        axes.scatter(estimate.scores, heights, s=14, facecolors="none", edgecolors=tint, linewidths=1, zorder=3)
    axes.scatter([estimate.value], [place], s=44, marker=shape, color=tint, edgecolors=SURFACE, linewidths=1, zorder=4)


def cost_panel(
    name: str, title: str, groups: Sequence[Group], series: Mapping[str, int], metric: str, cost: tuple[str, str]
) -> str:
    """Draw a metric against what it cost, with a line through the groups that no other beats in both.

    Args:
        name: Unique in the page.
        title: The metric in words.
        groups: The groups.
        series: Group label -> number of its colour.
        metric: Dotted name.
        cost: Name of the cost, and its unit for the axis.
    """
    found = [(group, group.cost(cost[0]), estimate) for group in groups if (estimate := group.estimate(metric))]
    with rc_context(STYLE):
        figure, axes = _panel([group.label for group, _, _ in found])
        costs = [spent for _, spent, _ in found]
        values: list[float] = []
        for group, spent, estimate in found:
            tint = colour(series[group.label])
            if estimate.low is not None and estimate.high is not None:
                axes.plot([spent, spent], [estimate.low, estimate.high], color=tint, linewidth=2, alpha=0.55)
            shape = marker(series[group.label])
            axes.scatter(
                [spent], [estimate.value], s=48, marker=shape, color=tint, edgecolors=SURFACE, label=group.label
            )
            values += [estimate.value, *(end for end in (estimate.low, estimate.high) if end is not None)]
        front = _front(axes, [Point(group.label, spent, estimate) for group, spent, estimate in found])
        _cost_axis(axes, costs, cost[1])
        axes.set_ylim(*limits(values, 0.1))
        percent_axis(axes, "y")
        title_over(axes, title)
        _legend(axes, [group.label for group, _, _ in found])
        words = "; ".join(
            f"{group.label} {100 * estimate.value:.1f} % at {spent:.3g}" for group, spent, estimate in found
        )
        return to_svg(figure, name, f"{title} against {cost[1]}: {words}; {front}")


def _front(axes: Axes, points: Sequence[Point]) -> str:
    """Draw the line through the points that no other beats in cost and score, and say which they are."""
    places = pareto_front([(point.cost, point.estimate.value) for point in points])
    front = [points[place] for place in places]
    axes.plot(
        [point.cost for point in front], [point.estimate.value for point in front], color=MUTED, linewidth=1.2,
        drawstyle="steps-post", zorder=1,
    )  # fmt: skip
    # a front of one point is no line, so what is on it has a ring as well
    axes.scatter(
        [point.cost for point in front], [point.estimate.value for point in front], s=130, facecolors="none",
        edgecolors=MUTED, linewidths=1, zorder=1,
    )  # fmt: skip
    return "Pareto front: " + ", ".join(point.label for point in front)


def pareto_panel(name: str, title: str, points: Sequence[Point], series: Mapping[str, int], axis: str) -> str:
    """Draw a metric against size or speed, with a line through the groups that no other beats in both.

    Args:
        name: Unique in the page.
        title: The metric in words.
        points: One per group, at least one.
        series: Group label -> number of its colour.
        axis: What the cost is.
    """
    costs = [point.cost for point in points]
    values = [value for point in points for value in _ends(point.estimate)]
    with rc_context(STYLE):
        figure, axes = panel(_HEIGHT)
        _cost_axis(axes, costs, axis)
        front = _front(axes, points)
        for number, point in enumerate(sorted(points, key=lambda point: (point.cost, point.estimate.value))):
            tint = colour(series[point.label])
            ends = _ends(point.estimate)
            axes.plot([point.cost] * 2, [min(ends), max(ends)], color=tint, linewidth=2, alpha=0.45)
            shape = marker(series[point.label])
            axes.scatter([point.cost], [point.estimate.value], s=48, marker=shape, color=tint, edgecolors=SURFACE)
            left = 2 * number >= len(points)  # what is far right has its label to the left, inside the panel
            axes.annotate(
                point.label, (point.cost, point.estimate.value), xytext=(-6 if left else 6, 4),
                textcoords="offset points", ha="right" if left else "left", fontsize=7.5, color=INK,
            )  # fmt: skip
        axes.set_ylim(*limits(values, 0.1))
        percent_axis(axes, "y")
        title_over(axes, title)
        words = "; ".join(f"{point.label} {100 * point.estimate.value:.1f} % at {point.cost:.3g}" for point in points)
        return to_svg(figure, name, f"{title} against {axis}: {words}; {front}")


def _ends(estimate: Estimate) -> list[float]:
    """Return a score and the ends of its interval, if it has one."""
    return [estimate.value, *(end for end in (estimate.low, estimate.high) if end is not None)]


def _cost_axis(axes: Axes, costs: Sequence[float], label: str) -> None:
    """Make x the axis of a cost, logarithmic where the groups' whole costs are far apart."""
    if max(costs) > 4 * min(costs) > 0:
        axes.set_xscale("log")
    else:
        axes.set_xlim(0, 1.12 * max(costs))
    # letters for large numbers only: "m" for thousandths reads as another unit
    axes.xaxis.set_major_formatter(EngFormatter(sep=" ") if max(costs) >= 1000 else StrMethodFormatter("{x:g}"))
    axes.grid(axis="x")
    axes.set_xlabel(label)


def _columns(labels: Sequence[str]) -> int:
    """Return how many entries of the legend stand side by side."""
    return max(1, min(3, len(labels), int(72 // (max(map(len, labels)) + 8))))


def _panel(labels: Sequence[str]) -> tuple[Figure, Axes]:
    """Return a panel that keeps its height however many rows its legend has."""
    rows = math.ceil(len(labels) / _columns(labels))
    return panel(_HEIGHT + _LEGEND_ROW * max(rows - 1, 0))


def _legend(axes: Axes, labels: Sequence[str]) -> None:
    """Put the legend below the panel when there is more than one entry."""
    if len(labels) > 1:
        axes.figure.legend(  # pyright: ignore[reportAttributeAccessIssue]
            loc="outside lower left", ncols=_columns(labels), labelcolor=INK, fontsize=8.5, handlelength=2.2
        )


def frequency_panel(name: str, title: str, groups: Sequence[Group], series: Mapping[str, int], suite: str) -> str:
    """Draw accuracy on head, mid and tail classes.

    Args:
        name: Unique in the page.
        title: The suite in words.
        groups: The groups.
        series: Group label -> number of its colour.
        suite: Dotted name of the suite, e.g. ``zero_shot.in_domain``.
    """
    labels = [group.label for group in groups]
    with rc_context(STYLE):
        figure, axes = _panel(labels)
        spread = np.linspace(-0.22, 0.22, len(groups)) if len(groups) > 1 else np.zeros(1)
        words: list[str] = []
        for group, shift in zip(groups, spread, strict=True):
            tint = colour(series[group.label])
            places: list[float] = []
            values: list[float] = []
            for place, frequency in enumerate(FREQUENCIES):
                if (estimate := group.estimate(f"{suite}.{frequency}")) is None:
                    continue
                places.append(place + shift)
                values.append(estimate.value)
                if estimate.low is not None and estimate.high is not None:
                    ends = [max(estimate.low, 0), estimate.high]
                    axes.plot([places[-1]] * 2, ends, color=tint, linewidth=2, alpha=0.45)
            axes.plot(places, values, color=tint, linewidth=1, alpha=0.6, linestyle=dashes(series[group.label]))
            shape = marker(series[group.label])
            axes.scatter(
                places, values, s=40, marker=shape, color=tint, edgecolors=SURFACE, zorder=3, label=group.label
            )
            words.append(f"{group.label} " + ", ".join(f"{100 * value:.1f} %" for value in values))
        chance = chance_of(f"{suite}.top1", groups[0].rows[0].metrics)
        if chance is not None:
            axes.axhline(chance, color=MUTED, linestyle=(0, (4, 3)), linewidth=1)
        axes.set_xticks(range(len(FREQUENCIES)), ["head (frequent)", "mid", "tail (rare)"])
        axes.set_xlim(-0.5, len(FREQUENCIES) - 0.5)
        axes.set_ylim(bottom=0)
        percent_axis(axes, "y")
        title_over(axes, title)
        _legend(axes, labels)
        return to_svg(figure, name, f"{title}, head, mid and tail: {'; '.join(words)}")


def curve_panel(name: str, title: str, curves: Mapping[str, Sequence[Curve]], series: Mapping[str, int]) -> str:
    """Draw training curves, one line per run, one colour per group.

    Args:
        name: Unique in the page.
        title: The curve's name.
        curves: Group label -> the points (step, value) of each of its runs.
        series: Group label -> number of its colour.
    """
    with rc_context(STYLE):
        figure, axes = _panel(list(curves))
        for label, runs in curves.items():
            for number, points in enumerate(runs):
                steps, values = zip(*points, strict=True)
                axes.plot(
                    steps, values, color=colour(series[label]), linestyle=dashes(series[label]), linewidth=1.3,
                    alpha=0.85, label=label if number == 0 else None,
                )  # fmt: skip
        title_over(axes, title)
        axes.set_xlabel("step")
        axes.grid(axis="y")
        axes.tick_params(length=0)
        _legend(axes, list(curves))
        ends = "; ".join(f"{label} ends at {runs[0][-1][1]:.3f}" for label, runs in curves.items())
        return to_svg(figure, name, f"{title} over steps: {ends}")


def compute_panel(
    name: str, title: str, curves: Mapping[str, ComputeCurves], series: Mapping[str, int], is_share: bool
) -> str:
    """Draw a training curve against the compute spent: per group the mean over its runs, the single ones thin behind.

    Args:
        name: Unique in the page.
        title: The curve in words.
        curves: Group label -> its curves.
        series: Group label -> number of its colour.
        is_share: Whether values are shares, to be shown in percent.
    """
    with rc_context(STYLE):
        figure, axes = _panel(list(curves))
        words: list[str] = []
        for label, group in curves.items():
            tint, line = colour(series[label]), dashes(series[label])
            for points in group.runs if len(group.runs) > 1 else ():
                axes.plot(*zip(*points, strict=True), color=tint, linestyle=line, linewidth=0.7, alpha=0.45)
            # the last point alone is of a model whose training was over
            axes.plot(
                *zip(*group.mean, strict=True), color=tint, linestyle=line, linewidth=1.6, label=label, zorder=3,
                marker=marker(series[label]), markevery=[len(group.mean) - 1], markeredgecolor=SURFACE,
            )  # fmt: skip
            spent, value = group.mean[-1]
            words.append(f"{label} {f'{100 * value:.1f} %' if is_share else f'{value:.3f}'} at {spent:.3g}")
        _cost_axis(axes, [group.mean[-1][0] for group in curves.values()], COMPUTE)
        if is_share:
            percent_axis(axes, "y")
        axes.grid(axis="both")
        axes.tick_params(length=0)
        title_over(axes, title)
        _legend(axes, list(curves))
        return to_svg(figure, name, f"{title} against {COMPUTE}: {'; '.join(words)}")


def reasons_panel(name: str, title: str, counts: Mapping[str, int]) -> str:
    """Draw how many samples were rejected for each reason, most frequent first.

    Args:
        name: Unique in the page.
        title: Heading.
        counts: Reason -> number of samples.
    """
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    with rc_context(STYLE):
        figure, axes = panel(0.8 + 0.28 * len(ordered))
        axes.barh(range(len(ordered)), [count for _, count in ordered], height=0.62, color=colour(0))
        for place, (_, count) in enumerate(ordered):
            axes.annotate(
                f"{count:,}", (count, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8
            )
        axes.set_yticks(range(len(ordered)), [reason.replace("_", " ") for reason, _ in ordered])
        axes.set_ylim(len(ordered) - 0.4, -0.6)
        axes.set_xlim(0, 1.15 * max(count for _, count in ordered))
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines["bottom"].set_visible(False)
        axes.axvline(0, color=GRID, linewidth=1)
        title_over(axes, title)
        return to_svg(figure, name, title + ": " + "; ".join(f"{reason} {count}" for reason, count in ordered))
