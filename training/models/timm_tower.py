"""An image tower of timm, such as DINOv2, for heads on patch tokens: left as it was published, or trained on.

    [class; registers; patches] = norm(blocks(embed((x - m) / s)))

x are pixels in [0, 1], m and s the mean and deviation that the tower was made for. Ours come normalised by open_clip's,
so one affine map stands between. The class token represents the image, or the mean of the patches where there is no
class token or none is wanted; register tokens are dropped. Weights come from files that are there already: nothing is
downloaded.
"""

import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from timm.models import is_model_in_modules, load_checkpoint
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from assets.errors import ConfigError, message
from assets.manifest import file_digest
from assets.section import Section
from training.models.towers_config import TimmHub, VisionTimm

TIMM = "timm_model_name"
"""The key of ``vision_cfg`` that says that the tower is one of timm, and which."""

_MODULES = ("vision_transformer", "eva", "deit")
_FIX = 'name a ViT such as "vit_base_patch14_dinov2.lvd142m" in towers.vision.name'
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_UNUSED = ("head.", "head_dist.", "fc_norm.", "attn_pool.", "mask_token")
"""What files may hold beyond the tokens' way through the tower."""


class TimmPatchTower(nn.Module):
    """A ViT of timm for heads on patch tokens; its own feature is its class token or the mean of its patches, [B, W].

    Attributes:
        image_size: Rows and columns of pixels.
        patch_size: Rows and columns of pixels of a patch.
        grid_size: Rows and columns of patches.
        width: Of the tokens, W.
    """

    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(self, options: Mapping[str, Any], class_token: bool = False) -> None:
        """Build with fresh weights; draws from torch's global generator.

        Args:
            options: See :func:`timm_vision_config`; ``timm_model_name``, ``image_size`` and ``freeze`` are read.
            class_token: The tower's own feature is its class token where it has one, not the mean of its patch tokens.

        Raises:
            ConfigError: timm has no such model, or it is not a ViT.
        """
        super().__init__()
        name, side = options[TIMM], options["image_size"]
        self.trunk: Any = _create(name, side)
        self._norm_is_moved = _drop_pooling(self.trunk)
        self._name, self._frozen = name, bool(options["freeze"])
        self._class_token = class_token and self.trunk.cls_token is not None
        self.image_size = (side, side)
        self.patch_size: tuple[int, int] = tuple(self.trunk.patch_embed.patch_size)
        self.grid_size: tuple[int, int] = tuple(self.trunk.patch_embed.grid_size)
        self.width: int = self.trunk.embed_dim
        shown: Mapping[str, Any] = self.trunk.pretrained_cfg
        mean, deviation = torch.tensor(shown["mean"]), torch.tensor(shown["std"])
        scale = torch.tensor(OPENAI_DATASET_STD) / deviation
        shift = (torch.tensor(OPENAI_DATASET_MEAN) - mean) / deviation
        # among the weights, so that an export does not depend on what timm knows of the name
        self.register_buffer("pixel_scale", scale.view(1, 3, 1, 1))
        self.register_buffer("pixel_shift", shift.view(1, 3, 1, 1))
        if self._frozen:
            self.requires_grad_(False)
            self.eval()

    def train(self, mode: bool = True) -> "TimmPatchTower":
        """Change the mode; a frozen tower stays in evaluation mode."""
        return super().train(mode and not self._frozen)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks' activations in the backward pass; of a frozen tower none are kept anyway."""
        self.trunk.set_grad_checkpointing(enable and not self._frozen)

    def tokens(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Run the tower.

        Args:
            image: Pixels normalised by open_clip's mean and deviation, [B, 3, S, S].

        Returns:
            The tower's own feature, [B, W], and its patch tokens, row by row, [B, N, W].
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            found: Tensor = self.trunk.forward_features(image * self.pixel_scale + self.pixel_shift)
            patches = found[:, self.trunk.num_prefix_tokens :]
            return found[:, 0] if self._class_token else patches.mean(dim=1), patches

    def forward(self, image: Tensor) -> Tensor:
        """Return the tower's own feature of normalised pixels, [B, W]."""
        return self.tokens(image)[0]

    def begin(self, vision: Section) -> None:
        """Take the weights that a recipe names; without any, or for a tower that is not spelt out, nothing changes.

        Args:
            vision: The recipe's image tower.

        Raises:
            ConfigError: The weights are not there, damaged, or of another model.
        """
        path = locate_weights(vision) if isinstance(vision, VisionTimm) else None
        if path is not None:
            self.load(path)

    def load(self, path: Path) -> None:
        """Take weights from a file; position embeddings are resized to the image size, as timm does.

        Args:
            path: In a layout that timm reads: safetensors, or a state dict that torch wrote.

        Raises:
            ConfigError: The file is damaged, or of another model.
        """
        convert = getattr(sys.modules[type(self.trunk).__module__], "checkpoint_filter_fn")  # noqa: B009

        def kept(tensors: dict[str, Tensor], trunk: nn.Module) -> dict[str, Tensor]:
            tensors = convert(tensors, trunk)
            renamed = {name.replace("fc_norm.", "norm."): value for name, value in tensors.items()}
            tensors = renamed if self._norm_is_moved else tensors
            return {name: value for name, value in tensors.items() if not name.startswith(_UNUSED)}

        fix = "name the file of this very model, or the model of this file"
        what = f"towers.vision.weights: {path} is not of {self._name}"
        try:
            found: Any = load_checkpoint(self.trunk, str(path), strict=False, filter_fn=kept)
        except Exception as error:  # timm, PyTorch and safetensors each raise their own
            raise ConfigError(message(f"{what} ({' '.join(str(error).split())[:300]})", fix=fix)) from error
        odd = [] if found is None else [*found.missing_keys, *found.unexpected_keys]
        if odd:
            raise ConfigError(message(f"{what}: only one of the two has {', '.join(sorted(odd)[:5])}", fix=fix))


def timm_vision_config(vision: VisionTimm, image_size: int) -> dict[str, Any]:
    """Spell a tower of timm.

    Args:
        vision: The recipe's.
        image_size: Side of its images.

    Returns:
        ``vision_cfg``: what :class:`TimmPatchTower` needs, the shape as other ViTs' configs tell it, and in ``weights``
        the name and digest of the file that the tower began as, or None.

    Raises:
        ConfigError: timm has no such model, it is no ViT, its patches do not fill the image, or its weights are not
            there.
    """
    with torch.device("meta"):  # shapes only
        trunk = _create(vision.name, image_size)
    patch: int = trunk.patch_embed.patch_size[0]
    if image_size % patch:
        what = f"towers.image_size does not go with the patches of {vision.name}"
        raise ConfigError(message(what, image_size, f"a multiple of {patch}", "change it, or name another ViT"))
    heads: int = next((part.num_heads for part in trunk.blocks.modules() if hasattr(part, "num_heads")), 1)
    path = locate_weights(vision)
    return {
        TIMM: vision.name,
        "image_size": image_size,
        "patch_size": patch,
        "width": trunk.embed_dim,
        "layers": len(trunk.blocks),
        "head_width": trunk.embed_dim // heads,
        "freeze": vision.freeze,
        "weights": None if path is None else {"file": path.name, "sha256": file_digest(path)},
    }


def locate_weights(vision: VisionTimm) -> Path | None:
    """Find the file that a tower begins as; None for fresh weights.

    Args:
        vision: The recipe's.

    Raises:
        ConfigError: It is not there; nothing is downloaded.
    """
    if vision.weights is None:
        return None
    if isinstance(vision.weights, TimmHub):
        return _cached(vision.name, vision.weights)
    if not vision.weights.path.is_file():
        what = f"the weights of {vision.name}, {vision.weights.path}, do not exist"
        raise ConfigError(message(what, fix="mend towers.vision.weights.path"))
    return vision.weights.path


def _cached(name: str, weights: TimmHub) -> Path:
    """Return the file of the hub cache that timm would load."""
    known: Any = timm.get_pretrained_cfg(name)
    place: str | None = known and known.hf_hub_id
    if not place:
        fix = "name a model with a tag, or give its weights as a file"
        raise ConfigError(message(f"timm knows no weights of {name} on the hub", fix=fix))
    files = (known.hf_hub_filename,) if known.hf_hub_filename else _HUB_FILES
    for file in files:
        path = try_to_load_from_cache(place, file, revision=weights.revision)
        if isinstance(path, str):
            return Path(path)
    revision = f" --revision {weights.revision}" if weights.revision else ""
    fix = f'run "hf download {place} {files[0]}{revision}" where there is a network'
    raise ConfigError(message(f"the weights of {name} are not in the Hugging Face cache", fix=fix))


def _create(name: str, image_size: int) -> Any:
    """Build timm's model without a classifier."""
    if not timm.is_model(name) or name not in {*timm.list_models(), *timm.list_pretrained()}:
        known = [one for module in _MODULES for one in timm.list_models(module=module)]
        tagged = [one for module in _MODULES for one in timm.list_models(module=module, pretrained=True)]
        near = difflib.get_close_matches(name, [*known, *tagged], n=5, cutoff=0.5)
        raise ConfigError(message(f"timm has no model {name!r}", fix=f"near: {', '.join(near)}" if near else _FIX))
    what = f"{name} of timm does not give a class token and patch tokens that a head could use"
    wanted = "one of its VisionTransformer or Eva"
    if not is_model_in_modules(name.partition(".")[0], _MODULES):
        raise ConfigError(message(what, wanted=wanted, fix=_FIX))
    trunk: Any = timm.create_model(name, num_classes=0, img_size=image_size)
    if not isinstance(trunk, VisionTransformer | Eva):
        raise ConfigError(message(what, type(trunk).__name__, wanted, _FIX))
    return trunk


def _drop_pooling(trunk: Any) -> bool:
    """Take off what follows the tokens, which nothing would train; say whether that held the final norm."""
    trunk.attn_pool = None
    is_moved = isinstance(trunk.norm, nn.Identity) and not isinstance(trunk.fc_norm, nn.Identity)
    if is_moved:
        trunk.norm = trunk.fc_norm  # timm norms the mean there; here each token is wanted
    trunk.fc_norm = nn.Identity()
    return is_moved
