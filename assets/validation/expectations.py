"""What Great Expectations checks, as plain data: nothing here imports it, because that takes seconds.

Three tables are checked. ``samples`` is the index, one row per sample, in parts when it is long. ``splits`` has one row
per split with what was found, counted and decided; rules that need all rows at once are counted there. ``drift`` has
one row per distribution, share or count that was compared with the baseline.
"""

from dataclasses import dataclass
from typing import Any, Literal

from assets.index import SCHEMA
from assets.shards import IMAGE_EXTENSIONS

Severity = Literal["error", "warning"]
CHECKS = "checks.json"
DRIFT_CHECKS = ("drift", "drift_usual")
_HASH = "^[0-9a-f]{16}$"
_SHARD = r"^[^/]+/\d{5,}\.tar$|^s3://.|^(?:\.\./|/)."
_AT_LEAST = "ExpectColumnPairValuesAToBeGreaterThanB"
_DRIFT_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation.

    Attributes:
        name: Name in checks.json.
        description: One sentence saying what holds when it passes.
        kind: Class name in ``great_expectations.expectations``.
        arguments: Its arguments.
        severity: An error fails the stage.
        shown: The column whose value per row is reported, for the tables ``splits`` and ``drift``.
        most: How many rows are reported; all of them when 0.
    """

    name: str
    description: str
    kind: str
    arguments: dict[str, Any]
    severity: Severity = "error"
    shown: str = ""
    most: int = 0


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
            {"column_list": SCHEMA.names},
        ),
        *(_present(column) for column in ("key", "split", "shard", "caption", "image_hash")),
        _matches("key", r"^[^./\s]+$", "Keys hold no dot, slash or space, so that they can name tar members"),
        _matches("shard", _SHARD, "Shards are named SPLIT/NUMBER.tar, or are paths or URLs of tars elsewhere"),
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
        _between("metadata_offset", 0, None, "Metadata have a place, 0 where there are none"),
        _above("size", "image_size", "Samples are longer than their picture"),
        _above("caption_chars", "caption_words", "Captions have at least as many characters as words"),
    ]


def split_checks(language: Severity) -> list[Check]:
    """Return the checks of the table ``splits``, whose columns ``split_table`` and ``add_facts`` make.

    Args:
        language: What too few captions in a declared language are.
    """
    return [*_count_checks(), *_share_checks(language)]


def drift_checks() -> list[Check]:
    """Return the checks of the table ``drift``, which ``assets.validation.drift`` makes; an empty one passes."""
    return [
        Check(
            DRIFT_CHECKS[0],
            "No split is further from the baseline than drift.error allows",
            _AT_LEAST,
            {"column_A": "error", "column_B": "value", "or_equal": True},
            shown="value",
            most=_DRIFT_SHOWN,
        ),
        Check(
            DRIFT_CHECKS[1],
            "No split is further from the baseline than is usual (drift.warn)",
            _AT_LEAST,
            {"column_A": "warn", "column_B": "value", "or_equal": True},
            severity="warning",
            shown="value",
            most=_DRIFT_SHOWN,
        ),
    ]


def _count_checks() -> list[Check]:
    equal = "ExpectColumnPairValuesToBeEqual"
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
            "none_beyond_listed",
            "No split has more samples than its source listed",
            _AT_LEAST,
            {"column_A": "listed", "column_B": "found", "or_equal": True},
            shown="listed",
        ),
    ]


def _share_checks(language: Severity) -> list[Check]:
    return [
        Check(
            "rejected_share",
            "The share of rejected samples stays within the limit (max_rejected_train, max_rejected_evaluation)",
            _AT_LEAST,
            {"column_A": "max_rejected_share", "column_B": "rejected_share", "or_equal": True},
            shown="rejected_share",
        ),
        Check(
            "rejected_share_usual",
            "The share of rejected training samples stays in the usual range (warn_rejected_train)",
            _AT_LEAST,
            {"column_A": "warn_rejected_share", "column_B": "rejected_share", "or_equal": True},
            severity="warning",
            shown="rejected_share",
        ),
        Check(
            "left_out_share",
            "Nearly all samples that the source listed could be read (warn_left_out)",
            _AT_LEAST,
            {"column_A": "warn_left_out", "column_B": "left_out_share", "or_equal": True},
            severity="warning",
            shown="left_out_share",
        ),
        Check(
            "language_share",
            "Most captions are in a language that dataset.json declares (language.min_share)",
            _AT_LEAST,
            {"column_A": "language_share", "column_B": "min_language_share", "or_equal": True},
            severity=language,
            shown="language_share",
        ),
    ]
