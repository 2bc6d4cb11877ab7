"""Encoded pictures of any origin: how large they are, whether they can be decoded, and their pixels.

Ingest, validation, training and evaluation all decode here, so they agree on what a picture is: as a browser shows it.
Transparency lies on white (the colours under it are arbitrary, and black lines on nothing would be a black square),
the orientation that a camera noted is applied, 16 bits are scaled to 8, and of a film the first frame counts.
"""

import io
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
_ORIENTATION = 0x0112
_JPEG_START = b"\xff\xd8\xff"
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
    """A picture whose size is known. A JPEG is decoded when its pixels are asked for, another format at once.

    Attributes:
        width: Pixels, as shown.
        height: Pixels, as shown.
    """

    def __init__(self, data: bytes) -> None:
        """Read the header.

        Args:
            data: The file, whatever its name says.

        Raises:
            PictureError: It cannot be decoded.
            TooLargeError: It has too many pixels.
        """
        self._data = data
        self._decoded: Image.Image | None = None
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
        if _has_exif(self._data):
            self._orientation = _pillow(lambda: _orientation(Image.open(io.BytesIO(self._data), formats=FORMATS)))
        return width, height

    def _open_other(self) -> tuple[int, int]:
        picture = _pillow(lambda: Image.open(io.BytesIO(self._data), formats=FORMATS))
        _check_size(*picture.size)
        _pillow(picture.load)  # a PNG may name its orientation behind the pixels
        self._orientation = _orientation(picture)
        self._decoded = picture
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
        if self._decoded is None:
            pixels = self._jpeg_pixels(colours, shrink)
        else:
            decoded = self._decoded
            pixels = _pillow(lambda: np.asarray(_opaque(decoded).convert("RGB" if colours == "RGB" else "L")))
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


def _has_exif(jpeg: bytes) -> bool:
    """Say whether a JPEG has an Exif segment; walking over the segments costs a tenth of searching the file."""
    place = 2
    while jpeg[place : place + 1] == b"\xff":
        marker = jpeg[place + 1 : place + 2]
        if marker == b"\xe1" and jpeg.startswith(_EXIF_START, place + 4):
            return True
        if not (b"\xe0" <= marker <= b"\xef" or marker == b"\xfe"):  # the application segments and comments come first
            return False
        place += 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
    return False


def _orientation(picture: Image.Image) -> int:
    """Return the Exif orientation, 1 to 8."""
    try:
        value = picture.getexif().get(_ORIENTATION, 1)
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
