import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.nn.functional import normalize

from assets.errors import ConfigError, DataError
from tests.training.losses.largest_tensor import LargestTensor
from training.losses.affinity import TeacherSide, affinity_loss, soft_cross_entropy
from training.losses.info_nce import ALL_ROWS, info_nce_loss

FIXTURE = Path(__file__).parents[2] / "fixtures" / "tinyclip" / "case_a.npz"
with np.load(FIXTURE, allow_pickle=False) as arrays:
    CASE = {name: torch.from_numpy(arrays[name]) for name in arrays.files if name.startswith(("aff_", "dr_"))}
RANKS, LOCAL = CASE["aff_img_s"].shape[:2]
RANK_ROWS = [slice(rank * LOCAL, (rank + 1) * LOCAL) for rank in range(RANKS)]
G = 6


def unit_rows(seed, width, count=G):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, width, generator=generator, dtype=torch.float64), dim=-1)


def side(seed, width, scale):
    return TeacherSide(unit_rows(seed, width), unit_rows(seed + 1, width), scale)


@pytest.fixture
def student():
    return unit_rows(1, 5), unit_rows(2, 5)


def probabilities(side):
    logits = side.logit_scale * side.image_features @ side.text_features.T
    return logits.softmax(dim=1), logits.T.softmax(dim=1)


def close(found, published):
    np.testing.assert_allclose(torch.as_tensor(found).detach(), published, rtol=1e-9, atol=1e-9)


def ranked(dtype=torch.float64):
    """Raw student features and log scale as leaves, and the teacher, of all ranks of the published case."""
    leaves = [CASE[f"aff_{name}_s"].flatten(0, 1).to(dtype) for name in ("img", "txt")]
    leaves = [leaf.requires_grad_() for leaf in (*leaves, CASE["aff_scales"][0].log().to(dtype))]
    image, text = (normalize(CASE[f"aff_{name}_t"].flatten(0, 1).to(dtype), dim=-1) for name in ("img", "txt"))
    return leaves, TeacherSide(image, text, float(CASE["aff_scales"][1]))


def soft_and_mixed(leaves, teacher, rows):
    image, text, scale = normalize(leaves[0], dim=-1), normalize(leaves[1], dim=-1), leaves[2].exp()
    alpha, weight = CASE["aff_alpha_w"].tolist()
    soft = affinity_loss(image, text, scale, [teacher], rows).loss
    hard = info_nce_loss(image, text, scale, rows)
    return soft, weight * (alpha * soft + (1 - alpha) * hard)


@pytest.mark.parametrize("rank", range(RANKS))
def test_each_rank_has_the_published_losses(rank):
    leaves, teacher = ranked()
    soft, mixed = soft_and_mixed(leaves, teacher, RANK_ROWS[rank])
    close(soft, CASE["aff_rank_losses"][rank, 2])
    close(mixed, CASE["aff_rank_losses"][rank, 4])


@pytest.mark.parametrize("rank", range(RANKS))
def test_each_direction_of_each_rank_has_the_published_loss(rank):
    leaves, teacher = ranked()
    features = TeacherSide(normalize(leaves[0], dim=-1), normalize(leaves[1], dim=-1), leaves[2].exp())
    logits = features.logit_scale * features.image_features @ features.text_features.T
    rows = RANK_ROWS[rank]
    for place, (way, target) in enumerate(zip((logits, logits.T), probabilities(teacher), strict=True)):
        close(soft_cross_entropy(way[rows], target[rows]).loss, CASE["aff_rank_losses"][rank, place])


@pytest.mark.parametrize("rows", [RANK_ROWS, [ALL_ROWS]], ids=["ranks", "one process"])
@pytest.mark.parametrize("name", ["soft", "mix"])
def test_mean_over_ranks_and_one_process_have_the_published_gradients(rows, name):
    leaves, teacher = ranked()
    losses = [soft_and_mixed(leaves, teacher, part)[name == "mix"] for part in rows]
    mean = torch.stack(losses).mean()
    close(mean, CASE["aff_rank_losses"][:, 4 if name == "mix" else 2].mean())
    image, text, log_scale = torch.autograd.grad(mean, leaves)
    close(image, CASE[f"aff_{name}_grad_img"].flatten(0, 1))
    close(text, CASE[f"aff_{name}_grad_txt"].flatten(0, 1))
    close(log_scale, CASE[f"aff_{name}_grad_logscale"])


def test_float32_meets_the_published_loss():
    leaves, teacher = ranked(torch.float32)
    soft = soft_and_mixed(leaves, teacher, ALL_ROWS)[0]
    assert soft.dtype == torch.float32
    assert soft.item() == pytest.approx(float(CASE["aff_rank_losses"][:, 2].mean()), rel=2e-5)


def cached(text):
    """The teachers of the published cache, which keeps their features side by side."""
    dims = CASE["dr_dims"].tolist()
    features = zip(CASE["dr_t_img"].split(dims, dim=1), CASE[f"dr_t_{text}"].split(dims, dim=1), strict=True)
    scales = CASE["dr_teacher_scale"].tolist()
    return [TeacherSide(*pair, scale) for pair, scale in zip(features, scales, strict=True)]


def test_cached_teachers_with_two_captions_have_the_published_losses_and_gradients():
    leaves = [CASE[f"dr_{name}"].clone().requires_grad_() for name in ("img", "txt", "syn")]
    log_scale = CASE["dr_student_scale"].log().requires_grad_()
    image, *texts = (normalize(leaf, dim=-1) for leaf in leaves)
    weights = CASE["dr_weights"]
    sides = zip(texts, (cached("txt"), cached("syn")), strict=True)
    soft = [affinity_loss(image, text, log_scale.exp(), teachers).loss for text, teachers in sides]
    distilled = weights[1] * torch.stack(soft).sum()
    contrastive = weights[0] * torch.stack([info_nce_loss(image, text, log_scale.exp()) for text in texts]).sum()
    close(distilled, CASE["dr_distill"])
    close(contrastive, CASE["dr_contrastive"])
    gradients = torch.autograd.grad(distilled + contrastive, [*leaves, log_scale])
    for name, gradient in zip(("img", "txt", "syn", "logscale"), gradients, strict=True):
        close(gradient, CASE[f"dr_grad_{name}"])


def test_one_cached_teacher_has_the_published_loss():
    image, text = (normalize(CASE[f"dr_{name}"], dim=-1) for name in ("img", "txt"))
    close(affinity_loss(image, text, CASE["dr_student_scale"], cached("txt")[:1]).loss, CASE["dr_single"][1])


def slow_affinity(student, scale, teachers):
    """Loss and entropy, one entry at a time."""

    def softmax(images, texts, scale, i):
        weights = [math.exp(scale * float(images[i] @ other)) for other in texts]
        return [weight / sum(weights) for weight in weights]

    loss = entropy = 0.0
    for way in (1, -1):
        for i in range(G):
            mine = softmax(*student[::way], scale, i)
            theirs = [softmax(*teacher[:2][::way], teacher.logit_scale, i) for teacher in teachers]
            for j in range(G):
                target = sum(row[j] for row in theirs) / len(teachers)
                loss -= target * math.log(mine[j]) / (2 * G)
                entropy -= target * math.log(target) / (2 * G)
    return loss, entropy


@pytest.mark.parametrize("scale", [1.0, 14.3, 50.0])
@pytest.mark.parametrize("teachers", [[side(3, 8, 20.0)], [side(3, 8, 50.0), side(5, 4, 5.0), side(7, 2, 1.0)]])
def test_terms_equal_the_sums_written_out(student, scale, teachers):
    loss, entropy = affinity_loss(*student, scale, teachers)
    assert (float(loss), float(entropy)) == pytest.approx(slow_affinity(student, scale, teachers), rel=1e-9)


def test_a_student_that_is_a_rotated_teacher_has_nothing_to_learn():
    teacher = side(3, 5, 30.0)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    leaves = [(features @ rotation).requires_grad_() for features in teacher[:2]]
    scale = torch.tensor(30.0, dtype=torch.float64, requires_grad=True)
    loss, entropy = affinity_loss(*leaves, scale, [teacher])
    assert loss.item() == pytest.approx(entropy.item(), rel=1e-12)
    assert entropy.item() > 0.01
    for gradient in torch.autograd.grad(loss, [*leaves, scale]):
        assert float(gradient.abs().max()) < 1e-12


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_loss_minus_entropy_is_the_kl_divergence_and_has_the_gradient_of_the_loss(seed, scale):
    teacher = side(10 * seed, 4, 10.0)
    leaves = [unit_rows(10 * seed + 5 + place, 5).requires_grad_() for place in range(2)]
    terms = affinity_loss(*leaves, scale, [teacher])
    logits = scale * leaves[0] @ leaves[1].T
    ways = zip((logits, logits.T), probabilities(teacher), strict=True)
    divergences = [functional.kl_div(way.log_softmax(dim=1), p, reduction="batchmean") for way, p in ways]
    kl = (divergences[0] + divergences[1]) / 2
    assert (terms.loss - terms.entropy).item() == pytest.approx(kl.item(), rel=1e-9)
    assert terms.loss.item() > terms.entropy.item()
    for ours, wanted in zip(torch.autograd.grad(terms.loss, leaves), torch.autograd.grad(kl, leaves), strict=True):
        close(ours, wanted)


def test_a_teacher_that_is_sure_of_the_pairs_asks_for_info_nce(student):
    scale = torch.tensor(9.0, dtype=torch.float64)
    sure = TeacherSide(torch.eye(G), torch.eye(G), 1e6)
    loss, entropy = affinity_loss(*student, scale, [sure])
    assert float(loss) == pytest.approx(float(info_nce_loss(*student, scale)), rel=1e-12)
    assert float(entropy) == 0


def test_a_teacher_of_scale_zero_wants_all_pairs_alike(student):
    loss, entropy = affinity_loss(*student, 9.0, [side(3, 8, 0.0)])
    logits = 9.0 * student[0] @ student[1].T
    assert float(entropy) == pytest.approx(math.log(G), rel=1e-12)
    wanted = -(logits.log_softmax(dim=1) + logits.T.log_softmax(dim=1)).mean() / 2
    assert float(loss) == pytest.approx(float(wanted), rel=1e-12)


def test_a_student_that_sees_no_difference_loses_the_log_of_the_batch():
    same = normalize(torch.ones(G, 4, dtype=torch.float64), dim=-1)
    assert float(affinity_loss(same, same, 50.0, [side(3, 8, 20.0)]).loss) == pytest.approx(math.log(G), rel=1e-12)


def test_the_order_of_pairs_means_nothing_but_which_teacher_row_is_whose_does(student):
    teacher = side(3, 8, 20.0)
    order = torch.tensor([2, 0, 1, 5, 3, 4])
    moved = [features[order] for features in student]
    moved_teacher = TeacherSide(teacher.image_features[order], teacher.text_features[order], teacher.logit_scale)
    before = affinity_loss(*student, 9.0, [teacher])
    close(torch.stack(affinity_loss(*moved, 9.0, [moved_teacher])), torch.stack(before))
    assert abs(float(affinity_loss(*moved, 9.0, [teacher]).loss - before.loss)) > 1e-3


def test_the_modalities_may_be_swapped_but_on_both_sides(student):
    teacher = side(3, 8, 20.0)
    swapped = TeacherSide(teacher.text_features, teacher.image_features, teacher.logit_scale)
    before = affinity_loss(*student, 9.0, [teacher])
    close(torch.stack(affinity_loss(*student[::-1], 9.0, [swapped])), torch.stack(before))
    assert abs(float(affinity_loss(*student, 9.0, [swapped]).loss - before.loss)) > 1e-3


def test_a_constant_on_all_logits_of_a_row_is_unseen_and_pushes_cancel_within_the_row(student):
    target = probabilities(side(3, 8, 20.0))[0]
    logits = (9.0 * student[0] @ student[1].T).requires_grad_()
    loss = soft_cross_entropy(logits, target).loss
    shifted = soft_cross_entropy(logits + torch.arange(G, dtype=torch.float64)[:, None], target).loss
    close(shifted, loss.detach())
    gradient = torch.autograd.grad(loss, logits)[0]
    close(gradient, ((logits.softmax(dim=1) - target) / G).detach())
    close(gradient.sum(dim=1), np.zeros(G))


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_the_terms_of_equal_parts_average_to_those_of_the_whole(student, parts):
    teachers = [side(3, 8, 20.0), side(5, 4, 5.0)]
    rows = [slice(start, start + G // parts) for start in range(0, G, G // parts)]
    terms = [torch.stack(affinity_loss(*student, 9.0, teachers, part)) for part in rows]
    close(torch.stack(terms).mean(dim=0), torch.stack(affinity_loss(*student, 9.0, teachers)))


def test_a_part_of_the_batch_never_holds_all_pairs_of_it():
    features = unit_rows(1, 8, 64).float().requires_grad_()
    teachers = [TeacherSide(unit_rows(2, 4, 64), unit_rows(3, 4, 64), 50.0)] * 2
    with LargestTensor() as largest:
        affinity_loss(features, features, 10.0, teachers, slice(8, 16)).loss.backward()
    assert largest.elements == 64 * 8  # [B, G] logits and targets, and [G, D] features


def test_gradients_reach_the_student_and_never_a_teacher(student):
    leaves = [features.clone().requires_grad_() for features in student]
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    teacher = TeacherSide(*(torch.as_tensor(part).requires_grad_() for part in side(3, 8, torch.tensor(20.0))))
    terms = affinity_loss(*leaves, scale, [teacher])
    terms.loss.backward()
    assert all(float(leaf.grad.abs().sum()) > 0 for leaf in (*leaves, scale))
    assert [part.grad for part in teacher] == [None, None, None]
    assert not terms.entropy.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_lose_nothing_but_their_own_rounding(student, dtype):
    rounded = [features.to(dtype) for features in student]
    teacher = side(3, 8, 50.0)
    stored = TeacherSide(teacher.image_features.to(dtype), teacher.text_features.to(dtype), 50.0)
    exact = TeacherSide(stored.image_features.double(), stored.text_features.double(), 50.0)
    wanted = affinity_loss(*(features.double() for features in rounded), 50.0, [exact]).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = affinity_loss(*rounded, 50.0, [stored]).loss
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(wanted), rel=2e-5)


def test_no_teacher_is_refused(student):
    with pytest.raises(ConfigError, match="no teacher"):
        affinity_loss(*student, 9.0, [])


def test_a_teacher_of_other_pairs_is_refused_by_its_place(student):
    short = TeacherSide(unit_rows(3, 8, 1), unit_rows(4, 8, 1), 20.0)
    with pytest.raises(DataError, match=r"teacher 1, got \(1, 1\), wanted 6 of each"):
        affinity_loss(*student, 9.0, [side(3, 8, 20.0), short])
    with pytest.raises(DataError, match=r"student, got \(6, 4\), wanted"):
        affinity_loss(student[0], student[1][:4], 9.0, [side(3, 8, 20.0)])
