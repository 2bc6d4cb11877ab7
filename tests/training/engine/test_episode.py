import os
import signal

import pytest
import torch

from assets.config import load_machine
from assets.progress import Stage
from tests.training.episode_batches import PROTOCLIP, ROWS, TEACHER, batch_of, batches, snapshots
from training.config import load_recipe
from training.engine.checkpoint import read_facts
from training.engine.clock import TrainClock
from training.engine.distributed import World
from training.engine.episode import EmbedSettings, Episodes, StopAsked
from training.engine.flops import FlopsProbe
from training.engine.loop import RESUMABLE, Fit, Stopped, Trainer
from training.engine.metrics import read_rows
from training.methods.exchange import Snapshot
from training.models.build import build_method

HERE = World(0, 1, torch.device("cpu"))
METHOD = {**PROTOCLIP, "teacher": TEACHER}


def file_of(params, method=METHOD, **changes):
    return params(**{"recipes.clip.method": method}, **changes)


def episodes_of(method, source=None, rows=0) -> Episodes:
    return Episodes(method, FlopsProbe(method), EmbedSettings(3, rows, bf16=False), HERE, source or snapshots(HERE))


def begin(episodes, step, asked=lambda: False, clock=None):
    with Stage("pretrain@test") as stage:
        episodes.begin(step, clock or TrainClock({}, HERE.device), stage, asked)


class Watched:
    """A method's ``on_epoch`` that only keeps what it gets."""

    def __init__(self, method):
        self.snapshots: dict[int, Snapshot] = {}
        method.on_epoch = self.on_epoch

    def on_epoch(self, epoch, embed):
        self.snapshots[epoch] = embed()


@pytest.fixture
def method(params):
    return build_method(load_recipe(file_of(params), "clip"), 0)[0]


def test_it_is_called_before_the_first_step_of_each_episode_and_no_other(method):
    seen, episodes = Watched(method), episodes_of(method)
    for step in range(7):
        begin(episodes, step)
        assert sorted(seen.snapshots) == list(range(step // 2 + 1))


def test_the_rows_are_those_that_the_steps_will_see_at_their_places(method):
    method.snapshot = lambda batch: {"sample_id": batch["sample_id"]}
    seen = Watched(method)
    begin(episodes_of(method), 2)
    snapshot = seen.snapshots[1]
    assert snapshot.size == 2 * ROWS
    assert snapshot.positions.tolist() == list(range(2 * ROWS))
    wanted = torch.cat([batch_of(step)["sample_id"] for step in (2, 3)])
    assert torch.equal(snapshot.features["sample_id"], wanted)
    assert snapshot.seed == (3, 1)


def test_embedding_leaves_no_trace(method):
    method.train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    state = torch.get_rng_state()
    seen = Watched(method)
    begin(episodes_of(method), 2)
    assert seen.snapshots[1].features["image"].std() > 0
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert method.training
    assert all(p.grad is None for p in method.parameters())
    assert not any(value.requires_grad for value in seen.snapshots[1].features.values())


def test_parts_give_what_whole_batches_give(method):
    found = []
    for rows in (0, 5):
        seen = Watched(method)
        begin(episodes_of(method, rows=rows), 0)
        found.append(seen.snapshots[0].features)
    assert found[0].keys() == found[1].keys() == {"image", "text", "teacher"}
    for name, value in found[0].items():
        assert torch.allclose(value, found[1][name], atol=1e-6), name


def test_an_embedding_that_is_not_finite_stops_the_run(method):
    with torch.no_grad():
        method.model.visual.proj.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="episode 1: embeddings image not finite"):
        begin(episodes_of(method), 2)


def test_a_stop_while_embedding_leaves_the_method_as_it_was(method):
    before = {name: value.clone() for name, value in method.state_dict().items()}
    with pytest.raises(StopAsked):
        begin(episodes_of(method), 2, asked=lambda: True)
    assert method.training
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_seconds_and_operations_are_counted_once(method):
    clock, episodes = TrainClock({}, HERE.device), episodes_of(method)
    begin(episodes, 2, clock=clock)
    totals = clock.totals()
    assert totals["embed_seconds"] > 0
    assert totals["episode_seconds"] > 0
    assert totals["embed_seconds"] + totals["episode_seconds"] <= totals["train_seconds"]
    batch = next(snapshots(HERE)(0, 1))
    per_pair = FlopsProbe(method).count_snapshot(batch)
    embedding = per_pair * 2 * ROWS
    # at least one assignment and one labelling of three spaces, D of 8, 8 and 4 (and 6 for the components)
    clustering = episodes.flops - embedding
    assert 2 * 2 * 32 * 5 * (8 + 8 + 4) < clustering < embedding


def trainer_of(file, work, source=None) -> Trainer:
    recipe = load_recipe(file, "clip")
    fit = Fit(recipe, load_machine(file), 0, work)
    return Trainer(build_method(recipe, 0)[0], fit, HERE, [], source or snapshots(HERE))


def run(trainer, source=batches):
    with Stage("pretrain@test") as stage:
        return trainer.run(source, stage)


def equal_ends(one: Trainer, other: Trainer) -> bool:
    ends = one.method.state_dict()
    assert ends.keys() == other.method.state_dict().keys()
    return all(torch.equal(value, ends[name]) for name, value in other.method.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("stopped_after", [4, 5, 6])
def test_a_run_that_is_stopped_around_a_border_goes_on_to_the_same_bytes(params, tmp_path, stopped_after):
    file = file_of(params, **{"recipes.clip.checkpoint_every": 100})
    whole = trainer_of(file, tmp_path / "whole")
    wanted = run(whole)

    def interrupted(first):
        for step, batch in enumerate(batches(first), first):
            if step == stopped_after:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with pytest.raises(Stopped):
        run(trainer_of(file, tmp_path / "cut"), interrupted)
    again = trainer_of(file, tmp_path / "cut")
    fitted = run(again)
    assert equal_ends(whole, again)
    assert fitted.episode_flops == wanted.episode_flops > 0
    rows = [read_rows(tmp_path / who / "curves/rows.jsonl") for who in ("whole", "cut")]
    assert [row["train/loss"] for row in rows[0]] == [row["train/loss"] for row in rows[1]]


@pytest.mark.slow
def test_a_run_that_is_killed_within_an_episode_goes_on_with_the_clusters_of_its_checkpoint(params, tmp_path):
    file = file_of(params, **{"recipes.clip.checkpoint_every": 5})
    whole = trainer_of(file, tmp_path / "whole")
    run(whole)

    def killed(first):
        for step, batch in enumerate(batches(first), first):
            if step == 8:
                raise KeyboardInterrupt
            yield batch

    first = trainer_of(file, tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        run(first, killed)
    first.checkpoints.wait()
    calls = []

    def counted(first, last):
        calls.append(first)
        return snapshots(HERE)(first, last)

    again = trainer_of(file, tmp_path / "cut", counted)
    run(again)
    assert equal_ends(whole, again)
    assert calls == [6, 8, 10]  # the episode of steps 4 and 5 came with the checkpoint after step 4


@pytest.mark.slow
def test_a_signal_while_embedding_saves_and_the_episode_is_done_again(params, tmp_path):
    file = file_of(params, **{"recipes.clip.checkpoint_every": 100})
    whole = trainer_of(file, tmp_path / "whole")
    run(whole)

    def interrupted(first, last):
        if first == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return snapshots(HERE)(first, last)

    cut = trainer_of(file, tmp_path / "cut", interrupted)
    with pytest.raises(Stopped) as stopped:
        run(cut)
    assert stopped.value.code == RESUMABLE
    assert read_facts(cut.checkpoints.complete()[-1])["step"] == 6
    again = trainer_of(file, tmp_path / "cut")
    run(again)
    assert equal_ends(whole, again)
