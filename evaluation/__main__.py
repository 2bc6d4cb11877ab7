"""``python -m evaluation evaluate|compare|embed|export|teach``: the evaluation stages without DVC or Dagster."""

import argparse
import sys
from functools import partial
from pathlib import Path

from assets.command import guarded
from assets.config import entry, read_sections
from assets.section import parse


def _evaluate(arguments: argparse.Namespace) -> None:
    from training.config import RunConfig

    runs = entry(read_sections(arguments.params), "runs", arguments.name, arguments.params)
    run = parse(RunConfig, runs, f"{arguments.params}: runs.{arguments.name}")
    # imported late: torch and open_clip take seconds to load, and a wrong name should not
    from evaluation.evaluate import evaluate

    evaluate(
        arguments.name,
        arguments.params,
        arguments.model or Path("models") / arguments.name,
        arguments.raw or Path("data/raw") / run.dataset,
        arguments.valid or Path("data/valid") / run.dataset,
        arguments.out or Path("reports/runs") / arguments.name,
    )


def _compare(arguments: argparse.Namespace) -> None:
    # imported late: matplotlib takes seconds to load
    from evaluation.compare import compare
    from evaluation.results import Folders

    names = ("reports", "runs", "models", "raw", "valid", "params", "exports")
    folders = Folders(**{name: getattr(arguments, name) for name in names})
    compare(folders, arguments.out_json, arguments.out_html)


def _embed(arguments: argparse.Namespace) -> None:
    from evaluation.embed_config import EMBEDDINGS, load_embeddings
    from training.checkpoint_config import NO_RUN

    config = load_embeddings(arguments.params, arguments.name)
    # imported late: torch and open_clip take seconds to load, and a wrong name should not
    from evaluation.embed import Folders, embed

    folders = Folders(
        raw=arguments.raw or Path("data/raw") / config.dataset,
        valid=arguments.valid or Path("data/valid") / config.dataset,
        model=None if config.run == NO_RUN else arguments.model or Path("models") / config.run,
        out=arguments.out or EMBEDDINGS / arguments.name,
        work=Path("work"),
    )
    embed(arguments.name, config, folders, arguments.params)


def _teach(arguments: argparse.Namespace) -> None:
    from training.checkpoint_config import NO_RUN
    from training.teachers.config import NO_TEACHER, TEACHERS, load_teacher

    config = load_teacher(arguments.params, arguments.name)
    # imported late: torch and open_clip take seconds to load, and a wrong name should not
    from evaluation.teach import Folders, teach

    alone = config.ensemble_with == NO_TEACHER
    folders = Folders(
        raw=arguments.raw or Path("data/raw") / config.dataset,
        valid=arguments.valid or Path("data/valid") / config.dataset,
        model=None if config.run == NO_RUN else arguments.model or Path("models") / config.run,
        other=None if alone else arguments.other or TEACHERS / config.ensemble_with,
        out=arguments.out or TEACHERS / arguments.name,
        work=Path("work"),
    )
    teach(arguments.name, config, folders, arguments.params)


def _export(arguments: argparse.Namespace) -> None:
    from evaluation.export_config import EXPORTS, load_export_config

    config = load_export_config(arguments.params, arguments.name)
    # imported late: torch and onnxruntime take seconds to load, and a wrong name should not
    from evaluation.export import export

    model = arguments.model or Path("models") / config.run
    export(arguments.name, config, arguments.params, model, arguments.out or EXPORTS / arguments.name)


def parser() -> argparse.ArgumentParser:
    """Return the parser: stage, name, params and paths, nothing else."""
    top = argparse.ArgumentParser(prog="python -m evaluation", description="Score models and compare runs.")
    stages = top.add_subparsers(dest="stage", required=True, metavar="STAGE")
    scored = stages.add_parser("evaluate", help="score one exported model with every configured evaluator")
    scored.add_argument("--name", required=True, help="key of the section runs")
    scored.add_argument("--model", type=Path, help="exported model (default: models/NAME)")
    scored.add_argument("--raw", type=Path, help="data set (default: data/raw/DATASET of the run)")
    scored.add_argument("--valid", type=Path, help="accepted keys (default: data/valid/DATASET of the run)")
    scored.add_argument("--out", type=Path, help="report folder to write (default: reports/runs/NAME)")
    scored.set_defaults(action=_evaluate)
    compared = stages.add_parser("compare", help="write the leaderboard of all runs as JSON and as one page")
    folders = {
        "reports": ("reports/runs", "folder of the report folders"),
        "runs": ("runs", "folder of the run folders"),
        "models": ("models", "folder of the exported models"),
        "raw": ("data/raw", "folder of the data sets"),
        "valid": ("data/valid", "folder of the validated data sets"),
        "exports": ("exports", "folder of the models written as ONNX"),
        "out-json": ("reports/leaderboard.json", "table to write"),
        "out-html": ("reports/leaderboard.html", "page to write"),
    }
    for option, (default, text) in folders.items():
        compared.add_argument(f"--{option}", type=Path, default=Path(default), help=f"{text} (default: {default})")
    compared.set_defaults(action=_compare)
    written = stages.add_parser("export", help="write one model as ONNX, verify it, and measure its size and speed")
    written.add_argument("--name", required=True, help="key of the section exports")
    written.add_argument("--model", type=Path, help="exported model (default: models/RUN of the entry)")
    written.add_argument("--out", type=Path, help="folder to publish (default: exports/NAME)")
    written.set_defaults(action=_export)
    made = stages.add_parser(
        "embed",
        help="embed and score the accepted training pairs of a data set with one model",
        description="Makes embeddings.NAME. Goes on shard by shard where an earlier attempt stopped. For several GPUs "
        'start it under torchrun: "torchrun --nproc-per-node N -m evaluation embed --name NAME".',
    )
    made.add_argument("--name", required=True, help="key of the section embeddings")
    made.add_argument("--raw", type=Path, help="data set (default: data/raw/DATASET of the entry)")
    made.add_argument("--valid", type=Path, help="accepted keys (default: data/valid/DATASET of the entry)")
    made.add_argument("--model", type=Path, help="exported model (default: models/RUN of the entry, if it names a run)")
    made.add_argument("--out", type=Path, help="folder to publish (default: data/embeddings/NAME)")
    made.set_defaults(action=_embed)
    taught = stages.add_parser(
        "teach",
        help="make a teacher: its models, and what they say of the training pairs",
        description="Makes teachers.NAME. Goes on shard by shard where an earlier attempt stopped. For several GPUs "
        'start it under torchrun: "torchrun --nproc-per-node N -m evaluation teach --name NAME".',
    )
    taught.add_argument("--name", required=True, help="key of the section teachers")
    taught.add_argument("--raw", type=Path, help="data set (default: data/raw/DATASET of the entry)")
    taught.add_argument("--valid", type=Path, help="accepted keys (default: data/valid/DATASET of the entry)")
    taught.add_argument("--model", type=Path, help="exported model (default: models/RUN, if the entry names a run)")
    taught.add_argument("--other", type=Path, help="teacher taken in (default: data/teachers/OTHER, if it names one)")
    taught.add_argument("--out", type=Path, help="folder to publish (default: data/teachers/NAME)")
    taught.set_defaults(action=_teach)
    for stage in (scored, compared, made, written, taught):
        stage.add_argument("--params", type=Path, default=Path("params.yaml"), help="settings (default: params.yaml)")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one stage and return its exit code."""
    parsed = parser().parse_args(arguments)
    return guarded(partial(parsed.action, parsed))


if __name__ == "__main__":
    sys.exit(main())
