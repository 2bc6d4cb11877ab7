import numpy as np
import pytest
import torch

from assets.embedding.sentences import SentenceEncoder


@pytest.mark.slow
def test_padding_and_order_do_not_change_a_vector():
    encoder = SentenceEncoder(torch.device("cpu"))
    together = encoder.embed(["a dog", "a very long sentence about a dog that runs along a river", "a dog"])
    alone = encoder.embed(["a dog"])
    assert np.array_equal(together[0], together[2])
    assert np.allclose(together[0], alone[0], atol=2e-3)
    assert encoder.embed([]).shape == (0, 384)
