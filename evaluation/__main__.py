"""``python -m evaluation STAGE``: the evaluation stages without DVC or Dagster, and the search in an index."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from assets.command import guarded
from assets.config import entry, read_sections
from assets.errors import ConfigError, message
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

    names = ("reports", "runs", "models", "raw", "valid", "params", "exports", "logs")
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


def _index(arguments: argparse.Namespace) -> None:
    from evaluation.words.index_config import INDEXES, load_index_config

    config = load_index_config(arguments.params, arguments.name)
    # imported late: torch and open_clip take seconds to load, and a wrong name should not
    from evaluation.words.build import Folders, build_index

    folders = Folders(
        raw=arguments.raw or Path("data/raw") / config.dataset,
        valid=arguments.valid or Path("data/valid") / config.dataset,
        model=arguments.model or Path("models") / config.run,
        out=arguments.out or INDEXES / arguments.name,
    )
    build_index(arguments.name, config, folders, arguments.params)


def _concepts(arguments: argparse.Namespace) -> None:
    from assets.concepts.config import CONCEPTS, load_concepts
    from evaluation.concepts.report_config import REPORTS

    config = load_concepts(arguments.params, arguments.name)
    # imported late: matplotlib takes seconds to load
    from evaluation.concepts.report import Folders, report_concepts

    folders = Folders(
        arguments.concepts or CONCEPTS / arguments.name,
        arguments.reduced,
        arguments.reports,
        arguments.out or REPORTS / arguments.name,
        arguments.plots or Path("reports/plots/concepts") / f"{arguments.name}.tsv",
    )
    report_concepts(arguments.name, config, folders, arguments.params)


def _study(arguments: argparse.Namespace) -> None:
    from evaluation.studies.config import STUDIES, load_study

    config = load_study(arguments.params, arguments.name)
    # imported late: matplotlib takes seconds to load
    from evaluation.studies.run import Folders, study

    plots = arguments.plots or Path("reports/plots/studies") / arguments.name
    folders = Folders(arguments.reports, arguments.out or STUDIES / arguments.name, plots)
    study(arguments.name, config, folders, arguments.params)


def _challenge(arguments: argparse.Namespace) -> None:
    from evaluation.promotion.champions import CHAMPIONS
    from evaluation.promotion.config import PROMOTIONS, load_promotion

    config = load_promotion(arguments.params, arguments.name)
    # imported late: torch and open_clip take seconds to load, and a wrong name should not
    from evaluation.external.config import EXTERNAL
    from evaluation.promotion.present import Folders
    from evaluation.promotion.run import challenge

    folders = Folders(
        model=arguments.model or Path("models") / config.run,
        report=arguments.report or Path("reports/runs") / config.run,
        champion=arguments.champion or Path("models") / arguments.name,
        raw=arguments.raw or Path("data/raw") / config.dataset,
        valid=arguments.valid or Path("data/valid") / config.dataset,
        validation=arguments.validation or Path("reports/validation") / config.dataset,
        external=EXTERNAL,
        champions=CHAMPIONS,
        out=arguments.out or PROMOTIONS / arguments.name,
    )
    challenge(arguments.name, config, folders, arguments.params)


def _external(arguments: argparse.Namespace) -> None:
    from evaluation.external.importer import Order, import_set, list_presets

    if arguments.list:
        print(list_presets())
        return
    root = arguments.folder or arguments.root
    if root is None or (arguments.folder is None) == (arguments.preset is None):
        wanted = "--preset NAME with --root PATH, or --folder PATH"
        raise ConfigError(message("external: nothing says what to import", wanted=wanted))
    import_set(Order(arguments.preset, root, arguments.language, arguments.out))


def _lucene(arguments: argparse.Namespace) -> None:
    from evaluation.words.lucene import write_lucene

    write_lucene(arguments.index, arguments.indexes / arguments.index, arguments.out)


def _search(arguments: argparse.Namespace) -> None:
    from evaluation.words.search import Folders, Request, search

    names = ("sentence", "words", "must", "must_not", "top", "index", "html", "json")
    folders = Folders(arguments.indexes, arguments.models, arguments.raw, arguments.params)
    search(Request(**{name: getattr(arguments, name) for name in names}), folders)


def parser() -> argparse.ArgumentParser:
    """Return the parser: stage, name, params and paths, nothing else; and the query of a search."""
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
        "logs": ("logs", "folder of what this machine knows of the runs"),
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
    others = (*_add_words(stages), *_add_questions(stages), _add_challenge(stages))
    for stage in (scored, compared, made, written, taught, *others):
        stage.add_argument("--params", type=Path, default=Path("params.yaml"), help="settings (default: params.yaml)")
    return top


def _add_words(stages: Any) -> tuple[argparse.ArgumentParser, ...]:
    """Add what is about indexes of words; return the parsers that read params.yaml."""
    built = stages.add_parser("index", help="index pictures by the words that a lexical model sees in them")
    built.add_argument("--name", required=True, help="key of the section indexes")
    built.add_argument("--raw", type=Path, help="data set (default: data/raw/DATASET of the entry)")
    built.add_argument("--valid", type=Path, help="accepted keys (default: data/valid/DATASET of the entry)")
    built.add_argument("--model", type=Path, help="exported model (default: models/RUN of the entry)")
    built.add_argument("--out", type=Path, help="folder to publish (default: indexes/NAME)")
    built.set_defaults(action=_index)
    asked = stages.add_parser("search", help="find pictures in an index, and say which words found them")
    asked.add_argument("sentence", nargs="?", help="what the pictures show, for the text side of the index's model")
    asked.add_argument(
        "--words",
        help='words instead of a sentence: "apple red^2 -cherry +fruit" weighs red twice, '
        "leaves out pictures with cherry, and wants fruit in all",
    )
    asked.add_argument("--must", action="append", default=[], metavar="WORD", help="only pictures with it; repeatable")
    asked.add_argument("--must-not", action="append", default=[], metavar="WORD", help="only pictures without it")
    asked.add_argument("--top", type=int, default=10, help="pictures wanted (default: 10)")
    asked.add_argument("--index", help="name of the index (default: the only one)")
    asked.add_argument("--html", type=Path, help="page to write, with pictures and the patches of their words")
    asked.add_argument("--json", action="store_true", help="print JSON")
    asked.add_argument("--models", type=Path, default=Path("models"), help="folder of the models (default: models)")
    asked.add_argument("--raw", type=Path, default=Path("data/raw"), help="folder of data sets (default: data/raw)")
    asked.set_defaults(action=_search)
    given = stages.add_parser("lucene", help="write an index as documents with impacts, as Lucene's tools read them")
    given.add_argument("--index", required=True, help="name of the index")
    given.add_argument("--out", type=Path, required=True, help="folder to write")
    given.set_defaults(action=_lucene)
    for stage in (asked, given):
        stage.add_argument("--indexes", type=Path, default=Path("indexes"), help="folder (default: indexes)")
    return built, asked


def _add_questions(stages: Any) -> tuple[argparse.ArgumentParser, ...]:
    """Add what many runs are asked together; return the parsers."""
    reported = stages.add_parser("concepts", help="set accuracy against the frequency of concepts in training")
    reported.add_argument("--name", required=True, help="key of the section concepts")
    reported.add_argument("--concepts", type=Path, help="counted concepts (default: data/concepts/NAME)")
    reduced = Path("data/reduced")
    reported.add_argument("--reduced", type=Path, default=reduced, help=f"folder of the policies (default: {reduced})")
    reported.add_argument("--out", type=Path, help="folder to publish (default: reports/concepts/NAME)")
    reported.add_argument("--plots", type=Path, help="table for DVC to plot (default: reports/plots/concepts/NAME.tsv)")
    reported.set_defaults(action=_concepts)
    studied = stages.add_parser("study", help="say what the runs of a study show together, as a page and a figure")
    studied.add_argument("--name", required=True, help="key of the section studies")
    studied.add_argument("--out", type=Path, help="folder to publish (default: reports/studies/NAME)")
    studied.add_argument("--plots", type=Path, help="tables for DVC to plot (default: reports/plots/studies/NAME)")
    studied.set_defaults(action=_study)
    brought = stages.add_parser("external", help="bring a public evaluation set into clip_benchmark's format")
    brought.add_argument("--preset", help="name of the set, see --list")
    brought.add_argument("--language", help="for sets in several languages")
    brought.add_argument("--root", type=Path, help="where the preset's data are")
    brought.add_argument("--folder", type=Path, help="instead of a preset: a folder with one folder per class")
    brought.add_argument("--out", type=Path, help="folder to write (default: data/external/NAME)")
    brought.add_argument("--list", action="store_true", help="say which presets there are")
    brought.set_defaults(action=_external)
    for stage in (reported, studied):
        folder = Path("reports/runs")
        stage.add_argument("--reports", type=Path, default=folder, help=f"folder of report folders (default: {folder})")
    return reported, studied


def _add_challenge(stages: Any) -> argparse.ArgumentParser:
    """Add the decision on a challenger; return its parser."""
    asked = stages.add_parser("challenge", help="decide whether the model of a run may become champion, and say why")
    asked.add_argument("--name", required=True, help="key of the section promotions")
    asked.add_argument("--model", type=Path, help="the challenger (default: models/RUN of the entry)")
    asked.add_argument("--report", type=Path, help="its report (default: reports/runs/RUN of the entry)")
    asked.add_argument("--champion", type=Path, help="the present champion (default: models/NAME)")
    asked.add_argument("--raw", type=Path, help="data set (default: data/raw/DATASET of the entry)")
    asked.add_argument("--valid", type=Path, help="accepted keys (default: data/valid/DATASET of the entry)")
    asked.add_argument("--validation", type=Path, help="checks (default: reports/validation/DATASET of the entry)")
    asked.add_argument("--out", type=Path, help="folder to publish (default: reports/promotion/NAME)")
    asked.set_defaults(action=_challenge)
    return asked


def main(arguments: list[str] | None = None) -> int:
    """Run one stage and return its exit code."""
    parsed = parser().parse_args(arguments)
    return guarded(partial(parsed.action, parsed))


if __name__ == "__main__":
    sys.exit(main())
