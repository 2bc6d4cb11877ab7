"""The leaderboard page: one HTML file with everything in it, made from rows of results."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from evaluation.concept_tables import class_tables
from evaluation.config import ReportConfig
from evaluation.curves import ComputeCurves, Curve, compute_curves, step_curves
from evaluation.failures import confusions, preferred_foils
from evaluation.figures import (
    COMPUTE,
    FREQUENCIES,
    compute_panel,
    cost_panel,
    curve_panel,
    frequency_panel,
    metric_panel,
    reasons_panel,
)
from evaluation.measure_tables import language_tables, measure_tables
from evaluation.page_templates import page_environment
from evaluation.results import Folders, Group, Row, chance_of, group_rows, is_score
from evaluation.samples import DATASET
from evaluation.size_and_speed import read_exports, size_and_speed
from evaluation.thumbnails import thumbnails
from evaluation.unit_scores import comparisons
from evaluation.word_panel import word_blocks
from evaluation.wording import (
    breakable,
    curve_words,
    is_recall,
    metric_words,
    percent,
    plain,
    points,
    quantity,
)

_OPEN = ("leaderboard", "scores", "pairs", "cost")
_COSTS = (("flops", COMPUTE),)
"""No seconds: they are another machine's in another clone, whose page must be the same (``evaluation.times``)."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of what the page shows of a data set.

    Attributes:
        name: Of its template, ``part_<name>.html.j2``.
        title: Heading.
        anchor: Unique in the page.
    """

    name: str
    title: str
    anchor: str

    @property
    def template(self) -> str:
        """The file below ``templates``."""
        return f"part_{self.name}.html.j2"

    @property
    def is_open(self) -> bool:
        """Whether the reader sees it without opening it."""
        return self.name in _OPEN


def render(rows: Sequence[Row], folders: Folders, config: ReportConfig) -> str:
    """Return the page.

    Args:
        rows: All runs, best first.
        folders: Where their results and data are.
        config: What to show.

    Returns:
        HTML with styles, script, plots and pictures inside; the same results give the same text.
    """
    filters: dict[str, Callable[..., Any]] = {
        "percent": percent,
        "points": points,
        "breakable": breakable,
        "quantity": quantity,
        "words": metric_words,
        "plain": plain,
    }
    environment = page_environment(filters)
    datasets = sorted({row.config.dataset for row in rows})
    series = _series(rows)
    sections = [
        _section(number, dataset, [row for row in rows if row.config.dataset == dataset], folders, config, series)
        for number, dataset in enumerate(datasets)
    ]
    page = environment.get_template("leaderboard.html.j2")
    return page.render(config=config, sections=sections, num_runs=len(rows), evaluations=_evaluations(rows))


def _series(rows: Sequence[Row]) -> dict[str, int]:
    """Give each group a colour by the order of its name, so that a new best run recolours nothing."""
    return {label: number for number, label in enumerate(sorted({group.label for group in group_rows(rows)}))}


def _evaluations(rows: Sequence[Row]) -> list[str]:
    return sorted({row.versions["evaluation"] for row in rows})


def _section(
    number: int,
    dataset: str,
    rows: Sequence[Row],
    folders: Folders,
    config: ReportConfig,
    series: Mapping[str, int],
) -> dict[str, Any]:
    """Return what the page shows of one data set."""
    groups = group_rows(rows)
    groups.sort(key=lambda group: -_mean(group, config.main_metric))
    columns = [metric for metric in config.columns if any(metric in row.metrics for row in rows)]
    summary = _data_summary(dataset, folders)
    figures = _figures(f"d{number}", groups, columns, config, series)
    figures["curves"] = _curves(f"d{number}", groups, folders, config, series)
    figures["compute"] = _compute(f"d{number}", groups, folders, config, series)
    if reasons := summary.get("rejected_by_reason"):
        figures["reasons"] = [Markup(reasons_panel(f"d{number}-reasons", "Rejected samples by reason", reasons))]
    best = rows[0]
    exports = read_exports(folders.exports, rows)
    main = metric_words(config.main_metric)
    baseline = min(rows, key=lambda row: row.place).label
    section = {
        "dataset": dataset,
        "rows": rows,
        "groups": groups,
        "series": series,
        "best": best,
        "columns": columns,
        "chances": {metric: chance_of(metric, best.metrics) for metric in columns},
        "best_values": {metric: max(row.metrics.get(metric, 0.0) for row in rows) for metric in columns},
        "several_seeds": any(len(group.rows) > 1 for group in groups),
        "optional": [
            name for name in ("policy", "features") if any(getattr(row.config, name) != "none" for row in rows)
        ],
        "shows_pairs": any(row.config.policy != "none" and "pairs" in row.cost for row in rows),
        "figures": figures,
        "sizes": size_and_speed(f"d{number}", main, groups, exports, series, config.main_metric),
        "words": word_blocks(rows, folders.reports, suite_order),
        "comparisons": comparisons(groups, config.main_metric, columns, folders.reports, baseline),
        **_tables(groups, folders),
        **_pictures(best.run, dataset, folders, config),
        "all_metrics": sorted({metric for row in rows for metric in row.metrics if is_score(metric)}),
        "chance_of": chance_of,
        "summary": summary,
    }
    return {**section, "parts": _parts(f"d{number}", section)}


def _tables(groups: Sequence[Group], folders: Folders) -> dict[str, Any]:
    """Return the tables by recipe; each is empty where no run has such results."""
    return {
        "classes": class_tables(groups, folders.reports, suite_order),
        "languages": language_tables(groups, suite_order),
        "robustness": measure_tables(groups, "robustness", suite_order, ("top1", "corrupted_top1", "num_retained")),
        "composition": measure_tables(groups, "composition", suite_order, ("accuracy",)),
        "spectra": measure_tables(groups, "spectra", suite_order),
        "tuning": measure_tables(groups, "tuning", suite_order, ("lp_top1", "mlp_top1", "nmtune_top1")),
    }


def _parts(name: str, section: Mapping[str, Any]) -> list[Part]:
    """Return the parts that have something to show, in the order of the page."""
    figures = section["figures"]
    parts = (
        ("leaderboard", "Leaderboard", True),
        ("scores", "Scores with intervals", figures["metrics"]),
        ("pairs", "Paired comparisons", section["comparisons"]),
        ("cost", "Score against cost", figures["costs"]),
        ("size", "Size and speed", section["sizes"]),
        ("compute", "Score against compute", figures["compute"]),
        ("frequencies", "Frequent and rare classes", figures["frequencies"]),
        ("classes", "Every class", section["classes"]),
        ("languages", "Languages", section["languages"]),
        ("robustness", "Damaged pictures", section["robustness"]),
        ("composition", "Captions with one thing wrong", section["composition"]),
        ("features", "Frozen features", section["spectra"] or section["tuning"]),
        ("curves", "Training", figures["curves"]),
        ("words", "Words", section["words"]),
        ("examples", "What the best run retrieves", section["examples"]),
        ("failures", "What the best run gets wrong", section["failures"]),
        ("data", "Data", section["summary"]),
        ("metrics", "Everything measured", section["all_metrics"]),
        ("versions", "Versions", True),
    )
    return [Part(part, title, f"{name}-{part}") for part, title, content in parts if content]


def _mean(group: Group, metric: str) -> float:
    estimate = group.estimate(metric)
    return 0.0 if estimate is None else estimate.value


def _figures(
    name: str, groups: Sequence[Group], columns: Sequence[str], config: ReportConfig, series: Mapping[str, int]
) -> dict[str, list[Markup]]:
    """Return the plots that need scores only."""
    suites = sorted(
        {metric.rpartition(".")[0] for group in groups for metric in group.rows[0].metrics}, key=suite_order
    )
    with_frequency = [
        suite for suite in suites if all(f"{suite}.{part}" in groups[0].rows[0].metrics for part in FREQUENCIES)
    ]
    main = metric_words(config.main_metric)
    return {
        "metrics": [
            Markup(metric_panel(f"{name}-m{i}", metric_words(metric), groups, series, metric))
            for i, metric in enumerate(columns)
        ],
        "costs": [
            Markup(cost_panel(f"{name}-c{i}", main, groups, series, config.main_metric, cost))
            for i, cost in enumerate(_COSTS)
        ],
        "frequencies": [
            Markup(frequency_panel(f"{name}-f{i}", metric_words(f"{suite}.accuracy"), groups, series, suite))
            for i, suite in enumerate(with_frequency)
        ],
    }


def _curves(
    name: str, groups: Sequence[Group], folders: Folders, config: ReportConfig, series: Mapping[str, int]
) -> list[Markup]:
    """Return one plot per configured training curve that some run has."""
    figures: list[Markup] = []
    for i, curve in enumerate(config.curves):
        points: dict[str, list[Curve]] = {}
        for group in groups:
            if runs := step_curves(group, curve, folders):
                points[group.label] = runs
        if points:
            figures.append(Markup(curve_panel(f"{name}-l{i}", curve, points, series)))
    return figures


def _compute(
    name: str, groups: Sequence[Group], folders: Folders, config: ReportConfig, series: Mapping[str, int]
) -> list[Markup]:
    """Return one plot per curve that is configured to stand against compute and that some run has."""
    figures: list[Markup] = []
    for i, curve in enumerate(config.compute_curves):
        points: dict[str, ComputeCurves] = {}
        for group in groups:
            if (found := compute_curves(group, curve, folders)) is not None:
                points[group.label] = found
        if points:
            figures.append(Markup(compute_panel(f"{name}-x{i}", curve_words(curve), points, series, is_recall(curve))))
    return figures


def _pictures(run: str, dataset: str, folders: Folders, config: ReportConfig) -> dict[str, Any]:
    """Return what the page shows of the best run's single samples, and their pictures, read in one go."""
    report = folders.reports / run
    examples, keys = _examples(report, config)
    failures = confusions(report, 2 * config.examples, suite_order)
    foils = preferred_foils(report, config.examples)
    keys |= {key for block in failures for key in block.keys} | {foil.key for foil in foils}
    pictures = thumbnails(folders.raw / dataset, keys, config.thumbnail_pixels, folders.params) if keys else {}
    return {"examples": examples, "failures": failures, "foils": foils, "pictures": pictures}


def _examples(report: Path, config: ReportConfig) -> tuple[list[dict[str, Any]], set[str]]:
    """Return the example queries of a run, and which pictures they show; none without the retrieval evaluator."""
    path = report / "retrieval.json"
    blocks: list[dict[str, Any]] = []
    keys: set[str] = set()
    if not path.is_file() or not config.examples:
        return blocks, keys
    suites: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["suites"]
    for suite, directions in sorted(suites.items(), key=lambda item: suite_order(item[0])):
        for direction, kinds in sorted(directions.items(), reverse=True):
            for kind in ("drawn", "failed"):
                queries = [
                    {**query, "ranked": query["ranked"][: config.candidates]}
                    for query in kinds[kind][: config.examples]
                ]
                pictured = direction == "text_to_image"
                keys |= {item["key"] for query in queries for item in (query["ranked"] if pictured else (query,))}
                blocks.append({"suite": suite, "direction": direction, "kind": kind, "queries": queries})
    return blocks, keys


def suite_order(suite: str) -> tuple[bool, str]:
    """Return the sort key of a suite: what is like training comes first."""
    return not suite.endswith("in_domain"), suite


def _data_summary(dataset: str, folders: Folders) -> dict[str, Any]:
    """Return licence and splits of a data set, and how many samples validation accepted, as far as they are there."""
    found: dict[str, Any] = {}
    card = folders.raw / dataset / DATASET
    if card.is_file():
        facts = json.loads(card.read_text(encoding="utf-8"))
        found |= {name: facts[name] for name in ("licence", "attribution", "splits") if name in facts}
    if folders.valid is not None and (metrics := folders.valid / dataset / "metrics.json").is_file():
        found |= json.loads(metrics.read_text(encoding="utf-8"))
    return found
