import numpy as np
import pytest

from assets.errors import ConfigError
from assets.language.facet_encoder import FacetEncoder
from assets.language.prompts import prompt_set
from assets.language.queries import encode_queries, unit

TEXTS = ["a photo of a dog", "ein roter Apfel", "a photo of a dog"]


@pytest.fixture(scope="module")
def encoder(toy):
    return FacetEncoder(toy, prompt_set("brief"), max_caption_tokens=100)


def test_unit_leaves_the_zero_vector():
    assert unit(np.array([[3, 4], [0, 0]], dtype=np.float32)).tolist() == [[np.float32(0.6), np.float32(0.8)], [0, 0]]
    assert unit(np.ones((1, 4), dtype=np.float32)).dtype == np.float32


def test_a_single_query_is_the_first_facet_in_the_short_wrapper(encoder):
    queries = encode_queries(encoder, TEXTS, "single")
    assert queries.dtype == np.float32 and queries.shape == (3, 32)
    for query, rows in zip(queries, encoder.encode(TEXTS, "short"), strict=True):
        np.testing.assert_allclose(query, rows[0] / np.linalg.norm(rows[0]), atol=1e-6)
    assert np.array_equal(queries[0], queries[2]) and not np.allclose(queries[0], queries[1])


@pytest.mark.parametrize("mean", ["raw", "unit"])
def test_a_multi_query_is_the_mean_of_all_facets_in_the_long_wrapper(encoder, mean):
    queries = encode_queries(encoder, TEXTS, "multi", mean)
    for query, rows in zip(queries, encoder.encode(TEXTS, "long"), strict=True):
        total = sum(row / np.linalg.norm(row) if mean == "unit" else row for row in rows)
        np.testing.assert_allclose(query, total / np.linalg.norm(total), atol=1e-6)


@pytest.mark.parametrize(("mode", "wrapper"), [("single", "short"), ("multi", "long")])
def test_centred_queries_lose_the_mean_of_their_slot(encoder, mode, wrapper):
    facets = encoder.prompts.names[: 1 if mode == "single" else None]
    rows = unit(encoder.encode(TEXTS, wrapper, facets))
    means = rows.mean(axis=0)
    for query, row in zip(encode_queries(encoder, TEXTS, mode, "unit", means), rows, strict=True):
        centred = [(one - mean) / np.linalg.norm(one - mean) for one, mean in zip(row, means, strict=True)]
        total = np.sum(centred, axis=0)
        np.testing.assert_allclose(query, total / np.linalg.norm(total), atol=1e-5)


def test_means_that_do_not_fit_are_refused(encoder):
    with pytest.raises(ConfigError, match=r"shape of slot_means, got \(2, 32\), wanted \(7, 32\)"):
        encode_queries(encoder, TEXTS, "multi", "unit", np.zeros((2, 32), dtype=np.float32))
    with pytest.raises(ConfigError, match="multi_mean of centred queries, got 'raw'"):
        encode_queries(encoder, TEXTS, "multi", "raw", np.zeros((7, 32), dtype=np.float32))
