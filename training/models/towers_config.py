"""The section ``towers`` of a recipe: what encodes pictures and captions, and with which head.

This module stays light: it is imported wherever params.yaml is read.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from assets.section import Section


class VisionTransformer(Section):
    """A plain ViT of open_clip."""

    kind: Literal["vit"]
    layers: int = Field(ge=1)
    width: int = Field(ge=8)
    patch_size: int = Field(ge=1)
    head_width: int = Field(default=64, ge=8)
    """Channels per attention head; width must be a multiple."""
    mlp_ratio: float = Field(default=4.0, gt=0)
    pool_type: Literal["tok", "avg"] = "tok"
    """What represents the image: the class token or the mean of the patch tokens."""


class VisionResNet(Section):
    """CLIP's ResNet with attention pooling: learns fastest per CPU minute on small pictures, but has batch norm."""

    kind: Literal["resnet"]
    layers: tuple[int, int, int, int]
    """Bottleneck blocks per stage."""
    width: int = Field(ge=2, multiple_of=2)
    """Channels of the stem; the attention pool works on 32 times as many."""


class TimmFile(Section):
    """Weights in a file: safetensors, or a state dict that torch wrote."""

    kind: Literal["file"]
    path: Path


class TimmHub(Section):
    """Weights that timm has on the Hugging Face hub, out of the local hub cache."""

    kind: Literal["hub"]
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """The commit; null for what the cache holds of the main branch. The export tells the file's digest."""


class VisionTimm(Section):
    """A ViT of timm, such as DINOv2's, where text is frozen."""

    kind: Literal["timm"]
    name: str
    """As timm has it, e.g. ``vit_base_patch14_dinov2.lvd142m``."""
    weights: Annotated[TimmFile | TimmHub, Field(discriminator="kind")] | None
    """What the tower begins as; null for fresh weights."""
    freeze: bool
    """Leave the tower as it began: only the head learns."""


class TextTransformer(Section):
    """The causal text transformer of CLIP with its byte-pair tokenizer of 49,408 entries."""

    kind: Literal["transformer"] = "transformer"
    context_length: int = Field(ge=8, le=4096)
    width: int = Field(ge=8)
    heads: int = Field(ge=1)
    layers: int = Field(ge=1)


class LoraSettings(Section):
    """Adapters of low rank beside linear layers of a language model that is frozen itself."""

    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16, gt=0)
    """What an adapter adds is multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of what goes into an adapter, in training."""
    targets: Literal["all"] | tuple[str, ...] = "all"
    """Which linear layers of a block, by the last part of their names, such as ``q_proj``."""

    @model_validator(mode="after")
    def _some(self) -> "LoraSettings":
        if not self.targets:
            raise ValueError("targets is empty: name a layer, or take all")
        return self


class FrozenText(Section):
    """No text tower: rows that a frozen language model has made of each pair's texts, from the run's ``features``."""

    kind: Literal["frozen"]
    center: bool
    """Take the mean of each slot off its rows; for language models below about a billion parameters."""
    slots: Literal["all"] | tuple[str, ...] = "all"
    """The slots that training sees, named CAPTION/FACET; ``*`` stands for anything."""
    lora: LoraSettings | None = None
    """Run the language model of the features in training, with adapters that learn; null reads its cached rows. For a
    head of kind lexical, and one slot."""

    @model_validator(mode="after")
    def _some(self) -> "FrozenText":
        if not self.slots:
            raise ValueError("slots is empty: name one, or take all")
        return self


class HeadConfig(Section):
    """What takes the patch tokens of a ViT into the space of frozen text: Linear, GELU, Linear, LayerNorm."""

    kind: Literal["tokens", "pooled"] = "tokens"
    """Each token and then their mean, as published; or their mean alone, which costs next to nothing."""
    width: int | None = Field(default=None, ge=1)
    """Of the hidden layer; null for that of the text rows, as published."""


class LexicalHead(Section):
    """Features with one number per word of the features' vocabulary (LexVLA); for features of kind lexical."""

    kind: Literal["lexical"]
    blocks: int = Field(default=1, ge=0)
    """Self-attention blocks behind the image tower; one is published, behind a tower that is frozen."""
    width: int | None = Field(default=None, ge=1)
    """Hidden units of the layers that lead to the words' states; null for as many as a state has numbers."""
    text_rank: int = Field(default=0, ge=0)
    """Of the trained correction of text states; 0 leaves them as the language model gave them."""
    pool_cls: bool = True
    """Whether the class token has a word to say in the maximum, as the published formula has it."""
    activation: Literal["elu1p", "log1p_relu"] = "elu1p"
    """What makes logits non-negative: LexVLA's, or that of SPLADE."""
    pool: Literal["max", "sum"] = "max"
    """Over the tokens of an image."""
    codebook: Literal["words", "random"] = "words"
    """Where both codebooks begin: as the language model's, or, to see what that is worth, at random."""


def _text_kind(value: Any) -> str:
    """Tell a text side's kind; one without is a transformer."""
    return str(value.get("kind", "transformer")) if isinstance(value, dict) else getattr(value, "kind", "")


TextSide = Annotated[
    Annotated[TextTransformer, Tag("transformer")] | Annotated[FrozenText, Tag("frozen")],
    Discriminator(
        _text_kind,
        custom_error_type="text_kind",
        custom_error_message="a text side is a mapping whose kind is transformer or frozen",
    ),
]


def _head_kind(value: Any) -> str:
    """Tell a head's kind; one without takes tokens."""
    found = str(value.get("kind", "tokens")) if isinstance(value, dict) else getattr(value, "kind", "")
    return {"lexical": "lexical", "tokens": "patches", "pooled": "patches"}.get(found, "")


Head = Annotated[
    Annotated[HeadConfig, Tag("patches")] | Annotated[LexicalHead, Tag("lexical")],
    Discriminator(
        _head_kind,
        custom_error_type="head_kind",
        custom_error_message="a head is a mapping whose kind is tokens, pooled or lexical",
    ),
]


class CustomTowers(Section):
    """Both towers spelt out."""

    kind: Literal["custom"]
    embed_dim: int | None = Field(default=None, ge=2)
    """Of the features, D; that of the text rows where text is frozen, and may then be left out."""
    image_size: int = Field(ge=8, le=4096)
    vision: Annotated[VisionTransformer | VisionResNet | VisionTimm, Field(discriminator="kind")]
    text: TextSide
    head: Head | None = None
    """Of the image tower, where text is frozen; null for that of kind tokens."""

    @model_validator(mode="after")
    def _fits(self) -> "CustomTowers":
        vision = self.vision
        if isinstance(vision, VisionTimm):
            self._check_timm()
            return self
        patch = vision.patch_size if isinstance(vision, VisionTransformer) else 32  # a ResNet halves five times
        if self.image_size % patch:
            raise ValueError(f"image_size {self.image_size} is not a multiple of {patch}, the patch or total stride")
        if isinstance(vision, VisionTransformer) and vision.width % vision.head_width:
            raise ValueError(f"vision width {vision.width} is not a multiple of head_width {vision.head_width}")
        if isinstance(self.text, FrozenText) and self.text.lora is not None and not isinstance(self.head, LexicalHead):
            raise ValueError("text.lora is for a head over words; set head to {kind: lexical}, or leave lora out")
        if isinstance(self.text, TextTransformer):
            self._check_transformer(self.text)
        elif not isinstance(vision, VisionTransformer):
            raise ValueError("text of kind frozen needs vision of kind vit or timm: the head works on patch tokens")
        elif vision.pool_type != "tok":
            raise ValueError("vision.pool_type has no meaning with text of kind frozen, whose head pools; leave it out")
        return self

    def _check_timm(self) -> None:
        """Its patches are known to timm, and checked when it is built."""
        if isinstance(self.text, TextTransformer):
            raise ValueError("vision of kind timm needs text of kind frozen; or name towers of open_clip")

    def _check_transformer(self, text: TextTransformer) -> None:
        if text.width % text.heads:
            raise ValueError(f"text width {text.width} is not a multiple of heads {text.heads}")
        if self.embed_dim is None:
            raise ValueError("embed_dim is missing; only with text of kind frozen it follows from the features")
        if self.head is not None:
            raise ValueError("head belongs to text of kind frozen; leave it out")


class NamedTowers(Section):
    """Towers by the name of an open_clip architecture, e.g. ``ViT-B-16``; always freshly initialised."""

    kind: Literal["open_clip"]
    name: str


class StartTowers(Section):
    """The towers of the model that the run begins as, with all of its weights; the only way to go on from a cut one."""

    kind: Literal["start"]


Towers = Annotated[CustomTowers | NamedTowers | StartTowers, Field(discriminator="kind")]
