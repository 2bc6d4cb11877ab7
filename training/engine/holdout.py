"""A look at pairs that training never sees: the held-out contrastive loss and retrieval, on the model as exported."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.data.loader import Batch
from training.losses.info_nce import info_nce_loss
from training.methods.base import Method
from training.teachers.source import TEACHER_FEATURES

LOSS = "holdout/loss"
_PRECISION = 5


@contextmanager
def evaluating(method: nn.Module) -> Generator[None]:
    """Have a method in evaluation mode and without gradients inside the block, in training mode after it."""
    method.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        method.train()


def holdout_scores(method: Method, batches: list[Batch], device: torch.device) -> dict[str, float]:
    """Encode the held-out pairs as a user of the export would, and score them.

    Args:
        method: Its ``model`` is evaluated, in fp32 and without masks; every rank must call it.
        batches: The pairs, whole images, [B, ...] each, in main memory.
        device: Where the method is.

    Returns:
        InfoNCE over all n held-out pairs at once, and the share of images (texts) whose own text (image) is the nearest
        of n. A pair with an equal score elsewhere counts as a miss. Also what the method measures itself.
    """
    with evaluating(method):
        images: list[Tensor] = []
        texts: list[Tensor] = []
        teacher: dict[str, list[Tensor]] = {}
        for batch in batches:
            batch = method.enrich({name: value.to(device) for name, value in batch.items()})
            image, text = method.held_out_features(batch)
            images.append(image.float())
            texts.append(text.float())
            for name in TEACHER_FEATURES:
                if name in batch:
                    teacher.setdefault(name, []).append(batch[name])
        image_features = functional.normalize(torch.cat(images), dim=-1)  # [n, D]
        text_features = functional.normalize(torch.cat(texts), dim=-1)  # [n, D]
        loss = info_nce_loss(image_features, text_features, method.model.logit_scale.exp())
        similarity = image_features @ text_features.T  # [n, n]
        own = similarity.diagonal()
        image_to_text = ((similarity >= own[:, None]).sum(dim=1) == 1).float().mean()
        text_to_image = ((similarity >= own[None, :]).sum(dim=0) == 1).float().mean()
        told = {name: torch.cat(values) for name, values in teacher.items()}
        logs = method.held_out_logs(image_features, text_features, told)
    scores = {LOSS: loss, "holdout/image_to_text_r1": image_to_text, "holdout/text_to_image_r1": text_to_image}
    scores |= {f"holdout/{name}": value for name, value in logs.items()}
    return {name: round(float(value), _PRECISION) for name, value in scores.items()}
