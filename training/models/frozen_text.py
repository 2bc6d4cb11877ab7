"""An image tower for a text side that is not trained: a ViT whose patch tokens a head takes into the text's space.

    v = mean over patches p of LN(W_2 gelu(W_1 x_p + b_1) + b_2)          (FLAME: Cao et al., arXiv 2411.11927)

x_p are the tokens after the last block, without the final norm; the class token is dropped, and there is no projection
of open_clip's. ``pooled`` takes the mean of the x_p first: another function, at a fraction of the cost. Beside the
weights the model holds the means of the text's slots, so that a class name is later centred as training did.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from training.models.image_pass import ImagePass, encode_image, feature_width
from training.models.timm_tower import TIMM, TimmPatchTower

_LOG_SCALE = float(np.log(1 / 0.07))


class PatchTower(VisionTransformer):
    """A ViT of open_clip for heads on patch tokens; its own feature is their mean, [B, W]."""

    def __init__(self, options: Mapping[str, Any], class_token: bool = False) -> None:
        """Build with fresh weights.

        Args:
            options: ``image_size``, ``patch_size``, ``width``, ``layers``, ``head_width`` and ``mlp_ratio``.
            class_token: The tower's own feature is its class token, not the mean of its patch tokens.
        """
        sizes = {name: options[name] for name in ("image_size", "patch_size", "width", "layers", "mlp_ratio")}
        heads = options["width"] // options["head_width"]
        super().__init__(**sizes, heads=heads, output_dim=options["width"], pool_type="tok" if class_token else "avg")
        # both would be parameters that nothing uses, which several processes do not take
        self.ln_post = nn.Identity()
        self.proj = None


def build_image_tower(options: Mapping[str, Any], class_token: bool = False) -> PatchTower | TimmPatchTower:
    """Build the image tower of a config with fresh weights.

    Args:
        options: Its ``vision_cfg``.
        class_token: The tower's own feature is its class token, not the mean of its patch tokens.
    """
    return (TimmPatchTower if TIMM in options else PatchTower)(options, class_token)


class TokenHead(nn.Module):
    """Linear, GELU, Linear, LayerNorm on patch tokens, and their mean after or before it."""

    def __init__(self, width: int, hidden: int, out: int, kind: Literal["tokens", "pooled"]) -> None:
        """Build with fresh weights.

        Args:
            width: Of the tokens, W.
            hidden: Of the hidden layer.
            out: Of the text rows, D.
            kind: ``tokens`` for each token and then their mean, ``pooled`` for their mean.
        """
        super().__init__()
        self.kind, self.width = kind, out
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out), nn.LayerNorm(out))

    def forward(self, image_token_features: Tensor) -> Tensor:
        """Take patch tokens without the class token, [B, N, W], to [B, D], not normalised."""
        if self.kind == "pooled":
            return self.layers(image_token_features.mean(dim=1))
        return self.layers(image_token_features).mean(dim=1)


class FrozenTextModel(nn.Module):
    """What is exported of a recipe with frozen text: tower, head, scale, bias and the means of the text's slots."""

    slot_means: Tensor | None

    def __init__(self, config: Mapping[str, Any], slot_means: Sequence[Sequence[float]] | NDArray[Any] | None) -> None:
        """Build with fresh weights; draws from torch's global generator.

        Args:
            config: ``embed_dim``, ``vision_cfg``, ``head_cfg`` (kind, width), and, as open_clip has them,
                ``init_logit_scale`` and ``init_logit_bias``.
            slot_means: [R, D], for text that is centred; None for text that is not.
        """
        super().__init__()
        self.visual, self.head = self._build(config)
        bias = config.get("init_logit_bias")
        self.logit_scale = nn.Parameter(torch.tensor(float(config.get("init_logit_scale", _LOG_SCALE))))
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)))
        means = None if slot_means is None else torch.tensor(np.asarray(slot_means), dtype=torch.float32)
        self.register_buffer("slot_means", means)

    def _build(self, config: Mapping[str, Any]) -> tuple[PatchTower | TimmPatchTower, Any]:
        """Return tower and head, whose ``width`` is D."""
        vision, head = config["vision_cfg"], config["head_cfg"]
        return build_image_tower(vision), TokenHead(vision["width"], head["width"], config["embed_dim"], head["kind"])

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks' activations in the backward pass."""
        self.visual.set_grad_checkpointing(enable)

    def image_pass(self, image: Tensor, keep: Tensor | None = None) -> ImagePass:
        """Run tower and head, see :func:`training.models.image_pass.encode_image`."""
        encoded = encode_image(self.visual, image, keep)
        return encoded._replace(image_features=self.head(encoded.image_token_features))

    def encode_patches(self, image: Tensor) -> Tensor:
        """Take every patch token alone into the text's space.

        Args:
            image: Normalised pixels, [B, 3, S, S].

        Returns:
            Not normalised, [B, N, D].
        """
        return self.head.layers(encode_image(self.visual, image).image_token_features)

    def encode_rows(self, rows: Tensor) -> Tensor:
        """Return text rows as features, unit norm, [..., D]; here they are what they are."""
        return rows

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Embed pictures as open_clip's models do.

        Args:
            image: Normalised pixels, [B, 3, S, S].
            normalize: To unit norm.

        Returns:
            [B, D].
        """
        features = self.image_pass(image).image_features
        return functional.normalize(features, dim=-1) if normalize else features


def model_features(model: nn.Module, image: Tensor, keep: Tensor | None = None) -> ImagePass:
    """Run a model's image side, with its head if it has one.

    Args:
        model: A model of open_clip, or one for frozen text.
        image: Normalised pixels, [B, 3, S, S].
        keep: Patches that stay, int64 [B, K]; None keeps all.
    """
    whole: Any = model
    if isinstance(model, FrozenTextModel):
        return model.image_pass(image, keep)
    return encode_image(whole.visual, image, keep)


def model_width(model: nn.Module) -> int:
    """Return D of what :func:`model_features` gives.

    Args:
        model: A model of open_clip, or one for frozen text.
    """
    whole: Any = model
    return model.head.width if isinstance(model, FrozenTextModel) else feature_width(whole.visual)
