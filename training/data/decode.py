"""From an image file to pixels, or straight to one random view, decoding no more of it than the view needs."""

import numpy as np
from numpy.typing import NDArray

from assets.picture import Picture
from training.data.transforms import SampleDraws, apply_crop, draw_crop
from training.data.views import ViewsConfig


def decode(data: bytes) -> NDArray[np.uint8]:
    """Decode an image file to RGB.

    Args:
        data: The file, of any kind that ``assets.picture`` knows.

    Returns:
        Pixels, [height, width, 3].

    Raises:
        PictureError: It is damaged, too large, or no image.
    """
    return Picture(data).pixels()


def decode_view(data: bytes, draws: SampleDraws, views: ViewsConfig, size: int) -> NDArray[np.uint8]:
    """Draw a crop, decode the image file and cut the crop out.

    A JPEG whose crop is at least twice as large as the view is decoded at 1/2, 1/4 or 1/8, which leaves the crop no
    smaller than the view; the bicubic filter does the rest. On a photograph, that changes the view about as much as a
    bilinear filter would (by 1.6 levels in the mean from 512 pixels to 224), and saves a quarter of the time.

    Args:
        data: The file, of any kind that ``assets.picture`` knows.
        draws: The sample's draws.
        views: The ranges of the crop.
        size: Side of the square view.

    Returns:
        The view, [size, size, 3].

    Raises:
        PictureError: It is damaged, too large, or no image.
    """
    picture = Picture(data)
    crop = draw_crop(views, picture.width, picture.height, draws)
    pixels = picture.pixels(shrink=min(crop.width, crop.height) // size)
    factor = round(picture.width / pixels.shape[1])  # not the quotient: the last column may stand for less
    return apply_crop(pixels, crop.reduced(factor), size)
