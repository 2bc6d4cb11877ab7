"""The field ``evaluation.external`` of params.yaml: which sets from elsewhere a model is scored on."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from assets.section import Section

EXTERNAL = Path("data/external")
"""Where the sets lie, one folder each."""
PROVIDED = frozenset({"images", "pooled", "captions", "caption_sets"})
"""What can be extracted from such a set, in the words of ``Evaluator.needs``."""
ExternalName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
"""Name of a set, its folder and the suite of its scores."""


class ExternalConfig(Section):
    """One set, ``data/external/NAME``."""

    split: str = Field(default="test", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    """Folder of the shards within the set."""
    evaluators: tuple[str, ...] = Field(min_length=1)
    """Evaluators that run on it, with their settings from ``evaluation.evaluators``."""
    texts: Literal["caption", "long"] = "caption"
    """Whether captions are ordinary ones or descriptions of several sentences, for text sides that tell them apart."""
    max_unreadable: float = Field(default=0.01, ge=0, lt=1)
    """Share of pictures that may be left out because they cannot be decoded."""
