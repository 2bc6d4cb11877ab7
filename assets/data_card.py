"""The data card of a raw data folder: README.md and a sheet of sample pictures."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from assets.atomic import atomic_file, write_text
from assets.index_parts import SplitCodes, batches, read_splits, take_rows
from assets.manifest import FileFacts
from assets.picture import Picture, PictureError
from assets.sources.base import About

CARD = "README.md"
SHEET = "sample_sheet.jpg"
ReadPicture = Callable[[str, int, int], bytes]
"""Shard as the index names it, offset and size -> bytes."""
_SHOWN = ["shard", "image_offset", "image_size", "caption"]
_COLUMNS, _ROWS_PER_SPLIT = 12, 2
_CELL = 96
_GAP = 4
_LISTED = 10
_CAPTIONS_SHOWN, _CAPTION_CHARS = 8, 200


def write_card(
    folder: Path,
    about: About,
    facts: Mapping[str, Any],
    concepts: Mapping[str, int],
    external: Mapping[str, FileFacts],
    read: ReadPicture,
) -> None:
    """Write README.md and the sample sheet.

    Args:
        folder: The data folder with its index.
        about: What the source says of itself.
        facts: The content of dataset.json.
        concepts: Concept id -> number of train samples that show it.
        external: Shards outside the folder.
        read: Reads a picture from its shard.
    """
    codes = read_splits(folder)
    shown = {split: _spread(folder, codes, split) for split in facts["splits"]}
    write_sheet(folder / SHEET, list(shown.values()), read)
    parts = [
        f"# {facts['name']}",
        f"{about.title}.",
        _splits(facts),
        _numbers(folder, codes),
        f"## Samples\n\n![samples]({SHEET})\n\nFrom the top, {_ROWS_PER_SPLIT} rows each: {', '.join(shown)}.",
        _captions(next(iter(shown.values()))),
        _licence(about),
        _external(external),
        f"## Languages\n\n{', '.join(about.languages)} (keys of `captions` in KEY.json; `long` holds long captions).",
        _classes(facts),
        _concepts(about, concepts),
        _faults(about),
    ]
    write_text(folder / CARD, "\n\n".join(part for part in parts if part) + "\n")


def _spread(folder: Path, codes: SplitCodes, split: str) -> list[dict[str, Any]]:
    """Return index rows of a split, evenly spread over it."""
    rows = np.flatnonzero(codes.among([split]))
    number = min(_COLUMNS * _ROWS_PER_SPLIT, len(rows))
    places = np.unique(np.linspace(0, len(rows) - 1, number).astype(int))
    return take_rows(folder, _SHOWN, rows[places]).to_pylist()


def _numbers(folder: Path, codes: SplitCodes) -> str:
    """Say how large pictures and captions are."""
    columns = ["image_size", "width", "height", "caption_words", "extension"]
    table = pa.Table.from_batches(batches(folder, columns))
    lines: list[str] = []
    for split in codes.names:
        part = table.filter(pa.array(codes.among([split])))
        size, width, height, words = (part[name].to_numpy() for name in columns[:4])
        known = width > 0
        sides = f"{np.median(width[known]):.0f} x {np.median(height[known]):.0f}" if known.any() else ""
        formats = sorted(part["extension"].value_counts().to_pylist(), key=lambda entry: -entry["counts"])
        named = ", ".join(f"{entry['values']} {entry['counts']:,}" for entry in formats)
        low, middle, high = np.quantile(words, (0.05, 0.5, 0.95)).round().astype(int).tolist()
        lines.append(f"| {split} | {size.sum() / 1e6:,.1f} | {sides} | {named} | {low} / {middle} / {high} |")
    return "\n".join(
        [
            "## In numbers",
            "",
            "| split | MB of pictures | median width x height | formats | caption words: 5 %, median, 95 % |",
            "| --- | ---: | --- | --- | --- |",
            *lines,
        ]
    )


def _external(external: Mapping[str, FileFacts]) -> str:
    if not external:
        return ""
    size = sum(facts["bytes"] for facts in external.values())
    first = next(iter(external))
    return (
        f"## Where the pictures are\n\nIn {len(external):,} tars outside this folder ({size / 1e9:,.2f} GB; the first "
        f"is `{first}`), which are indexed in place. DVC keeps no copy of them; `manifest.json` lists their SHA-256, "
        "and `validate` checks it."
    )


def _splits(facts: Mapping[str, Any]) -> str:
    lines = [
        f"| {name} | {split['role']} | {split['domain']} | {split['style'] or ''} | {split['samples']:,} "
        f"| {split['listed'] - split['samples']:,} |"
        for name, split in facts["splits"].items()
    ]
    return "\n".join(
        [
            "## Splits",
            "",
            "| split | role | domain | style | samples | listed but unreadable |",
            "| --- | --- | --- | --- | ---: | ---: |",
            *lines,
        ]
    )


def _captions(rows: list[dict[str, Any]]) -> str:
    """Quote some captions; the text of strangers goes in as code, so that it cannot become markup."""
    quoted = [" ".join(row["caption"].split()).replace("`", "'")[:_CAPTION_CHARS] for row in rows]
    lines = [f"- `{caption}`" for caption in dict.fromkeys(quoted) if caption]
    return "\n".join(["Some captions:", "", *lines[:_CAPTIONS_SHOWN]])


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


def write_sheet(path: Path, blocks: list[list[dict[str, Any]]], read: ReadPicture) -> None:
    """Write a sheet of pictures, two rows for each block; those that cannot be decoded leave a blank.

    Args:
        path: The JPEG to write.
        blocks: Index rows.
        read: Reads a picture from its shard.
    """
    height = len(blocks) * _ROWS_PER_SPLIT * (_CELL + _GAP) + _GAP
    sheet = Image.new("RGB", (_COLUMNS * (_CELL + _GAP) + _GAP, height), "white")
    for block, rows in enumerate(blocks):
        for place, row in enumerate(rows):
            picture = _thumbnail(read(row["shard"], row["image_offset"], row["image_size"]))
            if picture is not None:
                x = _GAP + place % _COLUMNS * (_CELL + _GAP)
                y = _GAP + (block * _ROWS_PER_SPLIT + place // _COLUMNS) * (_CELL + _GAP)
                sheet.paste(picture, (x, y))
    with atomic_file(path) as temporary:
        sheet.save(temporary, "JPEG", quality=90)


def _thumbnail(image: bytes) -> Image.Image | None:
    try:
        picture = Picture(image)
        pixels = picture.pixels(shrink=min(picture.width, picture.height) // _CELL)
    except PictureError:
        return None
    thumbnail = Image.fromarray(pixels)
    thumbnail.thumbnail((_CELL, _CELL), Image.Resampling.BICUBIC)
    return thumbnail
