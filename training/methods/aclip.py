"""A-CLIP: CLIP on two views without the half that an averaged tower finds dull (Yang et al. 2022, arXiv 2212.08653).

A slowly moving average f' of the image tower sees a view e around two others, and scores each patch by the attention
that its class token pays to it. The scores are mapped to the two views by their boxes, and only the best-scored squares
of patches go through the tower (the recipe's ``masking: attentive`` and ``ema_tower``, which any method can use). What
that saves pays for the second view; the two views and the average's feature then give two further losses almost free.

h_v = feature of view v before the projection, z_v = P h_v / |.|, z' = g(text) / |.|; a and c = unit vectors of the
SimCLR head on h_1 and h_2; q_v = predictor(projector(h_v)); y = projector'(h'_e), the average's own, without gradient:

    loss = mean_v InfoNCE(z_v, z', exp(logit_scale)) + ssl_weight NT-Xent(a, c) + byol_weight mean_v (2 - 2 cos(q_v, y))

With ``ema_tower: {shrink: 2}`` the average sees e at half the resolution: A-CLIP-eff. Deliberate differences from the
published code, which contradicts itself in places: NT-Xent compares view 1 with view 2 and not with itself, e always
contains both views, and the average moves once per optimiser step.
"""

import copy
from typing import Any, Literal

import torch
from pydantic import Field
from torch.nn import functional

from training.data.loader import Batch
from training.data.views import ViewsConfig
from training.engine.gather import GatheredFeatures
from training.losses.byol import byol_loss
from training.losses.info_nce import info_nce_loss
from training.losses.nt_xent import nt_xent_loss
from training.methods.base import Method, MethodConfig
from training.methods.exchange import Features, ImageInput, StepOutput
from training.methods.ramp import ramped
from training.models.ema_tower import ema_momentum, ema_update
from training.models.heads import byol_head, simclr_head
from training.models.image_pass import pooled_width

_VIEWS = ("image", "image_2")


class AClipConfig(MethodConfig):
    """The self-supervised part; the defaults are those published. Weights of 0 leave masking alone."""

    kind: Literal["aclip"]
    ssl_weight: float = Field(default=1.0, ge=0)
    """Of NT-Xent between the two views; short runs want less."""
    byol_weight: float = Field(default=2.0, ge=0)
    """Of the regression to the average's feature, mean over views: 2 is 1 per view. Above 0 it needs ``ema_tower``."""
    ssl_warmup_steps: int = Field(default=0, ge=0)
    """Steps over which both weights rise from 0; 0 has them from the start, as published."""
    temperature: float = Field(default=0.1, gt=0)
    """Of NT-Xent."""
    head_width: int = Field(default=4096, ge=1)
    """Of the hidden layers of all heads."""
    head_out: int = Field(default=256, ge=1)
    """Of the vectors that are compared, K."""


class AClip(Method):
    """Attentive masking with contrastive and self-supervised losses on two views."""

    Config = AClipConfig
    config: AClipConfig

    def __init__(self, config: AClipConfig, model: Any, images: ImageInput) -> None:
        super().__init__(config, model, images)
        width, sizes = pooled_width(model.visual), (config.head_width, config.head_out)
        # a head without a loss would be parameters without gradients, which several processes do not take
        self.simclr_head = simclr_head(width, *sizes) if config.ssl_weight else None
        self.projector = byol_head(width, *sizes) if config.byol_weight else None
        self.predictor = byol_head(config.head_out, *sizes) if config.byol_weight else None
        self.ema_projector = copy.deepcopy(self.projector).requires_grad_(False) if self.projector else None

    @classmethod
    def uses_ema_tower(cls, config: MethodConfig) -> bool:
        """Say that the regression does."""
        assert isinstance(config, AClipConfig)
        return config.byol_weight > 0

    def views(self) -> dict[str, ViewsConfig]:
        """Name the two views, drawn alike."""
        return dict.fromkeys(_VIEWS, self.images.views)

    def encode(self, batch: Batch) -> Features:
        """Return unit-norm features of views and texts, [B, D]; pooled ones of views and of the average's, [B, W]."""
        ema = self.ema_pass(batch) if self.ema_projector is not None else None
        encoded = self.encode_images(batch, _VIEWS, ema)
        image_features = functional.normalize(encoded.image_features, dim=-1).chunk(2)
        features = {"text_features": functional.normalize(self.encode_captions(batch), dim=-1)}
        for name, feature, pooled in zip(_VIEWS, image_features, encoded.pooled.chunk(2), strict=True):
            features |= {name: feature, f"{name}_pooled": pooled}
        return features if ema is None else {**features, "ema_pooled": ema.pooled}

    def losses(self, features: GatheredFeatures, step: int) -> StepOutput:
        """Contrastive loss of both views, NT-Xent and regression; logs each view's contrastive loss and the scale."""
        logit_scale, rows = self.model.logit_scale.exp(), features.rows
        first, second = (info_nce_loss(features[v], features["text_features"], logit_scale, rows) for v in _VIEWS)
        losses = {"contrastive_loss": (first + second) / 2}
        logs = {"contrastive_loss_image": first.detach(), "contrastive_loss_image_2": second.detach()}
        # one batch for the batch norm of the heads, [2 G, W]
        pooled = torch.cat([features[f"{name}_pooled"] for name in _VIEWS])
        if self.simclr_head is not None:
            one, other = functional.normalize(self.simclr_head(pooled), dim=-1).chunk(2)
            ssl_weight = ramped(self.config.ssl_weight, step, self.config.ssl_warmup_steps)
            losses["simclr_loss"] = ssl_weight * nt_xent_loss(one, other, self.config.temperature, rows)
        if self.projector is not None and self.predictor is not None and self.ema_projector is not None:
            predicted = self.predictor(self.projector(pooled)).chunk(2)
            with torch.no_grad():
                target = self.ema_projector(features["ema_pooled"])[rows]
            byol_losses = [byol_loss(prediction[rows], target) for prediction in predicted]
            byol_weight = ramped(self.config.byol_weight, step, self.config.ssl_warmup_steps)
            losses["byol_loss"] = byol_weight * torch.stack(byol_losses).mean()
        return StepOutput(losses, {**logs, "logit_scale": logit_scale.detach()})

    def before_step(self, step: int, steps: int) -> None:
        """Move the averages of the tower and of the projector."""
        super().before_step(step, steps)
        if self.ema_tower is not None and self.projector is not None and self.ema_projector is not None:
            ema_update(self.ema_projector, self.projector, ema_momentum(self.ema_tower.config.momentum, step, steps))
