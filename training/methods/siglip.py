"""SigLIP: CLIP's towers with a sigmoid loss per pair (Zhai et al. 2023, arXiv 2303.15343).

l_ij = exp(logit_scale) z_i . z'_j + logit_bias, loss = -1/G sum_ij log sigmoid(y_ij l_ij). Starts at scale 10 and
bias -10, as published, so that the many negatives do not swamp the first steps.
"""

import math
from typing import Any, Literal

from training.engine.gather import GatheredFeatures
from training.losses.sigmoid import sigmoid_loss
from training.methods.base import MethodConfig
from training.methods.clip import Clip
from training.methods.exchange import StepOutput


class SigLipConfig(MethodConfig):
    """Where scale and bias start."""

    kind: Literal["siglip"]
    init_logit_scale: float = 10.0
    """Factor on the cosine at the start."""
    init_logit_bias: float = -10.0
    """Added to every logit at the start."""


class SigLip(Clip):
    """Language-image pretraining with a sigmoid loss; encodes as CLIP does."""

    Config = SigLipConfig

    @classmethod
    def model_options(cls, config: MethodConfig) -> dict[str, Any]:
        """Ask open_clip for a learned bias, so that the export gives pair probabilities."""
        assert isinstance(config, SigLipConfig)
        return {"init_logit_scale": math.log(config.init_logit_scale), "init_logit_bias": config.init_logit_bias}

    def losses(self, features: GatheredFeatures, step: int) -> StepOutput:
        """Sigmoid loss over the gathered batch; logs scale and bias."""
        logit_scale, logit_bias = self.model.logit_scale.exp(), self.model.logit_bias
        images, texts = features["image_features"], features["text_features"]
        loss = sigmoid_loss(images, texts, logit_scale, logit_bias, features.rows)
        logs = {"logit_scale": logit_scale.detach(), "logit_bias": logit_bias.detach()}
        return StepOutput({"contrastive_loss": loss}, logs)
