"""SLIP: CLIP on one view of the image and SimCLR on two others (Mu et al. 2021, arXiv 2112.12750).

z = f(image) / |.|, z' = g(text) / |.|; h_1, h_2 = features before the projection of two strongly changed views, a and c
= unit vectors of a three-layer head on them. loss = InfoNCE(z, z', exp(logit_scale)) + ssl_weight NT-Xent(a, c). The
three views go through the tower together, so a step costs some 2.7 times CLIP's. Deliberate differences from the
published code: the contrastive term, too, is gathered with gradients, and the changes of colour have a fixed order.
"""

from typing import Any, Literal

from pydantic import Field
from torch import cat
from torch.nn import functional

from training.data.loader import Batch
from training.data.views import ColourConfig, ViewsConfig
from training.engine.gather import GatheredFeatures
from training.losses.info_nce import info_nce_loss
from training.losses.nt_xent import nt_xent_loss
from training.methods.base import Method, MethodConfig
from training.methods.exchange import Features, ImageInput, StepOutput
from training.methods.ramp import ramped
from training.models.heads import simclr_head
from training.models.image_pass import pooled_width

_SSL_VIEWS = ("ssl_image_1", "ssl_image_2")


class SlipConfig(MethodConfig):
    """The self-supervised part; the defaults are those published."""

    kind: Literal["slip"]
    ssl_weight: float = Field(default=1.0, gt=0)
    """Of NT-Xent; short runs want less."""
    ssl_warmup_steps: int = Field(default=0, ge=0)
    """Steps over which the weight rises from 0; 0 has it from the start, as published."""
    temperature: float = Field(default=0.1, gt=0)
    """Of NT-Xent."""
    head_width: int = Field(default=4096, ge=1)
    """Of the head's two hidden layers."""
    head_out: int = Field(default=256, ge=1)
    """Of the vectors that are compared, K."""
    ssl_views: ViewsConfig = ViewsConfig(
        crop_area=(0.08, 1.0),
        flip=0.5,
        colour=ColourConfig(jitter=(0.4, 0.4, 0.4, 0.1), blur_probability=0.5, solarise_probability=0.0),
    )
    """The two views that the captions are not compared with."""


class Slip(Method):
    """Language supervision and self-supervision on separate views."""

    Config = SlipConfig
    config: SlipConfig

    def __init__(self, config: SlipConfig, model: Any, images: ImageInput) -> None:
        super().__init__(config, model, images)
        self.simclr_head = simclr_head(pooled_width(model.visual), config.head_width, config.head_out)

    def views(self) -> dict[str, ViewsConfig]:
        """Name the view that captions describe, and the two of self-supervision."""
        return {"image": self.images.views, **dict.fromkeys(_SSL_VIEWS, self.config.ssl_views)}

    def encode(self, batch: Batch) -> Features:
        """Return unit-norm ``image_features`` and ``text_features``, [B, D], and the two views' ``pooled``, [B, W]."""
        encoded = self.encode_images(batch, ("image", *_SSL_VIEWS))
        _, first, second = encoded.pooled.chunk(3)
        return {
            "image_features": functional.normalize(encoded.image_features.chunk(3)[0], dim=-1),
            "text_features": functional.normalize(self.encode_captions(batch), dim=-1),
            "ssl_pooled_1": first,
            "ssl_pooled_2": second,
        }

    def losses(self, features: GatheredFeatures, step: int) -> StepOutput:
        """InfoNCE and weighted NT-Xent over the gathered batch; logs the scale."""
        logit_scale = self.model.logit_scale.exp()
        images, texts = features["image_features"], features["text_features"]
        pooled = cat([features["ssl_pooled_1"], features["ssl_pooled_2"]])  # one batch for the batch norm, [2 G, W]
        first, second = functional.normalize(self.simclr_head(pooled), dim=-1).chunk(2)
        ssl_loss = nt_xent_loss(first, second, self.config.temperature, features.rows)
        losses = {
            "contrastive_loss": info_nce_loss(images, texts, logit_scale, features.rows),
            "simclr_loss": ramped(self.config.ssl_weight, step, self.config.ssl_warmup_steps) * ssl_loss,
        }
        return StepOutput(losses, {"logit_scale": logit_scale.detach()})
