import json

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from assets.language.decoder import Decoder
from assets.language.facet_forward import STRATEGIES, num_tokens
from assets.language.facet_layout import facet_starts
from tests.assets.language.test_facet_layout import pieces
from tests.assets.language.toy_llama import toy_model

PREFIXES = [[3, 4, 5, 6], [7, 8], [9, 3, 3, 9, 5, 4, 8]]
FACETS = [[10, 11, 2], [12, 2], [13, 14, 15, 2]]
EXACT = 1e-10
MANY = pytest.mark.parametrize("strategy", STRATEGIES)
BOTH = pytest.mark.parametrize("positions", ["reset", "contiguous"])


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return toy_model(torch.float64)


@pytest.fixture(scope="module")
def published(case) -> LlamaForCausalLM:
    """The toy model of the fixture, with no output head."""
    values = json.loads(str(case["lm/config_json"]))
    values["rope_parameters"] = {"rope_type": "default", "rope_theta": values.pop("rope_theta")}
    model = LlamaForCausalLM(LlamaConfig(**values))
    weights = {
        name.removeprefix("w/"): torch.from_numpy(array) for name, array in case.items() if name.startswith("w/")
    }
    report = model.load_state_dict(weights, strict=False)
    assert report.missing_keys == ["lm_head.weight"] and report.unexpected_keys == []
    return model.double().eval()


@MANY
@pytest.mark.parametrize(
    ("name", "layer", "positions"),
    [
        ("decoupled_reset_L2", -2, "reset"),
        ("separate_reset_L2", 2, "reset"),
        ("separate_contiguous_L2", 2, "contiguous"),
        ("ref_nopad_L2", -2, "contiguous"),
        ("ref_nopad_L3", -1, "contiguous"),
        ("ref_nopad_L1_3", (1, 3), "contiguous"),
    ],
)
def test_the_published_embeddings_are_reproduced(case, published, strategy, name, layer, positions):
    pooled = STRATEGIES[strategy](Decoder(published, layer), *pieces(case), positions)
    assert np.abs(case[f"emb/{name}"]).max() > 1
    np.testing.assert_allclose(pooled.numpy(), case[f"emb/{name}"], rtol=0, atol=1e-10)


def test_the_published_single_prompt_and_mean_are_reproduced(case, published):
    decoder, (prefixes, facets) = Decoder(published, -2), pieces(case)
    single = STRATEGIES["mask"](decoder, prefixes, facets[:1], "reset")[:, 0]
    # the reference took another path through attention here, with a softmax in float32
    np.testing.assert_allclose(single.numpy(), case["emb/ref_single_padded"], rtol=0, atol=1e-4)
    mean = STRATEGIES["mask"](decoder, prefixes, facets, "contiguous").mean(dim=1)
    np.testing.assert_allclose(mean.numpy(), case["emb/ref_infer_mean"], rtol=0, atol=1e-10)


def slowly(model, positions: str) -> torch.Tensor:
    """Every caption and facet as a sequence of its own, read off the hidden states that transformers reports."""
    starts = facet_starts([len(facet) for facet in FACETS], positions)
    rows = []
    for prefix in PREFIXES:
        for facet, start in zip(FACETS, starts, strict=True):
            places = [*range(len(prefix)), *range(len(prefix) + start, len(prefix) + start + len(facet))]
            ids, there = torch.tensor([prefix + facet]), torch.ones(1, len(places), dtype=torch.int64)
            out = model(ids, attention_mask=there, position_ids=torch.tensor([places]), output_hidden_states=True)
            rows.append(out.hidden_states[2][0, -1])
    return torch.stack(rows).unflatten(0, (len(PREFIXES), len(FACETS)))


@MANY
@BOTH
def test_every_strategy_equals_one_sequence_per_caption_and_facet(model, strategy, positions):
    pooled = STRATEGIES[strategy](Decoder(model, -2), PREFIXES, FACETS, positions)
    assert pooled.dtype == torch.float64 and pooled.shape == (3, 3, 32)
    torch.testing.assert_close(pooled, slowly(model, positions), rtol=0, atol=EXACT)


@MANY
def test_another_token_in_one_facet_changes_that_facet_only(model, strategy):
    forward, decoder = STRATEGIES[strategy], Decoder(model, -2)
    before = forward(decoder, PREFIXES, FACETS, "reset")
    after = forward(decoder, PREFIXES, [FACETS[0], [13, 2], FACETS[2]], "reset")
    change = (before - after).abs().amax(dim=(0, 2))
    assert change[0] == change[2] == 0
    assert change[1] > 1e-3


@MANY
def test_facets_come_in_the_order_asked_for_where_each_starts_at_the_prefix(model, strategy):
    forward, decoder, order = STRATEGIES[strategy], Decoder(model, -2), [2, 0, 1]
    plain = forward(decoder, PREFIXES, FACETS, "reset")
    torch.testing.assert_close(
        forward(decoder, PREFIXES, [FACETS[f] for f in order], "reset"), plain[:, order], rtol=0, atol=EXACT
    )


@MANY
def test_contiguous_positions_move_every_facet_but_the_first(model, strategy):
    forward, decoder = STRATEGIES[strategy], Decoder(model, -2)
    change = forward(decoder, PREFIXES, FACETS, "reset") - forward(decoder, PREFIXES, FACETS, "contiguous")
    change = change.abs().amax(dim=(0, 2))
    assert change[0] <= EXACT
    assert min(change[1:]) > 1e-3


@MANY
@BOTH
def test_longer_batch_mates_change_nothing(model, strategy, positions):
    forward, decoder = STRATEGIES[strategy], Decoder(model, -2)
    alone = forward(decoder, PREFIXES[:1], FACETS, positions)
    together = forward(decoder, [*PREFIXES, [5, 6, 7] * 40], FACETS, positions)
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=EXACT)


def test_the_cost_in_tokens_is_that_of_the_sequences():
    assert num_tokens("mask", 10, [3, 4]) == num_tokens("kv", 10, [3, 4]) == 17
    assert num_tokens("separate", 10, [3, 4]) == 27
