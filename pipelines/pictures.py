"""Small pictures for asset pages: curves as SVG and contact sheets as JPEG, inside the page as data addresses."""

import base64
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_WIDTH, _HEIGHT, _MARGIN = 420, 180, 36
_CURVE_POINTS = 200
_THUMBNAIL, _CAPTION_HEIGHT, _COLUMNS = 96, 26, 6


def data_address(kind: str, data: bytes) -> str:
    """Return ``data:KIND;base64,..``."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def read_curve(path: Path) -> tuple[str, list[tuple[float, float]]]:
    """Read a tsv in dvclive's layout.

    Args:
        path: A file with a column ``step`` and one of values, which is the last.

    Returns:
        The value's name and (step, value) pairs; no pairs when the file holds anything else.
    """
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream, delimiter="\t")
        names = [name for name in reader.fieldnames or () if name not in ("step", "timestamp")]
        if not names or "step" not in (reader.fieldnames or ()):
            return path.stem, []
        try:
            return names[-1], [(float(row["step"]), float(row[names[-1]])) for row in reader]
        except ValueError:
            return names[-1], []


def curve_svg(name: str, points: Sequence[tuple[float, float]]) -> bytes:
    """Draw a curve.

    Args:
        name: What the values are.
        points: (step, value) pairs, in order; thinned to what the width can show.

    Returns:
        An SVG picture.
    """
    stride = max(1, len(points) // _CURVE_POINTS)
    shown = [*points[::stride], points[-1]]
    low, high = min(y for _, y in shown), max(y for _, y in shown)
    first, last = shown[0][0], shown[-1][0]
    across = (_WIDTH - 2 * _MARGIN) / ((last - first) or 1)
    up = (_HEIGHT - 2 * _MARGIN) / ((high - low) or 1)
    line = " ".join(f"{_MARGIN + (x - first) * across:.1f},{_HEIGHT - _MARGIN - (y - low) * up:.1f}" for x, y in shown)
    left, bottom = _MARGIN - 4, _HEIGHT - _MARGIN
    text = 'font-family="sans-serif" font-size="11" fill="#555"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}">'
        f'<rect width="100%" height="100%" fill="white"/>'
        f'<path d="M{_MARGIN} {_MARGIN}V{bottom}H{_WIDTH - _MARGIN}" stroke="#aaa" fill="none"/>'
        f'<polyline points="{line}" fill="none" stroke="#2a6fdb" stroke-width="1.5"/>'
        f'<text x="{_MARGIN}" y="20" {text} font-weight="bold">{name}</text>'
        f'<text x="{left}" y="{_MARGIN + 4}" {text} text-anchor="end">{high:.3g}</text>'
        f'<text x="{left}" y="{bottom}" {text} text-anchor="end">{low:.3g}</text>'
        f'<text x="{_MARGIN}" y="{bottom + 16}" {text}>{first:g}</text>'
        f'<text x="{_WIDTH - _MARGIN}" y="{bottom + 16}" {text} text-anchor="end">step {last:g}</text>'
        "</svg>"
    ).encode()


def sample_sheet(raw: Path, count: int = 12) -> bytes | None:
    """Draw evenly spaced training samples of a raw data set with their captions.

    Args:
        raw: A ``data/raw/D`` folder.
        count: How many.

    Returns:
        A JPEG, or None when the set has no training samples.
    """
    rows = _index_rows(raw)
    train = [row for row in rows if row["split"] == "train"] or rows
    chosen = train[:: max(1, len(train) // count)][:count]
    return _sheet(raw, [(row, row["caption"]) for row in chosen])


def reject_sheet(valid: Path, raw: Path, per_reason: int = 3, count: int = 24) -> bytes | None:
    """Draw rejected samples under the reason for each.

    Args:
        valid: A ``data/valid/D`` folder.
        raw: The raw data set it judges.
        per_reason: How many samples of each reason.
        count: How many in all.

    Returns:
        A JPEG, or None when nothing was rejected.
    """
    import pyarrow.parquet as parquet

    rejects: list[dict[str, Any]] = parquet.read_table(valid / "rejects.parquet", columns=["key", "reason"]).to_pylist()
    chosen: dict[str, str] = {}
    used: dict[str, int] = {}
    for row in rejects:
        if used.get(row["reason"], 0) < per_reason and len(chosen) < count and row["key"] not in chosen:
            used[row["reason"]] = used.get(row["reason"], 0) + 1
            chosen[row["key"]] = row["reason"]
    if not chosen:
        return None
    by_key = {row["key"]: row for row in _index_rows(raw, keys=list(chosen))}
    return _sheet(raw, [(by_key[key], reason) for key, reason in chosen.items() if key in by_key])


def _index_rows(raw: Path, keys: list[str] | None = None) -> list[dict[str, Any]]:
    import pyarrow.parquet as parquet

    columns = ["key", "split", "shard", "image_offset", "image_size", "caption"]
    filters = [("key", "in", keys)] if keys is not None else None
    return parquet.read_table(raw / "index.parquet", columns=columns, filters=filters).to_pylist()


def _sheet(raw: Path, labelled: list[tuple[dict[str, Any], str]]) -> bytes | None:
    from PIL import Image, ImageDraw, ImageOps

    from assets.picture import Picture, PictureError

    if not labelled:
        return None
    lines = -(-len(labelled) // _COLUMNS)
    cell = _THUMBNAIL + 8
    sheet = Image.new("RGB", (_COLUMNS * cell, lines * (cell + _CAPTION_HEIGHT)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (row, label) in enumerate(labelled):
        x, y = place % _COLUMNS * cell + 4, place // _COLUMNS * (cell + _CAPTION_HEIGHT) + 4
        try:
            with (raw / row["shard"]).open("rb") as stream:
                stream.seek(row["image_offset"])
                opened = Picture(stream.read(row["image_size"]))
            shrink = max(opened.width, opened.height) // _THUMBNAIL
            picture = Image.fromarray(opened.pixels(shrink=shrink))
        except (PictureError, OSError):  # an OSError also where the shard lies in a store
            draw.rectangle((x, y, x + _THUMBNAIL, y + _THUMBNAIL), outline="#c00")
        else:
            sheet.paste(ImageOps.contain(picture, (_THUMBNAIL, _THUMBNAIL)), (x, y))
        draw.text((x, y + _THUMBNAIL + 1), _wrap(label), fill="#333", font_size=9, spacing=1)
    stream = io.BytesIO()
    sheet.save(stream, "JPEG", quality=80)
    return stream.getvalue()


def _wrap(label: str, width: int = 19) -> str:
    """Break a label into at most two lines."""
    return "\n".join((label[:width], label[width : 2 * width - 1] + ("." if len(label) > 2 * width - 1 else "")))
