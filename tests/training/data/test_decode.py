import io

import numpy as np
import pytest
from PIL import Image

from assets.picture import Picture, PictureError
from training.data.decode import decode, decode_view
from training.data.transforms import SampleDraws, apply_crop, draw_crop
from training.data.views import ViewsConfig

WHOLE = ViewsConfig(crop_area=(1.0, 1.0))
CROPS = ViewsConfig(crop_area=(0.3, 1.0), flip=0.5)


def natural(width: int, height: int) -> Image.Image:
    """A picture with detail at every scale, as photographs have it: noise whose spectrum falls with frequency."""
    random = np.random.default_rng(0)
    pixels = np.zeros((height, width, 3))
    for scale in (2, 4, 8, 16, 32, 64):
        cells = random.uniform(-1, 1, (-(-height // scale) + 1, -(-width // scale) + 1, 3)) * scale
        layers = [Image.fromarray(cells[..., c].astype(np.float32)) for c in range(3)]
        resized = [np.asarray(layer.resize((width, height), Image.Resampling.BICUBIC)) for layer in layers]
        pixels += np.stack(resized, axis=-1)
    return Image.fromarray(np.clip(128 + pixels, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **({"quality": 90} if kind == "JPEG" else {}), **options)
    return stream.getvalue()


@pytest.fixture
def decoded(monkeypatch):
    """Sizes of everything that is decoded."""
    sizes = []
    pixels = Picture.pixels

    def spied(self, *arguments, **named):
        found = pixels(self, *arguments, **named)
        sizes.append(found.shape[:2])
        return found

    monkeypatch.setattr(Picture, "pixels", spied)
    return sizes


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("key", ["a", "b", "c", "d"])
def test_a_view_is_the_crop_of_the_decoded_image(kind, key):
    data = encoded(natural(90, 70), kind)
    crop = draw_crop(CROPS, 90, 70, SampleDraws(0, 0, key))
    assert np.array_equal(decode_view(data, SampleDraws(0, 0, key), CROPS, 48), apply_crop(decode(data), crop, 48))


@pytest.mark.parametrize(("size", "side"), [(201, 400), (200, 200), (101, 200), (100, 100), (50, 50), (20, 50)])
def test_a_jpeg_is_decoded_no_larger_than_its_crop_needs(decoded, size, side):
    decode_view(encoded(natural(400, 400)), SampleDraws(0, 0, "a"), WHOLE, size)
    assert decoded == [(side, side)]


def test_what_is_decoded_depends_on_the_crop_and_not_on_the_image(decoded):
    small_crops = ViewsConfig(crop_area=(0.2, 0.2), crop_aspect=(1.0, 1.0))
    decode_view(encoded(natural(400, 400)), SampleDraws(0, 0, "a"), small_crops, 100)  # of 179 pixels
    assert decoded == [(400, 400)]


def test_a_view_of_a_reduced_jpeg_is_close_to_that_of_the_whole():
    data = encoded(natural(1000, 803))
    for size in (96, 224):  # decoded at 1/8 and 1/2
        exact = apply_crop(decode(data), draw_crop(WHOLE, 1000, 803, SampleDraws(0, 0, "a")), size)
        reduced = decode_view(data, SampleDraws(0, 0, "a"), WHOLE, size)
        assert np.abs(reduced - exact.astype(int)).mean() < 2.5


def test_a_crop_is_found_at_the_same_place_in_a_reduced_jpeg():
    image = Image.new("RGB", (1001, 803), "black")
    image.paste((255, 255, 255), (500, 400, 1001, 803))
    for key in "abcdefgh":
        exact = apply_crop(np.asarray(image), draw_crop(CROPS, 1001, 803, SampleDraws(0, 0, key)), 64)
        reduced = decode_view(encoded(image), SampleDraws(0, 0, key), CROPS, 64)
        assert (np.abs(reduced - exact.astype(int)) > 128).mean() < 0.02  # not a pixel off along the edges


def test_the_crop_is_drawn_from_the_image_as_it_is_shown():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(natural(300, 100), exif=exif)
    assert decode(data).shape == (300, 100, 3)
    crop = draw_crop(CROPS, 100, 300, SampleDraws(0, 0, "a"))
    assert np.array_equal(decode_view(data, SampleDraws(0, 0, "a"), CROPS, 80), apply_crop(decode(data), crop, 80))


def test_a_damaged_image_is_an_error():
    data = encoded(natural(90, 70))
    for bad in (b"", data[:100], data[:-200], b"x" + data):
        with pytest.raises(PictureError):
            decode_view(bad, SampleDraws(0, 0, "a"), WHOLE, 32)
