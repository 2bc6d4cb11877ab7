"""LexVLA: images and captions as sparse-able vectors over words (arXiv 2407.17827).

s_img, s_txt are the unit vectors of ``training/models/lexical.py``. With k = 1, 2, ... the optimiser step and
lambda_k = lambda (min(k, T) / T)^2:

    loss = l_i2t + l_t2i + lambda_I,k overuse(S_img) + lambda_T,k overuse(S_txt)

l_i2t + l_t2i is twice InfoNCE, as published, and the weights are relative to that sum; overuse and the FLOPs
regulariser, which may stand in its place, are those of ``training/losses/lexical.py``, on the vectors of all ranks. The
logit scale starts at 1/0.07 and is at most 100. Without penalties this is CLIP on lexical towers; any other method of
ours trains such towers as well, without them. Not in the paper, with the reason: the language model is frozen and its
states are cached (FLAME's way), since running it is nearly all of the published cost; ``towers.text.lora`` trains its
adapters, as published.
"""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from assets.errors import ConfigError, message
from training.config import BudgetConfig
from training.data.loader import Batch
from training.engine.gather import GatheredFeatures
from training.losses.info_nce import info_nce_loss
from training.losses.lexical import flops_penalty, overuse_penalty, quadratic_warmup
from training.methods.base import Method, MethodConfig
from training.methods.exchange import Features, ParamGroup, StepOutput
from training.models.lexical import LexicalModel


class LexVlaConfig(MethodConfig):
    """Weights of the penalties, and rates of what must not drift."""

    kind: Literal["lexvla"]
    overuse_image: float = Field(default=5e-4, ge=0)
    """Weight of the overuse penalty on image vectors, lambda_I."""
    overuse_text: float = Field(default=1e-3, ge=0)
    """Weight of the overuse penalty on text vectors, lambda_T; felt with ``head.text_rank`` or ``text.lora`` only."""
    flops_image: float = Field(default=0.0, ge=0)
    """Weight of the FLOPs regulariser on image vectors; as strong as overuse only at a larger weight."""
    flops_text: float = Field(default=0.0, ge=0)
    """Weight of the FLOPs regulariser on text vectors."""
    warmup_steps: int = Field(default=2000, ge=0)
    """T, after which the weights of the penalties are whole."""
    detach_weight: bool = False
    """Send no gradient through a word's share in the overuse penalty, so that no word is pushed up."""
    codebook_lr: float = Field(default=1.0, ge=0)
    """Rate of the image codebook as a multiple of the recipe's; 0 keeps the language model's."""
    text_lr: float = Field(default=1.0, ge=0)
    """Rate of text correction and adapters as a multiple of the recipe's: the more text moves, the less its words are
    true."""

    @model_validator(mode="after")
    def _known_warmup(self) -> "LexVlaConfig":
        if self.warmup_steps and not any(self.weights):
            raise ValueError("warmup_steps belongs to the penalties, and all of their weights are 0; set it to 0")
        return self

    @property
    def weights(self) -> tuple[float, float, float, float]:
        """All weights."""
        return (self.overuse_image, self.overuse_text, self.flops_image, self.flops_text)


class LexVla(Method):
    """Contrastive pretraining in the space of words."""

    Config = LexVlaConfig
    config: LexVlaConfig
    needs_frozen_text = True

    def prepare(self, budget: BudgetConfig) -> None:
        """Refuse towers without words.

        Args:
            budget: The recipe's.
        """
        if not isinstance(self.model, LexicalModel):
            fix = 'set towers.head to "{kind: lexical}", and the run\'s features to an entry of kind lexical'
            raise ConfigError(message("method lexvla works with a head over words only", fix=fix))
        if self.config.codebook_lr == 0:
            self.model.head.codebook.requires_grad_(False)
        if self.config.text_lr == 0:
            for part in (self.model.text_correction, self.model.lora):
                if part is not None:
                    part.requires_grad_(False)

    def encode(self, batch: Batch) -> Features:
        """Return unit-norm ``image_features`` and ``text_features``, both [B, V]."""
        return {
            "image_features": functional.normalize(self.encode_images(batch).image_features, dim=-1),
            "text_features": self.encode_captions(batch),
        }

    def losses(self, features: GatheredFeatures, step: int) -> StepOutput:
        """Twice InfoNCE and the penalties; logs the scale, and per side the penalties and the words in use."""
        logit_scale = self.model.logit_scale.exp()
        images, texts = features["image_features"], features["text_features"]
        losses = {"contrastive_loss": 2 * info_nce_loss(images, texts, logit_scale, features.rows)}
        logs = {"logit_scale": logit_scale.detach()}
        config = self.config
        sides = (
            ("image", images, config.overuse_image, config.flops_image),
            ("text", texts, config.overuse_text, config.flops_text),
        )
        for side, vectors, overuse_weight, flops_weight in sides:
            overuse, flops = overuse_penalty(vectors, config.detach_weight), flops_penalty(vectors)
            for name, penalty, weight in (("overuse", overuse, overuse_weight), ("flops", flops, flops_weight)):
                logs[f"{name}_{side}"] = penalty.detach()
                if weight:
                    losses[f"{name}_{side}_loss"] = quadratic_warmup(weight, step, config.warmup_steps) * penalty
            logs |= _words_in_use(side, vectors.detach())
        return StepOutput(losses, logs)

    def param_groups(self, weight_decay: float) -> list[ParamGroup]:
        """Group as others, and spare the codebook and what is trained of the text from decay, at rates of their own.

        Args:
            weight_decay: The recipe's value, for matrices and kernels.
        """
        apart = {"codebook": self.config.codebook_lr}
        apart |= dict.fromkeys(("text_correction", "lora"), self.config.text_lr)
        own: dict[str, list[tuple[str, nn.Parameter]]] = {name: [] for name in apart}
        groups: list[ParamGroup] = []
        for group in super().param_groups(weight_decay):
            rest: list[tuple[str, nn.Parameter]] = []
            for name, parameter in group.params:
                part = next((part for part in apart if part in name.split(".")), None)
                (rest if part is None else own[part]).append((name, parameter))
            groups.append(group._replace(params=rest))
        return groups + [ParamGroup(own[name], 0.0, apart[name]) for name in apart if own[name]]


@torch.no_grad()
def _words_in_use(side: str, vectors: Tensor) -> dict[str, Tensor]:
    """Count what the cut at the mean square leaves: active words per vector, and the share of the most common one."""
    active = (vectors > vectors.shape[1] ** -0.5).float()
    return {f"active_words_{side}": active.sum(dim=1).mean(), f"top_word_share_{side}": active.mean(dim=0).max()}
