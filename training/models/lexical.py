"""LexVLA's model: images and captions as non-negative unit vectors over the words of a frozen language model.

    s_txt = u(elu1p(g z Z_txt^T))
    s_img = u(max over tokens of elu1p(y Z_img^T)),  y = adapter(patch tokens)

z is a caption's row, the state in which the language model is to name a word; u divides by the norm, Z_txt are rows of
the language model's output matrix and stay, Z_img begins as their copy and is trained, g is the norm that states have
(their rows are unit). Source: LexVLA (arXiv 2407.17827), whose text side is a language model with LoRA: that is
:mod:`training.models.lora_text`. Without it z is cached, and what may be trained of it is a low-rank correction,
z + B A z + b with B and b zero at first: what LoRA can do at the state itself.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional

from assets.language.lexicon import Lexicon
from training.models.export_files import FROZEN_TEXT, LEXICAL
from training.models.frozen_text import FrozenTextModel, PatchTower, build_image_tower
from training.models.image_pass import ImagePass, encode_image
from training.models.lora_text import LoraText, PromptModel
from training.models.max_dot import max_dot
from training.models.timm_tower import TimmPatchTower


def elu1p(logits: Tensor) -> Tensor:
    """Return x + 1 for x >= 0 and e^x below, in float32 at least: positive, increasing, 1 at 0."""
    x = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.where(x >= 0, x + 1, x.clamp(max=0).exp())


def log1p_relu(logits: Tensor) -> Tensor:
    """Return log(1 + max(x, 0)), in float32 at least; the activation of SPLADE (arXiv 2107.05720)."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).relu().log1p()


ACTIVATIONS = {"elu1p": elu1p, "log1p_relu": log1p_relu}


class WordAdapter(nn.Module):
    """Self-attention blocks over all tokens of the image tower, then Linear, GELU, Linear into the states of words."""

    def __init__(self, width: int, heads: int, blocks: int, hidden: int, out: int) -> None:
        """Build with fresh weights.

        Args:
            width: Of the tokens, W.
            heads: Of the attention.
            blocks: Pre-norm transformer blocks.
            hidden: Of the hidden layer.
            out: Of the states, D.
        """
        super().__init__()
        self.blocks = nn.Sequential(*(ResidualAttentionBlock(width, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out))

    def forward(self, tokens: Tensor) -> Tensor:
        """Take tokens [B, N, W] to states [B, N, D]."""
        return self.layers(self.norm(self.blocks(tokens)))


class StateCorrection(nn.Module):
    """A low-rank change of the text states, nothing at first."""

    def __init__(self, width: int, rank: int) -> None:
        """Build.

        Args:
            width: D.
            rank: Of the change.
        """
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Change states [..., D]."""
        return states + self.up(self.down(states))


class LexicalHead(nn.Module):
    """Adapter and image codebook."""

    def __init__(self, vision: Mapping[str, Any], head: Mapping[str, Any], codebook: Tensor) -> None:
        """Build with fresh adapter weights.

        Args:
            vision: Of the image tower: ``width`` and ``head_width``.
            head: ``blocks`` and ``width``.
            codebook: Z_img at the start, [V, D].
        """
        super().__init__()
        width = vision["width"]
        heads = width // vision["head_width"]
        self.width = len(codebook)
        self.adapter = WordAdapter(width, heads, head["blocks"], head["width"], codebook.shape[1])
        self.codebook = nn.Parameter(codebook.clone())


class LexicalModel(FrozenTextModel):
    """What is exported of a recipe with a lexical head; features have one number per word.

    Attributes:
        lexicon: The words and the text codebook.
        lora: The language model with its adapters; None where text is cached rows.
    """

    head: LexicalHead
    text_codebook: Tensor

    def __init__(
        self,
        config: Mapping[str, Any],
        slot_means: NDArray[Any] | None,
        lexicon: Lexicon,
        asked: PromptModel | None = None,
    ) -> None:
        """Build with fresh weights; draws from torch's global generator.

        Args:
            config: As for :class:`FrozenTextModel`, with ``lexical_cfg`` in place of ``head_cfg``, see
                :func:`training.models.frozen_build.frozen_text_config`.
            slot_means: [R, D], for text that is centred; None for text that is not.
            lexicon: The words.
            asked: The language model, where adapters of it are trained.
        """
        self._given = lexicon
        super().__init__(config, slot_means)
        self.lexicon = lexicon
        head = config[LEXICAL]
        self._activate = ACTIVATIONS[head["activation"]]
        self._pool_cls, self._sum = head["pool_cls"], head["pool_sum"]
        self._text_scale = float(head["text_scale"])
        self.text_correction = StateCorrection(head["text_width"], head["text_rank"]) if head["text_rank"] else None
        # not a part of the weights: it lies beside them with the words, and never changes
        self.register_buffer("text_codebook", torch.from_numpy(lexicon.codebook).clone(), persistent=False)
        self.lora = None if asked is None else LoraText(asked, head["lora"], _mean_of(config[FROZEN_TEXT], slot_means))

    def _build(self, config: Mapping[str, Any]) -> tuple[PatchTower | TimmPatchTower, nn.Module]:
        codebook = torch.from_numpy(self._given.codebook)
        head = LexicalHead(config["vision_cfg"], config[LEXICAL], codebook)
        return build_image_tower(config["vision_cfg"], class_token=True), head

    def image_pass(self, image: Tensor, keep: Tensor | None = None) -> ImagePass:
        """Run tower and head; ``image_features`` are activations of words, not normalised, [B, V]."""
        encoded = encode_image(self.visual, image, keep)
        states = self._states(encoded)
        if not self._pool_cls:
            states = states[:, 1:]
        if self._sum:
            pooled = self._activate(states @ self.head.codebook.T).sum(dim=1)
        elif torch.compiler.is_exporting():  # an exported graph has plain operations only
            pooled = self._activate((states @ self.head.codebook.T).amax(dim=1))
        else:
            # the activation increases, so it may follow the maximum, on far fewer numbers
            pooled = self._activate(max_dot(states, self.head.codebook)[0])
        return encoded._replace(image_features=pooled)

    def _states(self, encoded: ImagePass) -> Tensor:
        """Return the states of the class token and the patches, [B, 1 + N, D]."""
        return self.head.adapter(torch.cat([encoded.pooled[:, None], encoded.image_token_features], dim=1))

    def encode_patches(self, image: Tensor) -> Tensor:
        """Tell the words of every patch; the class token has no say.

        Args:
            image: Normalised pixels, [B, 3, S, S].

        Returns:
            Activations, not normalised, [B, N, V]; their maximum over patches is the image's where ``pool_cls`` is
            false.
        """
        states = self._states(encode_image(self.visual, image))[:, 1:]
        return self._activate(states @ self.head.codebook.T)

    def encode_rows(self, rows: Tensor) -> Tensor:
        """Turn text rows into lexical vectors.

        Args:
            rows: States of the language model at unit norm, centred if the recipe says so, [..., D].

        Returns:
            Unit norm, [..., V].
        """
        states = rows if self.text_correction is None else self.text_correction(rows)
        logits = self._text_scale * states @ self.text_codebook.T
        return functional.normalize(self._activate(logits), dim=-1)

    def encode_prompts(self, text: Tensor) -> Tensor:
        """Turn captions into lexical vectors, with the language model; for models that have it.

        Args:
            text: What ``lora.tokens`` makes of captions, int64 [B, T].

        Returns:
            Unit norm, [B, V].
        """
        assert self.lora is not None
        return self.encode_rows(self.lora(text))


def _mean_of(text: Mapping[str, Any], slot_means: NDArray[Any] | None) -> NDArray[np.float32] | None:
    """Return the mean of the one slot that is trained, [D]; None for text that is not centred."""
    if slot_means is None:
        return None
    return np.asarray(slot_means, dtype=np.float32)[text["slots"].index(text["trained_slots"][0])]


def text_scale(lexicon: Lexicon, slot_means: NDArray[np.float32] | None) -> float:
    """Return the factor that gives unit rows the size that states have.

    Args:
        lexicon: Knows their mean norm.
        slot_means: Means that are taken off unit rows, of the slots that are read, [R, D]; None if nothing is. What is
            left of a unit row u has the mean square 1 - |mean u|^2.
    """
    if slot_means is None:
        return lexicon.scale
    left = 1 - np.square(slot_means.astype(np.float64)).sum(axis=1).mean()
    return lexicon.scale * float(np.sqrt(max(left, 0.0)))
