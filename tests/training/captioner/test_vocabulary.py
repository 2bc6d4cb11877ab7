import pyarrow as pa
import torch
from open_clip.tokenizer import SimpleTokenizer

from training.captioner.vocabulary import END, PAD, START, Vocabulary, used_tokens
from training.data.tokens import CaptionTokenizer
from training.losses.caption import IGNORED

CAPTIONS = ["a red disc on blue", "two cherries and a violin!", "wow !!! a disc"]
TOKENIZER = SimpleTokenizer()


def vocabulary() -> Vocabulary:
    return Vocabulary(used_tokens(pa.array(CAPTIONS), CaptionTokenizer(16).encode))


def test_captions_survive_being_numbered_anew():
    module = vocabulary()
    ids, labels = module.number(*CaptionTokenizer(16).encode(CAPTIONS))
    assert torch.equal(ids.masked_fill(labels == IGNORED, PAD), ids)
    assert ids[:, 0].tolist() == [START] * 3 and (ids == END).sum(dim=1).tolist() == [1] * 3
    assert int(ids.max()) == len(module) - 1 < 30
    ours = module.spell(ids[:, 1:], TOKENIZER)
    assert ours == [" ".join(TOKENIZER.decode(TOKENIZER.encode(caption)).split()) for caption in CAPTIONS]


def test_only_what_follows_the_end_is_padding_though_clip_pads_with_a_real_token():
    text, cut = CaptionTokenizer(16).encode(["wow ! a disc", "a disc"])
    text[0, 2] = 0  # "!" as a piece of a word is CLIP's padding
    ids, labels = vocabulary().number(text, cut)
    assert ids[0, 2] != PAD and labels[0, 2] == ids[0, 2]
    assert (labels[1] == IGNORED).tolist() == [False] * 4 + [True] * 12


def test_the_end_of_a_caption_that_was_cut_is_no_target():
    text, cut = CaptionTokenizer(4).encode(["a red disc on blue", "a disc"])
    assert cut.tolist() == [True, False]
    ids, labels = vocabulary().number(text, cut)
    assert ids[:, 3].tolist() == [END, END]
    assert labels[:, 3].tolist() == [IGNORED, END]


def test_what_stands_behind_no_end_token_is_spelled_too():
    module = vocabulary()
    ids, _ = module.number(*CaptionTokenizer(16).encode(["a red disc on blue"]))
    assert module.spell(ids[:, 1:4], TOKENIZER) == ["a red disc"]
    assert module.spell(torch.tensor([[END, PAD]]), TOKENIZER) == [""]
