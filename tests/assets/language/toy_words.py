"""The toy Llama with a tokenizer that knows some words whole, with and without the mark of a word's start."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests.assets.language.toy_llama import BEGIN, END, LETTERS, toy_model

MARK = "\u0120"
WORDS = ("red", "green", "apple", "lorry", "bridge", "dogs", "truck", "on")


def word_tokenizer(words: tuple[str, ...] = WORDS, mark: bool = True) -> PreTrainedTokenizerFast:
    """Merge each word letter by letter, first behind a space, then without, so that beginnings are pieces too."""
    pieces, merges = {piece: None for piece in (BEGIN, END, *LETTERS)}, []
    for start in (MARK, "") if mark else ("",):
        for word in words:
            letters = [*start, *word]
            for length in range(1, len(letters)):
                whole = "".join(letters[: length + 1])
                if whole not in pieces:
                    pieces[whole] = None
                    merges.append(("".join(letters[:length]), letters[length]))
    inner = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=BEGIN, eos_token=END)


def save_words_folder(folder: Path) -> LlamaForCausalLM:
    """Save model and tokenizer as a folder."""
    tokenizer = word_tokenizer()
    model = toy_model(vocab_size=len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model
