"""Matplotlib figures as inline SVG that follows the page: its fonts, its width, its light or dark colours."""

import re
from collections.abc import Sequence
from importlib.resources import files
from io import StringIO
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

# matplotlib draws in stand-in colours, which are then replaced by the page's CSS variables
INK, MUTED, GRID, SURFACE = "#010101", "#020202", "#030303", "#040404"
SERIES = tuple(f"#05050{number}" for number in range(1, 9))
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("solid", (0, (4, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", SURFACE: "surface"} | {
    colour: f"series-{number}" for number, colour in enumerate(SERIES, 1)
}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 14,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.color": GRID,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
}
WIDTH = 4.6


def colour(number: int) -> str:
    """Return the stand-in colour of a series; beyond eight they repeat, and markers and dashes tell them apart."""
    return SERIES[number % len(SERIES)]


def marker(number: int) -> str:
    """Return the marker of a series; series of one colour have different ones."""
    return MARKERS[(number + number // len(SERIES)) % len(MARKERS)]


def dashes(number: int) -> Any:
    """Return matplotlib's line style of a series; series of one colour have different ones."""
    return DASHES[number // len(SERIES) % len(DASHES)]


def panel(height: float) -> tuple[Figure, Axes]:
    """Return a figure of one panel in the page's style; use inside ``rc_context(STYLE)``.

    Args:
        height: In inches; the width is fixed, so that text has one size all over the page.
    """
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.subplots()
    axes.set_axisbelow(True)
    return figure, axes


def percent_axis(axes: Axes, which: str) -> None:
    """Label the axis ``"x"`` or ``"y"``, which holds shares, in percent, with grid lines."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    axes.grid(axis="x" if which == "x" else "y")
    axes.tick_params(length=0)


def to_svg(figure: Figure, name: str, description: str) -> str:
    """Render a figure for inlining.

    Args:
        figure: The figure.
        name: Unique in the page; keeps the ids of two figures apart.
        description: What it shows, for readers who do not see it.

    Returns:
        An ``<svg>`` element that scales with its place; the same figure gives the same bytes.
    """
    stream = StringIO()
    with rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    used = set(re.findall(r"(?:xlink:href=\"#|url\(#)([^\")]+)", text))
    text = re.sub(r'\sid="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, f"var(--{variable})")
    text = text.replace("'DejaVu Sans', sans-serif", "var(--font)").replace("'DejaVu Sans'", "var(--font)")
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', _opening(label), text, count=1)


def standalone(svg: str) -> str:
    """Give a rendered figure its own colours, light and dark, so that it can be a file.

    Args:
        svg: What :func:`to_svg` returned.
    """
    start = svg.index('">') + 2  # the end of the opening tag, which ends with an attribute
    return f"{svg[:start]}\n<style>\n{_colours()}\nsvg {{ background: var(--surface); }}\n</style>{svg[start:]}"


def _colours() -> str:
    """Return the variables of the page's style sheet that hold fonts and colours."""
    sheet = files("evaluation").joinpath("templates/leaderboard.css").read_text(encoding="utf-8")
    blocks = re.findall(
        r"^:root \{.*?^\}|^@media \(prefers-color-scheme: dark\) \{.*?^\}", sheet, re.DOTALL | re.MULTILINE
    )
    assert len(blocks) == 2, "leaderboard.css has its light and its dark colours in one block each"
    return "\n".join(blocks)


def _opening(label: str) -> str:
    escaped = label.replace("\\", r"\\")
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        rf'viewBox="\1" role="img" aria-label="{escaped}">'
    )


def limits(values: Sequence[float], pad: float = 0.06) -> tuple[float, float]:
    """Return axis limits around shares, with room, inside 0..1 as far as the values are."""
    low, high = min(values), max(values)
    room = max((high - low) * pad, 0.005)
    return (max(low - room, 0.0) if low >= 0 else low - room), high + room
