"""Keys made from a name that the user's data have, and from nothing else, so that no other sample can change them."""

import hashlib
import re
import unicodedata

# ~ and + are ours: what stands before or behind them can then never be mistaken for a part of the name
_UNFIT = re.compile(r"[./\\~+\s\x00-\x1f\x7f\ud800-\udfff]+")
_NAME_BYTES = 64
_HASH_BYTES = 8


def is_plain(name: str) -> bool:
    """Say whether a name can be a key as it is."""
    return (
        bool(name)
        and name[0] != "-"
        and not _UNFIT.search(name)
        and (name.isascii() or unicodedata.is_normalized("NFC", name))
        and len(name.encode("utf-8", "surrogatepass")) <= _NAME_BYTES
    )


def shorten(name: str, shown: str, nameless: str) -> str:
    """Return a key for a name that cannot be one.

    Args:
        name: What is hashed.
        shown: The part of it that people should read.
        nameless: Stands for that when nothing of it is readable.

    Returns:
        The readable end, ``~`` and 16 hex digits of the hash: ``dogs-my-dog~2f6b0c5d8a1e9f37``.
    """
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=_HASH_BYTES).hexdigest()
    readable = _UNFIT.sub("-", unicodedata.normalize("NFC", shown))
    end = readable.encode()[-(_NAME_BYTES - 2 * _HASH_BYTES - 1) :].decode(errors="ignore").strip("-")
    return f"{end or nameless}~{digest}"


def in_split(key: str, split: str | None) -> str:
    """Return a key with its split and ``+`` in front; None for train, whose keys stay as they are."""
    return f"{split}+{key}" if split else key
