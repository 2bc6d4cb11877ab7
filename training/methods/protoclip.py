"""ProtoCLIP: CLIP that also groups its features, after clusters of the other modality (Chen et al., arXiv 2206.10996).

Training goes by episodes. Before each, the pairs it will see are embedded by heads on both towers (other random views,
evaluation mode), and the N projected features of each modality are clustered into K clusters. While the episode lasts,
each modality must find the clusters of the other; a frozen teacher's embeddings of the captions or images, clustered
likewise, can teach both. With u the towers' outputs, z = u / |u|, h = g(u) / |g(u)|, t = exp(logit_scale_prototype),
y the clusters of the rows in teacher space B with centroids C, and H the student's snapshot:

    S_k = mean of H_n with y_n = k          (prototypical back translation: B's clusters, in the student's own space)
    P_i = softmax_j(C_{y_i} . C_j / tau)    (hard labels for the external teacher)
    L(h, B) = mean_i -sum_j P_ij log softmax_j(t h_i . S_j)

    loss = InfoNCE(z_I, z_T, exp(logit_scale)) + w/2 (L(h_I, text) + L(h_T, image)) + w'/2 (L(h_I, E) + L(h_T, E))

Deliberate differences from the published code: an episode is the next stretch of the sample order, not a draw with
replacement; terms of weight 0 are not computed; every gradient is that of the whole batch, on any number of ranks; the
heads' batch norm sees the global batch; snapshot views keep their colours; a cluster that runs empty moves to the
farthest row; the teacher is projected onto the components of the episode's own rows.
"""

import math
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from assets.clustering.kmeans import KMeansConfig, Rows, kmeans
from assets.clustering.principal import principal_components
from assets.errors import ConfigError, message
from assets.section import Section
from training.config import BudgetConfig
from training.data.loader import Batch
from training.data.views import View, ViewsConfig
from training.engine.gather import GatheredFeatures
from training.losses.info_nce import at_least_float32, info_nce_loss
from training.methods.base import MAX_LOGIT_SCALE, Method, MethodConfig
from training.methods.exchange import EmbedFn, Features, ImageInput, ParamGroup, StepOutput
from training.models.frozen_text import FrozenTextModel, model_width
from training.models.projection_head import projection_head
from training.models.prototype_bank import BankRules, BankShape, PrototypeBank

_SEEDS = {"image": 0, "text": 1, "teacher": 2}
_LOG_SCALE = math.log(1 / 0.07)
_IMAGE_SIDE = ("model.visual.", "model.head.")


class TeacherConfig(Section):
    """An external teacher: the embeddings that ``runs.X.features`` names."""

    components: int = Field(default=64, ge=1)
    """Principal components that are clustered; embeddings that are not wider stay as they are."""
    weight: float = Field(default=1.0, gt=0)
    """Of the teacher's loss."""


class LockConfig(Section):
    """A last phase that trains all but the image tower, on the contrastive loss alone."""

    episodes: int = Field(ge=1)
    """How many; published: 2."""
    lr: float = Field(gt=0)
    """Rate at its beginning, falling to 0 along a cosine; by then the recipe's own schedule is nearly 0."""


class ProtoClipConfig(MethodConfig):
    """Episodes, clusters and heads; the defaults are those published for 2.5 million pairs."""

    kind: Literal["protoclip"]
    episode_pairs: int = Field(default=200_000, ge=2)
    """Pairs of an episode, rounded up to whole steps."""
    clusters: int = Field(default=20_000, ge=2)
    """Per space, K; a tenth of the pairs or fewer."""
    warmup_episodes: int = Field(default=1, ge=0)
    """First episodes, with the contrastive loss alone. In short runs a tenth to a quarter of all."""
    prototype_weight: float = Field(default=1.0, ge=0)
    """Of the loss between images and texts; 0 leaves the teacher's alone."""
    target_temperature: float | None = Field(default=0.01, gt=0)
    """Of the soft targets between images and texts; null for hard ones."""
    target_entries: int = Field(default=64, ge=1)
    """Largest entries of a soft target that are kept; ``target_dropped`` is the share of the others."""
    back_translation: bool = True
    """Prototypes are means of the student's own features; false takes the teacher's centroids."""
    teacher: TeacherConfig | None = None
    """An external teacher; null for none."""
    head_layers: int = Field(default=1, ge=0)
    """Hidden layers of the heads."""
    head_width: int = Field(default=2048, ge=1)
    """Of the hidden layers."""
    head_out: int = Field(default=128, ge=1)
    """Of the features that are clustered."""
    kmeans: KMeansConfig = KMeansConfig()
    """How hard to look for clusters."""
    snapshot_view: Literal["random", "whole"] = "random"
    """What is embedded before an episode: a random view as published, or the whole image."""
    normalize_teacher: bool = False
    """Soft targets compare unit-norm centroids, so that a cluster is always its own best target."""
    mask_empty: bool = False
    """Clusters without rows leave the softmax, instead of being a class with logit 0."""
    leave_one_out: bool = False
    """A row's own snapshot is taken out of the prototype of its cluster."""
    lock: LockConfig | None = None
    """A last phase with a locked image tower; null for none."""

    @model_validator(mode="after")
    def _consistent(self) -> "ProtoClipConfig":
        if not self.back_translation and self.teacher is not None:
            raise ValueError("teacher needs back_translation: its centroids do not lie in the space of the features")
        if not self.back_translation and self.leave_one_out:
            raise ValueError("leave_one_out needs back_translation: the teacher's centroids hold no row of the student")
        if not self.back_translation and not self.prototype_weight:
            raise ValueError("back_translation: false changes nothing with prototype_weight 0")
        return self


class ProtoClip(Method):
    """Contrastive and prototype losses, by episodes."""

    Config = ProtoClipConfig
    config: ProtoClipConfig

    def __init__(self, config: ProtoClipConfig, model: Any, images: ImageInput) -> None:
        super().__init__(config, model, images)
        if config.lock is not None and isinstance(model, FrozenTextModel):
            raise ConfigError(message("method.lock leaves nothing to train where text is frozen", fix="set it to null"))
        self.heads = nn.ModuleDict()
        self.banks = nn.ModuleDict()
        self._episodes = 0
        if config.prototype_weight or config.teacher is not None:
            sizes = config.head_width, config.head_out, config.head_layers
            head = projection_head(model_width(model), *sizes)
            # two heads with the same start
            self.heads["image"] = head
            self.heads["text"] = projection_head(model_width(model), *sizes)
            self.heads["text"].load_state_dict(head.state_dict())
            self.logit_scale_prototype = nn.Parameter(torch.tensor(_LOG_SCALE))

    @classmethod
    def uses_features(cls, config: MethodConfig) -> bool:
        """Say that a teacher does."""
        assert isinstance(config, ProtoClipConfig)
        return config.teacher is not None

    def prepare(self, budget: BudgetConfig) -> None:
        """Cut the run into episodes and make room for their clusters."""
        if not self.heads:
            return
        config = self.config
        self.episode_steps = -(-config.episode_pairs // budget.batch_size)
        self._episodes = -(-budget.steps // self.episode_steps)
        rows = self.episode_steps * budget.batch_size
        if config.clusters > rows:
            fix = "a tenth of the pairs of an episode is a good number"
            raise ConfigError(message("method.clusters exceeds the pairs of an episode", config.clusters, rows, fix))
        if not any(self._scored(episode) for episode in range(self._episodes)):
            raise ConfigError(
                message(
                    "method.warmup_episodes and lock.episodes leave no episode with prototypes",
                    f"{self._episodes} episodes of {rows} pairs",
                    fix="lower method.warmup_episodes or method.episode_pairs, or raise budget.samples_seen",
                )
            )
        names = ("back_translation", "normalize_teacher", "mask_empty", "leave_one_out")
        rules = BankRules(config.target_temperature or 1.0, *(getattr(config, name) for name in names))
        soft = 0 if config.target_temperature is None else config.target_entries
        if config.prototype_weight:
            shape = BankShape(rows, config.clusters, config.head_out, soft)
            self.banks["text"] = PrototypeBank(shape, rules, ("image",))
            self.banks["image"] = PrototypeBank(shape, rules, ("text",))
        if config.teacher is not None:
            shape = BankShape(rows, config.clusters, config.head_out, 0)
            self.banks["teacher"] = PrototypeBank(shape, rules, ("image", "text"))

    def _scored(self, episode: int) -> bool:
        """Whether an episode uses prototypes."""
        locked = 0 if self.config.lock is None else self.config.lock.episodes
        return self.config.warmup_episodes <= episode < self._episodes - locked

    def snapshot_views(self) -> dict[str, View]:
        """Name the view that is embedded before an episode."""
        whole = self.config.snapshot_view == "whole"
        return {"image": ViewsConfig(crop_area=(1.0, 1.0)) if whole else self.images.views}

    def encode(self, batch: Batch) -> Features:
        """Return what both towers give, ``image`` and ``text``, [B, D], not normalised: the heads want it so."""
        return {"image": self.encode_images(batch).image_features, "text": self.encode_captions(batch)}

    def snapshot(self, batch: Batch) -> Features:
        """Return the projected features that are clustered, unit norm, [B, head_out], and the teacher's, [B, ...]."""
        students = {name: self._project(name, feature) for name, feature in self.encode(batch).items()}
        return {**students, "teacher": batch["features"]} if "teacher" in self.banks else students

    def _project(self, name: str, feature: Tensor) -> Tensor:
        return functional.normalize(at_least_float32(self.heads[name](feature)), dim=-1)

    def on_epoch(self, epoch: int, embed: EmbedFn) -> None:
        """Embed the coming episode and cluster every space."""
        if not self._scored(epoch):
            return
        snapshot = embed()
        students = {name: snapshot.features[name] for name in self.heads}
        for space, bank in self.banks.items():
            assert isinstance(bank, PrototypeBank)
            values = snapshot.features[space].flatten(1)
            if self.config.teacher is not None and space not in students:
                values = _main_components(values, self.config.teacher.components)
            rows = Rows(values, snapshot.positions, snapshot.size)
            clusters = kmeans(rows, self.config.clusters, self.config.kmeans, (*snapshot.seed, _SEEDS[space]))
            bank.fill(clusters, rows, students)

    def losses(self, features: GatheredFeatures, step: int) -> StepOutput:
        """InfoNCE over the gathered batch, prototype losses of this rank's rows; logs scales and hits."""
        logit_scale = self.model.logit_scale.exp()
        image_features, text_features = (functional.normalize(features[name], dim=-1) for name in ("image", "text"))
        loss = info_nce_loss(image_features, text_features, logit_scale, features.rows)
        output = StepOutput({"contrastive_loss": loss}, {"logit_scale": logit_scale.detach()})
        if not self.heads:
            return output
        if self._scored(step // self.episode_steps):
            return self._with_prototypes(output, features, step)
        return StepOutput({"contrastive_loss": loss + self._idle(features)}, output.logs)

    def _idle(self, features: GatheredFeatures) -> Tensor:
        """Let the heads' running statistics follow the towers; return a 0 that gives their parameters a gradient.

        Several processes want one of every parameter in every step. It is 0, and so is what AdamW makes of it.
        """
        with torch.no_grad():
            for name, head in self.heads.items():
                head(features[name])
        parameters = [*self.heads.parameters(), self.logit_scale_prototype]
        return torch.stack([parameter.sum() for parameter in parameters]).sum() * 0

    def _with_prototypes(self, output: StepOutput, features: GatheredFeatures, step: int) -> StepOutput:
        """Add the prototype losses."""
        # all rows through the heads, for their batch norm; this rank's rows to the prototypes
        projected = {name: self._project(name, features[name])[features.rows] for name in self.heads}
        batch = len(features["image"])
        places = torch.arange(batch, device=features["image"].device)[features.rows]
        positions = step % self.episode_steps * batch + places
        logit_scale = self.logit_scale_prototype.exp()
        losses, logs = dict(output.losses), {**output.logs, "logit_scale_prototype": logit_scale.detach()}
        for space, bank in self.banks.items():
            assert isinstance(bank, PrototypeBank)
            of_teacher = self.config.teacher if space not in self.heads else None
            term = "prototype_loss" if of_teacher is None else "teacher_loss"
            weight = self.config.prototype_weight if of_teacher is None else of_teacher.weight
            for student in bank.students:
                loss, accuracy = bank.loss(student, projected[student], positions, logit_scale)
                losses[term] = losses.get(term, 0.0) + weight / 2 * loss
                logs[f"{student}_finds_{space}_cluster"] = accuracy
            logs |= {f"{space}_{name}": value for name, value in bank.logs().items()}
        return StepOutput(losses, logs)

    def before_step(self, step: int, steps: int) -> None:
        """Lock the image tower when its time has come, its batch norm included."""
        super().before_step(step, steps)
        if self._locked(step):
            self.model.visual.eval()

    def _locked(self, step: int) -> bool:
        lock = self.config.lock
        return bool(self.episode_steps) and lock is not None and self._lock_step(lock) <= step

    def _lock_step(self, lock: LockConfig) -> int:
        return (self._episodes - lock.episodes) * self.episode_steps

    def after_step(self, step: int) -> None:
        """Clamp both scales."""
        super().after_step(step)
        if self.heads:
            with torch.no_grad():
                self.logit_scale_prototype.clamp_(0, MAX_LOGIT_SCALE)

    def param_groups(self, weight_decay: float) -> list[ParamGroup]:
        """Spare heads, vectors and scalars from weight decay; tell the image side apart for the lock."""
        groups: list[ParamGroup] = []
        for group in super().param_groups(weight_decay):
            for of_head in (False, True):
                for of_image in (False, True):
                    params = [
                        (name, parameter)
                        for name, parameter in group.params
                        if name.startswith("heads.") == of_head and name.startswith(_IMAGE_SIDE) == of_image
                    ]
                    decay = 0.0 if of_head else group.weight_decay
                    groups.append(ParamGroup(params, decay, name="image" if of_image else ""))
        return groups

    def group_lr(self, group: str, lr: float, step: int, steps: int) -> float:
        """Give the locked image tower rate 0 and all else a rate of its own."""
        lock = self.config.lock
        if lock is None or not self._locked(step):
            return lr
        first = self._lock_step(lock)
        return 0.0 if group == "image" else lock.lr / 2 * (1 + math.cos(math.pi * (step - first) / (steps - first)))


def _main_components(values: Tensor, components: int) -> Tensor:
    return principal_components(values, components) if values.shape[1] > components else values
