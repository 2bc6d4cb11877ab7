import numpy as np
import pytest

from evaluation.features import Features, SplitFeatures, distinct
from evaluation.intervals import Bootstrap
from evaluation.retrieval import KS, Pairs, Retrieval, RetrievalConfig, caption_groups, draw_order, rank_pairs


def unit(array: np.ndarray) -> np.ndarray:
    return (array / np.linalg.norm(array, axis=-1, keepdims=True)).astype(np.float32)


def make_pairs(images: np.ndarray, captions: list[str], by_caption: dict[str, np.ndarray]) -> Pairs:
    texts, rows = distinct(captions)
    return Pairs(unit(images), unit(np.stack([by_caption[text] for text in texts])), rows, caption_groups(texts))


def random_pairs(n: int, vocabulary: int, seed: int) -> tuple[Pairs, list[str]]:
    rng = np.random.default_rng(seed)
    captions = [f"caption {i}" for i in rng.integers(0, vocabulary, n)]
    return make_pairs(
        rng.normal(size=(n, 8)), captions, {c: rng.normal(size=8) for c in sorted(set(captions))}
    ), captions


def slow_hits(pairs: Pairs, image_queries: bool, captions: list[str], grouped: bool, draws: int) -> np.ndarray:
    """Sort every query's candidates with random tie breaks, many times."""
    rng = np.random.default_rng(0)
    # float64, and each distinct text once: a float32 product may round equal columns apart and so break their tie
    distinct_scores = pairs.image_features.astype(np.float64) @ pairs.text_features.astype(np.float64).T
    scores = np.rint(distinct_scores * 1e6)[:, pairs.text_rows]
    scores = scores if image_queries else scores.T
    n = len(captions)
    hits = np.zeros((n, len(KS)))
    for _ in range(draws):
        for query in range(n):
            order = np.lexsort((rng.random(n), -scores[query]))
            right = [captions[c] == captions[query] if grouped else c == query for c in order]
            hits[query] += [any(right[:k]) for k in KS]
    return hits / draws


@pytest.mark.parametrize("image_queries", [True, False])
def test_without_repeats_hits_agree_with_sorting(image_queries):
    pairs, _ = random_pairs(30, 1, 0)
    captions = [f"own {i}" for i in range(30)]
    rng = np.random.default_rng(3)
    pairs = make_pairs(rng.normal(size=(30, 8)), captions, {c: rng.normal(size=8) for c in captions})
    found = rank_pairs(pairs, image_queries)
    assert (found.hits == slow_hits(pairs, image_queries, captions, False, 1)).all()
    assert (found.group_hits == found.hits).all()


@pytest.mark.parametrize("image_queries", [True, False])
@pytest.mark.parametrize("grouped", [True, False])
def test_with_repeats_hits_agree_with_many_random_tie_breaks(image_queries, grouped):
    pairs, captions = random_pairs(24, 6, 1)
    found = rank_pairs(pairs, image_queries)
    fast = found.group_hits if grouped else found.hits
    assert fast == pytest.approx(slow_hits(pairs, image_queries, captions, grouped, 400), abs=0.1)
    assert fast.mean(axis=0) == pytest.approx(
        slow_hits(pairs, image_queries, captions, grouped, 400).mean(axis=0), abs=0.02
    )


def test_a_perfect_model_gets_one_by_group_and_one_over_copies_by_pair():
    captions = ["a", "a", "b", "c"]
    axes = {"a": np.eye(3)[0], "b": np.eye(3)[1], "c": np.eye(3)[2]}
    pairs = make_pairs(np.stack([axes[c] for c in captions]), captions, axes)
    for image_queries in (True, False):
        found = rank_pairs(pairs, image_queries)
        assert found.group_hits[:, 0].tolist() == [1.0] * 4
        assert found.hits[:, 0].tolist() == [0.5, 0.5, 1.0, 1.0]
        assert found.group_rank.tolist() == [1.0] * 4


def test_a_symmetric_similarity_gives_the_same_both_ways():
    features = np.random.default_rng(5).normal(size=(20, 4))
    captions = [str(i) for i in range(20)]
    noise = np.random.default_rng(6).normal(size=(20, 4))
    left = make_pairs(features, captions, dict(zip(captions, noise, strict=True)))
    right = make_pairs(noise, captions, dict(zip(captions, features, strict=True)))
    assert (rank_pairs(left, True).hits == rank_pairs(right, False).hits).all()


@pytest.mark.parametrize("image_queries", [True, False])
def test_a_collapsed_model_gets_exactly_its_chance(image_queries):
    captions = [f"caption {i % 7}" for i in range(20)]
    same = np.array([1.0, 2.0])
    pairs = make_pairs(np.tile(same, (20, 1)), captions, dict.fromkeys(captions, same))
    found = rank_pairs(pairs, image_queries)
    assert found.hits == pytest.approx(np.tile(found.chance, (20, 1)))
    assert found.group_hits == pytest.approx(found.group_chance)
    assert found.chance == pytest.approx([1 / 20, 5 / 20, 10 / 20])


def test_random_features_score_near_chance():
    pairs, _ = random_pairs(600, 10_000, 7)
    for image_queries in (True, False):
        found = rank_pairs(pairs, image_queries)
        assert found.hits.mean(axis=0) == pytest.approx(found.chance, abs=0.015)


def test_queries_in_parts_give_the_same(monkeypatch):
    pairs, _ = random_pairs(50, 20, 8)
    whole = rank_pairs(pairs, True), rank_pairs(pairs, False)
    monkeypatch.setattr("evaluation.retrieval._QUERIES_AT_ONCE", 7)
    parts = rank_pairs(pairs, True), rank_pairs(pairs, False)
    for one, other in zip(whole, parts, strict=True):
        assert (one.hits == other.hits).all() and (one.group_hits == other.group_hits).all()


def test_caption_groups_ignore_case_and_spacing():
    assert caption_groups(["A cat", "a  CAT ", "a dog"]).tolist() == [0, 0, 1]


def test_draws_depend_on_keys_alone():
    keys = [f"key-{i}" for i in range(50)]
    order = [keys[i] for i in draw_order(keys)]
    assert [keys[::-1][i] for i in draw_order(keys[::-1])] == order
    assert order != sorted(keys)
    fewer = [key for key in keys if key != order[3]]
    assert [fewer[i] for i in draw_order(fewer)] == [key for key in order if key != order[3]]


def test_examples_show_right_candidates_ranks_and_failures():
    captions = ["a", "a", "b", "c", "d"]
    axes = {name: np.eye(4)[i] for i, name in enumerate("abcd")}
    images = np.stack([axes["a"], axes["a"], axes["b"], axes["d"], axes["d"]])  # the image of "c" looks like "d"
    pairs = make_pairs(images, captions, axes)
    texts, rows = distinct(captions)
    keys = [f"k{i}" for i in range(5)]
    split = SplitFeatures(
        "t", "retrieval", "in_domain", keys, pairs.image_features, None, texts, pairs.text_features, rows
    )
    result = Retrieval(RetrievalConfig(examples=1, candidates=3), Bootstrap(100, 0)).run(
        Features((split,), (), lambda _: images)
    )
    block = result.documents["retrieval"]["suites"]["in_domain"]["image_to_text"]
    assert [len(block[kind]) for kind in ("drawn", "failed")] == [1, 1 if block["drawn"][0]["key"] != "k3" else 0]
    for query in block["drawn"] + block["failed"]:
        captions_shown = [item["caption"] for item in query["ranked"]]
        assert len(set(captions_shown)) == len(captions_shown) == 3
        assert all(item["right"] == (item["caption"] == query["caption"]) for item in query["ranked"])
        assert (query["rank"] == 1.0) == query["ranked"][0]["right"]
    assert result.metrics["in_domain"]["image_to_text_group_r1"] == pytest.approx(4 / 5)
    assert result.metrics["in_domain"]["num_pairs"] == 5
    six = [result.metrics["in_domain"][f"{way}_r{k}"] for way in ("image_to_text", "text_to_image") for k in KS]
    assert result.metrics["in_domain"]["mean_recall"] == pytest.approx(np.mean(six))
    rows = result.tables["per_query"]
    for way in ("image_to_text", "text_to_image"):
        found = [row for row in rows if row["direction"] == way]
        assert [row["key"] for row in found] == keys and {row["suite"] for row in found} == {"in_domain"}
        for k in KS:
            assert np.mean([row[f"r{k}"] for row in found]) == pytest.approx(result.metrics["in_domain"][f"{way}_r{k}"])
