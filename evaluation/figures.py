"""The plots of the leaderboard page; each takes results and returns one inline SVG."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from evaluation.results import Estimate, Group, chance_of
from evaluation.svg import GRID, INK, MUTED, STYLE, SURFACE, colour, limits, marker, panel, percent_axis, to_svg

FREQUENCIES = ("head", "mid", "tail")
Curve = Sequence[tuple[float, float]]


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
    with rc_context(STYLE):
        figure, axes = panel(0.95 + 0.34 * len(found))
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
        axes.set_yticks(range(len(found)), [group.label for group, _ in found])
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.set_xlim(*limits(values))
        axes.set_title(title)
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
    """Draw a metric against what it cost.

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
        figure, axes = panel(3.1)
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
        if max(costs) > 4 * min(costs) > 0:
            axes.set_xscale("log")
        else:
            axes.set_xlim(0, 1.12 * max(costs))
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.set_ylim(*limits(values, 0.1))
        percent_axis(axes, "y")
        axes.grid(axis="x")
        axes.set_xlabel(cost[1])
        axes.set_title(title)
        _legend(axes, len(found))
        words = "; ".join(
            f"{group.label} {100 * estimate.value:.1f} % at {spent:.3g}" for group, spent, estimate in found
        )
        return to_svg(figure, name, f"{title} against {cost[1]}: {words}")


def _legend(axes: Axes, entries: int) -> None:
    """Put the legend below the panel when there is more than one entry."""
    if entries > 1:
        axes.figure.legend(  # pyright: ignore[reportAttributeAccessIssue]
            loc="outside lower left", ncols=min(entries, 3), labelcolor=INK, fontsize=8.5, handlelength=1.2
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
    with rc_context(STYLE):
        figure, axes = panel(3.1)
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
            axes.plot(places, values, color=tint, linewidth=1, alpha=0.6)
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
        axes.set_title(title)
        _legend(axes, len(groups))
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
        figure, axes = panel(3.1)
        for label, runs in curves.items():
            for number, points in enumerate(runs):
                steps, values = zip(*points, strict=True)
                axes.plot(
                    steps, values, color=colour(series[label]), linewidth=1.3, alpha=0.85,
                    label=label if number == 0 else None,
                )  # fmt: skip
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(axis="y")
        axes.tick_params(length=0)
        _legend(axes, len(curves))
        ends = "; ".join(f"{label} ends at {runs[0][-1][1]:.3f}" for label, runs in curves.items())
        return to_svg(figure, name, f"{title} over steps: {ends}")


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
        axes.set_title(title)
        return to_svg(figure, name, title + ": " + "; ".join(f"{reason} {count}" for reason, count in ordered))
