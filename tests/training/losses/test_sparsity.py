from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from assets.errors import ConfigError
from training.losses.sparsity import (
    expected_parameters,
    expected_sparsity,
    kept_parameters,
    prunable_parameters,
    sparsity_loss,
    target_at,
)
from training.models.gates import GateValues, KeptCounts, SparsityMultipliers, TowerGates, TowerSizes

FIXTURE = Path(__file__).parents[2] / "fixtures" / "tinyclip" / "case_a.npz"
with np.load(FIXTURE, allow_pickle=False) as arrays:
    CASE = {name: arrays[name] for name in arrays.files if name.startswith("l0_")}

NAMES = {"hidden": "hidden", "heads": "heads", "units": "intermediate"}
IMAGE_B = TowerSizes(layers=12, heads=12, width=768, units=3072)
TEXT_B = TowerSizes(layers=12, heads=8, width=512, units=2048)
SMALL = TowerSizes(layers=2, heads=3, width=12, units=20)


def near(published):
    return pytest.approx(published, rel=1e-9, abs=1e-9)


def published(tower):
    layers, heads, width, hidden = CASE[f"l0_{tower}_shape"].tolist()
    gates = TowerGates(TowerSizes(layers, heads, width, hidden)).double()
    gates.load_state_dict({ours: torch.from_numpy(CASE[f"l0_{tower}_{theirs}_loga"]) for ours, theirs in NAMES.items()})
    multipliers = SparsityMultipliers().double()
    multipliers.load_state_dict({"values": torch.from_numpy(CASE[f"l0_{tower}_lambda"])})
    return gates, multipliers


def schedule(tower):
    steps, targets = CASE[f"l0_{tower}_steps"].tolist(), CASE[f"l0_{tower}_target"].tolist()
    return steps, targets, {"start": targets[0], "end": targets[2], "warmup": steps[2]}


def assert_published_gradients(gates, multipliers, prefix):
    for ours, theirs in NAMES.items():
        np.testing.assert_allclose(getattr(gates, ours).grad, CASE[f"{prefix}_{theirs}"], rtol=1e-9, atol=1e-9)
    expected = [float(CASE[f"{prefix}_lambda1"]), float(CASE[f"{prefix}_lambda2"])]
    assert multipliers.values.grad.tolist() == near(expected)


@pytest.mark.parametrize("tower", ["img", "txt"])
def test_sizes_and_sparsity_of_one_tower_are_the_published_ones(tower):
    gates, _ = published(tower)
    per_head, per_unit, per_mlp, prunable = CASE[f"l0_{tower}_consts"].tolist()
    sizes = gates.sizes
    assert prunable_parameters(sizes) == prunable
    assert prunable_parameters(sizes) == sizes.layers * (sizes.heads * per_head + per_mlp)
    kept = KeptCounts(sizes.width, (sizes.heads,) * sizes.layers, (sizes.units,) * sizes.layers)
    one_less = kept._replace(units=(sizes.units - 1, *kept.units[1:]))
    assert kept_parameters(sizes, kept) - kept_parameters(sizes, one_less) == per_unit
    values = gates.open_probabilities()
    assert expected_parameters(sizes, values).item() == near(float(CASE[f"l0_{tower}_expected_params"]))
    assert expected_sparsity([sizes], [values]).item() == near(float(CASE[f"l0_{tower}_expected_sparsity"]))


@pytest.mark.parametrize("tower", ["img", "txt"])
def test_loss_and_gradients_of_one_tower_are_the_published_ones(tower):
    gates, multipliers = published(tower)
    steps, targets, settings = schedule(tower)
    losses = []
    for step, target in zip(steps, targets, strict=True):
        assert target_at(step, **settings) == near(target)
        sparsity = expected_sparsity([gates.sizes], [gates.open_probabilities()])
        losses.append(sparsity_loss(sparsity, target_at(step, **settings), multipliers.values))
    assert [loss.item() for loss in losses] == near(CASE[f"l0_{tower}_lagrangian"].tolist())
    losses[3].backward()
    assert_published_gradients(gates, multipliers, f"l0_{tower}_grad")


@pytest.mark.parametrize("when", ["mid", "end"])
def test_loss_and_gradients_of_both_towers_are_the_published_ones(when):
    towers = {tower: published(tower) for tower in ("img", "txt")}
    step, sparsity, target, loss = CASE[f"l0_joint_{when}"].tolist()
    all_gates = [gates for gates, _ in towers.values()]
    ours = expected_sparsity([gates.sizes for gates in all_gates], [gates.open_probabilities() for gates in all_gates])
    our_target = target_at(int(step), **schedule("img")[2])
    our_loss = sparsity_loss(ours, our_target, torch.stack([multipliers.values for _, multipliers in towers.values()]))
    assert [ours.item(), our_target, our_loss.item()] == near([sparsity, target, loss])
    our_loss.backward()
    for tower, (gates, multipliers) in towers.items():
        if when == "end":
            assert_published_gradients(gates, multipliers, f"l0_joint_end_grad_{tower}")
        else:
            assert our_loss.item() == 0
            assert not any(bool(p.grad.any()) for p in (*gates.parameters(), *multipliers.parameters()))


def test_sizes_of_known_models():
    assert prunable_parameters(IMAGE_B) == pytest.approx(85.02e6, abs=0.01e6)
    assert prunable_parameters(TEXT_B) == pytest.approx(37.80e6, abs=0.01e6)


@pytest.mark.parametrize(("sizes", "sparsity"), [(IMAGE_B, 5.4e-4), (TEXT_B, 8.1e-4)])
def test_open_towers_lack_only_biases(sizes, sparsity):
    everything = GateValues(*(torch.ones_like(p, dtype=torch.float64) for p in TowerGates(sizes).parameters()))
    assert expected_sparsity([sizes], [everything]).item() == pytest.approx(sparsity, abs=0.05e-4)
    # exactly those of the MLPs, as the prunable parameters do count them
    missing = prunable_parameters(sizes) - expected_parameters(sizes, everything).item()
    assert missing == pytest.approx(sizes.layers * (sizes.width + sizes.units), abs=1e-3)


def test_remaining_parameters_are_the_sum_over_single_weights():
    gates = TowerGates(SMALL).double()
    random = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for log_alpha in gates.parameters():
            log_alpha.copy_(torch.randn(log_alpha.shape, generator=random) * 2)
    hidden, heads, units = (values.tolist() for values in gates.open_probabilities())
    total = 0.0
    for layer in range(SMALL.layers):
        for dimension in hidden:
            # per dimension and head: 4 rows of weights, and a 1 / W part of the head's biases, 4 per channel
            channels = SMALL.width // SMALL.heads
            total += sum(dimension * head * channels * (4 + 4 / SMALL.width) for head in heads[layer])
            total += sum(dimension * unit * 2 for unit in units[layer])
    assert expected_parameters(SMALL, gates.open_probabilities()).item() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize(
    "kept",
    [KeptCounts(12, (3, 3), (20, 20)), KeptCounts(7, (2, 3), (11, 20)), KeptCounts(5, (0, 1), (3, 0))],
)
def test_kept_parameters_are_those_of_cut_layers(kept):
    channels, width, total = SMALL.width // SMALL.heads, kept.hidden, 0
    for heads, units in zip(kept.heads, kept.units, strict=True):
        inner = channels * heads
        attention = [
            torch.zeros(3 * inner, width),
            torch.zeros(3 * inner),
            torch.zeros(width, inner),
            torch.zeros(width),
        ]
        mlp = [torch.zeros(units, width), torch.zeros(units), torch.zeros(width, units), torch.zeros(width)]
        total += sum(weights.numel() for weights in (*attention, *mlp))
    assert kept_parameters(SMALL, kept) == total


def test_a_block_of_torch_has_the_prunable_parameters():
    block = nn.TransformerEncoderLayer(SMALL.width, SMALL.heads, SMALL.units)
    count = sum(weights.numel() for name, weights in block.named_parameters() if not name.startswith("norm"))
    assert prunable_parameters(SMALL) == SMALL.layers * count
    assert kept_parameters(SMALL, KeptCounts(12, (3, 3), (20, 20))) == SMALL.layers * count


def test_sparsity_falls_with_every_gate_that_opens():
    towers = [published("img")[0], published("txt")[0]]
    sparsity = expected_sparsity([gates.sizes for gates in towers], [gates.open_probabilities() for gates in towers])
    sparsity.backward()
    assert all(bool((log_alpha.grad < 0).all()) for gates in towers for log_alpha in gates.parameters())


@pytest.mark.parametrize("sparsity", [0.5, 0.7])
def test_a_met_target_costs_nothing_and_pulls_nothing(sparsity):
    reached = torch.tensor(sparsity, requires_grad=True)
    multipliers = SparsityMultipliers()
    loss = sparsity_loss(reached, 0.5, multipliers.values)
    loss.backward()
    assert [loss.item(), reached.grad.item(), *multipliers.values.grad.tolist()] == [0, 0, 0, 0]


def test_the_two_sided_loss_is_the_lagrangian_of_the_paper():
    sparsity = torch.tensor(0.75, dtype=torch.float64, requires_grad=True)
    multipliers = torch.tensor([3.0, 8.0], dtype=torch.float64, requires_grad=True)
    loss = sparsity_loss(sparsity, 0.5, multipliers, two_sided=True)
    loss.backward()
    assert loss.item() == pytest.approx(3 * -0.25 + 8 * 0.25**2)
    assert sparsity.grad.item() == pytest.approx(-3 + 2 * 8 * 0.25)  # pulled back, as m_1 < 2 m_2 (e - target)
    assert multipliers.grad.tolist() == pytest.approx([-0.25, 0.0625])


def test_both_losses_agree_below_the_target():
    sparsity, multipliers = torch.tensor(0.2), torch.tensor([10.0, 10.0])
    one_sided = sparsity_loss(sparsity, 0.5, multipliers)
    assert one_sided.item() == pytest.approx(10 * 0.3 + 10 * 0.09)
    assert torch.equal(one_sided, sparsity_loss(sparsity, 0.5, multipliers, two_sided=True))


def test_ascent_on_the_multipliers_closes_gates_down_to_the_target():
    gates, multipliers = TowerGates(SMALL), SparsityMultipliers()
    groups = [{"params": gates.parameters()}, {"params": multipliers.parameters(), "maximize": True}]
    optimizer = torch.optim.Adam(groups, lr=0.1)
    history = [multipliers.values.tolist()]
    for step in range(90):
        sparsity = expected_sparsity([SMALL], [gates.open_probabilities()])
        optimizer.zero_grad()
        sparsity_loss(sparsity, target_at(step, 0.0, 0.5, 30), multipliers.values).backward()
        optimizer.step()
        gates.clamp_()
        history.append(multipliers.values.tolist())
    assert sparsity.item() >= 0.5
    assert all(later[i] >= earlier[i] for earlier, later in pairwise(history) for i in (0, 1))
    assert history[-1][0] > history[0][0]


def test_a_later_stage_starts_at_the_sparsity_of_what_was_kept():
    kept = KeptCounts(9, (2, 0), (20, 5))
    gates = TowerGates(SMALL, kept)
    actual = 1 - kept_parameters(SMALL, kept) / prunable_parameters(SMALL)
    expected = expected_sparsity([SMALL], [gates.open_probabilities()]).item()
    assert expected == pytest.approx(actual, abs=0.06)  # apart only by how biases are counted
    whole = expected_sparsity([SMALL], [TowerGates(SMALL).open_probabilities()]).item()
    assert expected > whole + 0.4


def test_the_target_rises_in_a_straight_line_and_stays():
    targets = [target_at(step, 0.25, 0.5, 100) for step in (0, 50, 99, 100, 101, 10_000)]
    assert targets == pytest.approx([0.25, 0.375, 0.4975, 0.5, 0.5, 0.5])
    assert target_at(0, 0.25, 0.5, 0) == 0.5


@pytest.mark.parametrize(
    ("step", "start", "end", "warmup"), [(0, 0.5, 0.25, 9), (0, -0.1, 0.5, 9), (0, 0.0, 1.0, 9), (-1, 0.0, 0.5, 9)]
)
def test_impossible_targets_are_refused(step, start, end, warmup):
    with pytest.raises(ConfigError, match="wanted"):
        target_at(step, start, end, warmup)


def test_gates_of_another_tower_are_refused():
    with pytest.raises(ConfigError, match="not those of the tower"):
        expected_parameters(SMALL._replace(units=21), TowerGates(SMALL).open_probabilities())
    with pytest.raises(ConfigError, match="not those of the tower"):
        expected_parameters(SMALL._replace(width=9), TowerGates(SMALL).open_probabilities())


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (1, 2, 2)])
def test_multipliers_come_in_pairs(shape):
    with pytest.raises(ConfigError, match="multipliers"):
        sparsity_loss(torch.tensor(0.1), 0.5, torch.ones(shape))
