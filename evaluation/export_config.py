"""One entry of the section ``exports``: a model to be written as ONNX, and how its speed is measured.

This module stays light: it is imported wherever params.yaml is read.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from assets.config import entry, read_sections
from assets.section import Section, parse

EXPORTS = Path("exports")


class ExportConfig(Section):
    """What is exported; the section ``exports.NAME``."""

    run: str
    """The run whose model is exported."""
    batch_sizes: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(default=(1, 64), min_length=1)
    """Pictures or captions per pass for which the latency is measured."""
    runs: int = Field(default=30, ge=3, le=10_000)
    """Timed passes per engine, tower and batch size; slow ones get fewer."""

    @field_validator("batch_sizes")
    @classmethod
    def _each_once(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(sizes)) < len(sizes):
            raise ValueError("a batch size is named twice; name each once")
        return sizes


def load_export_config(params: Path, name: str) -> ExportConfig:
    """Read ``exports.<name>`` and check that its run exists.

    Args:
        params: The file params.yaml.
        name: The entry.

    Raises:
        ConfigError: An unknown name, or a wrong value.
    """
    sections = read_sections(params)
    config = parse(ExportConfig, entry(sections, "exports", name, params), f"{params}: exports.{name}")
    entry(sections, "runs", config.run, params)
    return config
