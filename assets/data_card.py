"""The data card of a raw data folder: README.md and a sheet of sample pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from assets.atomic import atomic_file, write_text
from assets.errors import DataError
from assets.picture import Picture, PictureError
from assets.shards import read_member
from assets.sources.base import About

CARD = "README.md"
SHEET = "sample_sheet.jpg"
_COLUMNS, _ROWS_PER_SPLIT = 12, 2
_CELL = 96
_GAP = 4
_LISTED = 10
_CAPTIONS_SHOWN = 8


def write_card(
    folder: Path, about: About, facts: Mapping[str, Any], index: pa.Table, concepts: Mapping[str, int]
) -> None:
    """Write README.md and the sample sheet.

    Args:
        folder: The data folder with its shards.
        about: What the source says of itself.
        facts: The content of dataset.json.
        index: All index rows.
        concepts: Concept id -> number of train samples that show it.
    """
    sheet_splits = write_sheet(folder, list(facts["splits"]), index)
    parts = [
        f"# {facts['name']}",
        f"{about.title}.",
        _splits(facts),
        _sheet_text(sheet_splits),
        _captions(index),
        _licence(about),
        f"## Languages\n\n{', '.join(about.languages)} (keys of `captions` in KEY.json; `long` holds long captions).",
        _classes(facts),
        _concepts(about, concepts),
        _faults(about),
    ]
    write_text(folder / CARD, "\n\n".join(part for part in parts if part) + "\n")


def _splits(facts: Mapping[str, Any]) -> str:
    lines = [
        f"| {name} | {split['role']} | {split['domain']} | {split['style'] or ''} | {split['samples']:,} |"
        for name, split in facts["splits"].items()
    ]
    return "\n".join(
        ["## Splits", "", "| split | role | domain | style | samples |", "| --- | --- | --- | --- | ---: |", *lines]
    )


def _sheet_text(splits: list[str]) -> str:
    if not splits:
        return ""
    return f"## Samples\n\n![samples]({SHEET})\n\nFrom the top, {_ROWS_PER_SPLIT} rows each: {', '.join(splits)}."


def _captions(index: pa.Table) -> str:
    captions = index["caption"].slice(0, _CAPTIONS_SHOWN).to_pylist()
    return "\n".join(["The first captions:", "", *(f"- {caption}" for caption in captions)])


def _licence(about: About) -> str:
    lines = [f"- {line}" for line in about.attribution]
    return "\n".join(["## Licence and attribution", "", f"Pictures: {about.licence}.", "", *lines])


def _classes(facts: Mapping[str, Any]) -> str:
    classes = facts["classes"]
    if not classes:
        return ""
    counts = {third: sum(entry["frequency"] == third for entry in classes) for third in ("head", "mid", "tail")}
    shown = ", ".join(f"{number} {third}" for third, number in counts.items())
    least = min(entry["train_count"] for entry in classes)
    return (
        f"## Zero-shot classes\n\n{len(classes)} classes ({shown}, thirds of the rank by train pictures); the rarest "
        f"is in {least} train pictures. They are listed in `dataset.json`."
    )


def _concepts(about: About, concepts: Mapping[str, int]) -> str:
    if not concepts:
        return ""
    ranked = sorted(concepts.items(), key=lambda item: (-item[1], item[0]))

    def names(items: list[tuple[str, int]]) -> str:
        return ", ".join(f"{about.concept_names.get(key, key)} ({count:,})" for key, count in items)

    unseen = len(about.concept_names) - len(concepts)
    return (
        f"## Concepts\n\n{len(concepts)} concepts occur in train ({unseen} never do).\n\n"
        f"- Most frequent: {names(ranked[:_LISTED])}\n- Median: {ranked[len(ranked) // 2][1]:,} pictures\n"
        f"- Least frequent: {names(ranked[-_LISTED:])}"
    )


def _faults(about: About) -> str:
    if not about.faults:
        return ""
    return "\n".join(["## Known faults", "", *(f"- {fault}" for fault in about.faults)])


def write_sheet(folder: Path, splits: list[str], index: pa.Table) -> list[str]:
    """Write a sheet of the first pictures of every split, rows of one split together.

    Args:
        folder: The data folder with its shards.
        splits: Names of the splits.
        index: All index rows.

    Returns:
        The splits that are on the sheet; pictures that cannot be decoded leave a blank.
    """
    sheet = Image.new(
        "RGB", (_COLUMNS * (_CELL + _GAP) + _GAP, len(splits) * _ROWS_PER_SPLIT * (_CELL + _GAP) + _GAP), "white"
    )
    for block, split in enumerate(splits):
        rows = index.filter(pc.field("split") == split).slice(0, _COLUMNS * _ROWS_PER_SPLIT)
        for place, row in enumerate(rows.select(["shard", "image_offset", "image_size"]).to_pylist()):
            picture = _thumbnail(folder / row["shard"], row["image_offset"], row["image_size"])
            if picture is not None:
                x = _GAP + place % _COLUMNS * (_CELL + _GAP)
                y = _GAP + (block * _ROWS_PER_SPLIT + place // _COLUMNS) * (_CELL + _GAP)
                sheet.paste(picture, (x, y))
    with atomic_file(folder / SHEET) as temporary:
        sheet.save(temporary, "JPEG", quality=90)
    return splits


def _thumbnail(shard: Path, offset: int, size: int) -> Image.Image | None:
    try:
        picture = Picture(read_member(shard, offset, size))
        pixels = picture.pixels(shrink=min(picture.width, picture.height) // _CELL)
    except (PictureError, DataError):
        return None
    return Image.fromarray(pixels).resize((_CELL, _CELL), Image.Resampling.BICUBIC)
