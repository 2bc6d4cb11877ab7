"""The published case of A-CLIP and SLIP, and recipes of the methods that want several views or masks."""

from functools import cache
from pathlib import Path

import numpy as np

from tests.training.conftest import PARAMS
from tests.training.engine.rank_cases import boxes_of, with_views

__all__ = ["RECIPES", "TOWERS", "boxes_of", "case_a", "with_views"]

CASE_A = Path(__file__).parents[1] / "fixtures" / "aclip" / "case_a.npz"


@cache
def case_a() -> dict[str, np.ndarray]:
    """Return the arrays of the fixture; its README says what each is."""
    with np.load(CASE_A) as arrays:
        return dict(arrays)


# what each recipe changes of the toy recipe; of 4 x 4 patches, so that there are blocks
TOWERS = {
    "kind": "custom",
    "embed_dim": 16,
    "image_size": 32,
    "vision": {"kind": "vit", "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
    "text": {"context_length": 16, "width": 16, "heads": 2, "layers": 1},
}
# Adam divides tiny gradients by their own size, and those of a head's silent units are nothing but rounding
OPTIM = {"optim": {**PARAMS["recipes"]["clip"]["optim"], "eps": 1e-4}}
HEADS = {"head_width": 24, "head_out": 8, "temperature": 0.5}
COLOUR = {"crop_area": [0.5, 1.0], "colour": {"blur_sigma": [0.1, 1.0]}}
ATTENTIVE = {"masking": {"kind": "attentive"}, "ema_tower": {"momentum": 0.9}}
RECIPES = {
    "slip": {"method": {"kind": "slip", **HEADS}, **OPTIM},
    "random_mask": {"method": {"kind": "random_mask"}, "masking": {"kind": "random", "block": 2}},
    "aclip": {"method": {"kind": "aclip", **HEADS}, "views": COLOUR, **ATTENTIVE, **OPTIM},
    "aclip_eff": {
        "method": {"kind": "aclip", **HEADS},
        "masking": {"kind": "attentive", "block": 1},
        "ema_tower": {"momentum": 0.9, "shrink": 2},
        "freeze_patch_embedding": True,
        **OPTIM,
    },
    "aclip_inverse": {
        "method": {"kind": "aclip", "ssl_weight": 0, "byol_weight": 0},
        "masking": {"kind": "inverse"},
        "ema_tower": {"momentum": 0.9},
    },
    "aclip_random": {
        "method": {"kind": "aclip", **HEADS},
        "masking": {"kind": "random"},
        "ema_tower": {"momentum": 0.9},
        **OPTIM,
    },
    "attentive_siglip": {"method": {"kind": "siglip"}, **ATTENTIVE},
    "oracle_clip": {"method": {"kind": "clip"}, "masking": {"kind": "oracle"}},
}
RECIPES = {name: {"towers": TOWERS, **changes} for name, changes in RECIPES.items()}
