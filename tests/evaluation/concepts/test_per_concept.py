import numpy as np
import pytest

from evaluation.class_scores import class_means, label_hits
from evaluation.concepts.per_concept import caption_hits, concept_means, image_hits
from evaluation.ranking import cosines
from tests.evaluation.concepts.fixture import case


def pairs_of(pointer, members):
    return members, np.repeat(np.arange(len(pointer) - 1), np.diff(pointer))


@pytest.fixture(scope="module")
def hits():
    z = case()
    owners = np.repeat(np.arange(40), 5)
    images, texts = z["ret_img_emb"], z["ret_txt_emb"]
    return caption_hits(texts, images, owners), image_hits(images, texts, owners)


def test_recalls_are_those_of_the_fixture(hits):
    z = case()
    assert hits[0].mean(axis=0) == pytest.approx(z["ret_t2i_recall"], abs=1e-12)
    assert hits[1].mean(axis=0) == pytest.approx(z["ret_i2t_recall"], abs=1e-12)


def test_recall_per_concept_is_that_of_the_fixture(hits):
    z = case()
    for found, members, wanted in (
        (hits[0], pairs_of(z["ret_c2t_ptr"], z["ret_c2t"]), "ret_t2i_conceptwise"),
        (hits[1], pairs_of(z["ret_c2i_ptr"], z["ret_c2i"]), "ret_i2t_conceptwise"),
    ):
        means, counts = concept_means(found, *members, len(z["ret_concepts"]))
        assert means.T == pytest.approx(z[wanted], abs=1e-12)
        assert counts.sum() == len(members[0])


def test_a_concept_in_every_caption_has_the_recall_of_all(hits):
    means, _ = concept_means(hits[0], np.arange(200), np.zeros(200, dtype=np.int64), 1)
    assert means[0] == pytest.approx(hits[0].mean(axis=0))
    assert ((means >= 0) & (means <= 1)).all()


@pytest.mark.filterwarnings("error")
def test_a_concept_of_no_query_has_no_score(hits):
    means, counts = concept_means(hits[0], np.array([3]), np.array([1]), 3)
    assert counts.tolist() == [0, 1, 0]
    assert np.isnan(means[[0, 2]]).all()


def test_equal_pictures_share_the_hit():
    texts, images = np.eye(2, dtype=np.float32)[[0]], np.eye(2, dtype=np.float32)[[0, 0, 1]]
    assert caption_hits(texts, images, np.array([0]))[0] == pytest.approx([0.5, 1, 1])


def test_accuracy_per_class_is_that_of_the_fixture():
    z = case()
    scores = cosines(z["zs_feats"], z["zs_classifier"])
    hits = label_hits(scores, z["zs_labels"], (1,))
    assert 100 * hits.mean() == pytest.approx(z["zs_full_ref"], abs=1e-9)
    assert 100 * class_means(hits, z["zs_labels"])[:, 0] == pytest.approx(z["zs_classwise_ref"], abs=1e-9)
