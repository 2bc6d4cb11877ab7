import numpy as np
import pytest

from assets.errors import ConfigError, DataError
from assets.reduction.selection import best, check_scores, first_of_clusters, selection


def test_the_first_decision_against_a_row_is_its_reason():
    one, two = np.array([True, False, True, False]), np.array([True, True, False, False])
    found = selection((one, "too low"), (two, "too many"))
    assert found.kept.tolist() == [True, False, False, False]
    assert [found.reasons[number] for number in found.reason] == ["", "too low", "too many", "too low"]
    assert found.counts() == {"too low": 2, "too many": 1}


def test_the_best_rows_are_those_of_a_sort_by_score_then_rank():
    rng = np.random.default_rng(0)
    scores, ranks = rng.integers(0, 5, 40).astype(np.float32), rng.permutation(40)
    for budget in (0, 1, 17, 40):
        wanted = sorted(range(40), key=lambda row: (-scores[row], ranks[row]))[:budget]
        assert np.flatnonzero(best(scores, ranks, budget)).tolist() == sorted(wanted)
    assert np.flatnonzero(best(None, ranks, 3)).tolist() == sorted(np.argsort(ranks)[:3].tolist())


@pytest.mark.parametrize("scored", [False, True])
def test_the_first_of_each_cluster_are_those_of_a_slow_count(scored):
    rng = np.random.default_rng(1)
    labels, ranks = rng.integers(0, 6, 80), rng.permutation(80)
    labels[labels == 3] = 4  # an empty one
    scores = rng.integers(0, 4, 80).astype(np.float32) if scored else None
    quotas = np.array([0, 3, 100, 2, 1, 5])
    wanted = []
    for cluster in range(6):
        members = [row for row in range(80) if labels[row] == cluster]
        members.sort(key=lambda row: (-scores[row] if scored else 0, ranks[row]))
        wanted += members[: quotas[cluster]]
    assert np.flatnonzero(first_of_clusters(labels, quotas, ranks, scores)).tolist() == sorted(wanted)


def test_missing_scores_are_refused_with_their_number():
    scores = np.array([0.5, np.nan, 0.1, np.nan], dtype=np.float32)
    with pytest.raises(DataError, match=r"2 of 4 pairs have no score \(the first one is row 1\); score the whole pool"):
        check_scores(scores)
    with pytest.raises(DataError, match="have no score"):
        best(scores, np.arange(4), 2)


def test_more_than_there_is_cannot_be_kept():
    with pytest.raises(ConfigError, match="cannot keep 5 pairs"):
        best(None, np.arange(4), 5)
