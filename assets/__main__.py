"""Command line of the data stages: ``python -m assets ingest|validate --name D``."""

import argparse
import importlib
import sys
from functools import partial
from pathlib import Path

from assets.command import guarded
from assets.config import load_machine
from assets.dataset import load_dataset
from assets.ingest import ingest

WORK = Path("work")


def run_ingest(arguments: argparse.Namespace) -> None:
    """Make ``data/raw/D`` from its source."""
    config = load_dataset(arguments.params, arguments.name)
    ingest(
        arguments.name,
        config.source,
        config.source.model_dump(mode="json"),
        config.samples_per_shard,
        arguments.out or Path("data/raw") / arguments.name,
        WORK,
        load_machine(arguments.params).workers,
    )


def run_validate(arguments: argparse.Namespace) -> None:
    """Make ``data/valid/D`` from ``data/raw/D``."""
    # imported late: Great Expectations takes seconds to load
    validate = importlib.import_module("assets.validation.run").validate
    name: str = arguments.name
    validate(
        name,
        arguments.params,
        arguments.raw or Path("data/raw") / name,
        arguments.out or Path("data/valid") / name,
        arguments.docs or Path("reports/validation") / name,
    )


def parser() -> argparse.ArgumentParser:
    """Return the parser: stage, name, params and paths, nothing else."""
    top = argparse.ArgumentParser(prog="python -m assets", description="Make and check data sets.")
    stages = top.add_subparsers(dest="stage", required=True, metavar="STAGE")
    made = stages.add_parser("ingest", help="write a source's samples as WebDataset shards with an index")
    made.add_argument("--out", type=Path, help="folder to publish (default: data/raw/NAME)")
    made.set_defaults(action=run_ingest)
    checked = stages.add_parser("validate", help="check every sample and list the accepted and the rejected")
    checked.add_argument("--in", dest="raw", type=Path, help="folder of raw data (default: data/raw/NAME)")
    checked.add_argument("--out", type=Path, help="folder to publish (default: data/valid/NAME)")
    checked.add_argument("--docs", type=Path, help="folder of the report (default: reports/validation/NAME)")
    checked.set_defaults(action=run_validate)
    for stage in (made, checked):
        stage.add_argument("--name", required=True, help="key of the section datasets")
        stage.add_argument("--params", type=Path, default=Path("params.yaml"), help="settings (default: params.yaml)")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one stage and return its exit code."""
    parsed = parser().parse_args(arguments)
    return guarded(partial(parsed.action, parsed))


if __name__ == "__main__":
    sys.exit(main())
