"""The figure of a study: every metric against noise, as panels of a page and as one picture of its own."""

import math
from collections.abc import Mapping, Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from evaluation.studies.metrics import Panel
from evaluation.studies.trends import Trend
from evaluation.svg import STYLE, SURFACE, WIDTH, colour, limits, marker, panel, percent_axis, standalone, to_svg

_HEIGHT, _COLUMNS = 3.0, 2
_NEARLY = 0.2


def panel_svg(name: str, shown: Panel, trends: Mapping[str, Trend]) -> str:
    """Draw one panel for inlining in a page.

    Args:
        name: Unique in the page.
        shown: The panel.
        trends: Metric -> trend, for all metrics of the panel.
    """
    with rc_context(STYLE):
        figure, axes = panel(_HEIGHT)
        _draw(axes, shown, trends)
        return to_svg(figure, name, _description(shown, trends))


def figure_svg(shown: Sequence[Panel], trends: Mapping[str, Trend], title: str) -> str:
    """Draw all panels as one SVG file that carries its own colours, light and dark.

    Args:
        shown: The panels.
        trends: Metric -> trend, for all metrics of the panels.
        title: What the picture is about, for readers who do not see it.
    """
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * columns, _HEIGHT * rows))
        places = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, one in zip(places, shown, strict=False):
            axes.set_axisbelow(True)
            _draw(axes, one, trends)
        for axes in places[len(shown) :]:
            axes.set_axis_off()
        words = ". ".join(_description(one, trends) for one in shown)
        text = to_svg(figure, "study", f"{title}. {words}")
    return standalone(text)


def _draw(axes: Axes, shown: Panel, trends: Mapping[str, Trend]) -> None:
    """Draw the means of each metric with the band of their intervals, and single runs as rings."""
    values: list[float] = []
    for line in shown.lines:
        tint, levels = colour(line.series), trends[line.metric].levels
        shares = [level.share for level in levels]
        means = [level.mean.value for level in levels]
        lows = [mean.value if (mean := level.mean).low is None else mean.low for level in levels]
        highs = [mean.value if (mean := level.mean).high is None else mean.high for level in levels]
        if shown.is_share:  # scores are shares, whatever t says of few seeds
            lows, highs = [max(low, 0.0) for low in lows], [min(high, 1.0) for high in highs]
        axes.fill_between(shares, lows, highs, color=tint, alpha=0.15, linewidth=0)
        axes.plot(shares, means, color=tint, linewidth=1.6, zorder=3)
        single = [(level.share, value) for level in levels if len(level.values) > 1 for value in level.values]
        axes.scatter(
            [share for share, _ in single], [value for _, value in single], s=14, facecolors="none", edgecolors=tint,
            linewidths=0.9, zorder=3,
        )  # fmt: skip
        shape = marker(line.series)
        axes.scatter(
            shares, means, s=40, marker=shape, color=tint, edgecolors=SURFACE, linewidths=1, zorder=4, label=line.label
        )
        values += [*lows, *highs, *(value for _, value in single)]
    if shown.is_share:
        percent_axis(axes, "y")
    axes.set_ylim(*limits(values, 0.08))
    axes.grid(axis="y")
    axes.tick_params(length=0)
    _noise_axis(axes, sorted({level.share for line in shown.lines for level in trends[line.metric].levels}))
    axes.set_title(shown.title)
    if len(shown.lines) > 1:
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, fontsize=8.5, handletextpad=0.2, columnspacing=1.2
        )


def _noise_axis(axes: Axes, shares: Sequence[float]) -> None:
    """Make x the axis of noise, with a tick at every level that is not too near the one before it."""
    ticks: list[float] = []
    for share in shares:
        if not ticks or share - ticks[-1] >= _NEARLY * (shares[-1] - shares[0]) / 2:
            ticks.append(share)
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
    axes.set_xlabel("pairs with exchanged captions")


def _description(shown: Panel, trends: Mapping[str, Trend]) -> str:
    """Say what a panel shows, in one sentence."""
    words: list[str] = []
    for line in shown.lines:
        steps = (
            f"{100 * level.mean.value:.1f} %" if shown.is_share else f"{level.mean.value:.3f}"
            for level in trends[line.metric].levels
        )
        words.append(f"{line.label} {', '.join(steps)}")
    return f"{shown.title} by rising noise: {'; '.join(words)}"
