import numpy as np

from assets.validation.signature import signature


def test_signature_keeps_flat_colours_and_the_order_of_rows_and_channels():
    picture = np.zeros((36, 54, 3), dtype=np.uint8)
    picture[:18] = (10, 20, 30)
    picture[18:] = (40, 50, 60)
    small = signature(picture).reshape(18, 18, 3)
    assert (small[:8] == (10, 20, 30)).all()
    assert (small[10:] == (40, 50, 60)).all()


def test_signature_weighs_pixels_by_a_triangle_two_cells_wide():
    column = np.random.default_rng(0).integers(0, 256, 18 * 8).astype(np.uint8)
    got = signature(np.tile(column[:, None, None], (1, 36, 3))).reshape(18, 18, 3)
    centres = np.arange(18 * 8) + 0.5
    for cell in range(1, 17):
        weights = np.maximum(0, 1 - abs(centres - (cell + 0.5) * 8) / 8)
        assert abs(int(got[cell, 5, 0]) - (weights * column).sum() / weights.sum()) <= 1
