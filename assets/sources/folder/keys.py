"""Keys of pictures, made from their relative paths alone, so that no other file can change them."""

from assets.sources.described.keys import in_split, is_plain, shorten

_PLAIN_SUFFIX = ".jpg"
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
    stem = path.removesuffix(_PLAIN_SUFFIX)
    plain = stem != path and is_plain(stem)
    return in_split(stem if plain else shorten(path, _without_suffix(path), _NAMELESS), split)


def _without_suffix(path: str) -> str:
    stem, dot, suffix = path.rpartition(".")
    return stem if dot and "/" not in suffix else path
