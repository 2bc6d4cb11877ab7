"""Several captions of one picture, as KEY.json lists them."""

from collections.abc import Mapping, Sequence
from typing import Any

LIST, CAPTIONS = "captions_list", "captions"


def caption_list(metadata: Mapping[str, Any]) -> list[str]:
    """Return the captions that KEY.json lists, as ``captions_list`` or, where it is a list, as ``captions``.

    Args:
        metadata: The content of KEY.json.

    Returns:
        The captions that are not blank; empty without a list.
    """
    for name in (LIST, CAPTIONS):
        value: Any = metadata.get(name)
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [str(caption) for caption in value if str(caption).strip()]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return []
