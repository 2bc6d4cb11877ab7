import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

from assets.errors import ConfigError
from assets.language.decoder import Decoder
from assets.language.facet_forward import STRATEGIES
from tests.assets.language.toy_llama import toy_model

IDS = torch.tensor([[3, 4, 5, 6]])
THERE, AT = torch.ones_like(IDS), torch.arange(4)[None]


@pytest.fixture(scope="module")
def model():
    return toy_model(torch.float64)


@torch.no_grad()
def test_layers_count_from_either_end_and_the_last_is_read_before_the_final_norm(model):
    hidden = model(IDS, attention_mask=THERE, output_hidden_states=True).hidden_states
    for layer, same in ((1, -3), (2, -2), (3, -1)):
        read = Decoder(model, layer)(IDS, THERE, AT)
        assert torch.equal(read, Decoder(model, same)(IDS, THERE, AT))
        if layer < 3:
            assert torch.equal(read, hidden[layer])
        else:
            assert (read - hidden[3]).abs().max() > 0.1
            assert torch.equal(model.model.norm(read), hidden[3])


@torch.no_grad()
def test_later_layers_and_the_output_head_do_not_run(model):
    ran = []
    parts = [*model.model.layers, model.model.norm, model.lm_head]
    hooks = [part.register_forward_hook(lambda *_, n=n: ran.append(n)) for n, part in enumerate(parts)]
    Decoder(model, 1)(IDS, THERE, AT)
    for hook in hooks:
        hook.remove()
    assert ran == [0]


@torch.no_grad()
def test_the_model_is_left_as_it_was_even_after_an_error(model):
    def hooks():
        return [len(module._forward_hooks) for module in model.modules()]  # transformers keeps some of its own

    decoder, before = Decoder(model, -2), hooks()
    with pytest.raises(IndexError):
        decoder(IDS + 10_000, THERE, AT)
    decoder(IDS, THERE, AT)
    assert hooks() == before
    assert model(IDS).logits.shape == (1, 4, model.config.vocab_size)


@pytest.mark.parametrize("layer", [0, 4, -4, (1, 9)])
def test_a_layer_that_is_not_there_is_refused(model, layer):
    with pytest.raises(
        ConfigError, match=r"layer of the language model that is read, got .*, wanted 1 to 3, or -3 to -1"
    ):
        Decoder(model, layer)


def test_no_layer_at_all_is_refused(model):
    with pytest.raises(ConfigError, match="layers to read, got 'none'"):
        Decoder(model, ())


def test_a_model_without_free_positions_is_refused():
    config = BloomConfig(vocab_size=32, hidden_size=16, n_layer=2, n_head=2)
    with pytest.raises(ConfigError, match="BloomForCausalLM takes no position ids"):
        Decoder(BloomForCausalLM(config), -1)


def test_a_model_with_layers_that_ignore_masks_is_refused():
    model = toy_model()
    model.config.layer_types = ["full_attention", "linear_attention", "full_attention"]
    with pytest.raises(ConfigError, match="no attention mask reaches, got 'linear_attention'"):
        Decoder(model, -1)


def gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=32, n_layer=3, n_head=4, initializer_range=0.3))


def qwen2() -> Qwen2ForCausalLM:
    sizes = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
    return Qwen2ForCausalLM(Qwen2Config(**sizes, **heads))


@pytest.mark.parametrize("family", [gpt2, qwen2])
@pytest.mark.parametrize(("attention", "near"), [("sdpa", 1e-10), ("eager", 1e-4)])  # eager has its softmax in float32
@torch.no_grad()
def test_other_families_and_kinds_of_attention_give_the_same_by_every_strategy(family, attention, near):
    other = family().double().eval()
    other.set_attn_implementation(attention)
    decoder, prefixes, facets = Decoder(other, -2), [[3, 4, 5], [6]], [[7, 2], [8, 9, 2]]
    mask, kv, separate = (forward(decoder, prefixes, facets, "reset") for forward in STRATEGIES.values())
    assert (separate[:, 0] - separate[:, 1]).abs().max() > 0.1
    torch.testing.assert_close(mask, separate, rtol=0, atol=near)
    torch.testing.assert_close(kv, separate, rtol=0, atol=near)


def test_the_shortest_reach_of_attention_counts():
    assert Decoder(toy_model(), -2).max_positions == 2048
    assert Decoder(toy_model(sliding_window=128), -2).max_positions == 128
