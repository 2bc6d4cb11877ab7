"""Where a teacher's features of a batch come from: rows that the loader read, or the teacher itself on the batch."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from assets.errors import ConfigError, message
from training.losses.affinity import TeacherSide
from training.models.text_pass import accepts_short_text, encode_text

TEACHER_IMAGE, TEACHER_TEXT = "teacher_image_features", "teacher_text_features"
TEACHER_FEATURES = (TEACHER_IMAGE, TEACHER_TEXT)
"""Names in the batch: each model's features of unit norm side by side, [B, sum D]."""


def text_side(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the token ids that a model of this config reads.

    Args:
        config: Of open_clip's kind.
    """
    text = config["text_cfg"]
    names = ("context_length", "vocab_size", "hf_tokenizer_name", "tokenizer_kwargs")
    defaults: dict[str, Any] = {"context_length": 77, "vocab_size": 49408}
    return {name: text.get(name, defaults.get(name)) or None for name in names}


@dataclass(frozen=True, slots=True)
class OnlineModel:
    """One model of a teacher that is run on every batch.

    Attributes:
        model: Of open_clip's interface, in evaluation mode.
        image_size: Side of its pictures in pixels.
        mean: Of its pixels, by channel.
        std: Likewise.
        text_side: What decides the token ids that it reads, see :func:`text_side`.
    """

    model: nn.Module
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    text_side: Mapping[str, Any]


class OnlineTeacher:
    """Runs a teacher's models on batches, without gradients.

    It is no module, so that its weights are in no checkpoint, no optimiser and no replica of the student.
    """

    def __init__(self, models: Sequence[OnlineModel]) -> None:
        """Keep the models.

        Args:
            models: At least one.
        """
        self._models = tuple(models)
        self._there: dict[torch.device, list[nn.Module]] = {}
        for online in models:
            online.model.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> "OnlineTeacher":
        return self  # a copy of a student learns from the same teacher

    def check_text(self, text_side: Mapping[str, Any] | None) -> None:
        """Refuse a student whose texts the models cannot read.

        Args:
            text_side: Of the student, likewise; None where its text is frozen.

        Raises:
            ConfigError: With the difference.
        """
        fix = "give the teacher a cache, which reads captions in its own way"
        if text_side is None:
            what = "a teacher that is run on every batch reads tokens, and frozen text has none"
            raise ConfigError(message(what, fix=fix))
        for online in self._models:
            if different := [name for name in text_side if text_side[name] != online.text_side[name]]:
                got, wanted = ({name: side[name] for name in different} for side in (text_side, online.text_side))
                what = "a teacher that is run on every batch reads other token ids than the student"
                raise ConfigError(message(what, got, wanted, f"set towers.text to the teacher's, or {fix}"))

    @property
    def image_sizes(self) -> list[int]:
        """Sides of the pictures that the models want, each once."""
        return sorted({online.image_size for online in self._models})

    @property
    def accepts_short_text(self) -> bool:
        """Whether texts may come without the columns that are padding in all of them."""
        return all(accepts_short_text(online.model) for online in self._models)

    @torch.no_grad()
    def features(self, pixels: dict[int, Tensor], text: Tensor) -> dict[str, Tensor]:
        """Embed a batch.

        Args:
            pixels: Side -> colours in [0, 1], [B, 3, S, S], for each of ``image_sizes``.
            text: Token ids, int64 [B, T].

        Returns:
            ``TEACHER_FEATURES``, unit norm by model, float32 [B, sum D].
        """
        device = text.device
        if device not in self._there:
            self._there[device] = [_on(device, online.model) for online in self._models]
        images: list[Tensor] = []
        texts: list[Tensor] = []
        for online, there in zip(self._models, self._there[device], strict=True):
            model: Any = there
            mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (online.mean, online.std))
            image_features = model.encode_image((pixels[online.image_size] - mean) / std)
            images.append(functional.normalize(image_features.float(), dim=-1))
            texts.append(functional.normalize(encode_text(model, text).float(), dim=-1))
        return {TEACHER_IMAGE: torch.cat(images, dim=1), TEACHER_TEXT: torch.cat(texts, dim=1)}


def _on(device: torch.device, model: nn.Module) -> nn.Module:
    """Move a model; to the meta device a copy, because the weights must stay."""
    if device.type != "meta":
        return model.to(device)
    tensors = chain(model.parameters(), model.buffers())
    shapes: dict[int, Any] = {id(tensor): tensor.detach().to("meta") for tensor in tensors}
    return copy.deepcopy(model, shapes)


@dataclass(frozen=True, slots=True)
class TeacherSource:
    """What a method knows of its run's teacher.

    Attributes:
        widths: D of each model.
        logit_scales: Of each model, exponentiated.
        online: Runs the models; None where their features come with the batch.
    """

    widths: tuple[int, ...]
    logit_scales: tuple[float, ...]
    online: OnlineTeacher | None = None

    def sides(self, image_features: Tensor, text_features: Tensor) -> list[TeacherSide]:
        """Take the features of the models apart.

        Args:
            image_features: [G, sum D].
            text_features: [G, sum D].
        """
        parts = zip(image_features.split(self.widths, 1), text_features.split(self.widths, 1), strict=True)
        return [TeacherSide(*part, scale) for part, scale in zip(parts, self.logit_scales, strict=True)]
