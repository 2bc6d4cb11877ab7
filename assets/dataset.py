"""One entry of the section ``datasets``: where a data set comes from, how it is cut, what it must satisfy."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from assets.config import entry, read_sections
from assets.section import Section, parse
from assets.sources.emoji_scenes.config import EmojiScenesConfig
from assets.sources.folder.config import FolderConfig
from assets.sources.huggingface.config import HuggingFaceConfig
from assets.sources.url_table.config import UrlTableConfig
from assets.sources.webdataset.config import WebDatasetConfig
from assets.validation.config import ValidationConfig


class DatasetConfig(Section):
    """A data set."""

    source: Annotated[
        EmojiScenesConfig | FolderConfig | HuggingFaceConfig | UrlTableConfig | WebDatasetConfig,
        Field(discriminator="kind"),
    ]
    """Where the samples come from."""
    samples_per_shard: int = Field(ge=1, le=1_000_000)
    """Samples per tar file, and the unit of parallel work and of resuming."""
    validation: ValidationConfig
    """What the validation stage demands."""


def load_dataset(params: Path, name: str) -> DatasetConfig:
    """Read ``datasets.<name>``.

    Args:
        params: The file params.yaml.
        name: Name of the data set.

    Raises:
        ConfigError: The name is unknown or a value is wrong.
    """
    data = entry(read_sections(params), "datasets", name, params)
    return parse(DatasetConfig, data, f"{params}: datasets.{name}")
