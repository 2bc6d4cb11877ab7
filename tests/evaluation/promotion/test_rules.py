import dataclasses
import itertools
import json
import math
import re

import numpy as np
import pytest

from assets.section import parse
from evaluation.paired import Difference, UnitScores, compare_pairs
from evaluation.promotion.config import PromotionConfig
from evaluation.promotion.rules import ONE_SEED, Facts, decide
from tests.evaluation.promotion.histories import version

TOP1, TAIL, RECALL = "zero_shot.in_domain.top1", "zero_shot.in_domain.tail", "retrieval.in_domain.mean_recall"
NEW = "f" * 16


def promotion(**changes) -> PromotionConfig:
    plain = {"run": "clip-s0", "dataset": "squares", "metric": TOP1, "rule": "better"}
    return parse(PromotionConfig, {**plain, "slices": {TAIL: 0.05}, "floors": {RECALL: 0.2}, **changes}, "promotions.c")


def gap(value: float, half: float = 0.02) -> Difference:
    return Difference(value, value - half, value + half, 0.01, 0.01, False)


def facts(**changes) -> Facts:
    """Return a challenger that passes every rule."""
    plain = Facts(
        model=NEW,
        scores={TOP1: 0.6, TAIL: 0.3, RECALL: 0.5},
        barred=("b" * 16,),
        champion=version(2),
        champion_scores={TOP1: 0.5, TAIL: 0.3, RECALL: 0.6},
        difference=gap(0.1),
    )
    return dataclasses.replace(plain, **changes)


def newcomer(**changes) -> Facts:
    return facts(champion=None, champion_scores=None, difference=None, **changes)


def paired(challenger, champion) -> Difference:
    keys = tuple(map(str, range(len(challenger))))
    parts = {"a": challenger, "b": champion}
    scores = {label: UnitScores(keys, np.asarray(part, dtype=np.float64)[None]) for label, part in parts.items()}
    return compare_pairs(scores, [("a", "b")])[0]


def broken(decision) -> list[str]:
    return [rule.name for rule in decision.rules if not rule.passed]


def test_a_better_challenger_takes_the_place_and_the_reason_knows_its_limits():
    decision = decide(promotion(), facts())
    assert decision.verdict == "promote" and broken(decision) == []
    assert decision.reason.startswith(
        "clip-s0 takes the place of version 2 (run-2): Zero-shot, in-domain: top-1 is 60.0 %"
    )
    assert "+10.0 points (95 % interval +8.0 to +12.0" in decision.reason and ONE_SEED in decision.reason
    assert [rule.name for rule in decision.rules] == [
        *("another_model", "not_barred", "data_quality", "export_complete", "finite_scores"),
        *(f"floor {RECALL}", f"main {TOP1}", f"slice {TAIL}"),
    ]


ALONE = {
    "another_model": (facts(model=version(2).model), "the model of clip-s0 is the champion itself"),
    "not_barred": (facts(model="b" * 16), "was champion before and was taken back"),
    "data_quality": (facts(data_errors=("blank", "few")), "data set squares breaks blank, few"),
    "export_complete": (facts(export_faults=("a.json is missing",)), r"not complete \(a.json is missing\)"),
    f"floor {RECALL}": (facts(scores={TOP1: 0.6, TAIL: 0.3, RECALL: 0.19}), "below the floor of 20.0 %"),
    f"main {TOP1}": (facts(difference=gap(0.01)), "not shown to be better"),
    f"slice {TAIL}": (facts(scores={TOP1: 0.6, TAIL: 0.24, RECALL: 0.5}), "6.0 points below the champion's, 5.0 are"),
}


@pytest.mark.parametrize("name", ALONE)
def test_every_rule_alone_keeps_the_champion_and_says_why(name):
    case, text = ALONE[name]
    decision = decide(promotion(), case)
    assert decision.verdict == "keep" and broken(decision) == [name]
    assert decision.reason.startswith("Champion version 2 (run-2) stays: ")
    assert re.search(text, decision.reason)


def test_no_challenger_with_a_broken_rule_is_ever_promoted():
    choices = {
        "model": (NEW, "b" * 16, version(2).model),
        "data_errors": ((), ("blank",)),
        "export_faults": ((), ("a.json is missing",)),
        "scores": tuple(
            {TOP1: 0.6, TAIL: tail, RECALL: recall} for tail in (0.3, 0.1, math.nan) for recall in (0.5, 0)
        ),
        "rival": (
            {},
            {"champion": None, "champion_scores": None, "difference": None},
            {"difference": None},
            {"champion_scores": None, "difference": None},
            *({"difference": gap(value)} for value in (-0.1, 0.0, 0.01, math.nan)),
        ),
    }
    promoted = 0
    for picks in itertools.product(*choices.values()):
        values = dict(zip(choices, picks, strict=True))
        decision = decide(promotion(), facts(**{**values.pop("rival"), **values}))
        assert (decision.verdict == "promote") == (not broken(decision))
        promoted += decision.verdict == "promote"
        bad = values["model"] == "b" * 16 or values["data_errors"] or values["export_faults"]
        bad = bad or values["scores"][RECALL] == 0 or math.isnan(values["scores"][TAIL])
        assert not (bad and decision.verdict == "promote")
    # the sound one against the champion, and with no champion: with a good and with a poor tail, which nothing forbids,
    # and with the name of a model that is no longer the champion's
    assert promoted == 5


def test_without_a_champion_floors_and_soundness_decide():
    decision = decide(promotion(), newcomer())
    assert decision.verdict == "promote" and "first champion" in decision.reason
    assert not any(rule.name.startswith(("main", "slice")) for rule in decision.rules)
    low = decide(promotion(), newcomer(scores={TOP1: 0.6, TAIL: 0.3, RECALL: 0.1}))
    assert low.verdict == "keep" and low.reason.startswith(
        "There is still no champion: Retrieval, in-domain: mean recall"
    )


def test_a_champion_that_was_not_scored_is_never_replaced():
    decision = decide(promotion(), facts(champion_scores=None, difference=None))
    assert decision.verdict == "keep" and broken(decision) == [f"main {TOP1}", f"slice {TAIL}"]
    assert "1 more of 8 rules are broken" in decision.reason


def test_a_score_that_is_no_number_keeps_the_champion_and_leaves_the_json_valid():
    decision = decide(promotion(), facts(scores={TOP1: math.nan, TAIL: math.inf, RECALL: 0.5}))
    assert decision.verdict == "keep" and "finite_scores" in broken(decision)
    json.dumps([rule.as_json() for rule in decision.rules], allow_nan=False)


@pytest.mark.parametrize(("rule", "margin", "passes"), [("better", 0.0, False), ("not_worse", 0.01, True)])
def test_equal_is_not_better_but_not_worse(rule, margin, passes):
    hits = np.random.default_rng(0).random(301) < 0.43
    found = paired(hits, hits)
    decision = decide(promotion(rule=rule, margin=margin), facts(difference=found))
    assert (decision.verdict == "promote") == passes


def test_a_difference_that_luck_may_have_made_is_not_enough_and_a_clear_one_is():
    rng = np.random.default_rng(1)
    champion = rng.random(400) < 0.5
    lucky, clear, worse = champion.copy(), champion.copy(), champion.copy()
    wrong, right = np.flatnonzero(~champion), np.flatnonzero(champion)
    lucky[wrong[:31]], lucky[right[:28]] = True, False
    clear[wrong[:60]], clear[right[:20]] = True, False
    worse[right[:60]] = False
    verdicts = [decide(promotion(), facts(difference=paired(one, champion))).verdict for one in (lucky, clear, worse)]
    assert verdicts == ["keep", "promote", "keep"]
    margin = promotion(rule="not_worse", margin=0.05)
    verdicts = [decide(margin, facts(difference=paired(one, champion))).verdict for one in (lucky, clear, worse)]
    assert verdicts == ["promote", "promote", "keep"]


def test_limits_are_inclusive_for_shares_and_exclusive_for_the_interval():
    at_limits = facts(scores={TOP1: 0.6, TAIL: 0.1 + 0.2 - 0.05, RECALL: 0.2})
    assert decide(promotion(), at_limits).verdict == "promote"
    assert decide(promotion(), facts(difference=gap(0.02, 0.02))).verdict == "keep"
    margin = promotion(rule="not_worse", margin=0.05)
    assert decide(margin, facts(difference=gap(-0.03, 0.02))).verdict == "keep"
    assert decide(margin, facts(difference=gap(-0.029, 0.02))).verdict == "promote"
