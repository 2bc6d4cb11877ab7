import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.tokenizer import SimpleTokenizer
from torch import nn

from training.models.text_pass import accepts_short_text, encode_text, trim_text

CONTEXT, START, END = 24, 49406, 49407
VISION = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 16, "image_size": 32}
TEXT = {"context_length": CONTEXT, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
EXACT = {
    "argmax": {},
    "eos": {"pool_type": "eos", "eos_id": END},
    "missing eos": {"pool_type": "eos", "eos_id": 2},
    "no projection": {"proj_type": "none"},
    "projection with bias": {"proj_bias": True},
    "layer scale": {"ls_init_value": 0.5},
    "normed queries": {"qk_norm": True},
}
UNSAFE = {
    "sees the future": {"no_causal_mask": True},
    "pools the last column": {"pool_type": "last"},
    "pools the first column": {"pool_type": "first"},
    "pools the padding": {"pool_type": "eos", "eos_id": 0},
}


def build(text=None, cls=CLIP, dtype=torch.float64, **options):
    torch.manual_seed(0)
    embed_dim = 16 if (text or {}).get("proj_type") == "none" else 12
    model = cls(embed_dim=embed_dim, vision_cfg=VISION, text_cfg=TEXT | (text or {}), **options).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():  # biases start at zero and scales at one, which would hide mistakes
            parameter.add_(torch.randn(parameter.shape, dtype=torch.float64).to(parameter) * 0.05)
    return model


def captions(lengths, context=CONTEXT):
    """Token ids of captions with so many words: start, words, end, padding."""
    random = torch.Generator().manual_seed(1)
    text = torch.zeros(len(lengths), context, dtype=torch.int64)
    for row, words in zip(text, lengths, strict=True):
        row[0], row[words + 1] = START, END
        row[1 : words + 1] = torch.randint(1, 49000, (words,), generator=random)
    return text


def gradients(model, features):
    model.zero_grad()
    features.square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("cls", [CLIP, CustomTextCLIP])
@pytest.mark.parametrize("text_config", EXACT.values(), ids=EXACT)
def test_whole_text_gives_open_clips_features_bit_for_bit(cls, text_config):
    model, text = build(text_config, cls, torch.float32), captions([3, 10, 22])
    assert torch.equal(encode_text(model, text), model.encode_text(text))


@pytest.mark.parametrize("cls", [CLIP, CustomTextCLIP])
@pytest.mark.parametrize("text_config", EXACT.values(), ids=EXACT)
def test_trimmed_text_gives_the_features_and_gradients_of_whole_text(cls, text_config):
    model, text = build(text_config, cls), captions([3, 10, 1, 5])
    assert accepts_short_text(model)
    short = trim_text(text)
    assert short.shape == (4, 16)
    whole = model.encode_text(text)
    trimmed = encode_text(model, short)
    torch.testing.assert_close(trimmed, whole, rtol=1e-12, atol=1e-12)
    expected, got = gradients(model, whole), gradients(model, encode_text(model, short))
    assert got.keys() == expected.keys() and len(got) > 10
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-10, atol=1e-12, msg=name)


def test_a_sigmoid_models_bias_is_no_hindrance():
    model = build(init_logit_bias=-10.0)
    text = captions([4, 6])
    torch.testing.assert_close(encode_text(model, trim_text(text)), model.encode_text(text), rtol=1e-12, atol=1e-12)


def test_what_stands_behind_the_end_token_has_no_influence():
    model, text = build(), captions([3, 5])
    other = text.clone()
    other[0, 5:], other[1, 7:] = 17, 333
    short, other_short = text[:, :16], other[:, :16]
    assert torch.equal(encode_text(model, short), encode_text(model, other_short))
    torch.testing.assert_close(encode_text(model, short), model.encode_text(other), rtol=1e-12, atol=1e-12)


def test_a_caption_does_not_depend_on_the_lengths_of_its_batch():
    model, text = build(), captions([3, 20])
    alone, together = encode_text(model, trim_text(text[:1])), encode_text(model, trim_text(text))
    torch.testing.assert_close(alone[0], together[0], rtol=1e-12, atol=1e-12)


def test_the_blocks_run_on_the_short_text_only():
    model, seen = build(), []
    model.transformer.resblocks[-1].register_forward_hook(lambda _block, _inputs, output: seen.append(output.shape))
    encode_text(model, trim_text(captions([3, 5])))
    assert seen == [(2, 8, 16)]


@pytest.mark.parametrize("cls", [CLIP, CustomTextCLIP])
@pytest.mark.parametrize("text_config", UNSAFE.values(), ids=UNSAFE)
def test_towers_that_could_see_padding_run_as_open_clip_runs_them(cls, text_config):
    model, text = build(text_config, cls), captions([3, 10])
    assert not accepts_short_text(model)
    assert torch.equal(encode_text(model, text), model.encode_text(text))


@pytest.mark.parametrize("text_config", [{"embed_cls": True}, {"output_tokens": True}], ids=["class token", "tokens"])
def test_a_text_tower_with_more_to_give_runs_as_open_clip_runs_it(text_config):
    model, text = build(text_config, CustomTextCLIP), captions([3, 10])
    assert not accepts_short_text(model)
    torch.testing.assert_close(encode_text(model, text), model.encode_text(text), rtol=0, atol=0)
    assert not accepts_short_text(build({"embed_cls": True}))


def test_a_model_of_another_kind_runs_as_it_is():
    class Other(nn.Module):
        def encode_text(self, text):
            return text.float() * 2

    class Overriding(CLIP):
        def encode_text(self, text, normalize=False):
            return text.float() * 3

    text = captions([3])
    other, overriding = Other(), build(cls=Overriding)
    assert not accepts_short_text(other) and not accepts_short_text(overriding)
    assert torch.equal(encode_text(other, text), text.float() * 2)
    assert torch.equal(encode_text(overriding, text), text.float() * 3)


def test_gradient_checkpointing_changes_nothing_and_happens():
    model, short = build(), trim_text(captions([3, 5]))
    plain = gradients(model, encode_text(model, short))
    runs = []
    model.transformer.resblocks[0].register_forward_pre_hook(lambda *_: runs.append(1))
    model.set_grad_checkpointing()
    again = gradients(model, encode_text(model, short))
    assert len(runs) == 2
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=0, atol=0, msg=name)


def test_autocast_is_honoured():
    model, text = build(dtype=torch.float32), captions([3, 5])
    with torch.autocast("cpu", torch.bfloat16):
        expected, got, short = model.encode_text(text), encode_text(model, text), encode_text(model, trim_text(text))
    assert got.dtype == short.dtype == expected.dtype == torch.bfloat16
    assert torch.equal(got, expected)
    torch.testing.assert_close(short, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("words", "length"), [(1, 8), (6, 8), (7, 16), (14, 16), (15, 24), (21, 24), (22, 24)])
def test_text_is_cut_to_the_next_multiple_of_eight(words, length):
    text = captions([2, words])
    short = trim_text(text)
    assert short.shape == (2, length) and torch.equal(short, text[:, :length]) and short.is_contiguous()


def test_text_never_grows_beyond_the_context():
    text = captions([75, 3], context=77)
    assert trim_text(text).shape == (2, 77)
    assert trim_text(captions([73, 3], context=77), multiple=1).shape == (2, 75)


def test_no_end_token_is_ever_cut():
    context = 77
    sentences = ["a", "!", "! ! !", "wow!!! \x00 0", "a dog " * 40, "", "two red cubes on a table"]
    for sentence in sentences:
        text = SimpleTokenizer(context_length=context)([sentence, "x"])
        short = trim_text(text)
        assert torch.equal(short.argmax(dim=1), text.argmax(dim=1))
        assert (short == END).sum() == 2 and int(text[:, short.shape[1] :].sum()) == 0


def test_ids_padded_with_another_number_are_left_whole():
    text = captions([3, 4])
    text[text == 0] = 1
    assert torch.equal(trim_text(text), text)
    assert trim_text(torch.zeros(2, 24, dtype=torch.int64)).shape == (2, 8)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "words"), [("aot_eager", [3, 9, 18]), ("inductor", [9])])
def test_it_compiles_without_a_break_for_more_than_one_length(backend, words):
    torch.compiler.reset()
    model = build({"layers": 1}, dtype=torch.float32)
    compiled = torch.compile(encode_text, backend=backend, fullgraph=True)
    for longest in words:
        text = captions([2, longest])
        expected, got = model.encode_text(text), compiled(model, trim_text(text))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        slow, fast = gradients(model, expected), gradients(model, got)
        for name, gradient in slow.items():
            torch.testing.assert_close(fast[name], gradient, rtol=1e-3, atol=1e-4, msg=name)
