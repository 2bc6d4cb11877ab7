import numpy as np

from assets.validation import traits as module
from assets.validation.traits import traits_of

BYTES = 18 * 18 * 3


def signatures(seed: int, rows: int) -> np.ndarray:
    """Smooth random pictures, uint8 [rows, 972]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (rows, 3, 3, 3))
    return np.kron(coarse, np.ones((1, 6, 6, 1))).astype(np.uint8).reshape(rows, BYTES)


def slow_cells(taken: np.ndarray) -> np.ndarray:
    """Every other pixel from the second on, weighed 1 2 1 with its neighbours both ways, [rows, 64, 3]."""
    pixels = taken.reshape(-1, 18, 18, 3).astype(float)
    weights = np.outer([1, 2, 1], [1, 2, 1])[:, :, None]
    cells = [
        (pixels[:, y - 1 : y + 2, x - 1 : x + 2] * weights).sum(axis=(1, 2))
        for y in range(1, 17, 2)
        for x in range(1, 17, 2)
    ]
    return np.stack(cells, axis=1)


def test_moments_are_those_of_the_textbook():
    taken = signatures(0, 5)
    pixels = slow_cells(taken)
    channels = np.stack([pixels.sum(2), pixels[..., 0] - pixels[..., 2], 2 * pixels[..., 1] - pixels[..., 0::2].sum(2)])
    scaled = channels / channels[0].mean(axis=1)[None, :, None]
    for row, moments in enumerate(traits_of(taken).moments):
        covariance = np.cov(scaled[:, row], bias=True)
        third = [((values - values.mean()) ** 3).mean() for values in scaled[:, row]]
        wanted = [*scaled[1:, row].mean(axis=1), *covariance[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]], *third]
        np.testing.assert_allclose(moments, wanted, rtol=1e-4, atol=1e-6)


def test_traits_do_not_depend_on_how_many_rows_are_measured_at_once(monkeypatch):
    taken = signatures(1, 700)
    whole = traits_of(taken)
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 7)
    parts = [traits_of(taken[:300]), traits_of(taken[300:])]
    assert np.array_equal(whole.moments, np.concatenate([part.moments for part in parts]))
    assert np.array_equal(whole.signs, np.concatenate([part.signs for part in parts]))


def test_moments_are_blind_to_brightness_and_place_and_signs_see_the_mirror_image():
    dark = signatures(2, 20) // 2
    once, twice = traits_of(dark), traits_of(dark * 2)
    np.testing.assert_allclose(once.moments, twice.moments, rtol=1e-3, atol=1e-6)
    assert np.array_equal(once.signs, twice.signs)
    pixels = dark.reshape(-1, 18, 18, 3)
    transposed, mirrored = traits_of(pixels.swapaxes(1, 2)), traits_of(pixels[:, :, ::-1])
    np.testing.assert_allclose(once.moments, transposed.moments, rtol=1e-4, atol=1e-6)
    assert (once.signs != mirrored.signs).all()
