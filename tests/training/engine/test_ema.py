import pytest
import torch

from training.engine.ema import WeightAverage


def test_the_average_follows_the_slow_formula():
    module = torch.nn.Linear(3, 2)
    average = WeightAverage(module, 0.9)
    slow = {name: value.clone() for name, value in module.state_dict().items()}
    for step in range(200):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_()
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            slow[name] = decay * slow[name] + (1 - decay) * value
    for name, value in slow.items():
        assert torch.allclose(average.tensors[name], value, atol=1e-6)


def test_constant_weights_are_their_own_average():
    module = torch.nn.Linear(3, 2)
    average = WeightAverage(module, 0.99)
    for step in range(10):
        average.update(step)
    assert torch.allclose(average.tensors["weight"], module.weight)


def test_the_module_has_the_average_inside_the_block_only():
    module = torch.nn.Linear(3, 2)
    average = WeightAverage(module, 0.5)
    with torch.no_grad():
        module.weight.fill_(7.0)
    before = average.tensors["weight"].clone()
    with pytest.raises(KeyError), average.in_place():
        assert torch.equal(module.weight, before)
        raise KeyError
    assert bool((module.weight == 7).all())


def test_integer_buffers_are_copied():
    module = torch.nn.BatchNorm1d(2)
    average = WeightAverage(module, 0.9)
    module(torch.randn(4, 2))
    average.update(0)
    assert int(average.tensors["num_batches_tracked"]) == 1
