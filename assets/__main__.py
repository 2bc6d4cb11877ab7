"""Command line of the data stages: ``python -m assets ingest|validate|baseline|features|concepts|reduce|explain``."""

import argparse
import importlib
import sys
from functools import partial
from pathlib import Path

from assets.command import guarded
from assets.concepts.config import CONCEPTS, load_concepts
from assets.config import load_machine
from assets.dataset import load_dataset
from assets.deliveries.batches import BATCHES
from assets.features.config import FEATURES, load_features
from assets.ingest import ingest
from assets.reduction.config import NONE, REDUCED, REPORTS, load_policy
from assets.shard_cache import load_shard_cache
from assets.sources.base import Means

WORK = Path("work")


def run_ingest(arguments: argparse.Namespace) -> None:
    """Make ``data/raw/D`` from its source."""
    config = load_dataset(arguments.params, arguments.name)
    machine = load_machine(arguments.params)
    ingest(
        arguments.name,
        config.source,
        config.source.model_dump(mode="json"),
        config.samples_per_shard,
        arguments.out or Path("data/raw") / arguments.name,
        WORK,
        machine.workers,
        Means(
            load_shard_cache(arguments.params),
            machine.download,
            arguments.params.parent / BATCHES / f"{arguments.name}.json",
        ),
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
        arguments.plots or Path("reports/data") / name,
        arguments.baseline or Path("baselines") / f"{name}.json",
    )


def run_baseline(arguments: argparse.Namespace) -> None:
    """Make the profile of ``data/valid/D`` the reference that later versions are compared with."""
    name: str = arguments.name
    out = arguments.out or Path("baselines") / f"{name}.json"
    load_dataset(arguments.params, name)  # a name that is mistyped would leave a baseline nobody compares with
    importlib.import_module("assets.validation.baseline").accept_baseline(
        name, arguments.valid or Path("data/valid") / name, arguments.docs or Path("reports/validation") / name, out
    )
    print(f"{out} is the baseline of {name} now; commit it")


def run_features(arguments: argparse.Namespace) -> None:
    """Make ``features/F`` from the captions that validation accepted."""
    config = load_features(arguments.params, arguments.name)
    # imported late: PyTorch and transformers take seconds to load
    stage = importlib.import_module("assets.features.run")
    folders = stage.Folders(
        raw=arguments.raw or Path("data/raw") / config.dataset,
        valid=arguments.valid or Path("data/valid") / config.dataset,
        out=arguments.out or FEATURES / arguments.name,
        work=WORK,
    )
    machine = load_machine(arguments.params)
    stage.make_features(arguments.name, config, folders, machine, load_shard_cache(arguments.params))


def run_reduce(arguments: argparse.Namespace) -> None:
    """Make ``data/reduced/P`` from the pairs that validation accepted."""
    config = load_policy(arguments.params, arguments.name)
    # imported late: PyTorch takes seconds to load
    stage = importlib.import_module("assets.reduction.run")
    embeddings = arguments.embeddings or Path("data/embeddings") / config.embeddings
    captioned = arguments.captioned or Path("data/captioned") / config.captioner
    concepts = arguments.concepts or CONCEPTS / config.concepts
    folders = stage.Folders(
        raw=arguments.raw or Path("data/raw") / config.dataset,
        valid=arguments.valid or Path("data/valid") / config.dataset,
        embeddings=None if config.embeddings == NONE else embeddings,
        captioned=None if config.captioner == NONE else captioned,
        concepts=None if config.concepts == NONE else concepts,
        out=arguments.out or REDUCED / arguments.name,
        report=arguments.report or REPORTS / arguments.name,
        work=WORK,
        logs=arguments.logs or Path("logs") / f"reduce@{arguments.name}",
    )
    machine = load_machine(arguments.params)
    stage.reduce(arguments.name, config, folders, machine, load_shard_cache(arguments.params))


def run_concepts(arguments: argparse.Namespace) -> None:
    """Make ``data/concepts/C`` from the pairs that validation accepted."""
    config = load_concepts(arguments.params, arguments.name)
    # imported late: what no other command needs
    stage = importlib.import_module("assets.concepts.run")
    embeddings = arguments.embeddings or Path("data/embeddings") / config.embeddings
    folders = stage.Folders(
        raw=arguments.raw or Path("data/raw") / config.dataset,
        valid=arguments.valid or Path("data/valid") / config.dataset,
        embeddings=None if config.embeddings == NONE else embeddings,
        out=arguments.out or CONCEPTS / arguments.name,
    )
    stage.concepts(arguments.name, config, folders, load_shard_cache(arguments.params))


def run_explain(arguments: argparse.Namespace) -> None:
    """Say why a policy kept or dropped a pair; its plan is enough, params.yaml may have moved on."""
    # imported late: what no other command needs
    explain = importlib.import_module("assets.reduction.explain").explain
    print(explain(arguments.plan or REDUCED / arguments.policy, arguments.key))


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
    checked.add_argument("--plots", type=Path, help="folder of what DVC shows (default: reports/data/NAME)")
    checked.add_argument("--baseline", type=Path, help="profile to compare with (default: baselines/NAME.json)")
    checked.set_defaults(action=run_validate)
    kept = stages.add_parser("baseline", help="make the validated data the reference for the next version")
    kept.add_argument("--in", dest="valid", type=Path, help="folder of validated data (default: data/valid/NAME)")
    kept.add_argument("--docs", type=Path, help="folder of its report (default: reports/validation/NAME)")
    kept.add_argument("--out", type=Path, help="file to write (default: baselines/NAME.json)")
    kept.set_defaults(action=run_baseline)
    embedded = stages.add_parser("features", help="embed the accepted captions with a frozen text encoder")
    embedded.add_argument("--in", dest="raw", type=Path, help="folder of raw data (default: data/raw/DATASET)")
    embedded.add_argument("--valid", type=Path, help="folder of validated data (default: data/valid/DATASET)")
    embedded.add_argument("--out", type=Path, help="folder to publish (default: features/NAME)")
    embedded.set_defaults(action=run_features)
    reduced = stages.add_parser("reduce", help="choose pairs by a policy, and the captions they are trained with")
    reduced.add_argument("--in", dest="raw", type=Path, help="folder of raw data (default: data/raw/DATASET)")
    reduced.add_argument("--valid", type=Path, help="folder of validated data (default: data/valid/DATASET)")
    reduced.add_argument("--embeddings", type=Path, help="their folder (default: data/embeddings/EMBEDDINGS)")
    reduced.add_argument("--captioned", type=Path, help="captioner's folder (default: data/captioned/CAPTIONER)")
    reduced.add_argument("--concepts", type=Path, help="concepts found (default: data/concepts/CONCEPTS)")
    reduced.add_argument("--out", type=Path, help="folder to publish (default: data/reduced/NAME)")
    reduced.add_argument("--report", type=Path, help="folder of the report (default: reports/reduction/NAME)")
    reduced.add_argument("--logs", type=Path, help="folder for seconds (default: logs/reduce@NAME)")
    reduced.set_defaults(action=run_reduce)
    counted = stages.add_parser("concepts", help="count the concepts that captions and pictures speak of")
    counted.add_argument("--in", dest="raw", type=Path, help="folder of raw data (default: data/raw/DATASET)")
    counted.add_argument("--valid", type=Path, help="folder of validated data (default: data/valid/DATASET)")
    counted.add_argument("--embeddings", type=Path, help="their folder (default: data/embeddings/EMBEDDINGS)")
    counted.add_argument("--out", type=Path, help="folder to publish (default: data/concepts/NAME)")
    counted.set_defaults(action=run_concepts)
    told = stages.add_parser("explain", help="say why a policy kept or dropped a pair")
    told.add_argument("--policy", required=True, help="key of the section policies")
    told.add_argument("--key", required=True, help="key of the pair, as in index.parquet")
    told.add_argument("--plan", type=Path, help="folder of the plan (default: data/reduced/POLICY)")
    told.set_defaults(action=run_explain)
    sections = {made: "datasets", checked: "datasets", kept: "datasets", embedded: "features"}
    sections |= {reduced: "policies", counted: "concepts"}
    for stage, section in sections.items():
        stage.add_argument("--name", required=True, help=f"key of the section {section}")
        stage.add_argument("--params", type=Path, default=Path("params.yaml"), help="settings (default: params.yaml)")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one stage and return its exit code."""
    parsed = parser().parse_args(arguments)
    return guarded(partial(parsed.action, parsed))


if __name__ == "__main__":
    sys.exit(main())
