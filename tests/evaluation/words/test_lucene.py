import json

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from assets.errors import DataError
from assets.manifest import write_manifest
from evaluation.words.index import InvertedIndex
from evaluation.words.lucene import to_impacts, write_lucene
from evaluation.words.word_list import WordList
from tests.evaluation.words.test_cut import SIDES
from tests.evaluation.words.word_vectors import CASE, pictures


def test_impacts_have_the_published_scale_scores_and_rankings():
    images, texts = (to_impacts(side) for side in SIDES["thr"])
    assert images.largest == pytest.approx(float(CASE["ret_q8_img_max"]), abs=1e-10)
    assert texts.largest == pytest.approx(float(CASE["ret_q8_txt_max"]), abs=1e-10)
    scores = (texts.matrix @ images.matrix.T).toarray()
    np.testing.assert_array_equal(scores[0], CASE["ret_q8_score_row0"])
    np.testing.assert_array_equal(np.argsort(-scores, axis=1, kind="stable")[:, :5], CASE["ret_q8_t2i_top5"])


def test_what_was_kept_has_an_impact_of_one_at_least():
    found = to_impacts(csr_matrix(np.array([[1e-5, 0.0, 0.5]])))
    assert found.matrix.toarray().tolist() == [[1, 0, 255]] and found.largest == 0.5


def test_nothing_has_no_impacts():
    with pytest.raises(DataError, match="index is empty"):
        to_impacts(csr_matrix((2, 3)))


def test_documents_hold_every_picture_and_the_scale_lies_beside_them(tmp_path):
    matrix = csr_matrix(np.array([[0.5, 0, 0.25], [0, 0, 0], [0, 1.0, 0]], dtype=np.float32))
    folder = tmp_path / "index"
    folder.mkdir()
    InvertedIndex.build(matrix, pictures(3)).save(folder)
    WordList(("apple", "red", "pear"), "0").save(folder)
    write_manifest(folder, "index", "toy", {}, {}, {}, "0")
    write_lucene("toy", folder, tmp_path / "out")
    lines = (tmp_path / "out/documents/part-00000.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": "k00000", "contents": "picture k00000", "vector": {"0": 128, "2": 64}},
        {"id": "k00001", "contents": "picture k00001", "vector": {}},
        {"id": "k00002", "contents": "picture k00002", "vector": {"1": 255}},
    ]
    assert json.loads((tmp_path / "out/scale.json").read_text()) == {"largest_weight": 1.0, "levels": 255}
    assert json.loads((tmp_path / "out/words.json").read_text())["words"][2] == "pear"
