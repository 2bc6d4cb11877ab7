import io
from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageFilter

from assets.validation.resemblance import distances
from assets.validation.scan import measure
from assets.validation.signature import SIGNATURE_BYTES, signature

SIDE = 128
NEAR = 0.06


@cache
def picture(seed: int) -> Image.Image:
    """Overlapping soft discs of random colours."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    pixels = np.tile(rng.integers(40, 216, 3).astype(float), (SIDE, SIDE, 1))
    for _ in range(6):
        centre_x, centre_y, radius = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.3)
        pixels[np.hypot(x - centre_x, y - centre_y) < radius] = rng.integers(0, 256, 3)
    return Image.fromarray(pixels.astype(np.uint8)).filter(ImageFilter.GaussianBlur(1))


def of(image: Image.Image) -> np.ndarray:
    return signature(np.asarray(image))


def apart(first: Image.Image, second: Image.Image) -> float:
    return float(distances(np.stack([of(first), of(second)]), np.array([0]), np.array([1]))[0])


def recompressed(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


CHANGES = {
    "recompressed": lambda image: recompressed(image, 40),
    "half the size": lambda image: image.resize((SIDE // 2, SIDE // 2)),
    "another aspect": lambda image: image.resize((100, 120)),
    "cropped": lambda image: image.crop((3, 4, SIDE - 4, SIDE - 2)),
    "cropped around the middle": lambda image: image.crop((4, 4, SIDE - 4, SIDE - 4)),
    "moved": lambda image: image.crop((4, 0, SIDE, SIDE - 4)),
    "darker": lambda image: image.point(lambda value: round(value * 0.9)),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_small_changes_leave_a_picture_near_itself_and_far_from_others(change):
    changed = CHANGES[change]
    for seed in range(5):
        assert apart(picture(seed), changed(picture(seed))) < NEAR
        assert apart(picture(seed), changed(picture(seed + 100))) > 0.3


@pytest.mark.parametrize("change", ["mirrored", "recoloured", "other ground"])
def test_another_picture_of_the_same_thing_is_not_near(change):
    for seed in range(5):
        image = picture(seed)
        pixels = np.asarray(image)
        numbers = pixels.astype(int) @ (1 << 16, 1 << 8, 1)
        colours, counts = np.unique(numbers, return_counts=True)
        ground = (numbers == colours[counts.argmax()])[:, :, None]
        other = {
            "mirrored": pixels[:, ::-1],
            "recoloured": pixels[:, :, [1, 2, 0]],
            "other ground": np.where(ground, pixels // 2, pixels),
        }[change]
        assert apart(image, Image.fromarray(np.ascontiguousarray(other))) > NEAR


def test_distance_is_the_residual_of_an_ordinary_least_squares_fit():
    first, second = of(picture(3)), of(picture(3).crop((3, 2, SIDE, SIDE)))
    a, b = (taken.reshape(18, 18, 3).astype(float) for taken in (first, second))
    down, across = np.gradient(a, axis=0), np.gradient(a, axis=1)
    place = np.arange(18) - 8.5
    second_down = np.roll(a, -1, 0) + np.roll(a, 1, 0) - 2 * a
    second_across = np.roll(a, -1, 1) + np.roll(a, 1, 1) - 2 * a
    mixed = np.gradient(across, axis=0)
    zoom = across * place[:, None] + down * place[:, None, None]
    terms = [term[1:-1, 1:-1].ravel() for term in (a, across, down, zoom, second_across, second_down, mixed)]
    inner = b[1:-1, 1:-1]
    residual = np.linalg.lstsq(np.stack(terms, axis=1), inner.ravel(), rcond=None)[1][0]
    wanted = residual / np.square(inner - inner.mean(axis=(0, 1))).sum()
    got = distances(np.stack([first, second]), np.array([0]), np.array([1]))[0]
    assert got == pytest.approx(wanted, abs=2e-5)


def test_equal_and_flat_pictures():
    flat, lighter = Image.new("RGB", (20, 20), (90, 120, 90)), Image.new("RGB", (20, 20), (90, 120, 200))
    assert apart(picture(1), picture(1)) < 1e-4
    assert apart(flat, flat) < 0.01
    assert apart(flat, lighter) > 1
    assert distances(np.empty((0, 972), np.uint8), np.empty(0, np.int64), np.empty(0, np.int64)).shape == (0,)


def test_what_the_scan_measures_of_recompressed_files_is_near():
    taken = np.zeros((2, SIGNATURE_BYTES), np.uint8)
    for row, image in enumerate((picture(5), recompressed(picture(5).resize((500, 400)), 60))):
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=80)
        assert measure(stream.getvalue(), taken[row]) > 0
    assert distances(taken, np.array([0]), np.array([1]))[0] < NEAR
