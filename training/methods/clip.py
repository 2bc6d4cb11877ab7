"""CLIP: two towers, one contrastive loss (Radford et al. 2021, arXiv 2103.00020).

z = f(image) / |f(image)|, z' = g(text) / |g(text)|, loss = InfoNCE(z, z', exp(logit_scale)) over the global batch.
The logit scale starts at 1/0.07 and is clamped to at most 100 after every step, as published. The plainest method
here, and the one to copy.
"""

from typing import Literal

from torch.nn import functional

from training.data.loader import Batch
from training.engine.gather import GatheredFeatures
from training.losses.info_nce import info_nce_loss
from training.methods.base import Method, MethodConfig
from training.methods.exchange import Features, StepOutput


class ClipConfig(MethodConfig):
    """CLIP has no settings of its own."""

    kind: Literal["clip"]


class Clip(Method):
    """Contrastive language-image pretraining."""

    Config = ClipConfig

    def encode(self, batch: Batch) -> Features:
        """Return unit-norm ``image_features`` and ``text_features``, both [B, D]."""
        image_features = self.encode_images(batch).image_features
        text_features = self.encode_captions(batch)
        return {
            "image_features": functional.normalize(image_features, dim=-1),
            "text_features": functional.normalize(text_features, dim=-1),
        }

    def losses(self, features: GatheredFeatures, step: int) -> StepOutput:
        """InfoNCE over the gathered batch; logs the scale."""
        logit_scale = self.model.logit_scale.exp()
        loss = info_nce_loss(features["image_features"], features["text_features"], logit_scale, features.rows)
        return StepOutput({"contrastive_loss": loss}, {"logit_scale": logit_scale.detach()})
