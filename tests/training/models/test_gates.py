import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from assets.errors import ConfigError
from training.models.gates import (
    GateNoise,
    KeptCounts,
    SparsityMultipliers,
    TowerGates,
    TowerSizes,
    compaction_is_due,
    count_kept,
    hard_concrete,
    open_probability,
    settle,
)

FIXTURE = Path(__file__).parents[2] / "fixtures" / "tinyclip" / "case_a.npz"
with np.load(FIXTURE, allow_pickle=False) as arrays:
    CASE = {name: torch.from_numpy(arrays[name]) for name in arrays.files if name.startswith(("hc_", "l0_"))}

SIZES = TowerSizes(layers=2, heads=3, width=12, units=20)
HALF_OPEN = 2 / 3 * math.log(0.1 / 1.1)
"""log_alpha with P(z > 0) = 1/2."""


def assert_near(actual, published):
    assert actual.shape == published.shape
    assert bool(((actual - published).abs() <= 1e-9 * (1 + published.abs())).all())


def published_gates(tower):
    layers, heads, width, hidden = CASE[f"l0_{tower}_shape"].tolist()
    gates = TowerGates(TowerSizes(layers, heads, width, hidden)).double()
    names = {"hidden": "hidden", "heads": "heads", "units": "intermediate"}
    gates.load_state_dict({ours: CASE[f"l0_{tower}_{theirs}_loga"] for ours, theirs in names.items()})
    return gates


def filled(gates, value):
    with torch.no_grad():
        for log_alpha in gates.parameters():
            log_alpha.fill_(value)
    return gates


def test_samples_and_their_gradients_are_the_published_ones():
    log_alpha = CASE["hc_loga"].clone().requires_grad_()
    z = hard_concrete(log_alpha, CASE["hc_u"])
    assert_near(z.detach(), CASE["hc_z"])
    assert_near(torch.autograd.grad(z.sum(), log_alpha)[0], CASE["hc_dz"])


def test_open_probabilities_and_their_gradients_are_the_published_ones():
    log_alpha = CASE["hc_loga"].clone().requires_grad_()
    probability = open_probability(log_alpha)
    assert_near(probability.detach(), CASE["hc_score"])
    assert_near(torch.autograd.grad(probability.sum(), log_alpha)[0], CASE["hc_dscore"])


@pytest.mark.parametrize("case", [0, 1])
def test_settled_gates_are_the_published_ones(case):
    log_alpha, mask = CASE[f"hc_det_loga{case}"], CASE[f"hc_det_mask{case}"]
    settled = settle(log_alpha)
    assert_near(settled, mask)
    assert torch.equal(settled == 0, mask == 0)
    assert_near(torch.where(mask == 0, mask, settled), torch.where(mask == 0, mask, CASE[f"hc_det_soft{case}"]))


@pytest.mark.parametrize("tower", ["img", "txt"])
def test_a_tower_samples_and_settles_as_published(tower):
    gates = published_gates(tower)
    noise = GateNoise(*(CASE[f"l0_{tower}_u_{name}"] for name in ("hidden", "heads", "intermediate")))
    for kind, values in (("z", gates.sample(noise)), ("eval", gates.settled())):
        for ours, theirs in (("hidden", "hidden"), ("heads", "heads"), ("units", "intermediate")):
            assert_near(getattr(values, ours).detach(), CASE[f"l0_{tower}_{kind}_{theirs}"])


def test_float32_is_close_to_float64():
    gates = published_gates("img")
    exact, single = gates.settled(), copy.deepcopy(gates).float().settled()
    for wide, narrow in zip(exact, single, strict=True):
        np.testing.assert_allclose(narrow, wide, rtol=2e-5, atol=2e-5)


def test_clamping_is_the_published_one():
    gates = TowerGates(TowerSizes(1, 1, len(CASE["hc_clamp_in"]), 1)).double()
    with torch.no_grad():
        gates.hidden.copy_(CASE["hc_clamp_in"])
    gates.clamp_()
    assert_near(gates.hidden.detach(), CASE["hc_clamp_out"])
    assert [gates.heads.item(), gates.units.item()] == pytest.approx([math.log(100)] * 2)  # they started at 10


def test_gates_stay_in_range_and_grow_with_noise_and_log_alpha():
    noise = torch.linspace(1e-6, 1 - 1e-6, 101, dtype=torch.float64)
    log_alpha = torch.linspace(-10, 10, 81, dtype=torch.float64)
    z = hard_concrete(log_alpha[:, None].expand(81, 101), noise.expand(81, 101))
    assert float(z.min()) == 0 and float(z.max()) == 1
    assert bool((z.diff(dim=0) >= 0).all()) and bool((z.diff(dim=1) >= 0).all())
    assert z[40, 50].item() == pytest.approx(0.5, abs=1e-12)  # log_alpha 0, u 1/2


@pytest.mark.parametrize("log_alpha", [-4.0, HALF_OPEN, 0.0, 2.5])
def test_as_many_samples_are_open_as_the_probability_says(log_alpha):
    draws = 200_000
    noise = torch.rand(draws, generator=torch.Generator().manual_seed(1), dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    share = float((hard_concrete(torch.full((draws,), log_alpha, dtype=torch.float64), noise) > 0).double().mean())
    expected = 1 / (1 + math.exp(-log_alpha - 1.5986))
    assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / draws))
    assert float(open_probability(torch.tensor(log_alpha))) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("size", "closed"), [(1, 0), (3, 2), (5, 2), (7, 4)])
def test_half_a_gate_rounds_to_even(size, closed):
    assert int((settle(torch.full((size,), HALF_OPEN, dtype=torch.float64)) == 0).sum()) == closed


def test_of_equal_gates_the_first_ones_close():
    settled = settle(torch.full((2, 8), HALF_OPEN))
    assert (settled == 0).tolist() == [[True] * 4 + [False] * 4] * 2
    mixed = torch.tensor([0.5, -3.0, -1.0, -1.0, 0.5, -1.0])  # P sums to 3.9: two close
    assert (settle(mixed) == 0).tolist() == [False, True, True, False, False, False]


def test_clamped_gates_of_a_fresh_tower_close_a_few_at_once():
    sizes = TowerSizes(layers=2, heads=12, width=768, units=3072)
    gates = TowerGates(sizes)
    assert count_kept(gates.settled()) == KeptCounts(768, (12, 12), (3072, 3072))
    gates.clamp_()
    settled = gates.settled()
    assert count_kept(settled) == KeptCounts(766, (12, 12), (3066, 3066))
    assert bool((settled.hidden[:2] == 0).all()) and bool((settled.units[:, :6] == 0).all())
    assert float(settled.hidden.max()) == pytest.approx(1 / (1 + math.exp(-1.2 * math.log(100))))


def test_layers_settle_by_themselves():
    gates = filled(TowerGates(SIZES), 4.0)
    with torch.no_grad():
        gates.heads[1] = -4.6
    assert count_kept(gates.settled()).heads == (3, 0)


def test_settled_gates_have_no_gradient_and_the_others_do():
    gates = filled(TowerGates(SIZES), 0.0)
    assert not any(values.requires_grad for values in gates.settled())
    for values in (*gates.open_probabilities(), *gates.sample(gates.draw_noise(0, 0, 0, 0))):
        assert values.requires_grad


def test_noise_follows_from_seed_step_rank_and_tower():
    gates = TowerGates(SIZES)
    draws = {
        key: gates.draw_noise(*key) for key in [(3, 7, 0, 0), (4, 7, 0, 0), (3, 8, 0, 0), (3, 7, 1, 0), (3, 7, 0, 1)]
    }
    torch.rand(5)  # the global generator has no say
    again = TowerGates(SIZES).draw_noise(3, 7, 0, 0)
    for name in GateNoise._fields:
        first = getattr(draws[3, 7, 0, 0], name)
        assert torch.equal(first, getattr(again, name))
        assert all(not torch.equal(first, getattr(noise, name)) for key, noise in draws.items() if key != (3, 7, 0, 0))


def test_noise_is_uniform_inside_the_unit_interval():
    noise = TowerGates(TowerSizes(4, 4, 64, 5000)).draw_noise(0, 0, 0, 0)
    units = noise.units.double()
    assert 0 < float(units.min()) and float(units.max()) < 1
    assert float(units.mean()) == pytest.approx(0.5, abs=4 / math.sqrt(12 * units.numel()))
    assert float(units.var()) == pytest.approx(1 / 12, abs=0.003)
    assert not torch.equal(noise.units[0], noise.units[1])
    assert not torch.equal(noise.hidden[:16], noise.heads.flatten())


def test_drawing_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    TowerGates(SIZES).draw_noise(0, 0, 0, 0)
    assert torch.equal(torch.rand(3), expected)


def take_steps(modules, optimizer, steps):
    gates, multipliers = modules
    for step in steps:
        values = gates.sample(gates.draw_noise(1, step, 0, 0))
        loss = sum(value.mean() for value in values) * multipliers.values.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        gates.clamp_()


def started():
    modules = torch.nn.ModuleList([filled(TowerGates(SIZES), 0.5), SparsityMultipliers()])
    groups = [{"params": modules[0].parameters()}, {"params": modules[1].parameters(), "maximize": True}]
    return modules, torch.optim.Adam(groups, lr=0.1)


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped():
    modules, optimizer = started()
    take_steps(modules, optimizer, range(3))
    saved = copy.deepcopy((modules.state_dict(), optimizer.state_dict()))
    take_steps(modules, optimizer, range(3, 6))
    resumed, its_optimizer = started()
    resumed.load_state_dict(saved[0])
    its_optimizer.load_state_dict(saved[1])
    take_steps(resumed, its_optimizer, range(3, 6))
    for name, value in modules.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])
        assert not torch.equal(value, saved[0][name])


def test_a_later_stage_has_gates_on_what_was_kept_only():
    kept = KeptCounts(hidden=9, heads=(2, 0), units=(20, 5))
    gates = filled(TowerGates(SIZES, kept), -4.6)
    assert gates.hidden.shape == (9,)
    noise = GateNoise(*(torch.full_like(log_alpha, 1 - 1e-6) for log_alpha in gates.parameters()))
    for values in (gates.sample(noise), gates.open_probabilities()):
        assert count_kept(values) == kept  # even where the noise opens every gate
    filled(gates, 4.6)
    assert count_kept(gates.settled()) == kept
    with torch.no_grad():
        gates.units[1, :3] = torch.tensor([-1.0, -4.6, 2.0])  # P sums to 3.7 of 5: one closes
        gates.units[0, :4] = -4.6
    settled = gates.settled()
    assert count_kept(settled) == KeptCounts(9, (2, 0), (16, 4))
    assert float(settled.units[1, 1]) == 0
    assert bool((settled.units[1, 5:] == 0).all()) and bool((settled.heads[0, 2:] == 0).all())
    gates.units.grad = torch.autograd.grad(gates.open_probabilities().units.sum(), gates.units)[0]
    assert bool((gates.units.grad[1, 5:] == 0).all()) and bool((gates.units.grad[1, :5] > 0).all())


def test_gates_on_all_that_was_kept_are_those_of_a_first_stage():
    everything = TowerGates(SIZES, count_kept(TowerGates(SIZES).settled()))
    noise = everything.draw_noise(0, 1, 2, 3)
    for ours, theirs in zip(everything.sample(noise), TowerGates(SIZES).sample(noise), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "kept",
    [
        KeptCounts(13, (3, 3), (20, 20)),
        KeptCounts(0, (3, 3), (20, 20)),
        KeptCounts(12, (3,), (20, 20)),
        KeptCounts(12, (3, 4), (20, 20)),
        KeptCounts(12, (3, 3), (20, -1)),
    ],
)
def test_keeping_what_was_not_there_is_refused(kept):
    with pytest.raises(ConfigError, match="kept"):
        TowerGates(SIZES, kept)


def test_a_tower_without_layers_is_refused():
    with pytest.raises(ConfigError, match="sizes of at least 1"):
        TowerGates(SIZES._replace(layers=0))


def test_towers_are_cut_once_and_late_rather_than_never():
    assert [compaction_is_due(step, 5, compacted=False) for step in (4, 5, 6)] == [False, True, True]
    assert not any(compaction_is_due(step, 5, compacted=True) for step in (4, 5, 6))
