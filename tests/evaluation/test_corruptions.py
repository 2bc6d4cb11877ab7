import pickle
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest

from assets.errors import ConfigError
from evaluation.corruptions import NAMES, SEVERITIES, Corruption, CorruptionName

RANDOM = ("gaussian_noise", "shot_noise", "impulse_noise", "motion_blur", "occlusion")


def pictures(count: int, height: int = 64, width: int = 64) -> list[np.ndarray]:
    """Coloured discs and stripes: edges, flat parts and colour, as drawings have them."""
    y, x = np.mgrid[0:height, 0:width] / min(height, width)
    found = []
    for number in range(count):
        rng = np.random.default_rng(number)
        colours = rng.integers(20, 220, (3, 3))
        stripes = (np.floor((x + rng.random()) * 7.3) % 2).astype(int)
        disc = np.hypot(x - rng.uniform(0.3, 0.7), y - rng.uniform(0.3, 0.7)) < 0.25
        found.append(colours[np.where(disc, 2, stripes)].astype(np.uint8))
    return found


def damage(name: str, severity: int, shown: list[np.ndarray]) -> float:
    corrupt = Corruption(name, severity)
    return float(
        np.mean([np.abs(corrupt(pixels, f"k{i}").astype(float) - pixels).mean() for i, pixels in enumerate(shown)])
    )


def test_all_names_are_corruptions():
    assert get_args(CorruptionName) == NAMES
    assert len({Corruption(name, 1) for name in NAMES}) == 11


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(64, 64), (37, 90), (1, 5)])
def test_shape_and_dtype_stay_and_the_original_is_not_touched(name, size):
    (pixels,) = pictures(1, *size)
    before = pixels.copy()
    for severity in range(1, SEVERITIES + 1):
        found = Corruption(name, severity)(pixels, "key")
        assert found.shape == pixels.shape and found.dtype == np.uint8
    assert (pixels == before).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_same_key_gives_the_same_picture_also_after_pickling(name):
    (pixels,) = pictures(1)
    corrupt = Corruption(name, 4)
    first = corrupt(pixels, "a")
    corrupt(pixels, "b")  # leaves no trace
    assert (corrupt(pixels, "a") == first).all()
    assert (pickle.loads(pickle.dumps(corrupt))(pixels, "a") == first).all()
    assert (first != pixels).any()


@pytest.mark.parametrize("name", NAMES)
def test_only_what_is_random_depends_on_the_key(name):
    (pixels,) = pictures(1)
    corrupt = Corruption(name, 4)
    assert (corrupt(pixels, "a") != corrupt(pixels, "b")).any() == (name in RANDOM)


@pytest.mark.parametrize("name", NAMES)
def test_damage_grows_with_severity(name):
    shown = pictures(16)
    found = [damage(name, severity, shown) for severity in range(1, SEVERITIES + 1)]
    assert found[0] > 0.3
    assert all(later > 1.05 * earlier for earlier, later in pairwise(found)), found


@pytest.mark.parametrize("name", ["gaussian_blur", "motion_blur", "occlusion", "pixelate"])
def test_what_has_a_length_damages_small_and_large_pictures_alike(name):
    small, large = (damage(name, 4, pictures(12, side, side)) for side in (64, 144))
    assert large == pytest.approx(small, rel=0.35)


def test_noise_has_the_stated_strength():
    grey = np.full((200, 200, 3), 127, dtype=np.uint8)
    assert Corruption("gaussian_noise", 2)(grey, "k").std() == pytest.approx(0.09 * 255, rel=0.03)
    # n quanta for white: the variance of 127 is that of 127 / 255 * n quanta, each worth 255 / n
    assert Corruption("shot_noise", 3)(grey, "k").std() == pytest.approx(np.sqrt(127 / 255 * 20) * 255 / 20, rel=0.03)
    hit = Corruption("impulse_noise", 3)(grey, "k")
    assert set(np.unique(hit)) == {0, 127, 255}
    assert (hit != 127).mean() == pytest.approx(0.09, abs=0.005)


def test_occlusion_covers_the_stated_share_and_nothing_else():
    white = np.full((100, 100, 3), 255, dtype=np.uint8)
    for severity, share in enumerate((0.05, 0.10, 0.18, 0.28, 0.40), 1):
        covered = Corruption("occlusion", severity)(white, f"k{severity}")[..., 0] == 127
        assert covered.mean() == pytest.approx(share, abs=0.02)
        rows, columns = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
        assert covered[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


@pytest.mark.parametrize("name", ["gaussian_blur", "motion_blur", "pixelate", "contrast", "saturate"])
def test_an_even_grey_picture_survives_what_only_moves_light(name):
    grey = np.full((40, 40, 3), 90, dtype=np.uint8)
    assert np.abs(Corruption(name, 5)(grey, "k").astype(int) - 90).max() <= 1


def test_motion_blur_keeps_the_light_of_a_point():
    point = np.zeros((65, 65, 3), dtype=np.uint8)
    point[30:35, 30:35] = 250
    blurred = Corruption("motion_blur", 4)(point, "k")
    assert int(blurred.sum()) == pytest.approx(int(point.sum()), rel=0.03)
    assert blurred.max() < 150


@pytest.mark.parametrize(
    ("name", "severity", "told"),
    [("gausian_noise", 1, "did you mean 'gaussian_noise'"), ("jpeg", 0, "wanted a whole number of 1..5")],
)
def test_what_is_no_corruption_is_refused(name, severity, told):
    with pytest.raises(ConfigError, match=told):
        Corruption(name, severity)
