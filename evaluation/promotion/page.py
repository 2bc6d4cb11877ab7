"""The page of a promotion: one HTML file with verdict, rules, figures, scores and history in it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from evaluation.page_templates import page_environment
from evaluation.promotion.champions import History
from evaluation.promotion.config import PromotionConfig
from evaluation.promotion.draw import decision_svg, history_svg
from evaluation.promotion.rules import ONE_SEED, Decision, Facts
from evaluation.results import is_score
from evaluation.wording import metric_words, percent, plain, points


@dataclass(frozen=True, slots=True)
class Findings:
    """All that a decision is made of.

    Attributes:
        name: Key in ``promotions``.
        config: The promotion.
        facts: The numbers that the rules look at.
        decision: The verdict.
        history: The champions so far.
        challenger: Metric -> value, all of the challenger's report.
        champion: The same of the champion on the present data, as far as it was scored; empty without one.
    """

    name: str
    config: PromotionConfig
    facts: Facts
    decision: Decision
    history: History
    challenger: Mapping[str, float]
    champion: Mapping[str, float]


def render_promotion(found: Findings) -> str:
    """Return the page.

    Args:
        found: All that it shows.

    Returns:
        HTML with styles and figures inside; the same findings give the same text.
    """
    filters: dict[str, Any] = {
        "words": metric_words,
        "rule": _rule_words,
        "score": _score,
        "difference": _difference,
        "observed": _observed,
    }
    chart = history_svg("history", found.config.metric, found.history)
    named = list(found.config.metrics)
    others = [
        metric
        for metric in (found.champion or found.challenger)
        if is_score(metric) and metric in found.challenger and metric not in named
    ]
    return (
        page_environment(filters)
        .get_template("promotion.html.j2")
        .render(
            found=found,
            facts=found.facts,
            decision=found.decision,
            versions=tuple(reversed(found.history.versions)),
            figure=Markup(decision_svg("decision", found.config, found.facts, found.decision)),
            chart=None if chart is None else Markup(chart),
            tables=[("What the promotion names", named), ("Everything else that was scored", others)],
            one_seed=ONE_SEED,
        )
    )


def _rule_words(name: str) -> str:
    """Write the name of a rule, which may end with a metric."""
    rule, _, metric = name.partition(" ")
    return f"{rule}: {metric_words(metric)}" if metric else plain(rule)


def _score(metrics: Mapping[str, float], metric: str) -> str:
    value = metrics.get(metric, math.nan)
    return f"{percent(value)} %" if math.isfinite(value) else "-"


def _difference(found: Findings, metric: str) -> str:
    """Write challenger minus champion in points; a dash where one of them lacks the metric."""
    value = found.challenger.get(metric, math.nan) - found.champion.get(metric, math.nan)
    return points(value) if math.isfinite(value) else "-"


def _observed(numbers: Mapping[str, float | int]) -> str:
    """Write the numbers of a rule: counts as they are, shares with four decimals."""
    parts = (
        f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}" for name, value in numbers.items()
    )
    return ", ".join(parts).replace("_", " ")
