import dataclasses
import json

import numpy as np
import pytest
import torch

from assets.errors import ConfigError, DataError
from assets.language import facet_encoder
from assets.language.caption_batches import batches
from assets.language.decoder import Decoder
from assets.language.facet_encoder import FacetEncoder
from assets.language.model_files import LoadedModel
from assets.language.prompts import prompt_set
from tests.assets.language.toy_llama import VOCABULARY, toy_model, toy_tokenizer

BRIEF = prompt_set("brief")
CAPTIONS = [
    "a red apple",
    "",
    "two dogs on a beach, one of them wet?",
    "a red apple.",
    "a red apple",
    "\U0001f34e 一只狗。 تفاحة",
]
NEAR = {"rtol": 0, "atol": 1e-5}


def encoder(loaded: LoadedModel, **changes) -> FacetEncoder:
    return FacetEncoder(loaded, BRIEF, **({"max_caption_tokens": 60} | changes))


def test_the_vectors_are_those_of_the_whole_text_run_alone(toy):
    """The oracle writes the prompt out as one string; every byte is a token here, so pieces and string agree."""
    rows = encoder(toy).encode(CAPTIONS, "long", ["overall", "atmosphere"])
    assert rows.dtype == np.float32 and rows.shape == (len(CAPTIONS), 2, 32)
    texts = [
        "a red apple.",
        "",
        "two dogs on a beach, one of them wet.",
        "a red apple.",
        "a red apple.",
        CAPTIONS[5] + ".",
    ]
    around = BRIEF.wrappers.long
    for row, text in zip(rows, texts, strict=True):
        for vector, name in zip(row, ["overall", "atmosphere"], strict=True):
            letters = around.before + text + around.after + BRIEF.choose([name])[0].text
            ids = toy.tokenizer(letters, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                hidden = toy.model(ids, output_hidden_states=True).hidden_states[2]
            np.testing.assert_allclose(vector, hidden[0, -1].numpy(), **NEAR)


def test_equal_captions_run_once_and_results_keep_the_order(toy, monkeypatch):
    ran = []

    class Watched(Decoder):
        def __call__(self, token_ids, *rest):
            ran.append(len(token_ids))
            return super().__call__(token_ids, *rest)

    monkeypatch.setattr(facet_encoder, "Decoder", Watched)
    rows = encoder(toy).encode(CAPTIONS, "short")
    assert sum(ran) == 4
    assert np.array_equal(rows[0], rows[3]) and np.array_equal(rows[0], rows[4])
    order = [4, 2, 5, 0, 1, 3]
    np.testing.assert_allclose(encoder(toy).encode([CAPTIONS[n] for n in order], "short"), rows[order], **NEAR)


@pytest.mark.parametrize("strategy", ["mask", "kv", "separate"])
def test_the_size_of_batches_and_the_strategy_change_nothing(toy, strategy):
    wanted = encoder(toy).encode(CAPTIONS, "short")
    for budget in (1, 300, 100_000, None):
        rows = encoder(toy, strategy=strategy, tokens_per_batch=budget).encode(CAPTIONS, "short")
        np.testing.assert_allclose(rows, wanted, **NEAR)


def test_batches_keep_to_the_budget_and_join_captions_of_like_length():
    assert list(batches([40, 5, 6, 200, 41, 7], 10, 100)) == [[1, 2, 5], [0], [4], [3]]
    assert list(batches([], 10, 100)) == []


def test_the_first_facet_alone_equals_the_first_of_all(toy):
    one = encoder(toy)
    np.testing.assert_allclose(
        one.encode(CAPTIONS, "short", ["overall"])[:, 0], one.encode(CAPTIONS, "short")[:, 0], **NEAR
    )


def test_no_caption_makes_no_row(toy):
    assert encoder(toy).encode([], "short").shape == (0, 7, 32)


def test_only_the_caption_is_cut_and_each_cut_is_counted(toy):
    one = encoder(toy)
    long, other = "x" * 60 + "left out", "x" * 60 + "also left out"
    rows = one.encode([long, other, long, "short"], "short")
    assert one.num_cut == 3
    np.testing.assert_allclose(rows[0], rows[1], **NEAR)
    whole = encoder(toy, max_caption_tokens=200).encode([long], "short")[0]
    assert np.abs(whole - rows[0]).max() > 1e-3
    assert one.tokens([long], "short")[0] == one.tokens(["x" * 59], "short")[0]


def test_a_caption_that_spells_a_control_token_means_its_letters(toy):
    counts = encoder(toy).tokens(["<|end|>", "<xendx>"], "short")
    assert counts[0] == counts[1]


@pytest.mark.parametrize(("strategy", "prefixes"), [("mask", 1), ("kv", 1), ("separate", 7)])
def test_tokens_are_counted_as_they_run(toy, strategy, prefixes):
    around, caption = BRIEF.wrappers.short, "ein Hund."
    prefix = len(around.before + caption + around.after)
    facets = sum(len(facet.text) for facet in BRIEF.facets)
    merged = sum(facet.text.count(" a") for facet in BRIEF.facets)
    assert merged == 0
    one = encoder(toy, strategy=strategy)
    assert one.tokens([caption, "ein Hund"], "short").tolist() == [prefixes * prefix + facets] * 2


def test_a_begin_token_leads_where_the_tokenizer_uses_one(toy):
    from tokenizers.processors import TemplateProcessing

    tokenizer = toy_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
    )
    begun = encoder(dataclasses.replace(toy, tokenizer=tokenizer))
    assert begun.tokens(["a"], "short")[0] == encoder(toy).tokens(["a"], "short")[0] + 1
    assert begun._tokens.prefixes(["a"], "short")[0][0][0] == 0


def test_a_model_that_overflows_is_named_with_the_caption(toy):
    model = toy_model(torch.float32)
    ids = toy_tokenizer()("Z")["input_ids"]
    with torch.no_grad():
        model.model.embed_tokens.weight[ids[0]] = float("nan")
    broken = LoadedModel("toy", "", model, toy_tokenizer())
    assert encoder(broken).encode(["fine"], "short").shape == (1, 7, 32)
    with pytest.raises(
        DataError, match=r"toy in torch.float32 has no finite answer to 1 captions, such as 'a Z\.'; use"
    ):
        encoder(broken).encode(["fine", "a Z"], "short")


def test_a_limit_beyond_the_model_s_positions_is_refused():
    short = LoadedModel("toy", "", toy_model(max_position_embeddings=300), toy_tokenizer())
    with pytest.raises(ConfigError, match=r"toy attends to 300 tokens: .* got 250, wanted at most (\d+)") as caught:
        encoder(short, max_caption_tokens=250)
    most = int(str(caught.value).rpartition(" ")[2])
    encoder(short, max_caption_tokens=most)
    with pytest.raises(ConfigError):
        encoder(short, max_caption_tokens=most + 1)


def test_an_unknown_facet_is_refused(toy):
    with pytest.raises(ConfigError, match="unknown facet 'mood'"):
        encoder(toy).encode(["a"], "short", ["mood"])


def test_the_facts_name_all_that_the_vectors_depend_on(toy):
    facts = encoder(toy).facts
    assert json.loads(json.dumps(facts)) == facts
    others = [
        encoder(toy, layer=-1),
        encoder(toy, positions="contiguous"),
        encoder(toy, max_caption_tokens=61),
        FacetEncoder(toy, prompt_set("full")),
        encoder(dataclasses.replace(toy, digest="1" * 16)),
        encoder(dataclasses.replace(toy, model=toy_model())),
    ]
    assert all(other.facts != facts for other in others)
    assert encoder(toy, layer=2).facts == encoder(toy, layer=-2).facts == facts


def test_no_gradient_and_no_training_touches_the_model(toy):
    assert len(VOCABULARY) == toy.model.config.vocab_size
    before = [weight.clone() for weight in toy.model.parameters()]
    encoder(toy).encode(CAPTIONS, "short")
    assert all(torch.equal(old, new) for old, new in zip(before, toy.model.parameters(), strict=True))
