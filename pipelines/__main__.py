"""``python -m pipelines COMMAND``: the parts of the pipeline that are no stage of their own program."""

import argparse
import sys
from pathlib import Path

from assets.command import guarded


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines", description="Machinery around the stages.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    stamps = commands.add_parser("stamps", help="check params.yaml and write the code stamps that stages depend on")
    stamps.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: params.yaml")
    stamps.add_argument("--out", type=Path, default=Path("stamps"), help="folder to write (default: stamps)")
    stamps.set_defaults(action=_stamps)
    scores = commands.add_parser("scores", help="gather the scores of all runs for dvc metrics")
    scores.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: params.yaml")
    scores.add_argument("--reports", type=Path, default=Path("reports/runs"), help="default: reports/runs")
    scores.add_argument("--out", type=Path, default=Path("reports/scores.json"), help="default: reports/scores.json")
    scores.set_defaults(action=_scores)
    plots = commands.add_parser("plots-template", help='write the page that "dvc plots show" fills, usable offline')
    plots.add_argument("--out", type=Path, default=Path(".dvc/plots.html"), help="default: .dvc/plots.html")
    plots.set_defaults(action=_plots_template)
    ui = commands.add_parser("ui", help="serve Dagster's UI for this project on 127.0.0.1 until Ctrl-C")
    ui.add_argument("--port", type=int, default=3000, help="default: 3000")
    ui.set_defaults(action=_ui)
    return parser


def _stamps(arguments: argparse.Namespace) -> None:
    from pipelines.params import load_params
    from pipelines.preflight import METHODS_PASSED
    from pipelines.stamps import write_stamps

    load_params(arguments.params, METHODS_PASSED)
    changed = write_stamps(arguments.params, arguments.out)
    print(f"{arguments.out}: {len(changed)} written{': ' if changed else ''}{', '.join(changed)}")


def _scores(arguments: argparse.Namespace) -> None:
    from pipelines.scores import write_scores

    scores = write_scores(arguments.params, arguments.reports, arguments.out)
    print(f"{arguments.out}: {len(scores)} runs")


def _plots_template(arguments: argparse.Namespace) -> None:
    from pipelines.plots_template import write_plots_template

    write_plots_template(arguments.out)
    print(f"{arguments.out}: written, {arguments.out.stat().st_size / 1e6:.1f} MB")


def _ui(arguments: argparse.Namespace) -> None:
    from pipelines.ui import run_ui

    run_ui(Path(), arguments.port)


if __name__ == "__main__":
    arguments = _parser().parse_args()
    sys.exit(guarded(lambda: arguments.action(arguments)))
