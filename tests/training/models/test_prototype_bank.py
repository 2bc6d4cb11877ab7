import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from assets.clustering.kmeans import Clusters, KMeansConfig, Rows, kmeans
from assets.clustering.rank_sums import cluster_means
from training.models.prototype_bank import BankRules, BankShape, PrototypeBank

CASE = np.load(Path(__file__).parents[2] / "fixtures/protoclip/case_a.npz")
RULES = BankRules(0.05, back_translation=True, normalize_teacher=False, mask_empty=False, leave_one_out=False)
N, K, WIDTH = 40, 5, 4


def snapshots(seed=0):
    random = torch.Generator().manual_seed(seed)
    return {name: normalize(torch.randn(N, WIDTH, generator=random), dim=-1) for name in ("image", "text")}


def rows_of(values) -> Rows:
    return Rows(values, torch.arange(len(values)), len(values))


def bank_of(features, targets=8, clusters=None, students=("image",), **rules) -> PrototypeBank:
    bank = PrototypeBank(BankShape(N, K, WIDTH, targets), dataclasses.replace(RULES, **rules), students)
    found = clusters or kmeans(rows_of(features["text"]), K, KMeansConfig(restarts=1), (0,))
    bank.fill(found, rows_of(features["text"]), features)
    return bank


def clusters_of(labels, centroids) -> Clusters:
    counts = torch.bincount(labels, minlength=len(centroids))
    return Clusters(centroids, labels, counts, torch.tensor(0.0), (0.0,))


@pytest.mark.parametrize(("student", "teacher"), [("img", "txt"), ("txt", "img"), ("img", "ext"), ("txt", "ext")])
def test_back_translated_prototypes_are_the_published_ones(student, teacher):
    rows = torch.from_numpy(CASE[f"H_{student}"]).double()
    labels = torch.from_numpy(CASE[f"km_{teacher}_labels"]).long()
    wanted = CASE[f"pbt_{student}_from_{teacher}"]
    assert np.allclose(cluster_means(rows, labels, 12), wanted, atol=1e-12)


def test_a_cluster_without_rows_has_a_prototype_of_exact_zeros():
    labels = torch.from_numpy(CASE["gap_labels"]).long()
    found = cluster_means(torch.from_numpy(CASE["H_img"]).double(), labels, 12)
    assert np.allclose(found, CASE["pbt_img_from_gap"], atol=1e-12)
    assert found[1].abs().max() == found[10].abs().max() == 0


def test_prototypes_keep_the_sum_of_the_snapshot_and_are_no_longer_than_one():
    features = snapshots()
    bank = bank_of(features)
    prototypes = bank.image_prototypes.double()
    total = (bank.counts[:, None] * prototypes).sum(dim=0)
    assert torch.allclose(total, features["image"].double().sum(dim=0), atol=1e-5)
    assert prototypes.norm(dim=1).max() <= 1 + 1e-6


def test_translating_a_modality_into_itself_gives_its_own_converged_centroids():
    features = snapshots()
    features["image"] = features["text"]
    found = kmeans(rows_of(features["text"]), K, KMeansConfig(iterations=50, restarts=1), (0,))
    assert torch.allclose(bank_of(features, clusters=found).image_prototypes, found.centroids, atol=1e-6)


def test_without_back_translation_the_prototypes_are_the_centroids_of_the_teacher():
    features = snapshots()
    found = kmeans(rows_of(features["text"]), K, KMeansConfig(restarts=1), (0,))
    bank = bank_of(features, clusters=found, back_translation=False)
    assert torch.equal(bank.image_prototypes, found.centroids)
    assert not torch.allclose(bank.image_prototypes, bank_of(features, clusters=found).image_prototypes, atol=0.1)


def test_a_rotation_of_the_teacher_changes_the_loss_only_without_back_translation():
    features = snapshots()
    rotation = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(3)))[0]
    found = kmeans(rows_of(features["text"]), K, KMeansConfig(restarts=1), (0,))
    rotated = dataclasses.replace(found, centroids=found.centroids @ rotation)
    h, places = features["image"][:9], torch.arange(9)
    for back_translation in (True, False):
        losses = [
            bank_of(features, clusters=c, back_translation=back_translation).loss("image", h, places, torch.tensor(9.0))
            for c in (found, rotated)
        ]
        equal = float(losses[0][0]) == pytest.approx(float(losses[1][0]), abs=1e-5)
        assert equal == back_translation


def test_with_every_row_a_cluster_the_loss_is_that_against_the_own_snapshot():
    features = snapshots()
    places = torch.tensor([3, 0, 17, 39])
    bank = PrototypeBank(BankShape(N, N, WIDTH, 0), RULES, ("image",))
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    bank.fill(clusters_of(order, features["text"][order.argsort()]), rows_of(features["text"]), features)
    h = snapshots(1)["image"][:4]
    loss, _ = bank.loss("image", h, places, torch.tensor(6.0))
    wanted = torch.nn.functional.cross_entropy(6.0 * h @ features["image"].T, places)
    assert float(loss) == pytest.approx(float(wanted), rel=1e-5)


def test_nothing_of_the_bank_gets_a_gradient_or_follows_the_snapshot():
    features = {name: value.clone().requires_grad_() for name, value in snapshots().items()}
    bank = bank_of(features, leave_one_out=True)
    h = snapshots(1)["image"][:6].requires_grad_()
    before = bank.loss("image", h, torch.arange(6), torch.tensor(9.0))[0]
    with torch.no_grad():
        for value in features.values():
            value.zero_()
    after = bank.loss("image", h, torch.arange(6), torch.tensor(9.0))[0]
    assert before.item() == after.item()
    after.backward()
    assert h.grad.abs().sum() > 0
    assert all(value.grad is None for value in features.values())
    assert not any(buffer.requires_grad for buffer in bank.buffers())


def test_labels_are_looked_up_by_the_place_in_the_episode():
    features = snapshots()
    labels = torch.arange(N) % K
    bank = bank_of(features, targets=0, clusters=clusters_of(labels, torch.eye(K)[:, :WIDTH]))
    places = torch.tensor([11, 2, 38, 25])
    h = normalize(bank.image_prototypes[labels[places]], dim=-1)
    _, accuracy = bank.loss("image", h, places, torch.tensor(50.0))
    assert float(accuracy) == 1.0
    _, shifted = bank.loss("image", h, places + 1, torch.tensor(50.0))
    assert float(shifted) == 0.0


def test_without_its_own_snapshot_a_row_fits_its_prototype_less():
    features = snapshots()
    places = torch.arange(N)
    losses = {
        own: bank_of(features, leave_one_out=own).loss("image", features["image"], places, torch.tensor(9.0))
        for own in (False, True)
    }
    assert losses[True][0] > losses[False][0] + 0.1
    assert losses[True][1] < losses[False][1]


def test_empty_clusters_can_leave_the_softmax():
    features = snapshots()
    labels = torch.arange(N) % (K - 2)
    found = clusters_of(labels, torch.randn(K, WIDTH, generator=torch.Generator().manual_seed(0)))
    h = snapshots(1)["image"]
    masked = bank_of(features, clusters=found, mask_empty=True)
    plain = bank_of(features, clusters=found)
    kept = dataclasses.replace(found, centroids=found.centroids[: K - 2], counts=found.counts[: K - 2])
    small = PrototypeBank(BankShape(N, K - 2, WIDTH, 8), RULES, ("image",))
    small.fill(kept, rows_of(features["text"]), features)
    scale, places = torch.tensor(9.0), torch.arange(N)
    wanted = small.loss("image", h, places, scale)[0]
    assert float(masked.loss("image", h, places, scale)[0]) == pytest.approx(float(wanted), rel=1e-5)
    assert float(plain.loss("image", h, places, scale)[0]) != pytest.approx(float(wanted), rel=1e-3)
    assert float(masked.logs()["empty_clusters"]) == 2


def test_rows_whose_best_target_is_another_cluster_are_counted_and_can_be_ruled_out():
    # the centroid of cluster 1 is short and points where that of cluster 0 is long
    centroids = torch.tensor([[0.9, 0.0, 0, 0], [0.2, 0.1, 0, 0], [0, 0, 0.8, 0], [0, 0, 0, 0.8], [0, -0.7, 0, 0]])
    labels = torch.tensor([1] * 10 + [0, 2, 3, 4, 2] * 6)
    features = snapshots()
    counted = bank_of(features, clusters=clusters_of(labels, centroids))
    assert float(counted.logs()["target_is_not_label"]) == pytest.approx(10 / N)
    normal = bank_of(features, clusters=clusters_of(labels, centroids), normalize_teacher=True)
    assert float(normal.logs()["target_is_not_label"]) == 0


def test_what_a_short_target_drops_is_told():
    features = snapshots()
    assert float(bank_of(features, targets=K).logs()["target_dropped"]) < 1e-6
    assert float(bank_of(features, targets=1, temperature=1.0).logs()["target_dropped"]) > 0.1
