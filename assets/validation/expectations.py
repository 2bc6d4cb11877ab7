"""What Great Expectations checks, as plain data: nothing here imports it, because that takes seconds.

Two tables are checked. ``samples`` is the index, one row per sample, in parts when it is long. ``splits`` has one row
per split with what was found, counted and decided; rules that need all rows at once are counted there.
"""

from dataclasses import dataclass
from typing import Any, Literal

from assets.index import TABLE_COLUMNS
from assets.shards import IMAGE_EXTENSIONS

Severity = Literal["error", "warning"]
_HASH = "^[0-9a-f]{16}$"


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation.

    Attributes:
        name: Name in checks.json.
        description: One sentence saying what holds when it passes.
        kind: Class name in ``great_expectations.expectations``.
        arguments: Its arguments.
        severity: An error fails the stage.
        shown: For the table ``splits``: the column whose value per split is reported.
    """

    name: str
    description: str
    kind: str
    arguments: dict[str, Any]
    severity: Severity = "error"
    shown: str = ""


def _present(column: str) -> Check:
    description = f"Every sample has a value for {column}"
    return Check(f"{column}_present", description, "ExpectColumnValuesToNotBeNull", {"column": column})


def _matches(column: str, pattern: str, what: str) -> Check:
    return Check(f"{column}_form", what, "ExpectColumnValuesToMatchRegex", {"column": column, "regex": pattern})


def _between(column: str, low: int, high: int | None, what: str) -> Check:
    arguments = {"column": column, "min_value": low, "max_value": high}
    return Check(f"{column}_range", what, "ExpectColumnValuesToBeBetween", arguments)


def _above(large: str, small: str, what: str) -> Check:
    arguments = {"column_A": large, "column_B": small, "or_equal": True}
    return Check(f"{large}_covers_{small}", what, "ExpectColumnPairValuesAToBeGreaterThanB", arguments)


def sample_checks(splits: list[str]) -> list[Check]:
    """Return the checks of the table ``samples``.

    Args:
        splits: The splits that dataset.json declares.
    """
    return [
        Check(
            "columns",
            "The index has the documented columns in the documented order",
            "ExpectTableColumnsToMatchOrderedList",
            {"column_list": TABLE_COLUMNS},
        ),
        *(_present(column) for column in ("key", "split", "shard", "caption", "image_hash")),
        _matches("key", r"^[^./\s]+$", "Keys hold no dot, slash or space, so that they can name tar members"),
        _matches("shard", r"^[^/]+/\d{5,}\.tar$", "Shards are named SPLIT/NUMBER.tar"),
        _matches("image_hash", _HASH, "Image hashes have 16 hex digits"),
        _matches("caption_hash", _HASH, "Caption hashes have 16 hex digits"),
        Check(
            "split_known",
            "Every split is declared in dataset.json",
            "ExpectColumnValuesToBeInSet",
            {"column": "split", "value_set": splits},
        ),
        Check(
            "extension_known",
            "Pictures are of the supported kinds",
            "ExpectColumnValuesToBeInSet",
            {"column": "extension", "value_set": list(IMAGE_EXTENSIONS)},
        ),
        _between("offset", 0, None, "Offsets are not negative"),
        # what one sample can get wrong is a reason to reject that sample, not the data set
        _between("image_size", 0, None, "Picture files have a length, 0 where there is none"),
        _between("width", 0, None, "Widths are pixels, 0 where a picture cannot be decoded"),
        _between("height", 0, None, "Heights are pixels, 0 where a picture cannot be decoded"),
        _between("caption_words", 0, None, "Numbers of words are not negative"),
        _above("image_offset", "offset", "Pictures lie inside their sample"),
        _above("metadata_offset", "image_offset", "Metadata stand behind the picture"),
        _above("size", "image_size", "Samples are longer than their picture"),
        _above("caption_chars", "caption_words", "Captions have at least as many characters as words"),
    ]


def split_checks() -> list[Check]:
    """Return the checks of the table ``splits``, whose columns :func:`assets.validation.run.split_table` makes."""
    equal, greater = "ExpectColumnPairValuesToBeEqual", "ExpectColumnPairValuesAToBeGreaterThanB"
    return [
        Check(
            "rows_as_declared",
            "The index has as many rows per split as dataset.json declares",
            equal,
            {"column_A": "found", "column_B": "declared"},
            shown="found",
        ),
        Check(
            "keys_unique",
            "No key occurs twice",
            "ExpectColumnValuesToBeInSet",
            {"column": "repeated_keys", "value_set": [0]},
            shown="repeated_keys",
        ),
        Check(
            "all_accounted_for",
            "Accepted and rejected samples add up to the samples found",
            equal,
            {"column_A": "accounted", "column_B": "found"},
            shown="accounted",
        ),
        Check(
            "some_accepted",
            "Every split keeps at least one sample",
            "ExpectColumnValuesToBeBetween",
            {"column": "accepted", "min_value": 1},
            shown="accepted",
        ),
        Check(
            "rejected_share",
            "The share of rejected samples stays within the limit (max_rejected_train, max_rejected_evaluation)",
            greater,
            {"column_A": "max_rejected_share", "column_B": "rejected_share", "or_equal": True},
            shown="rejected_share",
        ),
        Check(
            "rejected_share_usual",
            "The share of rejected training samples stays in the usual range (warn_rejected_train)",
            greater,
            {"column_A": "warn_rejected_share", "column_B": "rejected_share", "or_equal": True},
            severity="warning",
            shown="rejected_share",
        ),
    ]
