"""What the member KEY.json of a sample says; data of others may have anything there."""

import json
from collections.abc import Mapping
from typing import Any


def parse_metadata(content: bytes) -> dict[str, Any]:
    """Return the top level of a KEY.json; empty where it is missing, damaged or no mapping."""
    try:
        value = json.loads(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def further_captions(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return name -> caption of what stands under ``captions``; empty where that is no mapping."""
    captions = metadata.get("captions")
    return captions if isinstance(captions, dict) else {}
