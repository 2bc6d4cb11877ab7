"""Stage ``validate``: decide which samples of ``data/raw/D`` are fit for use, and whether the data set is.

Order: the folder against its manifest; every picture decoded (``scan``); every row judged (``decisions``); the accepted
rows described (``profile``) and compared with the baseline (``drift``); the tables checked by Great Expectations
(``suite``); pages for people (``report``). A data set that fails a check of severity
error is written all the same, so that it can be looked at, but without the manifest that would make it usable, and the
stage ends with a :class:`~assets.errors.DataError`, so that nothing downstream runs.
"""

import json
import shutil
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from assets.atomic import atomic_folder, write_json
from assets.code_stamp import code_digest
from assets.config import entry, load_machine, read_sections
from assets.errors import DataError, message
from assets.index import SCHEMA
from assets.index_parts import batches, read_splits, take_rows
from assets.manifest import value_digest, version_of, write_manifest
from assets.progress import Stage
from assets.section import parse
from assets.shard_cache import ShardCache, cache_for
from assets.validation.baseline import read_baseline
from assets.validation.config import ValidationConfig
from assets.validation.decisions import (
    ACCEPTED,
    REASONS,
    UNDECLARED,
    Decisions,
    check_schema,
    decide,
    shards_in_order,
    split_table,
)
from assets.validation.drift import Change, compare, drift_table
from assets.validation.duplicates import compares_pictures
from assets.validation.expectations import CHECKS, drift_checks, sample_checks, split_checks
from assets.validation.language import CaptionLanguages, base_codes, language_pass
from assets.validation.plots import write_plots
from assets.validation.profile import PROFILE, make_profile
from assets.validation.profile_page import changes_html, profile_html
from assets.validation.report import SHEET, pick_examples, write_page, write_sheet
from assets.validation.safety import safety_pass
from assets.validation.sample_rules import PassResults
from assets.validation.scan import check_files, scan
from assets.validation.shard_pass import ShardPass, run_pass
from assets.validation.split_facts import add_facts
from assets.validation.suite import Table, run_suites
from assets.validation.tables import write_tables

KIND = "valid"
WORK = Path("work")


@dataclass(frozen=True, slots=True)
class RawData:
    """The raw data, looked over.

    Attributes:
        folder: Where they are.
        shards: Shard -> rows, in index order.
        dataset: The content of dataset.json.
        cache: Knows the object store, for shards that lie there.
    """

    folder: Path
    shards: dict[str, int]
    dataset: dict[str, Any]
    cache: ShardCache | None


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found about a data set.

    Attributes:
        decisions: About every row.
        splits: The table ``splits``.
        profile: The content of profile.json.
        baseline: The profile to compare with, None without one.
        changes: What was compared, None without a baseline.
    """

    decisions: Decisions
    splits: pd.DataFrame
    profile: dict[str, Any]
    baseline: dict[str, Any] | None
    changes: list[Change] | None

    def metrics(self) -> dict[str, Any]:
        """Return the content of metrics.json."""
        ingested = len(self.decisions.reasons)
        rejected = int((self.decisions.reasons != ACCEPTED).sum())
        return {
            "ingested": ingested,
            "accepted": ingested - rejected,
            "rejected": rejected,
            "rejected_share": round(rejected / max(ingested, 1), 6),
            "rejected_by_reason": self.decisions.counts(),
        }


def validate(name: str, params: Path, raw: Path, out: Path, docs: Path, plots: Path, baseline: Path) -> None:
    """Make one folder of validation results and its report.

    Args:
        name: Name of the data set.
        params: The file params.yaml.
        raw: The raw data folder.
        out: The folder to publish with accepted.parquet, rejects.parquet, metrics.json and profile.json.
        docs: The folder to publish with checks.json and the pages for people.
        plots: The folder to publish with what DVC shows: metrics.json, rejects.csv and histograms.
        baseline: The profile to compare with; there need be none.

    Raises:
        ConfigError: A limit in params.yaml is wrong, or a rule needs a package that is not installed.
        DataError: The raw data are damaged, or a check of severity error failed.
    """
    config = load_validation(params, name)
    if config.safety is not None:
        safety_pass()  # says what is missing before hours of work, not after them
    reference = read_baseline(baseline, name)
    with Stage(f"validate@{name}") as stage:
        data = _open(raw, params)
        found = _examine(stage, name, data, config, load_machine(params).workers, reference)
        metrics = found.metrics()
        stage.log.info("%d accepted, %d rejected; checking the tables", metrics["accepted"], metrics["rejected"])
        checks = _write_report(name, data, docs, found, config)
        failed = [check for check in checks if not check["passed"] and check["severity"] == "error"]
        with atomic_folder(plots) as folder:
            write_plots(folder, metrics, found.profile, found.splits.to_dict("records"), found.changes)
        with atomic_folder(out) as folder:
            write_tables(folder, raw, found.decisions)
            write_json(folder / "metrics.json", metrics)
            write_json(folder / PROFILE, found.profile)
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


def _open(raw: Path, params: Path) -> RawData:
    """Compare the folder with its manifest and read what it says of itself."""
    manifest = check_files(raw)
    check_schema(raw)
    shards = shards_in_order(raw, manifest)
    dataset = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    return RawData(raw, shards, dataset, cache_for(shards, params))


def _examine(
    stage: Stage, name: str, data: RawData, config: ValidationConfig, workers: int, baseline: dict[str, Any] | None
) -> Findings:
    """Look at every sample and at all of them together."""
    raw, shards, cache = data.folder, data.shards, data.cache
    declared: dict[str, dict[str, Any]] = data.dataset["splits"]
    work, signed = _work_folder(raw, name), compares_pictures(config.duplicates)
    measures = scan(stage, raw, shards, work, workers, signed, cache)

    def run(what: ShardPass) -> np.ndarray:
        return run_pass(stage, what, raw, shards, work, workers, cache)

    languages = data.dataset["languages"]
    passes = PassResults(
        None if config.safety is None else run(safety_pass()),
        None
        if config.caption.language is None
        else CaptionLanguages(run(language_pass(name, languages)), base_codes(languages)),
    )
    trained = [split for split, facts in declared.items() if facts["role"] == "train"]
    split_codes = read_splits(raw)
    decisions = decide(raw, measures, config, split_codes.among(trained), passes)
    splits = split_table(raw, split_codes, declared, decisions, config)
    profile = make_profile(raw, split_codes, decisions.reasons, config.language.sample)
    changes = None if baseline is None else compare(baseline, profile)
    return Findings(decisions, add_facts(splits, data.dataset, profile, config), profile, baseline, changes)


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


def _write_report(
    name: str, data: RawData, docs: Path, found: Findings, config: ValidationConfig
) -> list[dict[str, Any]]:
    """Run the checks and write the pages and checks.json; return its entries."""
    raw, decisions, splits = data.folder, found.decisions, found.splits
    with atomic_folder(docs) as folder:
        site = folder / "data_docs"
        site.mkdir()
        parts = (batch.to_pandas() for batch in batches(raw, SCHEMA.names))
        declared = splits["split"][splits["role"] != UNDECLARED].tolist()
        drift = drift_table(found.changes or (), config.drift)
        tables = [
            Table("splits", [splits], split_checks(config.language.severity), "split"),
            Table("drift", [drift], drift_checks(), "name", {"baseline": "none"}),
            Table("samples", parts, sample_checks(declared)),
        ]
        checks = run_suites(tables, site)
        examples = pick_examples(decisions.reasons)
        if examples:
            rows = np.concatenate(list(examples.values()))
            table = take_rows(raw, ["key", "shard", "image_offset", "image_size", "caption"], rows)
            bounds = np.cumsum([0, *map(len, examples.values())]).tolist()
            groups = {
                REASONS[n - 1]: table.slice(start, stop - start)
                for n, (start, stop) in zip(examples, pairwise(bounds), strict=True)
            }
            values = {REASONS[n - 1]: decisions.values_of(rows).to_pylist() for n, rows in examples.items()}
            write_sheet(folder / SHEET, raw, groups, values, data.cache)
        sections = {
            "changes": changes_html(name, found.changes, config.drift),
            "profile": profile_html(found.profile, found.baseline, found.changes, config.drift),
        }
        write_page(folder, name, found.metrics(), checks, splits.to_dict("records"), sections)
        # not beside the tables: what people compare the data with must not make another version of them
        write_json(folder / CHECKS, checks)
    return checks


def _failure(name: str, failed: list[dict[str, Any]], docs: Path) -> str:
    lines = "; ".join(f"{check['name']} ({check['description']}; observed {check['observed']})" for check in failed)
    return message(
        f"data set {name} failed {len(failed)} of its checks: {lines}",
        fix=f"look at {docs / 'index.html'}, then mend the source or change datasets.{name}.validation in params.yaml",
    )
