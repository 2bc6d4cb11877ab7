"""What the frozen language model is asked for the important words of a caption (LexVLA), in our own words.

One solved example, then the question; the hidden state that predicts the next token is the embedding. With the prompt
``list`` that token is a word behind a space, with ``quoted`` one behind an opening quote, as in the paper. Tokenizers
spell the two apart, so the prompt also says which pieces are words. This module stays light: it is imported wherever
params.yaml is read.
"""

from pydantic import Field, field_validator

from assets.errors import message
from assets.language.prompts import Facet, PromptSet, Wrapper, Wrappers
from assets.manifest import value_digest
from assets.section import Section

WORDS = "words"
"""Name of the slot that a caption gets."""


class LexicalPrompt(Section):
    """The text around a caption."""

    example: str
    """A solved example, up to where the question begins; may be empty."""
    before: str = Field(min_length=1)
    """The question up to the caption."""
    after: str = Field(min_length=1)
    """The rest of the question; the answer follows its last token."""
    word_start: bool
    """Whether the answer is a word behind a space, or one that joins the last character."""

    @field_validator("after")
    @classmethod
    def _ends_before_the_space(cls, after: str) -> str:
        if after != after.rstrip():
            # the space belongs to the word's own token, and a model that has seen it does not answer with a word
            raise ValueError(message("a prompt ends in white space", after, "none, since words bring their own"))
        return after

    @property
    def digest(self) -> str:
        """16 hex digits that change with any word of it."""
        return value_digest(self.model_dump())

    @property
    def prompt_set(self) -> PromptSet:
        """The same prompt for :class:`~assets.language.prompt_tokens.PromptTokens`: one wrapper and one facet."""
        around = Wrapper(before=self.example + self.before, after="")
        return PromptSet(wrappers=Wrappers(short=around, long=around), facets=(Facet(name=WORDS, text=self.after),))


_EXAMPLE = "The man is riding a white horse."
_LIST_BEFORE, _LIST_AFTER = 'In the caption "', '" the important words are:'
_QUOTED_BEFORE, _QUOTED_AFTER = 'In the caption "', '" these words are important: "'

LEXICAL_PROMPTS: dict[str, LexicalPrompt] = {
    "list": LexicalPrompt(
        example=f"{_LIST_BEFORE}{_EXAMPLE}{_LIST_AFTER} man, riding, white, horse.\n",
        before=_LIST_BEFORE,
        after=_LIST_AFTER,
        word_start=True,
    ),
    "quoted": LexicalPrompt(
        example=f'{_QUOTED_BEFORE}{_EXAMPLE}{_QUOTED_AFTER}man", "riding", "white", "horse".\n',
        before=_QUOTED_BEFORE,
        after=_QUOTED_AFTER,
        word_start=False,
    ),
}
"""Prompts by name: "list" asks for words between commas, "quoted" for words in quotes."""
