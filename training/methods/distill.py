"""Distillation by affinity mimicking: a small model copies how a large one spreads its attention over each batch.

TinyCLIP (Wu et al. 2023, arXiv 2309.12314). With student logits S = s z z'^T over the global batch, targets P of a
teacher or of several (:mod:`training.losses.affinity`), and a share a of the one-hot labels' loss taken back,

    loss = a * affinity(S, P) + (1 - a) * InfoNCE(S).

a = 1 in every published run. Student and teacher have the scale 50 there, from the first step on; here the student's is
a constant, so that no step is taken with another. The teacher sees the very view that the student sees: it runs on
every batch, or has been over K views of each pair before, which costs nothing per step (dataset reinforcement, as in
MobileCLIP, Vasu et al. 2024, arXiv 2311.17049). What the student begins as is the recipe's ``start``.
"""

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from training.data.loader import Batch
from training.data.views import ResizedView
from training.engine.gather import GatheredFeatures
from training.losses.affinity import affinity_loss
from training.losses.info_nce import ALL_ROWS, info_nce_loss
from training.methods.base import Method, MethodConfig
from training.methods.exchange import Features, ImageInput, Needs, StepOutput
from training.teachers.source import TEACHER_FEATURES, TEACHER_IMAGE, TEACHER_TEXT, TeacherSource

_RESIZED = "teacher_image_"


class DistillConfig(MethodConfig):
    """What the student learns by."""

    kind: Literal["distill_affinity"]
    affinity_share: float = Field(default=1.0, ge=0, le=1)
    """Of the teacher's targets in the loss; the rest is that of the pairs' own labels."""
    logit_scale: float | None = Field(default=50.0, gt=0, le=100)
    """The student's constant scale; null lets it learn one, from 1/0.07 or that of the model it starts as."""


class Distill(Method):
    """Learns from a teacher's affinities."""

    Config = DistillConfig
    config: DistillConfig
    teacher: TeacherSource
    learns_from_teacher = True

    def __init__(self, config: DistillConfig, model: nn.Module, images: ImageInput) -> None:
        super().__init__(config, model, images)
        if config.logit_scale is not None:  # where users of the export look for it
            self.model.logit_scale.requires_grad_(False).fill_(math.log(config.logit_scale))

    def attach_teacher(self, teacher: TeacherSource) -> None:
        """Keep the teacher."""
        self.teacher = teacher

    @property
    def logit_scale(self) -> Tensor | float:
        """The student's scale, exponentiated; exactly the configured one where that is constant."""
        constant = self.config.logit_scale
        return self.model.logit_scale.exp() if constant is None else constant

    def needs(self) -> Needs:
        """Ask for the image at the sizes of a teacher that is run on it, where they are not the student's."""
        needs = super().needs()
        resized = {f"{_RESIZED}{side}": ResizedView("image", side) for side in self._other_sides()}
        return needs._replace(views=needs.views | resized)

    def _other_sides(self) -> list[int]:
        own: Any = self.model.visual.image_size
        side: int = own if isinstance(own, int) else own[0]
        online = self.teacher.online
        return [] if online is None else [size for size in online.image_sizes if size != side]

    @property
    def accepts_short_text(self) -> bool:
        """Whether student and teacher take texts without their padding."""
        online = self.teacher.online
        return super().accepts_short_text and (online is None or online.accepts_short_text)

    def enrich(self, batch: Batch) -> Batch:
        """Add the features of a teacher that has not been over the views before."""
        online = self.teacher.online
        if online is None:
            return batch
        resized = self._other_sides()
        names = {side: f"{_RESIZED}{side}" if side in resized else "image" for side in online.image_sizes}
        pixels = {side: self._colours(batch, name, self.images.views, 0) for side, name in names.items()}
        return {**batch, **online.features(pixels, batch["text"])}

    def encode(self, batch: Batch) -> Features:
        """Return unit-norm ``image_features`` and ``text_features``, [B, D], and the teacher's, [B, sum D]."""
        image_features, text_features = self._both_sides(batch)
        return {
            "image_features": functional.normalize(image_features, dim=-1),
            "text_features": functional.normalize(text_features, dim=-1),
            **{name: batch[name] for name in TEACHER_FEATURES},
        }

    def _both_sides(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Run both towers; features before normalisation, [B, D]."""
        return self.encode_images(batch).image_features, self.encode_captions(batch)

    def losses(self, features: GatheredFeatures, step: int) -> StepOutput:
        """Affinity and, where it has a share, InfoNCE; logs the divergence from the teacher and how good that is."""
        image_features, text_features = features["image_features"], features["text_features"]
        share, scale = self.config.affinity_share, self.logit_scale
        losses: dict[str, Tensor] = {}
        logs = {"logit_scale": torch.as_tensor(scale, device=image_features.device).detach()}
        if share > 0:
            teachers = self.teacher.sides(features[TEACHER_IMAGE], features[TEACHER_TEXT])
            affinity = affinity_loss(image_features, text_features, scale, teachers, features.rows)
            losses["affinity_loss"] = share * affinity.loss
            logs["teacher_divergence"] = (affinity.loss - affinity.entropy).detach()
            logs["teacher_entropy"] = affinity.entropy
        if share < 1:
            loss = info_nce_loss(image_features, text_features, scale, features.rows)
            losses["contrastive_loss"] = (1 - share) * loss
        logs["teacher_batch_r1"] = self._teacher_recall(features)
        return StepOutput(losses, logs)

    @torch.no_grad()
    def _teacher_recall(self, features: GatheredFeatures) -> Tensor:
        """Share of this rank's images whose own text is the first model's nearest in the batch; near 1/G it is lost."""
        side = self.teacher.sides(features[TEACHER_IMAGE], features[TEACHER_TEXT])[0]
        nearest = (side.image_features[features.rows] @ side.text_features.T).argmax(dim=1)
        first = features.rows.start or 0
        return (nearest == torch.arange(first, first + len(nearest), device=nearest.device)).float().mean()

    def held_out_logs(self, image_features: Tensor, text_features: Tensor, teacher: Features) -> dict[str, Tensor]:
        """Divergence of the student from its teacher on held-out pairs, all of them at once."""
        teachers = self.teacher.sides(teacher[TEACHER_IMAGE], teacher[TEACHER_TEXT])
        terms = affinity_loss(image_features, text_features, self.logit_scale, teachers, ALL_ROWS)
        return {"teacher_divergence": terms.loss - terms.entropy}

    def after_step(self, step: int) -> None:
        """Clamp a scale that is learnt."""
        if self.config.logit_scale is None:
            super().after_step(step)
