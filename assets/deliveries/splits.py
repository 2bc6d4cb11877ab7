"""Which splits of params.yaml take deliveries, and under which prefix of the store's bucket."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from assets.deliveries.names import prefix_fault
from assets.errors import ConfigError, message


def delivery_splits(datasets: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Find the splits that take deliveries.

    Args:
        datasets: The section ``datasets`` as plain data.

    Returns:
        (data set, split, prefix) in the order of the file.

    Raises:
        ConfigError: A prefix is malformed, or two splits share one, or one lies in another, so that a batch would
            belong to both.
    """
    found: list[tuple[str, str, str]] = []
    for dataset, section in datasets.items():
        source = section.get("source") if isinstance(section, Mapping) else None
        splits = source.get("splits") if isinstance(source, Mapping) else None
        for split, settings in splits.items() if isinstance(splits, Mapping) else ():
            prefix = settings.get("deliveries") if isinstance(settings, Mapping) else None
            if prefix is None:
                continue
            fault = prefix_fault(prefix) if isinstance(prefix, str) else "wanted text"
            if fault is not None:
                raise ConfigError(f"datasets.{dataset}.source.splits.{split}.deliveries: {fault}, got {prefix!r}")
            found.append((dataset, split, prefix))
    for (dataset, split, prefix), (other, other_split, other_prefix) in combinations(found, 2):
        if prefix.startswith(other_prefix) or other_prefix.startswith(prefix):
            raise ConfigError(
                message(
                    f"datasets: deliveries of {dataset}.{split} ({prefix}) and {other}.{other_split} ({other_prefix}) "
                    "would take each other's batches",
                    fix="give each split a prefix of its own that does not begin with another's",
                )
            )
    return found
