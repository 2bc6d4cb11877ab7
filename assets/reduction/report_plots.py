"""Two small pictures as SVG: scores of the pool and of what is kept, and sizes of clusters before and after."""

import numpy as np
from numpy.typing import NDArray

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 520, 130, 8, 22, 20
_POOL, _KEPT, _LIMIT, _TEXT, _FAINT = "#c9d8ea", "#2f6db5", "#b3121d", "#1b1b1f", "#85858c"
_BINS, _TICKS, _COLUMNS = 52, 5, 104
LEGEND = (
    f'<p><span style="background:{_POOL}">&nbsp;&nbsp;&nbsp;</span> pool &nbsp; '
    f'<span style="background:{_KEPT}">&nbsp;&nbsp;&nbsp;</span> kept</p>'
)


def score_svg(title: str, scores: NDArray[np.float32], kept: NDArray[np.bool_], thresholds: list[float]) -> str:
    """Draw a histogram of scores.

    Args:
        title: Stands above it.
        scores: Of the pool, finite, float32 [n].
        kept: bool [n].
        thresholds: Drawn as lines.
    """
    low, high = float(scores.min()), float(scores.max())
    high = high if high > low else low + 1
    edges = np.linspace(low, high, _BINS + 1)
    pool, stays = np.histogram(scores, edges)[0], np.histogram(scores[kept], edges)[0]
    ticks = [(place / _TICKS, f"{low + (high - low) * place / _TICKS:.3f}") for place in range(_TICKS)]
    marks = [((limit - low) / (high - low), f"{limit:.4f}") for limit in thresholds]
    return _bars(title, pool, stays, ticks, marks)


def sizes_svg(before: NDArray[np.int64], after: NDArray[np.int64]) -> str:
    """Draw the sizes of clusters, the largest first; neighbours share a column where there are many.

    Args:
        before: Pairs of each cluster, int64 [K].
        after: Of these, kept, int64 [K].
    """
    order = np.argsort(-before, kind="stable")
    columns = min(len(before), _COLUMNS)
    cuts = np.linspace(0, len(before), columns + 1).astype(int)
    width = np.diff(cuts)
    pool = np.add.reduceat(before[order], cuts[:-1]) / width
    stays = np.add.reduceat(after[order], cuts[:-1]) / width
    ticks = [(place / _TICKS, str(len(before) * place // _TICKS + 1)) for place in range(_TICKS)]
    return _bars(f"sizes of clusters, the largest ({int(before.max())}) first", pool, stays, ticks, [])


def _bars(
    title: str, pool: NDArray, kept: NDArray, ticks: list[tuple[float, str]], marks: list[tuple[float, str]]
) -> str:
    """Draw counts of the pool with those of the kept before them; ticks and marks stand at shares of the width."""
    top, step, down = max(float(pool.max()), 1e-9), _WIDTH / len(pool), _TOP + _HEIGHT
    parts = [f'<text x="{_LEFT}" y="13" font-weight="600">{title}</text>']
    for counts, colour in ((pool, _POOL), (kept, _KEPT)):
        for place in np.flatnonzero(counts).tolist():
            tall = max(round(_HEIGHT * float(counts[place]) / top, 1), 0.5)
            x, width = _LEFT + place * step, max(step - 0.6, 0.8)
            parts.append(
                f'<rect x="{x:.1f}" y="{down - tall:.1f}" width="{width:.1f}" height="{tall}" fill="{colour}"/>'
            )
    parts.append(f'<path d="M{_LEFT} {down}h{_WIDTH}" stroke="{_FAINT}"/>')
    parts += [
        f'<text x="{_LEFT + _WIDTH * at:.0f}" y="{down + 14}" fill="{_FAINT}">{text}</text>' for at, text in ticks
    ]
    for number, (at, text) in enumerate(marks):
        x = _LEFT + _WIDTH * at
        parts.append(f'<path d="M{x:.1f} {_TOP}V{down}" stroke="{_LIMIT}" stroke-width="1.4"/>')
        parts.append(f'<text x="{x + 3:.1f}" y="{_TOP + 10 + 13 * number}" fill="{_LIMIT}">{text}</text>')
    size = f'width="{_WIDTH + 2 * _LEFT}" height="{_TOP + _HEIGHT + _BOTTOM}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-size="11" fill="{_TEXT}">{"".join(parts)}</svg>'
