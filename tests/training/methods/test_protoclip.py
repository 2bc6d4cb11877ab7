import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from assets.clustering.kmeans import Clusters, Rows
from assets.config import load_machine
from assets.errors import ConfigError, DataError
from assets.progress import Stage
from tests.training.episode_batches import PROTOCLIP, ROWS, TEACHER, batch_of, snapshots
from tests.training.frozen_text import ENTRY, text_facts, towers, write_features
from training.config import OptimConfig, load_recipe
from training.engine.clock import TrainClock
from training.engine.distributed import World
from training.engine.episode import EmbedSettings, Episodes
from training.engine.flops import FlopsProbe
from training.engine.gather import GatheredFeatures
from training.engine.optim import learning_rate
from training.engine.step import Stepper
from training.methods.protoclip import ProtoClip
from training.models.build import build_method
from training.pretrain import Paths, pretrain

CASE = np.load(Path(__file__).parents[2] / "fixtures/protoclip/case_a.npz")
HERE = World(0, 1, torch.device("cpu"))


def stepper_of(params, method, **changes) -> Stepper:
    file = params(**{"recipes.clip.method": method, **changes})
    recipe = load_recipe(file, "clip")
    return Stepper(build_method(recipe, 0)[0], recipe, load_machine(file), HERE, 0)


def train(stepper: Stepper, steps: int, batch=batch_of) -> list[dict[str, float]]:
    """Train as the engine's loop does, episodes included."""
    episodes = Episodes(
        stepper.method, FlopsProbe(stepper.method), EmbedSettings(0, 0, bf16=False), HERE, snapshots(HERE)
    )
    clock, values = TrainClock({}, HERE.device), []
    stepper.method.train()
    with Stage("pretrain@test") as stage:
        for step in range(steps):
            episodes.begin(step, clock, stage, lambda: False)
            values.append(stepper.step(batch(step), step, clock).values)
    return values


class Given(nn.Module):
    """A head that gives known features whatever it gets."""

    def __init__(self, features: torch.Tensor):
        super().__init__()
        self.features = nn.Parameter(features)

    def forward(self, _):
        return self.features


PUBLISHED = {"kind": "protoclip", "episode_pairs": 144, "clusters": 12, "head_width": 8, "head_out": 16}
PUBLISHED |= {"prototype_weight": 0.75, "target_temperature": 0.05, "warmup_episodes": 1}
EXTERNAL = {"teacher": {"weight": 0.5}}
VARIANTS = {
    "full": EXTERNAL,
    "noext": {},
    "nopbt": {"back_translation": False},
    "hard": {**EXTERNAL, "target_temperature": None},
    "warmup": EXTERNAL,
    "lit_before": {**EXTERNAL, "lock": {"episodes": 2, "lr": 1e-4}},
    "lit_in": {**EXTERNAL, "lock": {"episodes": 2, "lr": 1e-4}},
}
# of the published run's 40 episodes, those that the variants are steps of
EPISODE = {"warmup": 0, "lit_before": 37, "lit_in": 38}


def array(name: str) -> torch.Tensor:
    return torch.from_numpy(np.asarray(CASE[name])).double()


def published_method(params, variant: str, step: int) -> ProtoClip:
    """A method whose banks hold the fixture's clusters and whose batch of ``step`` is the fixture's."""
    budget = {"samples_seen": 40 * 144, "batch_size": 24}
    file = params(**{"recipes.clip.method": PUBLISHED | VARIANTS[variant], "recipes.clip.budget": budget})
    method = build_method(load_recipe(file, "clip"), 0)[0].double()
    for name, short in (("image", "img"), ("text", "txt")):
        method.heads[name] = Given(array(f"h_{short}"))
    method.model.logit_scale.data = array("logit_scale_log")
    method.logit_scale_prototype.data = array("logit_scale_proto_log")
    students = {"image": array("H_img"), "text": array("H_txt")}
    for space, bank in method.banks.items():
        short = {"image": "img", "text": "txt", "teacher": "ext"}[space]
        labels = torch.from_numpy(CASE[f"km_{short}_labels"]).long()
        counts = torch.bincount(labels, minlength=12)
        clusters = Clusters(array(f"km_{short}_centroids"), labels, counts, torch.tensor(0.0), (0.0,))
        bank.fill(clusters, Rows(array("H_txt"), torch.arange(144), 144), students)
        first = step % 6 * 24
        bank.labels[first : first + 24] = labels[torch.from_numpy(CASE["idx"])].int()
    return method


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_is_the_published_one(params, variant):
    step = 6 * EPISODE.get(variant, 5) + 3
    method = published_method(params, variant, step)
    z = {"image": array("z_img").requires_grad_(), "text": array("z_txt").requires_grad_()}
    output = method.losses(GatheredFeatures(z, slice(0, 24)), step)
    total = torch.stack(list(output.losses.values())).sum()
    total.backward()
    assert total.item() == pytest.approx(float(CASE[f"total_{variant}"]), abs=1e-10)
    clip = output.losses["contrastive_loss"].item()
    assert clip == pytest.approx(float(CASE[f"total_{variant}_clip"]), abs=1e-10)
    if "prototype_loss" in output.losses:
        wanted = 0.75 * float(CASE[f"total_{variant}_proto"])
        assert output.losses["prototype_loss"].item() == pytest.approx(wanted, abs=1e-10)
    if "teacher_loss" in output.losses:
        wanted = 0.5 * float(CASE[f"total_{variant}_protoext"])
        assert output.losses["teacher_loss"].item() == pytest.approx(wanted, abs=1e-10)
    assert ("prototype_loss" in output.losses) == (variant not in ("warmup", "lit_in"))
    if variant == "full":
        for ours, theirs in (("image_finds_text", "img2text"), ("text_finds_image", "text2img")):
            wanted = float(CASE[f"total_full_acc_{theirs}"]) / 100
            assert output.logs[f"{ours}_cluster"].item() == pytest.approx(wanted, abs=1e-6)
    if f"total_{variant}_grad_zI" not in CASE:
        return
    unit = {
        "zI": z["image"],
        "zT": z["text"],
        "hI": method.heads["image"].features,
        "hT": method.heads["text"].features,
    }
    for name, value in unit.items():
        # the published gradient is that of the unit vector itself, ours passes through its normalisation
        wanted, direction = array(f"total_{variant}_grad_{name}"), value.detach()
        wanted = wanted - (wanted * direction).sum(dim=1, keepdim=True) * direction
        assert torch.allclose(value.grad, wanted, atol=1e-10, rtol=0), name
    for name, value in (("", method.model.logit_scale), ("_proto", method.logit_scale_prototype)):
        assert value.grad.item() == pytest.approx(float(CASE[f"total_{variant}_grad_logit_scale{name}"]), abs=1e-10)


def test_both_scales_are_clamped_as_published(params):
    method = build_method(load_recipe(params(**{"recipes.clip.method": PROTOCLIP}), "clip"), 0)[0]
    for given, wanted in zip(CASE["clamp_in"], CASE["clamp_out"], strict=True):
        method.model.logit_scale.data.fill_(given[0])
        method.logit_scale_prototype.data.fill_(given[1])
        method.after_step(0)
        found = [method.model.logit_scale.item(), method.logit_scale_prototype.item()]
        assert found == pytest.approx(wanted.tolist(), abs=1e-6)


def test_heads_and_scales_start_as_published(params):
    method = build_method(load_recipe(params(**{"recipes.clip.method": PROTOCLIP}), "clip"), 0)[0]
    states = [method.heads[name].state_dict() for name in ("image", "text")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert method.heads["image"][0].weight is not method.heads["text"][0].weight
    scales = [method.model.logit_scale.item(), method.logit_scale_prototype.item()]
    assert scales == pytest.approx(CASE["head_init_logit_scales"].tolist(), abs=1e-6)


def test_the_schedule_is_the_published_one():
    visual, rest, warmup, total, visual_total = CASE["sched_cfg"][:5]
    for column, (lr, steps) in enumerate(((visual, visual_total), (rest, total))):
        config = OptimConfig(
            lr=lr, weight_decay=0.5, beta1=0.9, beta2=0.98, eps=1e-6, warmup_steps=int(warmup), gradient_clip=10.0
        )
        for step, wanted in zip(CASE["sched_steps"], CASE["sched_lr"][:, column], strict=True):
            if step <= steps:
                assert learning_rate(config, int(step), int(steps)) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("options", [{}, {"back_translation": False}, {"leave_one_out": True}, {"teacher": TEACHER}])
def test_three_steps_of_an_episode_lower_the_loss(params, options):
    whole = {**PROTOCLIP, "episode_pairs": 4 * ROWS, "warmup_episodes": 0, **options}
    values = train(stepper_of(params, whole), 4, batch=lambda _: batch_of(0))
    assert "prototype_loss" in values[0]
    assert ("teacher_loss" in values[0]) == ("teacher" in options)
    assert values[3]["loss"] < values[0]["loss"]


def test_without_prototypes_it_is_clip_bit_for_bit(params):
    plain, ours = (
        stepper_of(params, method) for method in ({"kind": "clip"}, {"kind": "protoclip", "prototype_weight": 0.0})
    )
    for step in range(3):
        values = [one.step(batch_of(step), step, TrainClock({}, HERE.device)).values for one in (plain, ours)]
        assert values[0]["loss"] == values[1]["loss"]
    expected = plain.method.state_dict()
    assert expected.keys() == ours.method.state_dict().keys()
    assert all(torch.equal(value, expected[name]) for name, value in ours.method.state_dict().items())


def test_the_towers_of_a_warm_up_are_those_of_clip_bit_for_bit(params):
    plain, ours = stepper_of(params, {"kind": "clip"}), stepper_of(params, {**PROTOCLIP, "teacher": TEACHER})
    heads = {name: value.clone() for name, value in ours.method.heads.named_parameters()}
    for step in range(2):
        for one in (plain, ours):
            one.step(batch_of(step), step, TrainClock({}, HERE.device))
    expected = plain.method.model.state_dict()
    # the global norm is the same, for the heads' gradients are exactly zero
    assert all(torch.equal(value, expected[name]) for name, value in ours.method.model.state_dict().items())
    assert all(torch.equal(value, heads[name]) for name, value in ours.method.heads.named_parameters())
    assert ours.method.logit_scale_prototype.item() == pytest.approx(-np.log(0.07))
    running = ours.method.heads["image"][1].running_mean
    assert running.abs().max() > 0  # but the statistics have followed the towers


class Asked(Exception):
    """Raised by an ``embed`` that only tells that it was called."""


def test_pairs_are_embedded_only_while_prototypes_are_in_use(params):
    method = stepper_of(params, {**PROTOCLIP, "lock": {"episodes": 2, "lr": 1e-4}}).method
    embedded: list[int] = []

    def embed():
        raise Asked

    for epoch in range(6):
        try:
            method.on_epoch(epoch, embed)
        except Asked:
            embedded.append(epoch)
    assert embedded == [1, 2, 3]


def test_rows_find_their_own_clusters_at_their_places(params):
    """A canary: heads that tell the pair apart must find every cluster when places and labels agree."""
    stepper = stepper_of(params, {**PROTOCLIP, "clusters": 8, "warmup_episodes": 0, "target_temperature": None})
    method = stepper.method
    episodes = Episodes(method, FlopsProbe(method), EmbedSettings(0, 0, bf16=False), HERE, snapshots(HERE))
    codes = normalize(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)), dim=-1)

    def by_pair(batch):
        feature = codes[batch["sample_id"] * 5 % 8 ^ batch["sample_id"] // 16]
        return {"image": feature, "text": feature}

    method.snapshot = by_pair
    method.heads = nn.ModuleDict({"image": nn.Identity(), "text": nn.Identity()})
    with Stage("pretrain@test") as stage:
        for step in (0, 1, 2, 3):
            episodes.begin(step, TrainClock({}, HERE.device), stage, lambda: False)
            logs = method.losses(GatheredFeatures(by_pair(batch_of(step)), slice(0, ROWS)), step).logs
            assert logs["image_finds_text_cluster"] == logs["text_finds_image_cluster"] == 1
        wrong = method.losses(GatheredFeatures(by_pair(batch_of(3)), slice(0, ROWS)), 2).logs
        assert wrong["image_finds_text_cluster"] < 0.5


def test_a_locked_image_tower_stays_and_the_rest_learns_at_a_rate_of_its_own(params):
    vision = {"kind": "resnet", "layers": [1, 1, 1, 1], "width": 8}
    lock = {"episodes": 2, "lr": 5e-4}
    stepper = stepper_of(params, {**PROTOCLIP, "lock": lock}, **{"recipes.clip.towers.vision": vision})
    train(stepper, 8)
    before = {name: value.clone() for name, value in stepper.method.model.state_dict().items()}
    stepper.step(batch_of(8), 8, TrainClock({}, HERE.device))
    assert {group["lr"] for group in stepper.optimizer.param_groups} == {0.0, 5e-4}
    after = stepper.method.model.state_dict()
    image = [name for name in before if name.startswith("visual.")]
    assert all(torch.equal(before[name], after[name]) for name in image)  # running statistics included
    assert not torch.equal(before["text_projection"], after["text_projection"])


def test_heads_vectors_and_scales_have_no_weight_decay(params):
    method = build_method(load_recipe(params(**{"recipes.clip.method": PROTOCLIP}), "clip"), 0)[0]
    groups = method.param_groups(0.3)
    decayed = {name for group in groups if group.weight_decay for name, _ in group.params}
    assert decayed
    assert not [name for name in decayed if name.startswith("heads.") or "logit_scale" in name]
    every = [name for group in groups for name, _ in group.params]
    assert sorted(every) == sorted(name for name, p in method.named_parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"clusters": 33}, "method.clusters exceeds the pairs of an episode, got 33, wanted 32"),
        ({"warmup_episodes": 6}, "leave no episode with prototypes, got '6 episodes of 32 pairs'"),
        ({"back_translation": False, "teacher": TEACHER}, "teacher needs back_translation"),
        ({"back_translation": False, "leave_one_out": True}, "leave_one_out needs back_translation"),
        ({"back_translation": False, "prototype_weight": 0}, "changes nothing with prototype_weight 0"),
        ({"target_temperature": 0}, "target_temperature: .*greater than 0"),
        ({"prototypes": 9}, "unknown key 'prototypes'"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(params, changes, fault):
    recipe = load_recipe(params(**{"recipes.clip.method": {**PROTOCLIP, **changes}}), "clip")
    with pytest.raises(ConfigError, match=fault):
        build_method(recipe, 0)


def _paths(toy_data, folder: Path, features: Path | None = None) -> Paths:
    return Paths(*toy_data, folder / "model", folder / "log", features=features, machine=folder / "machine")


@pytest.mark.slow
def test_a_run_with_a_teacher_publishes_what_it_cost_and_came_from(toy_data, params, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_features(toy_data, tmp_path / "features")
    method = {**PROTOCLIP, "teacher": {"components": 6}}
    taught = {"recipes.clip.method": method, "runs.toy-s0.features": "rows", "features": {"rows": ENTRY}}
    costs, spent = {}, {}
    for name, changes, features in (("clip", {}, None), ("protoclip", taught, tmp_path / "features")):
        pretrain("toy-s0", params(**changes), _paths(toy_data, tmp_path / name, features))
        costs[name] = json.loads((tmp_path / name / "log/summary.json").read_text())["cost"]
        spent[name] = json.loads((tmp_path / name / "machine/machine.json").read_text())["cost"]
    ours = costs["protoclip"]
    assert spent["protoclip"]["embed_seconds"] > 0 < spent["protoclip"]["episode_seconds"]
    assert spent["clip"]["embed_seconds"] == spent["clip"]["episode_seconds"] == 0
    # five of six episodes are embedded: a third of a step's operations each, and the heads
    assert 1.2 < ours["flops"] / costs["clip"]["flops"] < 1.6
    assert ours["inference_params"] == costs["clip"]["inference_params"]
    manifest = json.loads((tmp_path / "protoclip/model/manifest.json").read_text())
    assert manifest["inputs"].keys() == {"raw", "valid", "features"}
    curve = tmp_path / "protoclip/log/plots/metrics/train/image_finds_teacher_cluster.tsv"
    assert len(curve.read_text().splitlines()) == 1 + 10


def test_a_teacher_that_is_missing_is_refused_before_any_work(toy_data, params, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    method = {**PROTOCLIP, "teacher": {}}
    taught = {"recipes.clip.method": method, "runs.toy-s0.features": "rows", "features": {"rows": ENTRY}}
    with pytest.raises(DataError, match=r"there are no features in .*nowhere"):
        pretrain("toy-s0", params(**taught), _paths(toy_data, tmp_path, tmp_path / "nowhere"))
    assert not (tmp_path / "work").exists()


def test_against_frozen_text_the_teacher_is_whole_and_the_student_sees_one_row(params):
    method = {**PROTOCLIP, "teacher": TEACHER}
    recipe = load_recipe(params(**{"recipes.clip.method": method, "recipes.clip.towers": towers()}), "clip")
    built = build_method(recipe, 0, text_facts())[0].eval()
    batch = {**batch_of(0), "text_rows": torch.randn(ROWS, 3, 24), "features": torch.randn(ROWS, 3, 24)}
    assert torch.equal(built.encode(batch)["text"], batch["text_rows"][:, 0])
    assert torch.equal(built.snapshot(batch)["teacher"], batch["features"])
    assert built.encode(batch)["image"].shape == (ROWS, 24)
    assert built.heads["image"][0].in_features == 24
    image = {name for group in built.param_groups(0.1) if group.name == "image" for name, _ in group.params}
    assert {name.split(".")[1] for name in image} == {"visual", "head"}
