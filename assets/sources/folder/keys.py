"""Keys of pictures, made from their relative paths alone, so that no other file can change them."""

import hashlib
import re
import unicodedata

# ~ and + are ours: what stands before or behind them can then never be mistaken for a part of the file's own name
_UNFIT = re.compile(r"[./\\~+\s\x00-\x1f\x7f\ud800-\udfff]+")
_PLAIN_SUFFIX = ".jpg"
_PATH_BYTES = 64
_HASH_BYTES = 8
_NAMELESS = "file"


def make_key(path: str, split: str | None) -> str:
    """Return the key of a file.

    Args:
        path: Relative to the folder of its split, with slashes.
        split: Stands in front, followed by ``+``; None for train.

    Returns:
        ``rex`` for ``rex.jpg``. Any other path (with folders, blanks, another suffix, decomposed accents, or too long)
        becomes its readable end, ``~`` and 16 hex digits of its hash: ``dogs-my-dog~2f6b0c5d8a1e9f37``.
    """
    prefix = f"{split}+" if split else ""
    stem = path.removesuffix(_PLAIN_SUFFIX)
    if stem != path and len(stem.encode("utf-8", "surrogatepass")) <= _PATH_BYTES and _is_plain(stem):
        return prefix + stem
    digest = hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=_HASH_BYTES).hexdigest()
    readable = _UNFIT.sub("-", unicodedata.normalize("NFC", _without_suffix(path)))
    end = readable.encode()[-(_PATH_BYTES - 2 * _HASH_BYTES - 1) :].decode(errors="ignore").strip("-")
    return f"{prefix}{end or _NAMELESS}~{digest}"


def _is_plain(stem: str) -> bool:
    return (
        bool(stem)
        and stem[0] != "-"
        and not _UNFIT.search(stem)
        and (stem.isascii() or unicodedata.is_normalized("NFC", stem))
    )


def _without_suffix(path: str) -> str:
    stem, dot, suffix = path.rpartition(".")
    return stem if dot and "/" not in suffix else path
