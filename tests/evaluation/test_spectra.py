from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from assets.errors import ConfigError
from assets.section import parse
from evaluation.features import Features, SplitFeatures
from evaluation.intervals import Bootstrap
from evaluation.spectra import GramSum, Spectra, SpectraConfig, choose_rows, spectrum

CASE = np.load(Path("tests/fixtures/nmtune/case_a.npz"))
RNG = np.random.default_rng(5)
FEATURES = RNG.normal(size=(60, 12)) * np.linspace(3, 0.2, 12) + 0.5
TURN = np.linalg.qr(RNG.normal(size=(12, 12)))[0]


def split(suite: str, role: str, features: np.ndarray, pooled: np.ndarray | None = None) -> SplitFeatures:
    keys = [f"{role}-{suite}-{i}" for i in range(len(features))]
    return SplitFeatures(
        f"{role}_{suite}", role, suite, keys, features.astype(np.float32), None, [], None, None, pooled
    )


def run(*splits: SplitFeatures, **config):
    return Spectra(SpectraConfig(**config), Bootstrap(10, 0)).run(Features(splits, (), len))


def test_the_published_spectrum_is_met():
    found = spectrum(CASE["sp_X"])
    np.testing.assert_allclose(found.values, CASE["sp_sv_exact"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.values, CASE["sp_sv_ref"], rtol=0, atol=1e-9)
    assert found.sve == pytest.approx(float(CASE["sp_SVE"]), abs=1e-9)
    assert found.lsvr == pytest.approx(float(CASE["sp_LSVR"]), abs=1e-9)


def test_the_spectrum_of_untouched_features_is_met():
    found = spectrum(CASE["sp_X"], "none", unit_rows=False)
    np.testing.assert_allclose(found.values, CASE["sp_raw_sv"], rtol=0, atol=1e-9)
    assert found.sve == pytest.approx(float(CASE["sp_raw_SVE"]), abs=1e-9)
    assert found.lsvr == pytest.approx(float(CASE["sp_raw_LSVR"]), abs=1e-9)


def test_the_published_principal_components_are_met():
    found = spectrum(CASE["sp_X"], "row_column")
    np.testing.assert_allclose(found.values, CASE["sp_pca_sv_ref"], rtol=0, atol=1e-8)
    ratio = found.values**2 / np.square(found.values).sum()
    np.testing.assert_allclose(ratio, CASE["sp_pca_ratio_ref"], rtol=0, atol=1e-8)


@pytest.mark.parametrize("center", ["none", "column"])
def test_neither_turns_nor_scale_of_raw_features_change_entropy_or_first_share(center):
    plain, turned = (spectrum(x, center, unit_rows=False) for x in (FEATURES, 7.5 * FEATURES @ TURN))
    assert turned.sve == pytest.approx(plain.sve, abs=1e-9)
    assert turned.lsvr == pytest.approx(plain.lsvr, abs=1e-9)


def test_a_turn_changes_features_centred_by_row():
    assert abs(spectrum(FEATURES @ TURN, "row").sve - spectrum(FEATURES, "row").sve) > 1e-3


def test_the_length_of_each_row_does_not_matter_once_rows_are_of_unit_length():
    longer = FEATURES * RNG.uniform(0.1, 9, size=(60, 1))
    assert spectrum(longer).sve == pytest.approx(spectrum(FEATURES).sve, abs=1e-9)
    assert abs(spectrum(longer, unit_rows=False).sve - spectrum(FEATURES, unit_rows=False).sve) > 1e-3


def test_one_direction_has_no_entropy_and_equal_directions_have_the_most():
    one = spectrum(np.outer(RNG.normal(size=9), RNG.normal(size=5)), "none", unit_rows=False)
    assert (one.sve, one.lsvr) == (pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9))
    assert one.participation == pytest.approx(1) and one.stable_rank == pytest.approx(1)
    equal = spectrum(TURN, "none")
    assert equal.sve == pytest.approx(np.log(12)) and equal.lsvr == pytest.approx(np.log(12))
    assert equal.sve_share == pytest.approx(1) and equal.participation == pytest.approx(12)
    assert equal.stable_rank == pytest.approx(12) and equal.top_share(5) == pytest.approx(5 / 12)


@pytest.mark.parametrize("center", ["row", "none", "column", "row_column"])
@pytest.mark.parametrize("rows", [2, 7, 12, 40])
def test_the_first_share_never_says_more_than_the_entropy(center, rows):
    found = spectrum(RNG.normal(size=(rows, 12)), center)
    assert len(found.values) == min(rows, 12)
    assert -1e-12 <= found.lsvr <= found.sve + 1e-12 <= np.log(len(found.values)) + 2e-12


def test_features_that_are_all_equal_leave_nothing_after_centring_by_column():
    found = spectrum(np.ones((5, 3)) * [1, 2, 3], "column")
    assert not found.values.any()
    assert (found.sve, found.lsvr, found.participation, found.stable_rank, found.top_share(5)) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("center", ["row", "column", "row_column"])
def test_parts_of_any_size_give_the_spectrum_of_the_whole(center):
    sums = GramSum(12, center, True)
    for part in np.split(FEATURES, [1, 20, 33]):
        sums.add(part)
    np.testing.assert_allclose(sums.spectrum().values, spectrum(FEATURES, center).values, atol=1e-7)
    exact = FEATURES / np.linalg.norm(FEATURES, axis=1, keepdims=True)
    if center != "column":
        exact = exact - exact.mean(axis=1, keepdims=True)
    if center != "row":
        exact = exact - exact.mean(axis=0)
    slow = np.linalg.svd(exact, compute_uv=False)
    np.testing.assert_allclose(sums.spectrum().values, slow, rtol=0, atol=1e-6 * slow[0])


def test_a_spectrum_that_is_spread_more_scores_higher_in_both_measures():
    spread = spectrum(FEATURES / FEATURES.std(axis=0), "column", unit_rows=False)
    assert spread.sve > spectrum(FEATURES, "column", unit_rows=False).sve + 0.05
    assert spread.lsvr > spectrum(FEATURES, "column", unit_rows=False).lsvr + 0.05


def test_labelled_images_come_first_and_the_document_has_both_roles():
    both = split("in_domain", "zero_shot", FEATURES), split("in_domain", "retrieval", FEATURES[:20])
    alone = split("held_out_pairs", "retrieval", FEATURES[:30])
    result = run(*both, alone, center="none")
    assert result.metrics["in_domain"]["num_images"] == 60
    assert result.metrics["held_out_pairs"]["num_images"] == 30
    assert result.metrics["in_domain"]["num_sve"] == pytest.approx(spectrum(FEATURES.astype(np.float32), "none").sve)
    document = result.documents["spectra"]
    assert document["settings"]["center"] == "none"
    assert set(document["roles"]["retrieval"]) == {"in_domain", "held_out_pairs"}
    assert sum(document["roles"]["retrieval"]["in_domain"]["shares"]) == pytest.approx(1)
    assert all(name.startswith("num_") for metrics in result.metrics.values() for name in metrics)


def test_a_split_is_cut_to_the_same_images_whatever_their_order():
    keys = [f"k{i}" for i in range(50)]
    chosen = {keys[row] for row in choose_rows(keys, 10, 0)}
    backwards = keys[::-1]
    assert {backwards[row] for row in choose_rows(backwards, 10, 0)} == chosen
    assert {keys[row] for row in choose_rows(keys, 10, 1)} != chosen
    assert choose_rows(keys, 99, 0) == list(range(50))
    assert run(split("in_domain", "zero_shot", FEATURES), images=10).metrics["in_domain"]["num_images"] == 10


def test_features_before_the_projection_are_measured_when_asked_for():
    both = replace(split("in_domain", "zero_shot", FEATURES), pooled_features=FEATURES[:, :4].astype(np.float32))
    spectra = run(both, features="pooled").documents["spectra"]["roles"]["zero_shot"]["in_domain"]["shares"]
    assert len(spectra) == 4


def test_an_unknown_centring_is_refused():
    with pytest.raises(ConfigError, match="center"):
        parse(SpectraConfig, {"center": "rows"}, "evaluators.spectra")
