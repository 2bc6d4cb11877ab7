"""Names of what can be wrong in a foil: the kinds made here, and those that data bring along."""

import re
from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

from assets.errors import DataError, message

FoilKind = Literal[
    "replace_thing",
    "replace_number",
    "swap_numbers",
    "replace_colour",
    "replace_texture",
    "swap_colours",
    "swap_places",
]
KINDS: tuple[FoilKind, ...] = get_args(FoilKind)
# names of metrics that count something else
_TAKEN = re.compile(r"blind_.*|images|kinds|pairs")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def given_foils(metadata: Mapping[str, Any], key: str) -> dict[str, list[str]]:
    """Read the foils that KEY.json brings along: ``"foils": {"swap_object": "..." or ["...", "..."]}``.

    Args:
        metadata: The content of KEY.json.
        key: Of the sample, for errors.

    Returns:
        Kind -> foils of the sample's caption; empty where there are none.

    Raises:
        DataError: ``foils`` is something else, or a kind's name cannot be part of a metric's name.
    """
    value = metadata.get("foils", {})
    where = f"sample {key}: foils of KEY.json"
    if not isinstance(value, Mapping):
        raise DataError(message(where, type(value).__name__, "a mapping of kinds to texts", "mend the data set"))
    found: dict[str, list[str]] = {}
    for kind, told in cast("Mapping[Any, Any]", value).items():
        if not isinstance(kind, str) or not _NAME.fullmatch(kind) or _TAKEN.fullmatch(kind):
            wanted = "small letters, digits and _, and none of blind_*, images, kinds, pairs"
            raise DataError(message(f"{where}: name of a kind", str(kind), wanted, "rename it in the data set"))
        texts = cast("list[Any]", told) if isinstance(told, list) else [told]
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise DataError(message(f"{where}: {kind}", str(told), "a text or a list of texts", "mend the data set"))
        found[kind] = [str(text) for text in texts]
    return found
