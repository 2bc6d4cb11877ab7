import numpy as np

from assets.unit import unit


def test_unit_leaves_the_zero_vector():
    assert unit(np.array([[3, 4], [0, 0]], dtype=np.float32)).tolist() == [[np.float32(0.6), np.float32(0.8)], [0, 0]]
    assert unit(np.ones((1, 4), dtype=np.float32)).dtype == np.float32
