"""The pages a person opens: an entry page, and a contact sheet of rejected samples grouped by reason."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw, ImageFont

from assets.members import read_member
from assets.picture import Picture, PictureError
from assets.shard_cache import ShardCache
from assets.validation.html_table import html_table

SHEET = "rejected.jpg"
_PER_REASON, _TILE, _TEXT, _GAP, _HEADING = 10, 112, 46, 8, 26
_MOST_CHARS = 80
_PAPER, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (120, 120, 120)
_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Validation of $name</title><style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1150px; margin: 2rem auto; padding: 0 1rem; color: #1b1b1f }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2rem } img { max-width: 100%; border: 1px solid #ddd }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .3rem .6rem; vertical-align: top;
border-bottom: 1px solid #e4e4e7; overflow-wrap: anywhere } td.n, th.n { text-align: right; white-space: nowrap }
td:first-child { white-space: nowrap } h3 { font-size: 1rem; margin: 1rem 0 .3rem }
.panels { display: flex; flex-wrap: wrap; gap: .8rem 1.4rem; margin: .3rem 0 }
.pass { color: #13661f } .fail { color: #b3121d; font-weight: 600 } .warn { color: #8a5300; font-weight: 600 }
</style></head><body>
<h1>Validation of <code>$name</code>: <span class="$class">$verdict</span></h1>
<p>$ingested samples ingested, $accepted accepted, $rejected rejected ($share).
<a href="data_docs/index.html">Great Expectations data docs</a></p>
<h2>Rejected samples by reason</h2>$reasons
<h2>Splits</h2>$splits
<h2>What changed</h2>$changes
<h2>What the data look like</h2>$profile
<h2>Checks</h2>$checks
<h2>Examples of rejected samples</h2>$sheet
</body></html>
""")


def _status(check: dict[str, Any]) -> str:
    if check["passed"]:
        return '<span class="pass">passed</span>'
    return '<span class="fail">FAILED</span>' if check["severity"] == "error" else '<span class="warn">warning</span>'


def _splits_table(splits: list[dict[Any, Any]]) -> str:
    counts = ("listed", "found", "accepted", "rejected")
    rows = [
        [
            escape(str(row["split"])),
            escape(str(row["role"])),
            *(f"{row[name]:,}" for name in counts),
            f"{row['rejected_share']:.2%}",
        ]
        for row in splits
    ]
    return html_table(["split", "role", *counts, "share"], rows, 2)


def write_page(
    folder: Path,
    name: str,
    metrics: dict[str, Any],
    checks: list[dict[str, Any]],
    splits: list[dict[Any, Any]],
    parts: Mapping[str, str],
) -> None:
    """Write ``index.html``, which needs nothing but the files beside it.

    Args:
        folder: The report's folder.
        name: Name of the data set.
        metrics: What metrics.json holds.
        checks: What checks.json holds.
        splits: One mapping per split: split, role, listed, found, accepted, rejected, rejected_share.
        parts: The sections ``changes`` and ``profile``, HTML already.
    """
    ordered = sorted(checks, key=lambda check: (check["passed"], check["severity"]))
    failed = sum(not check["passed"] and check["severity"] == "error" for check in checks)
    warned = sum(not check["passed"] for check in checks) - failed
    reasons = [[escape(r), f"{n:,}"] for r, n in metrics["rejected_by_reason"].items() if n]
    shown = "; ".join
    page = _PAGE.substitute(
        name=escape(name),
        verdict=f"failed checks: {failed}" if failed else f"passed, warnings: {warned}" if warned else "passed",
        ingested=f"{metrics['ingested']:,}",
        accepted=f"{metrics['accepted']:,}",
        rejected=f"{metrics['rejected']:,}",
        share=f"{metrics['rejected_share']:.2%}",
        reasons=html_table(["reason", "samples"], reasons, 1) if reasons else "<p>None.</p>",
        splits=_splits_table(splits),
        checks=html_table(
            ["result", "check", "meaning", "observed"],
            [
                [
                    _status(check),
                    escape(check["name"]),
                    escape(check["description"]),
                    escape(shown(f"{key}: {value}" for key, value in check["observed"].items())),
                ]
                for check in ordered
            ],
            4,
        ),
        sheet=f'<img src="{SHEET}" alt="Rejected samples grouped by reason">' if reasons else "<p>None.</p>",
        **parts,
        **{"class": "fail" if failed else "warn" if warned else "pass"},
    )
    (folder / "index.html").write_text(page, encoding="utf-8")


def pick_examples(reasons: np.ndarray) -> dict[int, list[int]]:
    """Choose rejected rows to show, evenly spread over each reason's rows.

    Args:
        reasons: Number of the reason per row, 0 for accepted, [rows].

    Returns:
        Reason number -> row numbers.
    """
    chosen: dict[int, list[int]] = {}
    for reason in np.unique(reasons[reasons > 0]).tolist():
        rows = np.flatnonzero(reasons == reason)
        places = np.unique(np.linspace(0, len(rows) - 1, min(_PER_REASON, len(rows))).astype(int))
        chosen[reason] = rows[places].tolist()
    return chosen


def write_sheet(
    path: Path, raw: Path, groups: dict[str, pa.Table], values: dict[str, list[str]], cache: ShardCache | None = None
) -> None:
    """Draw rejected samples, one band per reason, with key, value and caption below each picture.

    Args:
        path: The JPEG to write.
        raw: The raw data folder.
        groups: Reason -> index rows to show.
        values: Reason -> what the rule met, one per row.
        cache: Knows the object store, for shards that lie there.
    """
    band = _HEADING + _TILE + _TEXT + _GAP
    sheet = Image.new("RGB", (_GAP + _PER_REASON * (_TILE + _GAP), band * len(groups) + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    heading, small = ImageFont.load_default(16), ImageFont.load_default(10)
    for number, (reason, table) in enumerate(groups.items()):
        top = number * band + _GAP
        draw.text((_GAP, top), reason, _INK, heading)
        for place, (row, value) in enumerate(zip(table.to_pylist(), values[reason], strict=True)):
            left = _GAP + place * (_TILE + _GAP)
            picture = _tile(read_member(raw, row["shard"], row["image_offset"], row["image_size"], cache))
            sheet.paste(picture, (left, top + _HEADING))
            below = top + _HEADING + _TILE + 2
            lines = ((row["key"], _FAINT), (value, _INK), (row["caption"], _FAINT))
            # where the caption is what the rule met, it stands there once
            for line, (text, colour) in enumerate(lines[:2] if value == row["caption"] else lines):
                draw.text((left, below + 13 * line), _fitting(draw, text, small), colour, small)
    sheet.save(path, quality=88)


def _fitting(draw: ImageDraw.ImageDraw, text: str, font: Any) -> str:
    text = " ".join(text[:_MOST_CHARS].split())
    while draw.textlength(text, font) > _TILE:
        text = text.removesuffix("...")[:-1] + "..."
    return text


def _tile(content: bytes) -> Image.Image:
    """Return a square tile with the picture in it, or a crossed box when it cannot be decoded."""
    tile = Image.new("RGB", (_TILE, _TILE), (238, 238, 240))
    try:
        opened = Picture(content)
        picture = Image.fromarray(opened.pixels(shrink=max(opened.width, opened.height) // _TILE))
    except PictureError:
        ImageDraw.Draw(tile).line([(0, 0), (_TILE, _TILE)], (180, 30, 40), 2)
        return tile
    scale = _TILE / max(picture.size)
    picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    tile.paste(picture, ((_TILE - picture.width) // 2, (_TILE - picture.height) // 2))
    return tile
