import torch

from tests.training.view_batches import case_a
from training.engine.distributed import has_batch_norm
from training.models.heads import byol_head, simclr_head

CASE = case_a()


def published(prefix):
    return {name.removeprefix(prefix): torch.from_numpy(CASE[name]) for name in CASE if name.startswith(prefix)}


def test_the_simclr_head_is_the_published_one():
    names = dict(zip(["layer1", "bn1", "layer2", "bn2", "layer3"], "01346", strict=True))
    state = {}
    for name, value in published("head_simclr.").items():
        layer, kind = name.split(".")
        if kind == "weight" or layer in ("bn1", "bn2", "layer3"):  # batch norm takes the other biases out again
            state[f"{names[layer]}.{kind}"] = value
    head = simclr_head(6, 10, 4).double()
    head.load_state_dict(state)
    out = head(torch.from_numpy(CASE["head_in"]))
    assert (out - torch.from_numpy(CASE["head_simclr_out"])).abs().max() < 1e-10


def test_the_byol_head_is_the_published_one():
    head = byol_head(6, 10, 4).double()
    head.load_state_dict(published("head_byol."))
    out = head(torch.from_numpy(CASE["head_in"]))
    assert (out - torch.from_numpy(CASE["head_byol_out"])).abs().max() < 1e-10


def test_heads_normalise_over_all_rows_in_float32_and_in_evaluation_too():
    head = simclr_head(6, 10, 4)
    rows = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    hidden = head[1](head[0](rows))
    assert hidden.mean(dim=0).abs().max() < 1e-6 and (hidden.std(dim=0, correction=0) - 1).abs().max() < 1e-3
    with torch.autocast("cpu", torch.bfloat16):
        assert head[1](head[0](rows)).dtype == torch.float32
    assert torch.equal(head.eval()(rows), head.train()(rows))
    # nothing for the engine to synchronise, and nothing that forbids two-pass accumulation
    assert not has_batch_norm(head) and not list(head.buffers())
