"""The plots of the report of concepts; each returns one inline SVG."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from evaluation.concepts.analysis import Finding, GroupReport
from evaluation.concepts.fits import Counts, Values, cut_bins, decades
from evaluation.concepts.strata import THIRDS, Stratum, sorted_shares
from evaluation.svg import GRID, INK, MUTED, STYLE, SURFACE, colour, limits, marker, panel, percent_axis, to_svg

_NEVER = -0.6
"""Where concepts that training never shows stand on the axis of log10(count)."""
_HEIGHT = 3.4


def scatter_panel(name: str, title: str, finding: Finding, tint: int) -> str:
    """Draw concepts by frequency and score, the means of the published bins, and both lines.

    Args:
        name: Unique in the page.
        title: Heading.
        finding: What to draw.
        tint: Number of the group's colour.
    """
    points = finding.points
    rng = np.random.default_rng(0)  # counts are whole, so rare concepts would hide each other
    x = np.where(points.counts > 0, decades(points.counts), _NEVER) + rng.uniform(-0.03, 0.03, len(points.counts))
    cut = cut_bins(points.counts, points.scores, finding.bins)
    with rc_context(STYLE):
        figure, axes = panel(_HEIGHT)
        axes.scatter(x, points.scores, s=9, color=colour(tint), alpha=0.35, linewidths=0, label="a concept", zorder=2)
        edges, means = cut.edges[cut.used] / np.log(10), cut.means[cut.used]
        axes.plot(
            edges, means, color=INK, linewidth=0, marker="s", markersize=5, markeredgecolor=SURFACE,
            label="mean of a bin", zorder=4,
        )  # fmt: skip
        _draw_lines(axes, finding)
        _count_axis(axes, points.counts)
        axes.set_ylim(-0.03, 1.03)
        percent_axis(axes, "y")
        axes.set_title(title)
        axes.figure.legend(  # pyright: ignore[reportAttributeAccessIssue]
            loc="outside lower left", ncols=2, labelcolor=INK, fontsize=8.5, handlelength=2.2
        )
        words = "; ".join(
            f"bin up to {10**edge:,.0f}: {100 * mean:.1f} %" for edge, mean in zip(edges, means, strict=True)
        )
        return to_svg(figure, name, f"{title}: score against training pairs with the concept, log scale; {words}")


def _draw_lines(axes: Axes, finding: Finding) -> None:
    for line, style in zip(finding.lines, ("solid", (0, (4, 1.5))), strict=True):
        if np.isfinite([line.slope, line.lowest]).all():
            places = np.linspace(line.lowest, line.highest, 60)
            axes.plot(
                places, line.predict(places), color=INK, linewidth=1.5, linestyle=style, label=f"{line.link} fit",
                zorder=3,
            )  # fmt: skip


def _count_axis(axes: Axes, counts: Counts) -> None:
    """Make x the axis of counts, with a place of its own for zero."""
    highest = float(decades(counts).max())
    ticks = [float(power) for power in range(int(np.ceil(highest)) + 1)]
    if (counts == 0).any():
        ticks = [_NEVER, *ticks]
        axes.axvline(_NEVER / 2, color=GRID, linewidth=1)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda place, _: "0" if place < 0 else f"{10**place:,.0f}"))
    axes.set_xlim(min(ticks) - 0.15, max(highest, 0.5) + 0.15)
    axes.set_xlabel("training pairs with the concept")


def thirds_panel(name: str, title: str, thirds: Mapping[str, Sequence[Stratum]], tints: Mapping[str, int]) -> str:
    """Draw the mean score of the most frequent third of the concepts, the middle one and the rarest.

    Args:
        name: Unique in the page.
        title: Heading.
        thirds: Label of a group -> its strata.
        tints: Label -> number of its colour.
    """
    with rc_context(STYLE):
        figure, axes = panel(_HEIGHT)
        shifts = np.linspace(-0.22, 0.22, len(thirds)) if len(thirds) > 1 else np.zeros(1)
        values = [0.0]
        for (label, strata), shift in zip(thirds.items(), shifts, strict=True):
            places = [THIRDS.index(stratum.name) + shift for stratum in strata]
            tint = colour(tints[label])
            for place, stratum in zip(places, strata, strict=True):
                axes.plot([place, place], stratum.interval, color=tint, linewidth=2, alpha=0.55)
                values += [*stratum.interval]
            axes.plot(
                places, [stratum.mean for stratum in strata], color=tint, marker=marker(tints[label]),
                markeredgecolor=SURFACE, linewidth=1, label=label,
            )  # fmt: skip
        axes.set_xticks(range(len(THIRDS)), list(THIRDS))
        axes.set_ylim(*limits(values))
        percent_axis(axes, "y")
        axes.set_title(title)
        if len(thirds) > 1:
            axes.figure.legend(  # pyright: ignore[reportAttributeAccessIssue]
                loc="outside lower left", ncols=2, labelcolor=INK, fontsize=8.5, handlelength=2.2
            )
        words = "; ".join(
            f"{label} " + ", ".join(f"{stratum.name} {100 * stratum.mean:.1f} %" for stratum in strata)
            for label, strata in thirds.items()
        )
        return to_svg(figure, name, f"{title}: {words}")


def long_tail_panel(name: str, title: str, counts: Mapping[str, Counts]) -> str:
    """Draw sorted counts over the largest one, both axes logarithmic.

    Args:
        name: Unique in the page.
        title: Heading.
        counts: Side -> count of each concept; sides without any hit are left out.
    """
    with rc_context(STYLE):
        figure, axes = panel(_HEIGHT)
        words: list[str] = []
        for number, (side, found) in enumerate(counts.items()):
            shares: Values = sorted_shares(found)
            if not len(shares):
                continue
            axes.plot(np.arange(1, len(shares) + 1), shares, color=colour(number), label=side)
            words.append(
                f"{side}: {len(shares)} of {len(found)} concepts occur, the median has {np.median(shares):.3g}"
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("concept, most frequent first")
        axes.set_ylabel("count over the largest", color=MUTED)
        axes.grid(axis="both")
        axes.tick_params(length=0)
        axes.set_title(title)
        if len(words) > 1:
            axes.figure.legend(  # pyright: ignore[reportAttributeAccessIssue]
                loc="outside lower left", ncols=3, labelcolor=INK, fontsize=8.5, handlelength=2.2
            )
        return to_svg(figure, name, f"{title}: {'; '.join(words)}")


def tints_of(reports: Sequence[GroupReport]) -> dict[str, int]:
    """Give each group a colour by the order of its label, so that a new best group recolours nothing."""
    return {label: number for number, label in enumerate(sorted(report.group.label for report in reports))}
