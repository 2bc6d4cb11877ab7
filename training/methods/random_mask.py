"""CLIP on several masked views of each image: the controls of A-CLIP, and with one random view FLIP.

FLIP: Li et al. 2022, arXiv 2212.00794; several views: Yang et al. 2022, arXiv 2212.08653. z_v = f(view v without the
dropped patches) / |.|, z' = g(text) / |.|, loss = 1/M sum_v InfoNCE(z_v, z', exp(logit_scale)). Views are contrasted
with the texts one at a time, never with each other. What is dropped is the recipe's ``masking``, ``random`` for the
method of this name: patches or squares of patches (``block``), and nothing any more in the last part of the budget with
``unmasked_tail``, which is FLIP's short tuning on whole images. One view and no masking is CLIP to the last bit.
"""

from typing import Literal

import torch
from pydantic import Field
from torch.nn import functional

from training.data.loader import Batch
from training.data.views import ViewsConfig
from training.engine.gather import GatheredFeatures
from training.losses.info_nce import info_nce_loss
from training.methods.base import Method, MethodConfig
from training.methods.exchange import Features, StepOutput


class RandomMaskConfig(MethodConfig):
    """How many views."""

    kind: Literal["random_mask"]
    num_views: int = Field(default=2, ge=1, le=8)
    """Views of each image, M; each costs a pass of the image tower on the patches that it keeps."""


class RandomMask(Method):
    """Contrastive pretraining on M masked views."""

    Config = RandomMaskConfig
    config: RandomMaskConfig

    def views(self) -> dict[str, ViewsConfig]:
        """Name the M views ``image``, ``image_2``, ..; all are drawn alike."""
        further = range(2, self.config.num_views + 1)
        return {"image": self.images.views, **{f"image_{number}": self.images.views for number in further}}

    def encode(self, batch: Batch) -> Features:
        """Return unit-norm features of each view, under its name, and ``text_features``, all [B, D]."""
        names = tuple(self.views())
        image_features = functional.normalize(self.encode_images(batch, names).image_features, dim=-1)  # [M * B, D]
        text_features = functional.normalize(self.encode_captions(batch), dim=-1)
        return {**dict(zip(names, image_features.chunk(len(names)), strict=True)), "text_features": text_features}

    def losses(self, features: GatheredFeatures, step: int) -> StepOutput:
        """InfoNCE over the gathered batch, mean over views; logs each view's and the scale."""
        logit_scale = self.model.logit_scale.exp()
        losses = {
            name: info_nce_loss(features[name], features["text_features"], logit_scale, features.rows)
            for name in self.views()
        }
        logs = {f"contrastive_loss_{name}": loss.detach() for name, loss in losses.items()} if len(losses) > 1 else {}
        contrastive_loss = torch.stack(list(losses.values())).mean()
        return StepOutput({"contrastive_loss": contrastive_loss}, {**logs, "logit_scale": logit_scale.detach()})
