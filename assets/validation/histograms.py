"""Small pictures of distributions as SVG: the present one as bars, the baseline's as a line over them."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 250, 84, 6, 20, 18
_TICKS = 4
_BAR, _LINE, _TEXT, _FAINT = "#8fb4dc", "#b3121d", "#1b1b1f", "#85858c"


def _number(value: float) -> str:
    for size, unit in ((1 << 20, "M"), (1 << 10, "k")):
        if value >= 10 * size:
            return f"{value / size:.0f}{unit}"
    return f"{value:.4g}"


def shares(counts: Sequence[int]) -> list[float]:
    """Return counts as shares of their sum, all 0 when there is nothing."""
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]


def used_bins(*histograms: Sequence[int]) -> slice:
    """Return the range from the first to the last bin that holds something in any of the histograms.

    One more bin is shown on either side where there is one, so that a single bar stands free.
    """
    used = [place for place, counts in enumerate(zip(*histograms, strict=True)) if any(counts)]
    return slice(max(used[0] - 1, 0), min(used[-1] + 2, len(histograms[0]))) if used else slice(0, 1)


def histogram_svg(title: str, edges: Sequence[float], new: Sequence[int], old: Sequence[int] | None, note: str) -> str:
    """Draw one distribution.

    Args:
        title: What it is of.
        edges: Lower edges of the bins.
        new: Counts per bin.
        old: The baseline's counts; None when there is no baseline.
        note: Stands at the right of the title.
    """
    shown = used_bins(new, old) if old is not None else used_bins(new)
    bars, line, lows = shares(new)[shown], shares(old)[shown] if old is not None else [], edges[shown]
    top, step = max([*bars, *line, 1e-9]), _WIDTH / len(bars)
    down = _TOP + _HEIGHT

    def height(share: float) -> float:
        return round(_HEIGHT * share / top, 1)

    parts = [
        f'<text x="{_LEFT}" y="13" font-weight="600">{escape(title)}</text>',
        f'<text x="{_LEFT + _WIDTH}" y="13" text-anchor="end" fill="{_FAINT}">{escape(note)}</text>',
    ]
    for place, share in enumerate(bars):
        if share:
            x, tall = round(_LEFT + place * step, 1), height(share)
            parts.append(
                f'<rect x="{x}" y="{down - tall:.1f}" width="{max(step - 1, 1):.1f}" height="{tall}" fill="{_BAR}"/>'
            )
    if line:
        path = f"M{_LEFT} {down}"
        for place, share in enumerate(line):
            path += f"V{down - height(share):.1f}H{_LEFT + (place + 1) * step:.1f}"
        parts.append(f'<path d="{path}V{down}" fill="none" stroke="{_LINE}" stroke-width="1.3"/>')
    parts.append(f'<path d="M{_LEFT} {down}h{_WIDTH}" stroke="{_FAINT}"/>')
    for place in range(0, len(lows), max(1, -(-len(lows) // _TICKS))):
        x = round(_LEFT + place * step, 1)
        parts.append(f'<text x="{x}" y="{down + 13}" fill="{_FAINT}">{_number(lows[place])}</text>')
    size = f'width="{_WIDTH + 2 * _LEFT}" height="{_TOP + _HEIGHT + _BOTTOM}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-size="11" fill="{_TEXT}">{"".join(parts)}</svg>'


def panels(
    split: str, new: Mapping[str, Any], old: Mapping[str, Any] | None, edges: Mapping[str, Sequence[float]]
) -> str:
    """Draw all distributions of a split.

    Args:
        split: Its name.
        new: Its part of the profile.
        old: The same of the baseline; None when it has none.
        edges: Distribution -> lower edges of its bins.
    """
    pictures: list[str] = []
    for name, lows in edges.items():
        median = new["quantiles"][name]
        note = f"median {_number(median[len(median) // 2])}" if median else "none"
        before = None if old is None else old["histograms"][name]
        pictures.append(histogram_svg(name.replace("_", " "), lows, new["histograms"][name], before, note))
    return f'<h3>{escape(split)}</h3><p class="panels">{"".join(pictures)}</p>'
