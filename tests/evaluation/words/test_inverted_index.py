import numpy as np
import pytest
from scipy.sparse import csr_matrix

from assets.errors import ConfigError, DataError
from evaluation.words.cut import CutConfig, cut, fixed_point
from evaluation.words.index import InvertedIndex, load_index, query_of
from tests.evaluation.words.test_cut import SIDES
from tests.evaluation.words.word_vectors import CASE, pictures, skewed


def build(matrix: csr_matrix) -> InvertedIndex:
    return InvertedIndex.build(fixed_point(matrix), pictures(matrix.shape[0]))


def queries(matrix: csr_matrix) -> list[dict[int, float]]:
    return [query_of(fixed_point(matrix)[row]) for row in range(matrix.shape[0])]


def dense(index: InvertedIndex, query: dict[int, float]) -> np.ndarray:
    """Scores of all pictures by a plain product, in float64."""
    weights = np.zeros(index.num_words)
    weights[list(query)] = list(query.values())
    return index.to_rows().toarray().astype(np.float64) @ weights


@pytest.fixture(scope="module")
def index():
    return build(cut(skewed(700, 120, 15, 3), CutConfig()))


@pytest.fixture(scope="module")
def asked():
    return queries(cut(skewed(40, 120, 15, 4), CutConfig()))


@pytest.mark.parametrize("k", [1, 7, 700])
def test_search_is_the_dense_product_of_the_cut_vectors_bit_for_bit(index, asked, k):
    for query in asked:
        scores = dense(index, query)
        order = np.lexsort((np.arange(len(index)), -scores))
        order = order[scores[order] > 0][:k]
        found = index.search(query, k)
        assert [hit.image for hit in found.hits] == order.tolist()
        assert [hit.score for hit in found.hits] == scores[order].tolist()
        assert found.matching == np.count_nonzero(scores)


def test_contributions_add_up_to_the_score_exactly_in_any_order(index, asked):
    generator = np.random.default_rng(5)
    for query in asked:
        for hit in index.search(query, 5).hits:
            parts = index.explain(query, hit.image)
            assert list(parts.values()) == sorted(parts.values(), reverse=True)
            assert set(parts) == set(query) & set(index.to_rows()[hit.image].indices.tolist())
            assert sum(generator.permutation(list(parts.values())).tolist()) == hit.score


@pytest.mark.parametrize("mode", ["dense", "thr", "top8", "top16", "top8_imgonly"])
def test_the_published_rankings_come_out_of_the_index(mode):
    images, texts = SIDES[mode]
    index = build(images)
    found = [[hit.image for hit in index.search(query, 5).hits] for query in queries(texts)]
    assert found == CASE[f"ret_{mode}_t2i_top5"].tolist()


def test_the_published_explanation_comes_out_of_the_index():
    images, texts = SIDES["thr"]
    text, image = CASE["exp_pair"].tolist()
    exact = texts[text].multiply(images[image]).toarray().ravel()
    order = np.argsort(-exact, kind="stable")[: len(CASE["exp_word_ids"])]
    assert order.tolist() == CASE["exp_word_ids"].tolist()
    np.testing.assert_allclose(exact[order], CASE["exp_contrib"], atol=1e-10)
    assert exact.sum() == pytest.approx(float(CASE["exp_total"]), abs=1e-10)
    parts = build(images).explain(queries(texts)[text], image)  # the same, but for the rounding of weights
    assert list(parts)[: len(order)] == order.tolist()
    assert sum(parts.values()) == pytest.approx(float(CASE["exp_total"]), abs=1e-5)


def test_scaling_a_query_keeps_the_ranking(index, asked):
    for query in asked:
        doubled = {word: 2 * weight for word, weight in query.items()}
        images = [[hit.image for hit in index.search(some, 50).hits] for some in (query, doubled)]
        assert images[0] == images[1]


def test_of_equal_scores_the_lower_number_comes_first():
    index = build(csr_matrix(np.array([[0.5, 0], [0.25, 0], [0.5, 0], [0, 1], [0.5, 0], [0.25, 0]])))
    assert [hit.image for hit in index.search({0: 1.0}, 2).hits] == [0, 2]
    assert [hit.image for hit in index.search({0: 1.0}, 4).hits] == [0, 2, 4, 1]
    assert [hit.image for hit in index.search({0: 1.0}, 9).hits] == [0, 2, 4, 1, 5]


def test_conditions_leave_out_pictures_and_change_no_score(index, asked):
    shown = index.to_rows().toarray() > 0
    query = asked[0]
    free = {hit.image: hit.score for hit in index.search(query, 700).hits}
    found = index.search(query, 700, must=[0, 1], must_not=[2])
    wanted = {image: score for image, score in free.items() if shown[image, [0, 1]].all() and not shown[image, 2]}
    assert {hit.image: hit.score for hit in found.hits} == wanted
    assert 0 < len(wanted) < len(free) and found.matching == len(wanted)


def test_the_work_is_the_postings_of_the_words_asked(index):
    lengths = index.posting_lengths
    assert index.search({3: 0.5, 7: 0.1}, 1).touched == lengths[3] + lengths[7]
    assert index.search({3: 0.5}, 1, must=[3, 9], must_not=[11]).touched == lengths[[3, 9, 11]].sum()


def test_a_saved_index_answers_the_same_and_has_the_same_bytes(index, asked, tmp_path):
    folders = (tmp_path / "a", tmp_path / "b")
    for folder in folders:
        folder.mkdir()
        index.save(folder)
    opened = load_index(folders[0])
    assert opened.search(asked[0], 20) == index.search(asked[0], 20)
    assert opened.pictures.equals(index.pictures)
    contents = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert contents[0] == contents[1]


def test_a_damaged_index_is_refused(index, tmp_path):
    index.save(tmp_path)
    np.save(tmp_path / "weights.npy", index.weights[:-1])
    with pytest.raises(DataError, match="do not fit each other"):
        load_index(tmp_path)
    np.save(tmp_path / "weights.npy", index.weights.astype(np.float64))
    with pytest.raises(DataError, match=r"weights\.npy is float64"):
        load_index(tmp_path)
    (tmp_path / "weights.npy").unlink()
    with pytest.raises(DataError, match="is damaged"):
        load_index(tmp_path)


def test_empty_queries_and_indexes_and_wrong_weights_are_errors(index):
    with pytest.raises(ConfigError, match="query is empty"):
        index.search({}, 1)
    for weight in (0.0, -1.0, float("nan"), 5000.0):
        with pytest.raises(ConfigError, match="weights of a query"):
            index.search({1: weight}, 1)
    with pytest.raises(DataError, match="index is empty"):
        build(csr_matrix((3, 4))).search({1: 1.0}, 1)
