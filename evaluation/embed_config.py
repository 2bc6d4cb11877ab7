"""One entry of the section ``embeddings``: a model that embeds and scores a data set's pairs, once for all who ask.

This module stays light: it is imported wherever params.yaml is read.
"""

from pathlib import Path

from assets.config import entry, read_sections
from assets.section import parse
from training.checkpoint_config import NO_RUN, ModelChoice

EMBEDDINGS = Path("data/embeddings")


class EmbeddingsConfig(ModelChoice):
    """Who embeds which pairs; the section ``embeddings.NAME``."""

    dataset: str
    """The data set whose accepted training pairs are embedded."""


def load_embeddings(params: Path, name: str) -> EmbeddingsConfig:
    """Read ``embeddings.<name>`` and check that its data set and run exist.

    Args:
        params: The file params.yaml.
        name: The entry.

    Raises:
        ConfigError: An unknown name, or a wrong value.
    """
    sections = read_sections(params)
    config = parse(EmbeddingsConfig, entry(sections, "embeddings", name, params), f"{params}: embeddings.{name}")
    entry(sections, "datasets", config.dataset, params)
    if config.run != NO_RUN:
        entry(sections, "runs", config.run, params)
    return config
