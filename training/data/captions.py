"""Which caption of a pair a visit sees, where a recipe names several."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from assets.errors import DataError, message
from assets.features.config import INDEX_CAPTION
from assets.metadata import further_captions
from training.models.text_draws import draw_slots


def further_caption(metadata: Mapping[str, Any], name: str) -> str | None:
    """Return a caption that KEY.json holds.

    Args:
        metadata: What KEY.json of the pair says.
        name: Its name there, in ``captions``.

    Returns:
        The caption; None where there is none, or nothing but blanks.
    """
    text = further_captions(metadata).get(name)
    return text if isinstance(text, str) and text.strip() else None


def draw_captions(
    names: Sequence[str], captions: Sequence[str], metadata: Sequence[Mapping[str, Any]], seed: Tensor
) -> tuple[list[str], Tensor]:
    """Draw one of the named captions for each pair, all equally likely.

    A pair without the caption that was drawn shows that of the index. The draw is the one that picks a row of frozen
    text (:meth:`training.methods.base.Method.encode_captions`): where the slots are these captions in this order, both
    runs see the same caption at every visit.

    Args:
        names: The captions; ``caption`` stands for that of the index.
        captions: That of the index for each pair, [B].
        metadata: What KEY.json of each pair says, [B].
        seed: One number per sample and epoch, int64 [B].

    Returns:
        The captions, [B]; and whether the one drawn was missing, bool [B].
    """
    slots: list[int] = draw_slots(seed, len(names), 1)[:, 0].tolist()
    drawn = [names[slot] for slot in slots]
    found = [
        own if name == INDEX_CAPTION else further_caption(told, name)
        for name, own, told in zip(drawn, captions, metadata, strict=True)
    ]
    texts = [own if text is None else text for text, own in zip(found, captions, strict=True)]
    return texts, torch.tensor([text is None for text in found])


def refuse_missing_captions(names: Iterable[str], metadata: Iterable[Mapping[str, Any]], where: str) -> None:
    """Refuse captions that a data set does not have; what single pairs lack is none of this function's business.

    Args:
        names: The captions wanted; ``caption`` stands for that of the index.
        metadata: What KEY.json of some pairs says; it is read no further than needed.
        where: The data set, for the message.

    Raises:
        DataError: None of these pairs has one of the captions.
    """
    missing = [name for name in names if name != INDEX_CAPTION]
    seen = 0
    others: set[str] = set()
    for told in metadata:
        missing = [name for name in missing if further_caption(told, name) is None]
        if not missing:
            return
        seen += 1
        others |= set(further_captions(told))
    if missing:
        raise DataError(
            message(
                f"none of the {seen} pairs of {where} that were looked at has a caption {missing[0]!r} in KEY.json",
                ", ".join(sorted(others)) or "no captions",
                fix="drop it from recipes.*.captions, or ingest a source that writes captions." + missing[0],
            )
        )
