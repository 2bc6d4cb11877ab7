"""Stage ``validate``: decide which samples of ``data/raw/D`` are fit for use, and whether the data set is.

Order: the folder against its manifest; every picture decoded (``scan``); every row judged (``decisions``); the tables
checked by Great Expectations (``suite``); pages for people (``report``). A data set that fails a check of severity
error is written all the same, so that it can be looked at, but without the manifest that would make it usable, and the
stage ends with a :class:`~assets.errors.DataError`, so that nothing downstream runs.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from assets.atomic import atomic_folder, write_json
from assets.code_stamp import code_digest
from assets.config import entry, load_machine, read_sections
from assets.errors import DataError, message
from assets.index import TABLE_COLUMNS, read_index, write_table
from assets.manifest import value_digest, version_of, write_manifest
from assets.progress import Stage
from assets.section import parse
from assets.validation.config import ValidationConfig
from assets.validation.decisions import (
    ACCEPTED,
    REASONS,
    UNDECLARED,
    Decisions,
    batches,
    check_schema,
    decide,
    shards_in_order,
    split_table,
)
from assets.validation.expectations import sample_checks, split_checks
from assets.validation.report import SHEET, pick_examples, write_page, write_sheet
from assets.validation.scan import check_files, scan
from assets.validation.suite import run_suites

KIND = "valid"
WORK = Path("work")
_REJECTS = pa.schema([pa.field(name, pa.string()) for name in ("key", "split", "shard", "reason", "value")])


def validate(name: str, params: Path, raw: Path, out: Path, docs: Path) -> None:
    """Make one folder of validation results and its report.

    Args:
        name: Name of the data set.
        params: The file params.yaml.
        raw: The raw data folder.
        out: The folder to publish with accepted.parquet, rejects.parquet, checks.json and metrics.json.
        docs: The folder to publish with the pages for people.

    Raises:
        ConfigError: A limit in params.yaml is wrong.
        DataError: The raw data are damaged, or a check of severity error failed.
    """
    config = load_validation(params, name)
    workers = load_machine(params).workers
    with Stage(f"validate@{name}") as stage:
        manifest = check_files(raw)
        check_schema(raw)
        shards = shards_in_order(raw, manifest["files"])
        declared: dict[str, dict[str, Any]] = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))["splits"]
        contrast = scan(stage, raw, shards, _work_folder(raw, name), workers)
        trained = [split for split, facts in declared.items() if facts["role"] == "train"]
        train = np.isin(read_index(raw, ["split"])["split"].to_numpy().astype(str), trained)
        decisions = decide(raw, contrast, config, train)
        splits = split_table(raw, declared, decisions, config)
        metrics = _metrics(decisions)
        stage.log.info("%d accepted, %d rejected; checking the tables", metrics["accepted"], metrics["rejected"])
        checks = _write_report(name, raw, docs, decisions, splits)
        failed = [check for check in checks if not check["passed"] and check["severity"] == "error"]
        with atomic_folder(out) as folder:
            _write_tables(folder, raw, decisions)
            write_json(folder / "checks.json", checks)
            write_json(folder / "metrics.json", metrics)
            if not failed:
                counts = {key: metrics[key] for key in ("ingested", "accepted", "rejected")}
                settings, code = config.model_dump(mode="json"), code_digest("assets.validation.run")
                write_manifest(folder, KIND, name, settings, counts, {"raw": version_of(raw)}, code)
        facts = {key: metrics[key] for key in ("ingested", "accepted", "rejected", "rejected_share")}
        stage.send({**facts, "failed_checks": len(failed)}, force=True)
        for check in checks:
            if not check["passed"] and check["severity"] == "warning":
                stage.log.warning("%s: not so: %s (%s)", check["name"], check["description"], check["observed"])
        if failed:
            raise DataError(_failure(name, failed, docs))


def load_validation(params: Path, name: str) -> ValidationConfig:
    """Read ``datasets.<name>.validation`` and nothing else, so that a change elsewhere cannot matter.

    Args:
        params: The file params.yaml.
        name: Name of the data set.

    Raises:
        ConfigError: The name is unknown or a value is wrong.
    """
    data = entry(read_sections(params), "datasets", name, params)
    section = data.get("validation") if isinstance(data, dict) else None
    return parse(ValidationConfig, section, f"{params}: datasets.{name}.validation")


def _work_folder(raw: Path, name: str) -> Path:
    """Return the folder for what the scan finds in this very data, and drop what it found in older data."""
    root = WORK / "validate" / name
    folder = root / value_digest({"raw": version_of(raw), "code": code_digest("assets.validation.scan")})
    for old in root.iterdir() if root.is_dir() else ():
        if old != folder:
            shutil.rmtree(old)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _metrics(decisions: Decisions) -> dict[str, Any]:
    ingested = len(decisions.reasons)
    rejected = int((decisions.reasons != ACCEPTED).sum())
    return {
        "ingested": ingested,
        "accepted": ingested - rejected,
        "rejected": rejected,
        "rejected_share": round(rejected / max(ingested, 1), 6),
        "rejected_by_reason": decisions.counts(),
    }


def _write_tables(folder: Path, raw: Path, decisions: Decisions) -> None:
    index = read_index(raw, ["key", "split", "shard"])
    accepted = pa.array(np.flatnonzero(decisions.reasons == ACCEPTED))
    write_table(index.select(["key", "split"]).take(accepted), folder / "accepted.parquet")
    rows = np.flatnonzero(decisions.reasons != ACCEPTED)
    rejects = index.take(pa.array(rows)).to_pydict()
    rejects["reason"] = [REASONS[number - 1] for number in decisions.reasons[rows].tolist()]
    rejects["value"] = [decisions.values[row] for row in rows.tolist()]
    write_table(pa.Table.from_pydict(rejects, schema=_REJECTS), folder / "rejects.parquet")


def _write_report(name: str, raw: Path, docs: Path, decisions: Decisions, splits: pd.DataFrame) -> list[dict[str, Any]]:
    """Run the checks and write the pages; return the entries of checks.json."""
    with atomic_folder(docs) as folder:
        site = folder / "data_docs"
        site.mkdir()
        parts = (batch.to_pandas() for batch in batches(raw, TABLE_COLUMNS))
        declared = splits["split"][splits["role"] != UNDECLARED].tolist()
        checks = run_suites(parts, sample_checks(declared), splits, split_checks(), site)
        examples = pick_examples(decisions.reasons)
        if examples:
            index = read_index(raw, ["key", "shard", "image_offset", "image_size", "caption"])
            groups = {REASONS[number - 1]: index.take(pa.array(rows)) for number, rows in examples.items()}
            values = {REASONS[n - 1]: [decisions.values[row] for row in rows] for n, rows in examples.items()}
            write_sheet(folder / SHEET, raw, groups, values)
        write_page(folder, name, _metrics(decisions), checks, splits.to_dict("records"))
    return checks


def _failure(name: str, failed: list[dict[str, Any]], docs: Path) -> str:
    lines = "; ".join(f"{check['name']} ({check['description']}; observed {check['observed']})" for check in failed)
    return message(
        f"data set {name} failed {len(failed)} of its checks: {lines}",
        fix=f"look at {docs / 'index.html'}, then mend the source or change datasets.{name}.validation in params.yaml",
    )
