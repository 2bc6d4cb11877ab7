"""Stage ``compare``: every run of params.yaml side by side, as a table for programs and a page for people."""

from pathlib import Path

from assets.atomic import write_json, write_text
from assets.config import read_sections
from assets.errors import ConfigError
from assets.progress import Stage
from assets.section import parse
from evaluation.config import ReportConfig
from evaluation.nested import rounded
from evaluation.report import render
from evaluation.results import Folders, read_rows
from evaluation.times import read_times, write_times
from training.config import RunConfig


def compare(folders: Folders, out_json: Path, out_html: Path) -> None:
    """Write the leaderboard.

    Args:
        folders: Where the results are; ``params`` has the sections ``report`` and ``runs``. Without ``valid`` the page
            says nothing about the data, without ``exports`` nothing about size and speed.
        out_json: The table to write (``docs/leaderboard.schema.json``); ``times.json`` is written beside it.
        out_html: The page to write; it needs no other file. Where ``times.js``, written beside it, is there as well, it
            shows what only this machine knows: seconds, device, git commit.

    Raises:
        ConfigError: A wrong value in params.yaml.
        DataError: A run lacks results, or results do not belong together.
    """
    params = folders.params
    sections = read_sections(params)
    config = parse(ReportConfig, sections["report"], f"{params}: report")
    if not sections["runs"]:
        raise ConfigError(f"{params}: runs: nothing to compare; add a run")
    entries = {str(name): parse(RunConfig, value, f"{params}: runs.{name}") for name, value in sections["runs"].items()}
    with Stage("compare") as stage:
        rows = read_rows(entries, folders, config.main_metric)
        times = {} if folders.logs is None else read_times(rows, folders.logs)
        write_json(out_json, rounded([row.as_json() for row in rows]))
        write_text(out_html, render(rows, folders, config))
        write_times(times, out_json, out_html)
        best = rows[0]
        stage.log.info("best run: %s, %s = %.4f", best.run, config.main_metric, best.metrics[config.main_metric])
        stage.send({"best_run": best.run, config.main_metric: best.metrics[config.main_metric]}, force=True)
