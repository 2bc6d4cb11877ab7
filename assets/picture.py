"""Encoded pictures of any origin: how large they are, whether they can be decoded, and their pixels.

Ingest, validation, training and evaluation all decode here, so they agree on what a picture is: as a browser shows it.
Transparency lies on white (the colours under it are arbitrary, and black lines on nothing would be a black square),
the orientation that a camera noted is applied, 16 bits are scaled to 8, and of a film the first frame counts.
"""

import io
import struct
from collections.abc import Callable
from typing import Literal, TypeVar

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

MAX_PIXELS = 1 << 26
"""Larger pictures are refused unseen; 64 M pixels take about 0.8 GB to decode."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")

# Pillow warns at 89 M pixels and refuses at twice as many without saying the sides; ours is checked before it decodes
Image.MAX_IMAGE_PIXELS = None

_T = TypeVar("_T")
_ORIENTATION, _SHORT, _ENTRY_BYTES = 0x0112, 3, 12
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_JPEG_START, _PNG_START = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_EXIF_START = b"Exif\0\0"
_LARGEST_SHRINK = 8


class PictureError(ValueError):
    """The bytes hold no picture, or a damaged one."""


class TooLargeError(PictureError):
    """The picture has more than ``MAX_PIXELS``; nothing was decoded.

    Attributes:
        width: Pixels, as stored.
        height: Pixels, as stored.
    """

    def __init__(self, width: int, height: int) -> None:
        super().__init__(f"{width}x{height} pixels are too many, wanted at most {MAX_PIXELS}")
        self.width, self.height = width, height


class Picture:
    """A picture whose size is known, from its header; it is decoded when its pixels are asked for.

    Attributes:
        width: Pixels, as shown.
        height: Pixels, as shown.
    """

    def __init__(self, data: bytes) -> None:
        """Read the header.

        Args:
            data: The file, whatever its name says.

        Raises:
            PictureError: It is no picture, or its header is damaged.
            TooLargeError: It has too many pixels.
        """
        self._data = data
        self._opened: Image.Image | None = None
        self._orientation = 1
        width, height = self._open_jpeg() or self._open_other()
        self.width, self.height = (height, width) if self._orientation > 4 else (width, height)

    def _open_jpeg(self) -> tuple[int, int] | None:
        """Return the size as stored, or None when libjpeg-turbo's simple interface does not take the file."""
        if not self._data.startswith(_JPEG_START):
            return None
        try:
            height, width = (int(side) for side in simplejpeg.decode_jpeg_header(self._data)[:2])
        except ValueError:  # damaged, or subsampled in a way that only Pillow takes
            return None
        _check_size(width, height)
        exif = _exif_place(self._data)
        if exif is not None:
            self._orientation = _noted_orientation(self._data, exif) or _pillow(
                lambda: _orientation(Image.open(io.BytesIO(self._data), formats=FORMATS))
            )
        return width, height

    def _open_other(self) -> tuple[int, int]:
        picture = _pillow(lambda: Image.open(io.BytesIO(self._data), formats=FORMATS))
        _check_size(*picture.size)
        if _says_more_behind_pixels(self._data):
            _pillow(picture.load)
        self._orientation = _orientation(picture)
        self._opened = picture
        return picture.size

    def pixels(self, colours: Literal["RGB", "GRAY"] = "RGB", shrink: int = 1) -> NDArray[np.uint8]:
        """Decode.

        The fast modes of libjpeg-turbo are not used: on a photograph of 256 pixels at quality 90 they save 0.14 of 0.56
        ms, and change a pixel by 1.8 levels in the mean and by 38 at most, where JPEG itself is 3.0 off the original.

        Args:
            colours: Colour, or brightness alone.
            shrink: A JPEG is decoded at 1/2, 1/4 or 1/8, the smallest not below ``1 / shrink``; other formats are not.

        Returns:
            [height, width, 3] or [height, width, 1], sides rounded up where it was shrunk.

        Raises:
            PictureError: The file is damaged.
        """
        if self._opened is None:
            pixels = self._jpeg_pixels(colours, shrink)
        else:
            opened = self._opened
            _pillow(opened.load)
            pixels = _pillow(lambda: np.asarray(_opaque(opened).convert("RGB" if colours == "RGB" else "L")))
            pixels = pixels.reshape(*pixels.shape[:2], -1)
        return _upright(pixels, self._orientation)

    def _jpeg_pixels(self, colours: str, shrink: int) -> NDArray[np.uint8]:
        width, height = (self.height, self.width) if self._orientation > 4 else (self.width, self.height)
        # scales between the powers of two are slower than no scaling
        factor = 1 << (min(max(shrink, 1), _LARGEST_SHRINK).bit_length() - 1)
        min_height, min_width = (-(-height // factor), -(-width // factor)) if factor > 1 else (0, 0)  # 0: as it is
        try:
            return simplejpeg.decode_jpeg(self._data, colours, min_height=min_height, min_width=min_width)
        except ValueError as error:
            raise PictureError(str(error)) from error


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise PictureError(f"a picture of {width}x{height} pixels has none")
    if width * height > MAX_PIXELS:
        raise TooLargeError(width, height)


def _pillow(act: Callable[[], _T]) -> _T:
    """Run a step of Pillow, whose readers raise whatever a damaged file makes them stumble over."""
    try:
        return act()
    except MemoryError:
        raise
    except Exception as error:
        raise PictureError(str(error) or type(error).__name__) from error


def _exif_place(jpeg: bytes) -> int | None:
    """Return where the Exif data of a JPEG begin; walking over the segments costs a tenth of searching the file."""
    place = 2
    while jpeg[place : place + 1] == b"\xff":
        marker = jpeg[place + 1 : place + 2]
        if marker == b"\xe1" and jpeg.startswith(_EXIF_START, place + 4):
            return place + 4 + len(_EXIF_START)
        if not (b"\xe0" <= marker <= b"\xef" or marker == b"\xfe"):  # the application segments and comments come first
            return None
        place += 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
    return None


def _noted_orientation(data: bytes, start: int) -> int | None:
    """Return the orientation, 1 to 8, in the first directory of plain Exif data; Pillow takes ten times as long.

    Args:
        data: The file.
        start: Where its Exif data begin.

    Returns:
        None where it is not found that easily.
    """
    order = _BYTE_ORDERS.get(data[start : start + 4])
    if order is None:
        return None
    try:
        (offset,) = struct.unpack_from(f"{order}I", data, start + 4)
        (entries,) = struct.unpack_from(f"{order}H", data, start + offset)
        for number in range(entries):
            entry = struct.unpack_from(f"{order}HHIH", data, start + offset + 2 + _ENTRY_BYTES * number)
            if entry[:3] == (_ORIENTATION, _SHORT, 1) and 1 <= entry[3] <= 8:
                return entry[3]
    except struct.error:
        return None
    return None


def _says_more_behind_pixels(data: bytes) -> bool:
    """Say whether a PNG has a chunk behind its pixels, which may name its orientation."""
    if not data.startswith(_PNG_START):
        return False
    place, pixels = len(_PNG_START), False
    while place + 8 <= len(data):
        kind = data[place + 4 : place + 8]
        if kind == b"IEND" or (pixels and kind != b"IDAT"):
            return kind != b"IEND"
        pixels |= kind == b"IDAT"
        place += 12 + int.from_bytes(data[place : place + 4], "big")
    return False


def _orientation(picture: Image.Image) -> int:
    """Return the Exif orientation, 1 to 8."""
    try:
        # that of the PNG reader would decode the picture first
        value = Image.Image.getexif(picture).get(_ORIENTATION, 1)
    except Exception:  # unreadable Exif data are passed over by every viewer; Pillow raises many things
        return 1
    return value if value in range(1, 9) else 1


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn pixels [height, width, channels] the way the Exif orientation says."""
    if orientation == 1:
        return pixels
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    mirrored, upside_down = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    return np.ascontiguousarray(pixels[:: -1 if upside_down else 1, :: -1 if mirrored else 1])


def _opaque(picture: Image.Image) -> Image.Image:
    """Return a picture of 8 bits without transparency."""
    if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow's own conversion cuts off at 255
        return Image.fromarray(np.clip(np.asarray(picture, np.int32) >> 8, 0, 255).astype(np.uint8))
    if not picture.has_transparency_data:
        return picture
    coloured = picture if picture.mode == "RGBA" else picture.convert("RGBA")
    ground = Image.new("RGB", picture.size, "white")
    ground.paste(coloured, mask=coloured.getchannel("A"))
    return ground
