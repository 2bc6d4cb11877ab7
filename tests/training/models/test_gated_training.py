"""Gates and cut towers as training runs them: compiled, in half precision, in two processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.models import gated_training
from tests.training.models.gated_training import KINDS, ROWS, STEPS, batch, gradients


@pytest.fixture(scope="module")
def spread(tmp_path_factory) -> Path:
    """What two processes have left."""
    folder = tmp_path_factory.mktemp("spread")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", gated_training.__file__]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run([sys.executable, *command, str(folder)], check=True, timeout=300, env=environment)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_get_the_mean_of_the_gradients_of_their_halves(kind, spread):
    module = KINDS[kind]()
    for rank in range(2):  # gradients add up
        half = slice(rank * ROWS // 2, (rank + 1) * ROWS // 2)
        (module(*batch(half), STEPS - 1, rank) / 2).backward()
    found, wanted = load_file(spread / f"{kind}.safetensors"), gradients(module)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_they_compile_without_a_break(kind):
    torch.compiler.reset()
    results = []
    for compiled in (False, True):
        module = KINDS[kind]()
        noise = module.draw(0, 0)
        # the same graph as with inductor, which would take minutes to make code of it
        take = torch.compile(module.loss, backend="aot_eager", fullgraph=True) if compiled else module.loss
        loss = take(*batch(), noise)
        loss.backward()
        results.append({"loss": loss.detach(), **gradients(module)})
    for name, eager in results[0].items():
        torch.testing.assert_close(results[1][name], eager, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_keeps_gradients_in_full_precision_and_near_the_exact_ones(kind):
    results = []
    for enabled in (False, True):
        module = KINDS[kind]()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = module(*batch(), 0, 0)
        loss.backward()
        results.append(gradients(module))
    exact, rough = results
    assert all(gradient.dtype == torch.float32 and bool(gradient.isfinite().all()) for gradient in rough.values())
    whole, near = (torch.cat([gradient.flatten() for gradient in one.values()]) for one in (exact, rough))
    assert float((near - whole).norm() / whole.norm()) < 0.05
    for name in [name for name in exact if "gates" in name]:
        alike = torch.nn.functional.cosine_similarity(rough[name].flatten(), exact[name].flatten(), dim=0)
        assert float(alike) > 0.99, name
