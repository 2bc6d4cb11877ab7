import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from training.losses.prototype import (
    hard_prototype_loss,
    leave_one_out,
    prototype_logits,
    soft_prototype_loss,
    soft_targets,
)

CASE = np.load(Path(__file__).parents[2] / "fixtures/protoclip/case_a.npz")
PAIRS = {
    # name -> features, prototypes, teacher centroids, labels
    "i2t_pbt": ("h_img", "pbt_img_from_txt", "km_txt_centroids", "km_txt_labels"),
    "t2i_pbt": ("h_txt", "pbt_txt_from_img", "km_img_centroids", "km_img_labels"),
    "i2t_nopbt": ("h_img", "km_txt_centroids", "km_txt_centroids", "km_txt_labels"),
    "t2i_nopbt": ("h_txt", "km_img_centroids", "km_img_centroids", "km_img_labels"),
    "i2e": ("h_img", "pbt_img_from_ext", "km_ext_centroids", "km_ext_labels"),
    "t2e": ("h_txt", "pbt_txt_from_ext", "km_ext_centroids", "km_ext_labels"),
    "i2t_gap": ("h_img", "pbt_img_from_gap", "km_txt_centroids", "gap_labels"),
    "raw": ("h_img", "raw_student_centroids", "raw_teacher_centroids", "raw_labels"),
}


def array(name: str) -> torch.Tensor:
    value = torch.from_numpy(CASE[name])
    return value.double() if value.is_floating_point() else value.long()


def published(name: str):
    features, prototypes, centroids, labels = (array(part) for part in PAIRS[name])
    return features, prototypes, centroids, labels if name == "raw" else labels[array("idx")]


def targets(labels, centroids, temperature, most=64):
    index, weight, _ = soft_targets(centroids, temperature, most)
    return index[labels], weight[labels]


def loss_of(logits, labels, centroids, temperature):
    if temperature <= 0:
        return hard_prototype_loss(logits, labels)
    return soft_prototype_loss(logits, *targets(labels, centroids, temperature))


@pytest.mark.parametrize("name", PAIRS)
def test_losses_accuracies_and_gradients_are_the_published_ones(name):
    features, prototypes, centroids, labels = published(name)
    for number, tau in enumerate(CASE["taus"]):
        h, log_scale = features.clone().requires_grad_(), array("logit_scale_proto_log").clone().requires_grad_()
        logits = prototype_logits(h, prototypes, log_scale.exp())
        loss = loss_of(logits, labels, centroids, tau)
        loss.backward()
        assert loss.item() == pytest.approx(CASE[f"proto_{name}_loss"][number], abs=1e-10)
        hits = 100 * (logits.argmax(dim=1) == labels).double().mean().item()
        assert hits == pytest.approx(CASE[f"proto_{name}_acc"][number], abs=1e-10)
        assert log_scale.grad.item() == pytest.approx(CASE[f"proto_{name}_grad_logscale"][number], abs=1e-10)
        if number < 3:
            wanted = torch.from_numpy(CASE[f"proto_{name}_grad_h"][number]).double()
            assert torch.allclose(h.grad, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["i2t_pbt", "t2i_pbt", "raw"])
def test_logits_and_soft_targets_are_the_published_ones(name):
    features, prototypes, centroids, labels = published(name)
    logits = prototype_logits(features, prototypes, array("logit_scale_proto_log").exp())
    assert np.allclose(logits, CASE[f"scores_student_{name}"], atol=2e-5)
    index, weight = targets(labels, centroids, CASE["taus"][1])
    dense = torch.zeros_like(logits).scatter(1, index, weight)
    assert np.allclose(dense, CASE[f"scores_teacher_{name}"], atol=1e-6)


def slow_loss(h, prototypes, scale, target):
    total = 0.0
    for i in range(len(h)):
        row = [scale * sum(float(a) * float(b) for a, b in zip(h[i], s, strict=True)) for s in prototypes]
        log_sum = math.log(sum(math.exp(value) for value in row))
        total -= sum(float(target[i, j]) * (row[j] - log_sum) for j in range(len(row)))
    return total / len(h)


@pytest.fixture
def rows():
    random = torch.Generator().manual_seed(5)

    def draw(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    h = normalize(draw(9, 6), dim=-1)
    return h, 0.7 * normalize(draw(8, 6), dim=-1), draw(8, 3), torch.randint(8, (9,), generator=random)


@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_the_soft_loss_equals_the_sum_written_out(rows, temperature):
    h, prototypes, centroids, labels = rows
    target = torch.stack([(centroids[y] @ centroids.T / temperature).softmax(dim=0) for y in labels])
    logits = prototype_logits(h, prototypes, torch.tensor(9.0))
    loss = soft_prototype_loss(logits, *targets(labels, centroids, temperature))
    assert float(loss) == pytest.approx(slow_loss(h, prototypes, 9.0, target), rel=1e-9)


def test_with_every_row_a_cluster_of_its_own_the_loss_is_a_direction_of_info_nce(rows):
    h, other = rows[0], normalize(rows[0].roll(1, 0) + 0.3, dim=-1)
    logits = prototype_logits(h, other, torch.tensor(7.0))
    wanted = torch.nn.functional.cross_entropy(7.0 * h @ other.T, torch.arange(9))
    assert float(hard_prototype_loss(logits, torch.arange(9))) == pytest.approx(float(wanted), rel=1e-12)


def test_a_soft_target_becomes_flat_at_high_and_one_hot_at_low_temperature(rows):
    h, prototypes, centroids, labels = rows
    logits = prototype_logits(h, prototypes, torch.tensor(9.0))
    flat = soft_prototype_loss(logits, *targets(labels, centroids, 1e9))
    assert float(flat) == pytest.approx(float((logits.logsumexp(1) - logits.mean(1)).mean()), rel=1e-6)
    sharp = soft_prototype_loss(logits, *targets(labels, centroids, 1e-9))
    best = (centroids[labels] @ centroids.T).argmax(dim=1)
    assert (best != labels).any(), "the norms must differ enough to tell the best centroid from the label"
    assert float(sharp) == pytest.approx(float(hard_prototype_loss(logits, best)), rel=1e-9)


def test_the_loss_is_at_least_the_entropy_of_the_targets_and_reaches_it(rows):
    h, prototypes, centroids, labels = rows
    index, weight = targets(labels, centroids, 0.5)
    entropy = float(-(weight * weight.log()).sum(dim=1).mean())
    assert float(soft_prototype_loss(prototype_logits(h, prototypes, torch.tensor(9.0)), index, weight)) > entropy
    equal = torch.zeros(9, 8, dtype=torch.float64).scatter(1, index, weight.log())
    assert float(soft_prototype_loss(equal, index, weight)) == pytest.approx(entropy, rel=1e-9)


def test_zero_prototypes_give_log_k_and_no_gradient(rows):
    h, prototypes, _, labels = rows
    h = h.clone().requires_grad_()
    loss = hard_prototype_loss(prototype_logits(h, torch.zeros_like(prototypes), torch.tensor(9.0)), labels)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(8), rel=1e-12)
    assert h.grad.abs().max() == 0


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_the_names_of_the_clusters_do_not_matter(rows, temperature):
    h, prototypes, centroids, labels = rows
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    inverse = order.argsort()
    losses, gradients = [], []
    for s, c, y in ((prototypes, centroids, labels), (prototypes[order], centroids[order], inverse[labels])):
        leaf = h.clone().requires_grad_()
        loss = loss_of(prototype_logits(leaf, s, torch.tensor(9.0)), y, c, temperature)
        loss.backward()
        losses.append(loss.item())
        gradients.append(leaf.grad)
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert torch.allclose(*gradients, atol=1e-12)


def test_soft_targets_do_not_see_a_rotation_of_the_teacher_but_a_shift(rows):
    centroids = rows[2]
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64))[0]
    labels = torch.arange(8)
    plain = torch.zeros(8, 8, dtype=torch.float64).scatter(1, *targets(labels, centroids, 0.5))
    rotated = torch.zeros(8, 8, dtype=torch.float64).scatter(1, *targets(labels, centroids @ rotation, 0.5))
    shifted = torch.zeros(8, 8, dtype=torch.float64).scatter(1, *targets(labels, centroids + 1, 0.5))
    assert torch.allclose(plain, rotated, atol=1e-12)
    assert (plain - shifted).abs().max() > 1e-3


@pytest.mark.parametrize("temperature", [0.0, 0.05, 1.0])
def test_a_gradient_is_the_difference_of_prediction_and_target_and_bounded(rows, temperature):
    h, prototypes, centroids, labels = rows
    h, scale = h.clone().requires_grad_(), 9.0
    logits = prototype_logits(h, prototypes, torch.tensor(scale))
    loss_of(logits, labels, centroids, temperature).backward()
    target = torch.nn.functional.one_hot(labels, 8).double()
    if temperature:
        target = (centroids[labels] @ centroids.T / temperature).softmax(dim=1)
    wanted = scale / 9 * (logits.softmax(dim=1) - target) @ prototypes
    assert torch.allclose(h.grad, wanted, atol=1e-12)
    assert h.grad.norm(dim=1).max() <= 2 * scale / 9


def test_targets_have_no_gradient_whatever_the_centroids_have(rows):
    _, weight, dropped = soft_targets(rows[2].clone().requires_grad_(), 0.5, 4)
    assert not weight.requires_grad
    assert not dropped.requires_grad


def test_the_largest_entries_of_a_target_sum_to_one_and_the_rest_is_told(rows):
    centroids = rows[2]
    whole = (centroids @ centroids.T / 0.9).softmax(dim=1)
    index, weight, dropped = soft_targets(centroids, 0.9, 3)
    assert torch.equal(index, whole.topk(3, dim=1).indices)
    assert torch.allclose(weight.sum(dim=1), torch.ones(8, dtype=torch.float64))
    assert torch.allclose(dropped, 1 - whole.topk(3, dim=1).values.sum(dim=1), atol=1e-12)
    assert dropped.max() > 1e-3


def test_masked_clusters_leave_softmax_and_targets(rows):
    h, prototypes, centroids, labels = rows
    empty = torch.zeros(8, dtype=torch.bool)
    empty[[2, 6]] = True
    labels = torch.where(empty[labels], 0, labels)
    kept = ~empty
    place = kept.cumsum(0) - 1
    few = prototype_logits(h, prototypes[kept], torch.tensor(9.0))
    wanted = soft_prototype_loss(few, *targets(place[labels], centroids[kept], 0.5))
    index, weight, _ = soft_targets(centroids, 0.5, 8, empty)
    leaf = h.clone().requires_grad_()
    logits = prototype_logits(leaf, prototypes, torch.tensor(9.0), empty)
    loss = soft_prototype_loss(logits, index[labels], weight[labels])
    loss.backward()
    assert float(loss) == pytest.approx(float(wanted), rel=1e-12)
    assert torch.isfinite(leaf.grad).all()


def test_a_row_leaves_its_prototype_as_if_it_had_never_been_there():
    random = torch.Generator().manual_seed(0)
    snapshot = normalize(torch.randn(7, 4, generator=random, dtype=torch.float64), dim=-1)
    h = normalize(torch.randn(7, 4, generator=random, dtype=torch.float64), dim=-1)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 0])
    counts = torch.bincount(labels, minlength=3)
    prototypes = torch.stack([snapshot[labels == k].mean(dim=0) for k in range(3)])
    logits = prototype_logits(h, prototypes, torch.tensor(5.0))
    found = leave_one_out(logits, labels, counts, 5.0 * (h * snapshot).sum(dim=1))
    for row in range(7):
        others = [n for n in range(7) if labels[n] == labels[row] and n != row]
        mean = snapshot[others].mean(dim=0) if others else torch.zeros(4, dtype=torch.float64)
        for k in range(3):
            wanted = 5 * h[row] @ (mean if k == labels[row] else prototypes[k])
            assert float(found[row, k]) == pytest.approx(float(wanted), abs=1e-12)
