"""One entry of the section ``indexes``: the pictures of a data set, to be found by the words that a model sees in them.

This module stays light: it is imported wherever params.yaml is read.
"""

from pathlib import Path

from pydantic import Field, field_validator

from assets.config import entry, read_sections
from assets.section import Section, parse
from evaluation.words.cut import CutConfig

INDEXES = Path("indexes")


class IndexConfig(Section):
    """Which pictures are indexed, and how; the section ``indexes.NAME``."""

    run: str
    """The run whose exported model sees words, one whose recipe has ``towers.head`` of kind lexical."""
    dataset: str
    """The data set whose accepted pictures are indexed."""
    splits: tuple[str, ...] = Field(min_length=1)
    """Its splits, in the order in which their pictures are numbered."""
    cut: CutConfig = CutConfig()
    """Which words of a picture and of a query are kept."""
    batch_size: int = Field(default=256, ge=1, le=65_536)
    """Pictures per forward pass."""

    @field_validator("splits")
    @classmethod
    def _each_once(cls, splits: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(splits)) < len(splits):
            raise ValueError("a split is named twice; name each once")
        return splits


def load_index_config(params: Path, name: str) -> IndexConfig:
    """Read ``indexes.<name>`` and check that its data set and run exist.

    Args:
        params: The file params.yaml.
        name: The entry.

    Raises:
        ConfigError: An unknown name, or a wrong value.
    """
    sections = read_sections(params)
    config = parse(IndexConfig, entry(sections, "indexes", name, params), f"{params}: indexes.{name}")
    entry(sections, "datasets", config.dataset, params)
    entry(sections, "runs", config.run, params)
    return config
