"""Affinity mimicking: the student learns how a teacher spreads each image over the texts of the batch, and back.

TinyCLIP (Wu et al. 2023, arXiv 2309.12314); several teachers as in MobileCLIP (Vasu et al. 2024, arXiv 2311.17049).
With student logits S_ij = s z_i . z'_j, and A_k those of teacher k with its own scale and width:

    P = mean_k softmax_j(A_k)[i, j],  L_image->text = mean_i -sum_j P_ij log softmax_j(S)[i, j]

L_text->image is the same of the transposes, and the loss is half the sum of the two (TinyCLIP's paper has the plain
sum, its code the half). Teachers are averaged as probabilities, not as logits, so one that is sure of a pair is not
diluted by the scale of another. The cross-entropy has the gradient of KL(P || student) but the targets' entropy as its
floor; both are returned, so that their difference can be logged, whose floor is 0 whatever the teacher.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from assets.errors import ConfigError, DataError, message
from training.losses.info_nce import ALL_ROWS, at_least_float32


class TeacherSide(NamedTuple):
    """What one teacher says of the G pairs that the student sees.

    Attributes:
        image_features: Unit norm, [G, Dt]; the width may differ from the student's and from other teachers'.
        text_features: Unit norm, [G, Dt].
        logit_scale: Scalar, already exponentiated.
    """

    image_features: Tensor
    text_features: Tensor
    logit_scale: float | Tensor


class AffinityTerms(NamedTuple):
    """A cross-entropy with soft targets and the part of it that no student can avoid.

    Attributes:
        loss: Mean cross-entropy, scalar in nats.
        entropy: Mean entropy of the targets, without gradient, scalar in nats; loss - entropy is the KL divergence.
    """

    loss: Tensor
    entropy: Tensor


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> AffinityTerms:
    """Mean over rows of -sum_j P_ij log softmax_j(logits)[i, j], in at least float32.

    Args:
        logits: Of the student, [B, G].
        targets: P, rows that sum to 1, without gradient, [B, G].
    """
    log_probabilities = functional.log_softmax(at_least_float32(logits), dim=1)
    loss = -(targets * log_probabilities).sum(dim=1).mean()
    return AffinityTerms(loss, torch.special.entr(targets).sum(dim=1).mean())


def affinity_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: float | Tensor,
    teachers: Sequence[TeacherSide],
    rows: slice = ALL_ROWS,
) -> AffinityTerms:
    """Cross-entropy of the student's softmax over the batch with the teachers', half of it in either direction.

    Logits are formed in at least float32 under autocast too: bfloat16 would round one near 50 by up to 0.125, and the
    target is the very shape of the softmax. No gradient reaches the teachers.

    Args:
        image_features: Unit norm, [G, D]; row i belongs to row i of ``text_features`` and of every teacher.
        text_features: Unit norm, [G, D].
        logit_scale: Scalar, already exponentiated.
        teachers: One or more; their targets have equal weight.
        rows: The B images and texts to average over; each still competes with all G. Terms of equal parts of the batch
            average to those of the whole, and a part holds [B, G] matrices, never [G, G].

    Returns:
        Both terms, scalars; the loss is log(G) for a student whose features are all equal.

    Raises:
        ConfigError: There is no teacher.
        DataError: The features are not of the same number of pairs.
    """
    _check_pairs(image_features, text_features, teachers)
    device = image_features.device.type
    # the meta device, on which operations are counted, has no autocast
    with nullcontext() if device == "meta" else torch.autocast(device, enabled=False):
        per_image, per_text = _mean_targets(teachers, rows)
        image_logits, text_logits = _both_logits(image_features, text_features, logit_scale, rows)
        image_terms = soft_cross_entropy(image_logits, per_image)
        text_terms = soft_cross_entropy(text_logits, per_text)
    return AffinityTerms(
        (image_terms.loss + text_terms.loss) / 2,
        (image_terms.entropy + text_terms.entropy) / 2,
    )


def _both_logits(
    image_features: Tensor, text_features: Tensor, logit_scale: float | Tensor, rows: slice
) -> tuple[Tensor, Tensor]:
    """Logits of the rows' images over all texts and of the rows' texts over all images, [B, G] each."""
    images, texts = at_least_float32(image_features), at_least_float32(text_features)
    per_image = logit_scale * images[rows] @ texts.T  # [B, G]
    if len(per_image) == len(images):
        return per_image, per_image.T
    return per_image, logit_scale * texts[rows] @ images.T


@torch.no_grad()
def _mean_targets(teachers: Sequence[TeacherSide], rows: slice) -> tuple[Tensor, Tensor]:
    """Probabilities per image and per text, averaged over the teachers, [B, G] each."""
    per_image, per_text = torch.zeros(()), torch.zeros(())
    for teacher in teachers:  # one at a time, so that many teachers need no more memory than two
        image_logits, text_logits = _both_logits(*teacher, rows)
        per_image = per_image + functional.softmax(image_logits, dim=1) / len(teachers)
        per_text = per_text + functional.softmax(text_logits, dim=1) / len(teachers)
    return per_image, per_text


def _check_pairs(image_features: Tensor, text_features: Tensor, teachers: Sequence[TeacherSide]) -> None:
    if not teachers:
        raise ConfigError(message("affinity loss: no teacher", fix="name at least one teacher to learn from"))
    sides = {"student": (image_features, text_features)}
    sides |= {f"teacher {place}": teacher[:2] for place, teacher in enumerate(teachers)}
    for name, (images, texts) in sides.items():
        if not len(images) == len(texts) == len(image_features):
            raise DataError(
                message(
                    f"affinity loss: number of images and texts of {name}",
                    (len(images), len(texts)),
                    f"{len(image_features)} of each",
                    "give both sides the same samples in the same order, gathered from every rank",
                )
            )
