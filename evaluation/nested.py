"""Nested results: flat dotted names for programs, rounded numbers for stable bytes."""

from collections.abc import Mapping
from typing import Any

DECIMALS = 6


def rounded(value: Any) -> Any:
    """Round every float in a nest of mappings and sequences to ``DECIMALS`` places."""
    if isinstance(value, Mapping):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return round(value, DECIMALS) if isinstance(value, float) else value


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested mappings into one with dotted names, e.g. ``zero_shot.in_domain.top1``."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
