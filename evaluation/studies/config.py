"""One entry of the section ``studies``: which runs answer a question together.

This module stays light: it is imported wherever params.yaml is read.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from assets.config import entry, read_sections
from assets.section import Section, parse

STUDIES = Path("reports/studies")


class StudyConfig(Section):
    """What is studied; the section ``studies.NAME``."""

    kind: Literal["noise"]
    """The question: ``noise`` asks what exchanged captions do to a model."""
    title: str = Field(min_length=1)
    """Heading of the page."""
    dataset: str
    """Runs on this data set take part ..."""
    recipe: str
    """... that were trained by this recipe, at the noise of their policies."""


def load_study(params: Path, name: str) -> StudyConfig:
    """Read ``studies.<name>`` and check that its data set and recipe exist.

    Args:
        params: The file params.yaml.
        name: The entry.

    Raises:
        ConfigError: An unknown name, or a wrong value.
    """
    sections = read_sections(params)
    config = parse(StudyConfig, entry(sections, "studies", name, params), f"{params}: studies.{name}")
    entry(sections, "datasets", config.dataset, params)
    entry(sections, "recipes", config.recipe, params)
    return config
