import pytest
import torch

from assets.errors import DataError
from training.engine.checkpoint import Checkpoints, TrainState, read_facts
from training.engine.ema import WeightAverage


def state(width=3, average=True) -> TrainState:
    torch.manual_seed(0)
    module = torch.nn.Linear(width, 2)
    optimizer = torch.optim.AdamW([{"params": list(module.parameters()), "names": ["weight", "bias"]}], fused=True)
    return TrainState(module, optimizer, WeightAverage(module, 0.9) if average else None)


def advance(it: TrainState, steps: int) -> None:
    for step in range(steps):
        it.method(torch.ones(1, it.method.weight.shape[1])).sum().backward()
        it.optimizer.step()
        it.optimizer.zero_grad()
        it.average.update(step)


def test_a_loaded_state_goes_on_as_the_saved_one(tmp_path):
    one, checkpoints = state(), Checkpoints(tmp_path, keep=2)
    advance(one, 3)
    checkpoints.save(one.snapshot(), {"step": 3})
    checkpoints.wait()
    other = state()
    assert checkpoints.load(other) == 3
    for each in (one, other):
        advance(each, 2)
    assert all(
        torch.equal(one.snapshot()[file][name], tensor)
        for file, tensors in other.snapshot().items()
        for name, tensor in tensors.items()
    )


def test_the_writer_keeps_what_was_snapshot_although_training_goes_on(tmp_path):
    one, checkpoints = state(), Checkpoints(tmp_path, keep=2)
    weight = one.method.weight.detach().clone()
    files = one.snapshot()
    with torch.no_grad():
        one.method.weight.zero_()
    checkpoints.save(files, {"step": 1})
    checkpoints.wait()
    other = state()
    checkpoints.load(other)
    assert torch.equal(other.method.weight, weight)


def test_the_newest_and_the_best_stay(tmp_path):
    one, checkpoints = state(), Checkpoints(tmp_path, keep=2)
    for step in range(1, 6):
        checkpoints.save(one.snapshot(), {"step": step}, best=step == 2)
    checkpoints.wait()
    assert [path.name for path in checkpoints.complete()] == ["step-00000004", "step-00000005"]
    assert read_facts(checkpoints.best)["step"] == 2
    other = state()
    other.load_weights(checkpoints.best)


def test_an_unfinished_checkpoint_does_not_count(tmp_path):
    one, checkpoints = state(), Checkpoints(tmp_path, keep=2)
    checkpoints.save(one.snapshot(), {"step": 1})
    checkpoints.wait()
    (tmp_path / "step-00000002.partial").mkdir()
    assert checkpoints.load(state()) == 1


def test_a_failed_write_is_raised_at_the_next_turn(tmp_path):
    one, checkpoints = state(), Checkpoints(tmp_path / "file", keep=2)
    (tmp_path / "file").write_text("in the way")
    checkpoints.save(one.snapshot(), {"step": 1})
    with pytest.raises(OSError):
        checkpoints.wait()


@pytest.mark.parametrize("changed", [{"width": 4}, {"average": False}])
def test_a_checkpoint_of_another_recipe_is_refused(tmp_path, changed):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(state(**changed).snapshot(), {"step": 1})
    checkpoints.wait()
    with pytest.raises(DataError, match=r"step-00000001 is of another recipe .*remove .* to start anew"):
        checkpoints.load(state())
