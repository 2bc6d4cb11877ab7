import hashlib

import numpy as np
import pytest
from PIL import Image

from training.data.transforms import CropDraw, SampleDraws, apply_crop, draw_crop
from training.data.views import ViewsConfig

WHOLE = ViewsConfig(crop_area=(1.0, 1.0))
CROPS = ViewsConfig(crop_area=(0.2, 0.9), flip=0.5)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def draw(views, width, height, key="x"):
    return draw_crop(views, width, height, SampleDraws(0, 0, key))


def test_draws_depend_on_seed_epoch_and_key_only():
    here = SampleDraws(1, 2, "a")
    assert here.uniform(20) == SampleDraws(1, 2, "a").uniform(20)
    others = [SampleDraws(*other) for other in [(2, 2, "a"), (1, 3, "a"), (1, 2, "b"), (12, 2, "a"), (1, 22, "a")]]
    assert len({here.seed, *(other.seed for other in others)}) == 6
    assert len({draw_crop(CROPS, 800, 600, other) for other in [here, *others]}) == 6


def test_draws_are_the_hashes_that_the_docstring_names():
    digests = [hashlib.blake2b(f"1/2/a/{block}".encode()).digest() for block in range(2)]
    numbers = [int.from_bytes(digest[i : i + 8], "little") for digest in digests for i in range(0, 64, 8)]
    assert SampleDraws(1, 2, "a").uniform(16) == [(number >> 11) / (1 << 53) for number in numbers]


def test_draws_taken_one_by_one_are_those_taken_at_once():
    one, other = SampleDraws(0, 0, "a"), SampleDraws(0, 0, "a")
    seed = one.seed
    assert one.uniform(3) + one.uniform(0) + one.uniform(9) + one.uniform(1) == other.uniform(13)
    assert one.seed == seed
    assert 0 <= seed < 1 << 63


def test_draws_are_spread_evenly_and_independent():
    drawn = np.array([SampleDraws(0, epoch, str(key)).uniform(8) for epoch in range(5) for key in range(1000)])
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts, _ = np.histogram(drawn, bins=20, range=(0, 1))
    expected = drawn.size / 20
    assert ((counts - expected) ** 2 / expected).sum() < 44  # chi square with 19 degrees of freedom, 0.1 %
    assert np.abs(np.corrcoef(drawn, rowvar=False) - np.eye(8)).max() < 0.06


def test_crops_stay_inside_the_image_and_in_the_area_range():
    for number in range(500):
        crop = draw(CROPS, 80, 60, str(number))
        assert 0 <= crop.left < crop.left + crop.width <= 80
        assert 0 <= crop.top < crop.top + crop.height <= 60
        assert crop.width * crop.height <= 0.9 * 80 * 60 + 80  # sides are rounded by half a pixel


def test_crop_centres_cover_the_image_evenly_up_to_its_edges():
    draws = [draw(CROPS, 80, 80, str(number)) for number in range(2000)]
    centres = np.array([[d.left + d.width / 2, d.top + d.height / 2] for d in draws])
    assert centres.mean(axis=0) == pytest.approx([40, 40], abs=1.0)
    assert np.mean([d.flip for d in draws]) == pytest.approx(0.5, abs=0.05)
    assert min(d.left for d in draws) == min(d.top for d in draws) == 0
    assert max(d.left + d.width for d in draws) == max(d.top + d.height for d in draws) == 80


def test_a_crop_of_the_smallest_image_has_a_pixel():
    assert draw(CROPS, 1, 1).width == draw(CROPS, 1, 1).height == 1
    narrow = draw(ViewsConfig(crop_area=(0.01, 0.01)), 2, 300)
    assert narrow.width >= 1
    assert narrow.height >= 1


def test_the_whole_image_comes_back_unchanged():
    pixels = noise(32, 32)
    assert np.array_equal(apply_crop(pixels, draw(WHOLE, 32, 32), 32), pixels)


def test_a_crop_of_the_views_size_is_a_slice_and_a_flip_mirrors_it():
    pixels = noise(32, 32)
    assert np.array_equal(apply_crop(pixels, CropDraw(4, 8, 16, 16, flip=False), 16), pixels[8:24, 4:20])
    assert np.array_equal(apply_crop(pixels, CropDraw(4, 8, 16, 16, flip=True), 16), pixels[8:24, 4:20][:, ::-1])


def test_a_flip_mirrors_a_resized_view():
    pixels = noise(50, 40)
    straight = apply_crop(pixels, CropDraw(3, 5, 30, 41, flip=False), 24)
    assert np.array_equal(apply_crop(pixels, CropDraw(3, 5, 30, 41, flip=True), 24), straight[:, ::-1])


@pytest.mark.parametrize(
    "crop", [CropDraw(0, 0, 90, 70, False), CropDraw(7, 9, 61, 33, False), CropDraw(40, 20, 9, 11, False)]
)
@pytest.mark.parametrize("size", [16, 32, 57])
def test_views_are_those_of_pillows_bicubic_filter(crop, size):
    """Pillow rounds between its two passes as torch does, but sums in another order."""
    pixels = noise(70, 90)
    cut = Image.fromarray(pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width])
    wanted = np.asarray(cut.resize((size, size), Image.Resampling.BICUBIC)).astype(int)
    difference = np.abs(apply_crop(pixels, crop, size) - wanted)
    assert difference.max() <= 1
    assert difference.mean() < 0.02


def test_pixels_that_cannot_be_written_and_lie_mirrored_are_cropped_too():
    pixels = noise(20, 20)[::-1]
    pixels.flags.writeable = False
    crop = CropDraw(2, 2, 16, 16, flip=False)
    assert np.array_equal(apply_crop(pixels, crop, 8), apply_crop(pixels.copy(), crop, 8))


def test_a_crop_follows_its_source_to_another_size():
    crop = CropDraw(11, 20, 41, 60, flip=True)
    assert crop.reduced(1) is crop
    assert crop.reduced(2) == CropDraw(6, 10, 20, 30, flip=True)
    assert CropDraw(3, 3, 1, 1, flip=False).reduced(8) == CropDraw(0, 0, 1, 1, flip=False)


@pytest.mark.parametrize("area", [(0.0, 1.0), (0.9, 0.5), (0.5, 1.5)])
def test_an_impossible_area_range_is_refused(area):
    with pytest.raises(ValueError, match="crop_area"):
        ViewsConfig(crop_area=area)
