"""What the splits of a source that the user describes must have in common."""

from collections.abc import Mapping
from typing import Protocol

from pydantic_core import PydanticCustomError


class SplitSettings(Protocol):
    """The settings of a split that others must go with."""

    @property
    def role(self) -> str:
        """What it is for."""
        ...

    @property
    def domain(self) -> str:
        """The evaluation suite it belongs to."""
        ...

    @property
    def classes(self) -> str | None:
        """The file of class names of a zero_shot split."""
        ...


def check_splits(splits: Mapping[str, SplitSettings]) -> None:
    """Refuse splits that do not go together, inside a validator of pydantic.

    Args:
        splits: Name -> settings.

    Raises:
        PydanticCustomError: There is not exactly one train split, or two splits would share a suite, or the files of
            class names differ.
    """
    if [name for name, split in splits.items() if split.role == "train"] != ["train"]:
        raise PydanticCustomError("train", "splits needs one split of role train, and its name must be 'train'")
    suites = [(split.role, split.domain) for split in splits.values()]
    if len(set(suites)) < len(suites):
        raise PydanticCustomError("suites", "two splits of one role need different domains")
    if len({split.classes for split in splits.values() if split.classes}) > 1:
        raise PydanticCustomError("classes", "all zero_shot splits must name the same file of classes")
