import math

import pytest

from assets.errors import ConfigError
from assets.reduction.config import PolicyConfig
from assets.section import parse
from evaluation.studies.config import load_study
from evaluation.studies.levels import find_members, noise_share
from tests.evaluation.studies.reports import POLICIES, RUNS, SHARES, STUDY, params, policy, run


def members(path, **sections):
    found = params(path / "params.yaml", **sections)
    return find_members("noise", load_study(found, "noise"), found)


def test_runs_of_the_recipe_and_data_set_take_part_by_rising_noise(tmp_path):
    others = {
        "siglip-s0": run("none", 0, recipe="siglip"),
        "elsewhere": run("none", 0, dataset="circles"),
    }
    found = members(tmp_path, runs={**dict(reversed(RUNS.items())), **others})
    assert [member.run for member in found.members] == list(RUNS)
    assert found.shares == SHARES and found.left_out == {}


def test_runs_whose_policies_do_something_else_are_left_out_and_named(tmp_path):
    random = {"kind": "random", "keep": 0.5}
    policies = {
        **POLICIES,
        "half": policy(0.3, steps=[random]),
        "plain": policy(0.3, captions={"kind": "original"}),
    }
    runs = {**RUNS, "clip-half": run("half", 0), "clip-plain": run("plain", 7)}
    found = members(tmp_path, runs=runs, policies=policies)
    assert found.left_out == {"clip-half": "its policy half does something else than to exchange captions"}
    assert [(member.run, member.share) for member in found.members if member.seed == 7] == [("clip-plain", 0.0)]


def test_one_level_of_noise_is_refused_with_what_to_add(tmp_path):
    clean = {name: config for name, config in RUNS.items() if config["policy"] == "none"}
    with pytest.raises(
        ConfigError, match=r"too few levels of noise.*3 runs, at noise 0', wanted at least two.*add runs"
    ):
        members(tmp_path, runs=clean)
    with pytest.raises(ConfigError, match="0 runs, at noise of no share"):
        members(tmp_path, runs={"siglip-s0": run("none", 0, recipe="siglip")})


def test_runs_that_differ_in_more_than_noise_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"runs clip-0-s0 and other differ in more than noise: teacher.*none and big"):
        members(tmp_path, runs={**RUNS, "other": run("noise30", 3, teacher="big")})


def test_swaps_count_as_the_share_that_they_displace():
    def share(**values):
        return noise_share(parse(PolicyConfig, policy(0.0, captions={"kind": "exchanged", **values}), "p"))

    assert share(share=0.3) == 0.3
    assert share(share=0.3, mode="reference_swaps") == pytest.approx(1 - math.exp(-0.6), abs=1e-4)
    assert share(share=0.0, mode="reference_swaps") == 0.0


@pytest.mark.parametrize(
    ("study", "text"),
    [
        ({**STUDY, "recipe": "clib"}, "did you mean 'clip'"),
        ({**STUDY, "dataset": "circles"}, "circles"),
        ({**STUDY, "kind": "size"}, "studies.noise.kind"),
        ({**STUDY, "seeds": 3}, "unknown key 'seeds'"),
    ],
)
def test_wrong_values_are_named(tmp_path, study, text):
    with pytest.raises(ConfigError, match=text):
        load_study(params(tmp_path / "params.yaml", studies={"noise": study}), "noise")


def test_an_unknown_study_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown study 'nois' \(did you mean 'noise'"):
        load_study(params(tmp_path / "params.yaml"), "nois")
