"""Find the language model that made a model's text rows, for a text side that is trained."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from assets.errors import ConfigError, DataError, message
from assets.features.config import LexicalFeatures, parse_features
from training.models.lora_text import PromptModel

# facts that differ between machines or folders and move states by rounding at most
_MAY_DIFFER = ("model", "dtype", "transformers")


def load_prompt_model(made_by: Mapping[str, Any]) -> PromptModel:
    """Load the model of the run's features, with the prompt they were made with; draws nothing.

    Args:
        made_by: Config of the stage ``features``: its entry of params.yaml, and the facts of its encoder.

    Raises:
        ConfigError: The features are of another kind, or the model is not there.
        DataError: What is there is not the model that made the features.
    """
    # transformers takes seconds to import, and few runs train a language model
    from assets.features.encoders import LANGUAGE_MODELS
    from assets.language.lexical_encoder import LexicalEncoder
    from assets.language.model_files import load_language_model

    config = _entry(made_by)
    with torch.random.fork_rng(devices=[]):
        loaded = load_language_model(config.model, Path(LANGUAGE_MODELS), torch.device("cpu"), config.compute)
    encoder = LexicalEncoder(loaded, config.lexical_prompt, config.max_caption_tokens)  # refuses unfit models
    wanted, found = (_fixed(facts) for facts in (made_by.get("encoder") or {}, encoder.facts))
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            what = f"{loaded.name} is not the language model that made the features ({name} differs)"
            fix = "put that model back, or make the features and the model anew"
            raise DataError(message(what, found.get(name), wanted.get(name), fix))
    accepted = inspect.signature(loaded.model.base_model.forward).parameters
    return PromptModel(
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        prompt=config.lexical_prompt,
        max_caption_tokens=config.max_caption_tokens,
        cache_name="cache" if "cache" in accepted else "past_key_values",
    )


def _entry(made_by: Mapping[str, Any]) -> LexicalFeatures:
    config = parse_features(made_by.get("entry"), "the features of a recipe with towers.text.lora")
    if not isinstance(config, LexicalFeatures):
        fix = "name an entry of kind lexical in the run's features, or leave towers.text.lora out"
        raise ConfigError(message("towers.text.lora wants features of a language model that names words", fix=fix))
    return config


def _fixed(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name not in _MAY_DIFFER}
