import numpy as np
import pytest

from training.config import ViewsConfig
from training.data.transforms import CropDraw, apply_crop, draw_crop, sample_generator

WHOLE = ViewsConfig(crop_area=(1.0, 1.0))
CROPS = ViewsConfig(crop_area=(0.2, 0.9), flip=0.5)


def test_draws_depend_on_seed_epoch_and_key_only():
    draw = draw_crop(CROPS, 80, 60, sample_generator(1, 2, "a"))
    assert draw == draw_crop(CROPS, 80, 60, sample_generator(1, 2, "a"))
    others = [(2, 2, "a"), (1, 3, "a"), (1, 2, "b")]
    assert all(draw != draw_crop(CROPS, 80, 60, sample_generator(*other)) for other in others)


def test_crops_stay_inside_the_image_and_in_the_area_range():
    for number in range(500):
        draw = draw_crop(CROPS, 80, 60, sample_generator(0, 0, str(number)))
        assert 0 <= draw.left <= draw.left + draw.width <= 80 + 1e-9
        assert 0 <= draw.top <= draw.top + draw.height <= 60 + 1e-9
        assert draw.width * draw.height <= 0.9 * 80 * 60 + 1e-6


def test_crop_centres_cover_the_image_evenly():
    draws = [draw_crop(CROPS, 80, 80, sample_generator(0, 0, str(number))) for number in range(2000)]
    centres = np.array([[d.left + d.width / 2, d.top + d.height / 2] for d in draws])
    assert centres.mean(axis=0) == pytest.approx([40, 40], abs=1.0)
    assert np.mean([d.flip for d in draws]) == pytest.approx(0.5, abs=0.05)


def test_the_whole_image_comes_back_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(apply_crop(pixels, draw_crop(WHOLE, 32, 32, sample_generator(0, 0, "x")), 32), pixels)


def test_a_whole_pixel_crop_is_a_slice_and_a_flip_mirrors_it():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(apply_crop(pixels, CropDraw(4, 8, 16, 16, flip=False), 16), pixels[8:24, 4:20])
    assert np.array_equal(apply_crop(pixels, CropDraw(4, 8, 16, 16, flip=True), 16), pixels[8:24, 4:20][:, ::-1])


@pytest.mark.parametrize("area", [(0.0, 1.0), (0.9, 0.5), (0.5, 1.5)])
def test_an_impossible_area_range_is_refused(area):
    with pytest.raises(ValueError, match="crop_area"):
        ViewsConfig(crop_area=area)
