import numpy as np
import pytest
from scipy.sparse import csr_matrix

from assets.errors import DataError
from assets.section import parse
from evaluation.words.cut import STEP, CutConfig, cut, fixed_point, renormalise
from tests.evaluation.words.word_vectors import CASE, skewed

AVERAGE = CutConfig()
IMAGES, TEXTS = CASE["ret_img"], CASE["ret_txt"]


def keep(vectors: np.ndarray, most: int, above: float = 0.0) -> csr_matrix:
    return cut(vectors, CutConfig(above=above, at_most=most))


def recalls(scores: np.ndarray) -> np.ndarray:
    order = np.argsort(-scores, axis=1, kind="stable")
    rank = (order == CASE["ret_txt_to_img"][:, None]).argmax(axis=1)
    return np.array([(rank < k).mean() for k in (1, 5, 10)])


SIDES = {
    "dense": (csr_matrix(IMAGES), csr_matrix(TEXTS)),
    "thr": (cut(IMAGES, AVERAGE), cut(TEXTS, AVERAGE)),
    "top8": (keep(IMAGES, 8), keep(TEXTS, 8)),
    "top16": (keep(IMAGES, 16), keep(TEXTS, 16)),
    "top8_renorm": (renormalise(keep(IMAGES, 8)), renormalise(keep(TEXTS, 8))),
    "top16_renorm": (renormalise(keep(IMAGES, 16)), renormalise(keep(TEXTS, 16))),
    "top8_imgonly": (keep(IMAGES, 8), csr_matrix(TEXTS)),
}


@pytest.mark.parametrize("mode", SIDES)
def test_published_cuts_have_the_published_scores_rankings_and_recalls(mode):
    images, texts = SIDES[mode]
    scores = (texts @ images.T).toarray()
    assert scores[0, 0] == pytest.approx(float(CASE[f"ret_{mode}_score_00"]), abs=1e-10)
    np.testing.assert_array_equal(np.argsort(-scores, axis=1, kind="stable")[:, :5], CASE[f"ret_{mode}_t2i_top5"])
    np.testing.assert_allclose(recalls(scores), CASE[f"ret_{mode}_t2i_R"], atol=1e-10)


def test_the_average_cut_keeps_the_published_words():
    images, texts = SIDES["thr"]
    assert AVERAGE.threshold(IMAGES.shape[1]) == pytest.approx(float(CASE["ret_threshold"]), abs=1e-10)
    np.testing.assert_array_equal(np.diff(images.indptr), CASE["ret_thr_nnz_img"])
    assert 1 - images.nnz / IMAGES.size == pytest.approx(float(CASE["ret_thr_sparsity_img"]), abs=1e-6)
    assert 1 - texts.nnz / TEXTS.size == pytest.approx(float(CASE["ret_thr_sparsity_txt"]), abs=1e-6)


def test_a_constant_vector_keeps_nothing_and_any_other_some_but_not_all():
    words = 64  # 1/8 is exact
    assert cut(np.full((1, words), 1 / 8), AVERAGE).nnz == 0
    kept = np.diff(cut(skewed(200, words, 20, 1) + np.float32(1e-4), AVERAGE).indptr)
    assert kept.min() >= 1 and kept.max() < words


def test_of_equal_words_those_with_lower_numbers_stay():
    vector = np.array([[0.1, 0.5, 0.3, 0.3, 0.3, 0.6]])
    assert keep(vector, 3).indices.tolist() == [1, 2, 5]
    assert keep(vector, 3, above=0.4).indices.tolist() == [1, 5]  # both limits hold
    assert keep(vector, 6).toarray().tolist() == vector.tolist()


def test_kept_weights_stay_as_they_are():
    vectors = skewed(20, 50, 12, 2)
    kept = cut(vectors, CutConfig(above=0.2))
    np.testing.assert_array_equal(kept.toarray(), np.where(vectors > 0.2, vectors, 0))
    assert kept.dtype == np.float32


def test_rounding_moves_by_half_a_step_and_loses_no_word():
    kept = cut(np.array([[0.3, 1e-9, 0.0, 0.7]]), CutConfig(above=0.0))
    rounded = fixed_point(kept)
    assert (rounded.indices == kept.indices).all()
    assert rounded.data[1] == STEP
    assert np.abs(rounded.data - kept.data)[[0, 2]].max() <= STEP / 2
    assert (rounded.data.astype(np.float64) / STEP % 1 == 0).all()


@pytest.mark.parametrize("wrong", [-0.1, np.nan, np.inf])
def test_vectors_that_are_not_over_words_are_refused(wrong):
    with pytest.raises(DataError, match="negative or not finite"):
        cut(np.array([[0.5, wrong]]), AVERAGE)


def test_renormalised_rows_have_unit_norm_and_empty_ones_stay_empty():
    found = renormalise(csr_matrix(np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.1, 0.0]])))
    np.testing.assert_allclose(found.toarray(), [[0.6, 0.8, 0], [0, 0, 0], [0, 1, 0]], atol=1e-15)


@pytest.mark.parametrize("values", [{"above": "mean"}, {"above": -0.5}, {"at_most": 0}])
def test_wrong_cuts_are_refused_with_their_place(values):
    with pytest.raises(ValueError, match=r"indexes\.i\.cut\.(above|at_most)"):
        parse(CutConfig, values, "indexes.i.cut")
