"""One clustering of an episode and what a loss needs of it: labels of the rows, targets, and prototypes to score with.

A teacher space is clustered; a student is scored against the means of its own features over the teacher's clusters
(prototypical back translation) or against the teacher's centroids. All tensors are buffers of a fixed size, so
checkpoints hold them and a run that was stopped within an episode goes on with the same ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from assets.clustering.kmeans import Clusters, Rows
from assets.clustering.rank_sums import cluster_means, whole_table
from training.losses.prototype import (
    hard_prototype_loss,
    leave_one_out,
    prototype_logits,
    soft_prototype_loss,
    soft_targets,
)


@dataclass(frozen=True, slots=True)
class BankShape:
    """Sizes of a bank's tensors.

    Attributes:
        rows: Rows of an episode, N.
        clusters: K.
        width: Of the students' features.
        targets: Entries of a soft target, m; 0 for hard targets.
    """

    rows: int
    clusters: int
    width: int
    targets: int


@dataclass(frozen=True, slots=True)
class BankRules:
    """How targets and prototypes are made of a clustering.

    Attributes:
        temperature: Of soft targets; not used where the shape has none.
        back_translation: Whether the students' own means are the prototypes, instead of the teacher's centroids.
        normalize_teacher: Whether soft targets compare unit-norm centroids.
        mask_empty: Whether clusters without rows leave the softmax.
        leave_one_out: Whether a row's own snapshot is taken out of its prototype.
    """

    temperature: float
    back_translation: bool
    normalize_teacher: bool
    mask_empty: bool
    leave_one_out: bool


class PrototypeBank(nn.Module):
    """The clusters of one teacher space as classes for one or two students."""

    labels: Tensor
    counts: Tensor
    target_index: Tensor
    target_weight: Tensor
    facts: Tensor
    FACTS = ("mean_distance", "empty_clusters", "target_is_not_label", "target_dropped")

    def __init__(self, shape: BankShape, rules: BankRules, students: tuple[str, ...]) -> None:
        """Make room.

        Args:
            shape: Sizes.
            rules: How it is filled and scored.
            students: Whose features are scored.
        """
        super().__init__()
        self.shape, self.rules = shape, rules
        most = min(shape.targets, shape.clusters)
        self.register_buffer("labels", torch.zeros(shape.rows, dtype=torch.int32))
        self.register_buffer("counts", torch.zeros(shape.clusters, dtype=torch.int32))
        if most:
            self.register_buffer("target_index", torch.zeros(shape.clusters, most, dtype=torch.int32))
            self.register_buffer("target_weight", torch.zeros(shape.clusters, most))
        self.register_buffer("facts", torch.zeros(len(self.FACTS)))
        for student in students:
            self.register_buffer(f"{student}_prototypes", torch.zeros(shape.clusters, shape.width))
            if rules.leave_one_out:
                self.register_buffer(f"{student}_snapshot", torch.zeros(shape.rows, shape.width))
        self.students = students

    @torch.no_grad()
    def fill(self, clusters: Clusters, rows: Rows, students: Mapping[str, Tensor]) -> None:
        """Take over a clustering. All ranks must call it together.

        Args:
            clusters: Of the teacher's features.
            rows: The teacher's features; their positions hold for the students as well.
            students: This rank's features of every student, [n, D].
        """
        self.labels.copy_(whole_table(clusters.labels, rows.positions, rows.size))
        self.counts.copy_(clusters.counts)
        empty = clusters.counts == 0
        for student in self.students:
            own = students[student]
            means = cluster_means(own, clusters.labels, self.shape.clusters)
            getattr(self, f"{student}_prototypes").copy_(means if self.rules.back_translation else clusters.centroids)
            if self.rules.leave_one_out:
                getattr(self, f"{student}_snapshot").copy_(whole_table(own, rows.positions, rows.size))
        other = dropped = torch.zeros((), device=self.facts.device)
        if self.shape.targets:
            centroids = clusters.centroids
            if self.rules.normalize_teacher:
                centroids = functional.normalize(centroids, dim=-1)
            masked = empty if self.rules.mask_empty else None
            index, weight, lost = soft_targets(centroids, self.rules.temperature, self.shape.targets, masked)
            self.target_index.copy_(index)
            self.target_weight.copy_(weight)
            is_other = index[:, 0] != torch.arange(len(index), device=index.device)
            other = (is_other * clusters.counts).sum() / rows.size
            dropped = (lost * clusters.counts).sum() / rows.size
        facts = [clusters.mean_distance, empty.sum(), other, dropped]
        self.facts.copy_(torch.stack([fact.float() for fact in facts]))

    def loss(self, student: str, features: Tensor, positions: Tensor, logit_scale: Tensor) -> tuple[Tensor, Tensor]:
        """Score some rows of the episode.

        Args:
            student: Whose features they are.
            features: Unit norm, [B, D].
            positions: Their places in the episode, int64 [B].
            logit_scale: Factor on the inner products.

        Returns:
            The loss, and the share of rows whose best prototype is that of their own cluster; scalars.
        """
        labels = self.labels[positions].long()
        empty = self.counts == 0 if self.rules.mask_empty else None
        logits = prototype_logits(features, getattr(self, f"{student}_prototypes"), logit_scale, empty)  # [B, K]
        if self.rules.leave_one_out:
            snapshot = getattr(self, f"{student}_snapshot")[positions]
            own = (logit_scale * (features.to(snapshot.dtype) * snapshot).sum(dim=1)).to(logits.dtype)
            logits = leave_one_out(logits, labels, self.counts, own)
        accuracy = (logits.detach().argmax(dim=1) == labels).float().mean()
        if not self.shape.targets:
            return hard_prototype_loss(logits, labels), accuracy
        return soft_prototype_loss(logits, self.target_index[labels].long(), self.target_weight[labels]), accuracy

    def logs(self) -> dict[str, Tensor]:
        """Return what is worth knowing of the present clustering, scalars."""
        return dict(zip(self.FACTS, self.facts.unbind(), strict=True))
