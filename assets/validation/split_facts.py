"""What the checks of the table ``splits`` look at beyond counts: what the source listed, and languages."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from assets.validation.config import ValidationConfig
from assets.validation.language import declared_share


def add_facts(
    splits: pd.DataFrame, dataset: Mapping[str, Any], profile: Mapping[str, Any], config: ValidationConfig
) -> pd.DataFrame:
    """Return the table ``splits`` with more columns.

    ``listed`` is what the source promised before a sample was read; ingest leaves out what it cannot read, so
    ``found`` may be less and never more, and ``left_out_share`` is the difference. Captions of a zero-shot split are
    names of classes, too short to tell their language, so its ``language_share`` is 1.

    Args:
        splits: What ``assets.validation.decisions.split_table`` made.
        dataset: The content of dataset.json.
        profile: The content of profile.json.
        config: For the limits.
    """
    declared: Mapping[str, Mapping[str, Any]] = dataset["splits"]
    languages: list[str] = dataset["languages"]
    # a split that dataset.json does not know fails a check of its own
    listed = [int(declared.get(name, {}).get("listed", 0)) for name in splits["split"]]
    shares = [
        1.0 if role == "zero_shot" else declared_share(_languages_of(profile, name), languages)
        for name, role in zip(splits["split"], splits["role"], strict=True)
    ]
    left_out = [1 - found / most if most else 0.0 for found, most in zip(splits["found"], listed, strict=True)]
    return splits.assign(
        listed=listed,
        left_out_share=[max(share, 0.0) for share in left_out],
        warn_left_out=config.limits.warn_left_out,
        language_share=shares,
        min_language_share=config.language.min_share,
    )


def _languages_of(profile: Mapping[str, Any], split: str) -> Counter[str]:
    # a declared split without samples is not in the profile, and fails a check of its own
    return Counter(profile["splits"].get(split, {}).get("languages", {}))
