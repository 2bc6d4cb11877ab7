import json
import math
from collections import Counter

import numpy as np
import pytest

from assets.errors import ConfigError, DataError
from assets.section import parse
from assets.validation.baseline import accept_baseline, read_baseline
from assets.validation.config import DriftLimits
from assets.validation.drift import compare, drift_table, stability_index
from assets.validation.profile import EDGES, FORMAT, PROFILE


def side(counts, accepted=None, rejected=None, languages=None):
    """One split's part of a profile, with the same counts in every distribution."""
    return {
        "accepted": sum(counts) if accepted is None else accepted,
        "rejected": rejected or {},
        "histograms": {name: [*counts, *([0] * (len(edges) - len(counts)))] for name, edges in EDGES.items()},
        "quantiles": {name: [0, 0, 0, 1, 2, 3, 4, 5, 6] for name in EDGES},
        "formats": {"jpg": sum(counts)},
        "languages": languages or {"en": sum(counts)},
    }


def profile(**splits):
    return {"format": FORMAT, "edges": EDGES, "splits": splits}


def test_the_index_is_the_sum_of_both_divergences():
    old, new = [40_000, 60_000], [55_000, 45_000]
    p, q = [0.4, 0.6], [0.55, 0.45]
    both = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    both += sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert stability_index(old, new)[0] == pytest.approx(both, rel=1e-3)
    assert stability_index(new, old)[0] == pytest.approx(stability_index(old, new)[0])


def test_the_index_of_equal_or_proportional_histograms_is_nothing():
    assert stability_index([3, 0, 9], [3, 0, 9])[0] == 0
    assert stability_index([3000, 9000], [6000, 18000])[0] < 1e-6
    assert stability_index([5, 0, 0], [7, 0, 0]) == (0.0, 0.0)
    assert stability_index([0, 0], [1, 4]) == (0.0, 0.0)


@pytest.mark.parametrize(("n", "m", "bins"), [(500, 500, 12), (16_000, 500, 30), (50_000, 50_000, 8)])
def test_samples_of_one_distribution_hardly_ever_exceed_chance(n, m, bins):
    rng = np.random.default_rng(0)
    share = rng.dirichlet(np.full(bins, 4.0))
    over = 0
    for _ in range(2000):
        index, chance = stability_index(rng.multinomial(n, share).tolist(), rng.multinomial(m, share).tolist())
        over += index > chance
    assert over <= 12  # two are expected


def test_chance_does_not_hide_a_real_change():
    rng = np.random.default_rng(0)
    old = np.bincount(rng.binomial(20, 0.4, 500), minlength=21).tolist()
    new = np.bincount(rng.binomial(20, 0.55, 500), minlength=21).tolist()
    index, chance = stability_index(old, new)
    assert index > chance + DriftLimits().error.psi


def test_an_equal_profile_is_within_every_limit_of_zero():
    train = side([10, 20, 30], rejected={"blank": 3})
    none = {"psi": 0, "rejected_share": 0, "lost_share": 0}
    limits = DriftLimits.model_validate({"warn": none, "error": none})
    changes = compare(profile(train=train), profile(train=train))
    assert len(changes) == 1 + 2 + len(EDGES) + 2
    assert not any(change.exceeds(limits.warn) for change in changes)


def test_rejects_are_compared_reason_by_reason():
    before, after = side([900], rejected={"blank": 100}), side([900], rejected={"generic": 100})
    found = {change.what: change for change in compare(profile(train=before), profile(train=after))}
    assert not found["rejected"].exceeds(DriftLimits().warn)
    assert found["rejected/blank"].value == pytest.approx(0.1)
    assert found["rejected/generic"].new == pytest.approx(0.1)
    assert found["rejected/blank"].exceeds(DriftLimits().warn)


def test_a_split_that_is_gone_has_lost_everything_and_a_new_one_nothing():
    changes = compare(profile(train=side([10]), test=side([4])), profile(train=side([10]), other=side([5])))
    assert Counter(change.split for change in changes)["other"] == 0
    (gone,) = [change for change in changes if change.split == "test"]
    assert (gone.kind, gone.value) == ("lost_share", 1.0) and gone.exceeds(DriftLimits().error)


def test_the_table_begins_with_what_is_nearest_to_its_limit():
    before, after = side([5000, 5000], languages={"en": 10_000}), side([5000, 5000], languages={"de": 10_000})
    table = drift_table(compare(profile(train=before), profile(train=after)), DriftLimits())
    assert table["name"][0] == "train/languages" and table["value"][0] > table["error"][0] > table["warn"][0]
    assert (table["value"][1:] == 0).all()


def test_a_warning_limit_above_the_error_limit_is_refused():
    limits = {"psi": 0.3, "rejected_share": 0.1, "lost_share": 0.5}
    with pytest.raises(ConfigError, match=r"drift: warn\.psi 0\.3 is above error\.psi 0\.25"):
        parse(DriftLimits, {"warn": limits}, "drift")


def test_no_baseline_is_no_fault(tmp_path):
    assert read_baseline(tmp_path / "toy.json", "toy") is None


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "is no profile"),
        ("[]", "is no profile"),
        (json.dumps({"format": FORMAT + 1, "edges": EDGES}), "another format"),
        (json.dumps({"format": FORMAT, "edges": {"width": [0, 1]}}), "another format"),
    ],
)
def test_a_baseline_that_cannot_be_compared_is_refused(content, text, tmp_path):
    (tmp_path / "toy.json").write_text(content)
    with pytest.raises(DataError, match=f"toy.json .*{text}"):
        read_baseline(tmp_path / "toy.json", "toy")


def valid_folder(root, *failed):
    root.mkdir()
    (root / PROFILE).write_text(json.dumps(profile(train=side([3]))))
    checks = [{"name": name, "passed": False, "severity": "error"} for name in failed]
    (root / "checks.json").write_text(json.dumps(checks))
    return root


def test_data_that_failed_for_their_drift_alone_may_become_the_baseline(tmp_path):
    valid = valid_folder(tmp_path / "valid", "drift")
    accept_baseline("toy", valid, valid, tmp_path / "baselines/toy.json")
    assert read_baseline(tmp_path / "baselines/toy.json", "toy")["splits"]["train"]["accepted"] == 3


def test_data_that_failed_otherwise_or_were_not_validated_may_not(tmp_path):
    with pytest.raises(DataError, match=r"data set toy failed the checks keys_unique;"):
        valid = valid_folder(tmp_path / "valid", "drift", "keys_unique")
        accept_baseline("toy", valid, valid, tmp_path / "toy.json")
    with pytest.raises(DataError, match=r"no profile\.json; run"):
        accept_baseline("toy", tmp_path / "none", tmp_path / "none", tmp_path / "toy.json")
    assert not (tmp_path / "toy.json").exists()
