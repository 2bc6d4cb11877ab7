"""The rules by which a challenger becomes champion: numbers in, a verdict with its reasons out.

A champion may only be replaced by a model that passes every rule. There is no weighing of rules against each other, so
that what stands in the way is always one sentence.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from evaluation.nested import DECIMALS, rounded
from evaluation.paired import Difference
from evaluation.promotion.champions import ChampionVersion
from evaluation.promotion.config import PromotionConfig
from evaluation.wording import metric_words, percent, points

ONE_SEED = "over test samples alone; the luck of training is not in it"
"""What an interval of two single models covers (``evaluation.paired``)."""
Verdict = Literal["promote", "keep"]


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of a challenger and its champion.

    Attributes:
        model: Version of the challenger's export.
        scores: Metric -> value of the challenger, for every metric that the promotion names.
        data_errors: Names of the checks of severity error that its data broke.
        export_faults: What is wrong with the files of its export, one sentence each.
        barred: Model versions that a rollback left.
        champion: The champion; None where there is none.
        champion_scores: The same metrics of the champion, scored anew on the present data; the challenger's own where
            it is the champion.
        difference: Challenger minus champion by the main metric, in pairs; None where there are no two models.
    """

    model: str
    scores: Mapping[str, float]
    data_errors: tuple[str, ...] = ()
    export_faults: tuple[str, ...] = ()
    barred: tuple[str, ...] = ()
    champion: ChampionVersion | None = None
    champion_scores: Mapping[str, float] | None = None
    difference: Difference | None = None

    @property
    def is_champion(self) -> bool:
        """Whether the challenger is the champion."""
        return self.champion is not None and self.champion.model == self.model


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule and whether it holds.

    Attributes:
        name: Unique in a decision.
        description: What it asks.
        passed: Whether it holds.
        observed: The numbers it looked at; numbers that are not finite are left out.
        fault: Why it does not hold, as the rest of a sentence; empty where it does.
    """

    name: str
    description: str
    passed: bool
    observed: Mapping[str, float | int]
    fault: str

    def as_json(self) -> dict[str, Any]:
        """Return the rule as an entry of checks.json."""
        return {
            "name": self.name,
            "description": self.description,
            "passed": self.passed,
            "severity": "warning",
            "observed": rounded(dict(self.observed)),
        }


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a challenger.

    Attributes:
        verdict: ``promote`` if every rule holds.
        reason: One sentence.
        rules: In the order they were looked at.
    """

    verdict: Verdict
    reason: str
    rules: tuple[Rule, ...]


def decide(config: PromotionConfig, facts: Facts) -> Decision:
    """Decide whether a challenger becomes champion.

    Args:
        config: The rules.
        facts: The numbers.
    """
    rules = [*_admission(config, facts), *(_floor(metric, least, facts) for metric, least in config.floors.items())]
    if facts.champion is not None and not facts.is_champion:
        rules.append(_main(config, facts))
        rules += [_slice(metric, fall, facts) for metric, fall in config.slices.items()]
    broken = [rule for rule in rules if not rule.passed]
    champion = "no champion" if facts.champion is None else f"version {facts.champion.version} ({facts.champion.run})"
    if not broken:
        return Decision("promote", _victory(config, facts, champion, len(rules)), tuple(rules))
    stays = "There is still no champion" if facts.champion is None else f"Champion {champion} stays"
    more = f"; {len(broken) - 1} more of {len(rules)} rules are broken" if len(broken) > 1 else ""
    return Decision("keep", f"{stays}: {broken[0].fault}{more}.", tuple(rules))


def _rule(name: str, description: str, passed: bool, observed: Mapping[str, float | int], fault: str) -> Rule:
    finite = {key: value for key, value in observed.items() if math.isfinite(value)}
    return Rule(name, description, passed, finite, "" if passed else fault)


def _admission(config: PromotionConfig, facts: Facts) -> list[Rule]:
    """Return the rules that ask nothing of a score but that there is one."""
    strange = [metric for metric in config.metrics if not math.isfinite(facts.scores[metric])]
    barred = facts.model in facts.barred
    return [
        _rule(
            "another_model",
            "The challenger is another model than the champion.",
            not facts.is_champion,
            {"champion_version": 0 if facts.champion is None else facts.champion.version},
            f"the model of {config.run} is the champion itself",
        ),
        _rule(
            "not_barred",
            "The model was not taken back by a rollback before.",
            not barred,
            {"barred_models": len(facts.barred)},
            f"the model of {config.run} ({facts.model}) was champion before and was taken back",
        ),
        _rule(
            "data_quality",
            "No rule of severity error is broken by the data.",
            not facts.data_errors,
            {"broken": len(facts.data_errors)},
            f"data set {config.dataset} breaks {', '.join(facts.data_errors)}",
        ),
        _rule(
            "export_complete",
            "The exported model has all its files, as its manifest lists them.",
            not facts.export_faults,
            {"faults": len(facts.export_faults)},
            f"the export of {config.run} is not complete ({'; '.join(facts.export_faults[:1])})",
        ),
        _rule(
            "finite_scores",
            "Every score that the promotion names is a number.",
            not strange,
            {"not_finite": len(strange)},
            f"{', '.join(strange)} of {config.run} is no number",
        ),
    ]


def _floor(metric: str, least: float, facts: Facts) -> Rule:
    score = facts.scores[metric]
    words = metric_words(metric)
    return _rule(
        f"floor {metric}",
        f"{words} is {percent(least)} % or more.",
        round(score - least, DECIMALS) >= 0,
        {"challenger": score, "least": least},
        f"{words} is {percent(score)} %, below the floor of {percent(least)} %",
    )


def _slice(metric: str, fall: float, facts: Facts) -> Rule:
    """Compare a slice; what is not a number (NaN) fails every comparison, and so the rule."""
    champion = facts.champion_scores[metric] if facts.champion_scores is not None else math.nan
    difference = facts.scores[metric] - champion
    words = metric_words(metric)
    return _rule(
        f"slice {metric}",
        f"{words} is not more than {percent(fall)} points below the champion's.",
        round(difference + fall, DECIMALS) >= 0,
        {"challenger": facts.scores[metric], "champion": champion, "difference": difference, "least": 0.0 - fall},
        f"{words} is {percent(-difference)} points below the champion's, {percent(fall)} are allowed",
    )


def _main(config: PromotionConfig, facts: Facts) -> Rule:
    """Compare the main metric in pairs: the low end of the interval must lie above the limit."""
    words, limit = metric_words(config.metric), 0.0 - config.margin  # not -0.0
    what = f"not more than {percent(config.margin)} points worse" if config.margin else "better"
    description = f"{words} is {what} than the champion's by its 95 % interval, {ONE_SEED}."
    found = facts.difference
    if found is None:
        return _rule(f"main {config.metric}", description, False, {}, f"{words} could not be compared in pairs")
    # rounded, because sums of equal scores may differ in their last bits, and equal is not better
    passed = round(found.low - limit, DECIMALS) > 0
    observed = {"difference": found.value, "low": found.low, "high": found.high, "p": found.p, "above": limit}
    fault = f"the challenger is not shown to be {what}, as {words} differs by {interval_words(found)}"
    return _rule(f"main {config.metric}", description, passed, observed, fault)


def interval_words(difference: Difference) -> str:
    """Write a difference in points with its interval.

    Args:
        difference: Challenger minus champion, as a share.
    """
    ends = f"95 % interval {points(difference.low)} to {points(difference.high)}"
    return f"{points(difference.value)} points ({ends}, {ONE_SEED})"


def _victory(config: PromotionConfig, facts: Facts, champion: str, rules: int) -> str:
    words, score = metric_words(config.metric), f"{percent(facts.scores[config.metric])} %"
    end = f"all {rules} rules hold."
    if facts.difference is None:
        return f"{config.run} becomes the first champion: there is {champion}, {words} is {score}, {end}"
    found = interval_words(facts.difference)
    return f"{config.run} takes the place of {champion}: {words} is {score} and differs by {found}; {end}"
