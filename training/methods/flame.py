"""FLAME: an image tower against rows that a frozen language model made of each caption (Cao et al., arXiv 2411.11927).

The texts of a pair are embedded once, before training: R rows, from several captions of the picture and several
questions put to the model about each (facets). There is no text tower. Each visit of a pair draws K of its R rows
without replacement. v = h(f(image)) / |.| with the head h on f's patch tokens (``models/frozen_text.py``), t_k = the
drawn rows at unit norm, centred where ``towers.text.center`` says so:

    loss = 1/K sum_k InfoNCE(v, t_k, s)                              (softmax)
    loss = -1/(N K) sum_ijk log sigmoid(y_ij (s v_i . t_jk + b))     (sigmoid)

s = exp(logit_scale) starts at 1/0.07 for softmax and at 10, with b = -10, for sigmoid; s is clamped to [1, 100], b is
not clamped. Deliberate differences from the published code: rows are drawn from (seed, epoch, key) and not by each
worker's own generator; the softmax has the gradient of the whole batch on any number of ranks, published 1/W of it; any
other method can train against frozen text as well, and sees one row per visit.
"""

import math
from typing import Any, Literal

from pydantic import Field, model_validator
from torch.nn import functional

from assets.errors import ConfigError, message
from training.data.loader import Batch
from training.engine.gather import GatheredFeatures
from training.losses.multi_positive import multi_positive_sigmoid_loss, multi_positive_softmax_loss
from training.methods.base import Method, MethodConfig
from training.methods.exchange import Features, StepOutput
from training.models.text_draws import draw_rows


class FlameConfig(MethodConfig):
    """Rows per visit, and the loss."""

    kind: Literal["flame"]
    loss: Literal["softmax", "sigmoid"]
    """Published for both; softmax learns faster below a batch of about a thousand."""
    rows_per_image: int = Field(default=6, ge=1)
    """Rows of a pair that a visit sees, K; at most those that ``towers.text.slots`` leaves."""
    init_logit_scale: float | None = Field(default=None, ge=1, le=100)
    """Factor on the cosine at the start; null for 1/0.07 with softmax and 10 with sigmoid."""
    init_logit_bias: float | None = None
    """Added to every logit at the start, for sigmoid; null for -10."""

    @model_validator(mode="after")
    def _bias(self) -> "FlameConfig":
        if self.loss == "softmax" and self.init_logit_bias is not None:
            raise ValueError("init_logit_bias belongs to loss sigmoid; leave it out")
        return self


class Flame(Method):
    """Contrastive pretraining against several rows of frozen text."""

    Config = FlameConfig
    config: FlameConfig
    needs_frozen_text = True

    @classmethod
    def model_options(cls, config: MethodConfig) -> dict[str, Any]:
        """Say where scale and bias start; only the sigmoid has a bias."""
        assert isinstance(config, FlameConfig)
        sigmoid = config.loss == "sigmoid"
        scale = config.init_logit_scale or (10.0 if sigmoid else 1 / 0.07)
        bias = -10.0 if config.init_logit_bias is None else config.init_logit_bias
        return {"init_logit_scale": math.log(scale)} | ({"init_logit_bias": bias} if sigmoid else {})

    @classmethod
    def check_text(cls, config: MethodConfig, num_slots: int) -> None:
        """Refuse to draw more rows than there are."""
        assert isinstance(config, FlameConfig)
        if config.rows_per_image > num_slots:
            what = "method.rows_per_image exceeds the rows of a pair that towers.text.slots leaves"
            raise ConfigError(message(what, config.rows_per_image, f"at most {num_slots}"))

    def encode(self, batch: Batch) -> Features:
        """Return unit-norm ``image_features``, [B, D], and the drawn ``text_rows``, [B, K, D]."""
        if self.lora is None:
            rows = self.model.encode_rows(draw_rows(batch["text_rows"], batch["seed"], self.config.rows_per_image))
        else:
            rows = self.encode_captions(batch)[:, None]  # adapters are for a single slot
        return {
            "image_features": functional.normalize(self.encode_images(batch).image_features, dim=-1),
            "text_rows": rows,
        }

    def losses(self, features: GatheredFeatures, step: int) -> StepOutput:
        """Multi-positive loss over the gathered batch; logs scale and bias."""
        logit_scale, logit_bias = self.model.logit_scale.exp(), self.model.logit_bias
        images, texts, rows = features["image_features"], features["text_rows"], features.rows
        logs = {"logit_scale": logit_scale.detach()}
        if logit_bias is None:
            return StepOutput({"contrastive_loss": multi_positive_softmax_loss(images, texts, logit_scale, rows)}, logs)
        loss = multi_positive_sigmoid_loss(images, texts, logit_scale, logit_bias, rows)
        return StepOutput({"contrastive_loss": loss}, {**logs, "logit_bias": logit_bias.detach()})
