"""What an asset's page shows about an output: version, size, counts, scores, curves, pictures, cards and pages."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from dagster import MetadataValue, TableColumn, TableColumnConstraints, TableSchema

from assets.manifest import MANIFEST
from pipelines.dvc_project import Out, StageRecord, Version
from pipelines.pages import page_address
from pipelines.pictures import curve_svg, data_address, read_curve, reject_sheet, sample_sheet

Metadata = dict[str, MetadataValue[Any]]
_MOST_NUMBERS = 40
_MOST_CURVES = 4
_LONGEST_CARD = 12_000
_FIGURE = "figure.svg"
_LOGS, _RUNS = "logs", "runs"
_TABLES = (
    "index.parquet",
    "accepted.parquet",
    "plan.parquet",
    "per_class.parquet",
    "per_concept.parquet",
    "concepts.parquet",
    "scores.parquet",
    "rows.parquet",
)
"""The table that an output is about, whichever it has first."""


def describe(root: Path, stage: StageRecord, out: Out, version: Version | None) -> Metadata:
    """Collect the metadata of one output that stands on disk.

    Args:
        root: The project.
        stage: The stage that made it; its metrics and plots count as the output's.
        out: The output.
        version: What dvc.lock says of it.

    Returns:
        Metadata by name; what an output does not have is left out.
    """
    path = root / out.path
    found: Metadata = {"path": MetadataValue.path(str(path)), "dvc_stage": MetadataValue.text(stage.address)}
    if version is not None:
        found["dvc_hash"] = MetadataValue.text(version.md5)
        if version.size is not None:
            found["bytes"] = MetadataValue.int(version.size)
        if version.num_files is not None:
            found["files"] = MetadataValue.int(version.num_files)
    for part in (_counts, _columns, _cards, _pages, _figure, _raw_pictures, _reject_pictures):
        found |= part(root, stage, path)
    found |= _numbers(root, stage, path)
    found |= _curves(root, stage)
    return found


def facts(values: Mapping[str, Any], seconds: float, ran: bool) -> Metadata:
    """Turn what a stage sent while it ran into metadata.

    Args:
        values: Name -> number or short text.
        seconds: Wall-clock time of the DVC call.
        ran: Whether DVC ran the stage, or found it up to date or in its run cache.

    Returns:
        Metadata by name.
    """
    found: Metadata = {
        "seconds": MetadataValue.float(round(seconds, 3)),
        "executed": MetadataValue.bool(ran),
    }
    for name, value in values.items():
        if isinstance(value, bool | int | float | str):
            found[f"last/{name}"] = _value(value)
    return found


def _value(value: float | str) -> MetadataValue[Any]:
    if isinstance(value, bool):
        return MetadataValue.bool(value)
    if isinstance(value, int):
        return MetadataValue.int(value)
    return MetadataValue.float(value) if isinstance(value, float) else MetadataValue.text(value)


def _read_json(path: Path) -> Any:
    """Read a JSON file that may be missing or, in a folder that is no concern of ours, of any form."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None


def _counts(root: Path, stage: StageRecord, path: Path) -> Metadata:
    manifest = _read_json(path / MANIFEST)
    if not isinstance(manifest, dict):
        return {}
    counts = {name: count for name, count in manifest.get("counts", {}).items() if isinstance(count, int)}
    found: Metadata = {name: MetadataValue.int(count) for name, count in counts.items()}
    if (rows := counts.get("samples", counts.get("accepted", counts.get("kept")))) is not None:
        # a name that Dagster's UI knows and plots
        found["dagster/row_count"] = MetadataValue.int(rows)
    return found


def _cards(root: Path, stage: StageRecord, path: Path) -> Metadata:
    card = path / "README.md"
    if not card.is_file():
        return {}
    text = card.read_text(encoding="utf-8")
    if text.startswith("---"):
        text = text.partition("\n---")[2].lstrip("-\n")
    return {"card": MetadataValue.md(text[:_LONGEST_CARD])}


def _pages(root: Path, stage: StageRecord, path: Path) -> Metadata:
    """Point at the HTML page that our web server serves (pipelines/pages.py)."""
    for page in (path, path / "index.html", path / "data_docs" / "index.html"):
        if page.suffix == ".html" and page.is_file():
            return {"page": MetadataValue.url(page_address(page.relative_to(root).as_posix()))}
    return {}


def _figure(root: Path, stage: StageRecord, path: Path) -> Metadata:
    return _picture("figure", lambda: (path / _FIGURE).read_bytes(), "svg+xml") if (path / _FIGURE).is_file() else {}


def _numbers(root: Path, stage: StageRecord, path: Path) -> Metadata:
    files = [path / "metrics.json", *(root / out.path for out in stage.outs if out.kind == "metric")]
    if path.suffix == ".json":
        files.append(path)
    found: Metadata = {}
    for file in dict.fromkeys(files):
        for name, number in _flatten(_read_json(file)):
            if len(found) < _MOST_NUMBERS:
                found.setdefault(name, _value(number))
    return found


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield (``a/b/c``, number) for every number in nested mappings."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flatten(item, f"{prefix}/{key}" if prefix else str(key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield prefix, value


def _curves(root: Path, stage: StageRecord) -> Metadata:
    folders = [root / out.path for out in stage.outs if out.kind == "plot"]
    # what belongs to this machine and is no output: speed and memory
    folders += [root / _LOGS / name / "perf" for name in _run_names(stage)]
    files = [file for folder in folders for file in sorted(folder.rglob("*.tsv"))]
    files.sort(key=_curve_rank)
    pictures: list[str] = []
    for file in files:
        name, points = f"{file.parent.name}/{file.stem}", read_curve(file)[1]
        if len(points) > 1 and len(pictures) < _MOST_CURVES:
            pictures.append(f"![{name}]({data_address('image/svg+xml', curve_svg(name, points))})")
    return {"curves": MetadataValue.md("\n\n".join(pictures))} if pictures else {}


def _curve_rank(file: Path) -> tuple[bool, bool, bool, bool, str]:
    """Put the losses of training and of held-out pairs first, then the speed, then further losses."""
    name = file.stem
    return name != "loss", file.parent.name != "train", name != "samples_per_second", "loss" not in name, str(file)


def _run_names(stage: StageRecord) -> list[str]:
    """Return the runs whose log a stage writes, ``runs/R``."""
    parts = [PurePosixPath(out.path).parts for out in stage.outs]
    return list(dict.fromkeys(part[1] for part in parts if len(part) > 1 and part[0] == _RUNS))


def _columns(root: Path, stage: StageRecord, path: Path) -> Metadata:
    """Read the columns of the output's main table; the footer of the file alone is read."""
    table = next((path / name for name in _TABLES if (path / name).is_file()), None)
    if table is None:
        return {}
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        schema = parquet.read_schema(table)
    except (pa.ArrowException, OSError):
        return {}  # in a folder of another kind the name may mean something else
    columns = [
        TableColumn(
            name,
            str(schema.field(name).type),
            constraints=TableColumnConstraints(nullable=schema.field(name).nullable),
        )
        for name in schema.names
    ]
    # a name that Dagster's UI knows: it shows the columns on a page of their own
    return {"dagster/column_schema": MetadataValue.table_schema(TableSchema(columns))}


def _raw_pictures(root: Path, stage: StageRecord, path: Path) -> Metadata:
    return _picture("samples_shown", lambda: sample_sheet(path)) if (path / "index.parquet").is_file() else {}


def _reject_pictures(root: Path, stage: StageRecord, path: Path) -> Metadata:
    raw = next((root / dep for dep in stage.deps if (root / dep / "index.parquet").is_file()), None)
    if raw is None or not (path / "rejects.parquet").is_file():
        return {}
    return _picture("rejects_shown", lambda: reject_sheet(path, raw))


def _picture(name: str, draw: Callable[[], bytes | None], form: str = "jpeg") -> Metadata:
    picture = draw()
    return {name: MetadataValue.md(f"![{name}]({data_address(f'image/{form}', picture)})")} if picture else {}
