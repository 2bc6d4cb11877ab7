"""Which of the names that shards know a picture gets."""

_JPEG_START, _PNG_START = b"\xff\xd8\xff", b"\x89PNG"


def extension_of(image: bytes) -> str:
    """Name a picture by its content; the name it came with may be wrong.

    Args:
        image: The encoded picture; empty where there is none.
    """
    if image.startswith(_PNG_START):
        return "png"
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "webp"
    # shards know no other: a GIF or BMP gets the name of the other lossless one, as every reader looks at the content
    return "jpg" if image.startswith(_JPEG_START) or not image else "png"
