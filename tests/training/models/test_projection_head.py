import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from training.models.projection_head import RunningBatchNorm, projection_head

CASE = np.load(Path(__file__).parents[2] / "fixtures/protoclip/case_a.npz")


def published_head(name: str) -> nn.Sequential:
    head = projection_head(10, 16, 8, 1).double()
    prefix = f"head_{name}."
    state = {key.removeprefix(prefix): torch.from_numpy(CASE[key]) for key in CASE.files if key.startswith(prefix)}
    state.pop("1.num_batches_tracked")
    head.load_state_dict(state)
    return head


@pytest.mark.parametrize("name", ["img", "txt"])
def test_heads_give_the_published_features_in_evaluation_and_in_training(name):
    head, features = published_head(name), torch.from_numpy(CASE[f"head_in_{name}"])
    with torch.no_grad():
        evaluated = normalize(head.eval()(features), dim=-1)
        trained = normalize(head.train()(features), dim=-1)
    assert np.allclose(evaluated, CASE[f"head_eval_h_{name}"], atol=1e-10)
    assert np.allclose(trained, CASE[f"head_train_h_{name}"], atol=1e-9)
    for statistic in ("running_mean", "running_var"):
        assert np.allclose(getattr(head[1], statistic), CASE[f"head_after_{name}.1.{statistic}"], atol=1e-9)


def test_it_is_batch_norm_of_torch_without_being_one():
    ours, theirs = RunningBatchNorm(5), nn.BatchNorm1d(5)
    rows = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1
    for _ in range(3):
        assert torch.allclose(ours(rows), theirs(rows), atol=1e-6)
        rows = rows * 1.1
    assert torch.allclose(ours.eval()(rows), theirs.eval()(rows), atol=1e-6)
    assert not isinstance(ours, nn.BatchNorm1d)  # the engine would synchronise it once more


def test_evaluation_leaves_the_statistics_alone():
    norm = RunningBatchNorm(3)
    norm(torch.randn(8, 3))
    before = copy.deepcopy(norm.state_dict())
    norm.eval()(torch.randn(8, 3) + 5)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


@pytest.mark.parametrize(("layers", "linears"), [(0, 1), (1, 2), (3, 4)])
def test_hidden_layers_are_as_many_as_asked_for(layers, linears):
    head = projection_head(6, 16, 4, layers)
    assert sum(isinstance(part, nn.Linear) for part in head) == linears
    assert sum(isinstance(part, RunningBatchNorm) for part in head) == layers
    assert head(torch.randn(5, 6)).shape == (5, 4)
