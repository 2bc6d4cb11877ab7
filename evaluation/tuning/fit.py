"""Training of a head: from views that were encoded once, or from an encoder at work.

The encoder is frozen and in evaluation mode, so a view has one feature whenever it is computed. Encoding V views of
every image once and drawing two of them per epoch trains the same way as encoding two in every step, at a small part of
the cost. All arms (linear probe, MLP, NMTune) see the same views, images, order and number of steps.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from assets.errors import DataError, message
from evaluation.logistic import one_thread
from evaluation.tuning.config import FitConfig, HeadConfig, Regularisers
from evaluation.tuning.head import ResidualHead
from evaluation.tuning.losses import tuning_losses

Array = npt.NDArray[np.float32]


class Batch(NamedTuple):
    """Frozen features of two views of B images.

    Attributes:
        first: [B, D].
        second: [B, D].
        labels: Class of each image, [B].
    """

    first: Tensor
    second: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train a head.

    Attributes:
        head: Its shape.
        fit: How it is trained.
        lr: Highest learning rate.
        regularisers: What is added to the cross-entropy, or None.
    """

    head: HeadConfig
    fit: FitConfig
    lr: float
    regularisers: Regularisers | None = None


class Fitted(NamedTuple):
    """A trained head, in evaluation mode.

    Attributes:
        head: The head after the last epoch.
        history: Mean over its steps of every weighted loss term, per epoch.
    """

    head: ResidualHead
    history: list[dict[str, float]]


def learning_rate(step: int, steps: int, lr: float, warmup_steps: int) -> float:
    """Return the learning rate of a step: a linear warm-up, then a cosine to zero.

    Args:
        step: From 0.
        steps: How many there are.
        lr: The highest.
        warmup_steps: Steps of warm-up.
    """
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    return 0.5 * lr * (1 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps)))


def train(head: ResidualHead, epochs: Iterable[Iterable[Batch]], steps: int, arm: Arm) -> list[dict[str, float]]:
    """Train a head in place; it is left in evaluation mode.

    Args:
        head: The head.
        epochs: The batches of each epoch.
        steps: How many batches there are in all, for the schedule.
        arm: Learning rate, regularisers and the rest; its head's shape is not looked at.

    Returns:
        Mean of every weighted loss term, per epoch.

    Raises:
        DataError: A loss is not finite.
    """
    optimizer = torch.optim.AdamW(head.parameters(), lr=arm.lr, weight_decay=arm.fit.weight_decay, fused=True)
    head.train()
    history: list[dict[str, float]] = []
    step = 0
    for batches in epochs:
        sums: dict[str, Tensor] = {}
        before = step
        for batch in batches:
            optimizer.param_groups[0]["lr"] = learning_rate(step, steps, arm.lr, arm.fit.warmup_steps)
            for name, value in train_step(head, optimizer, batch, arm.regularisers).items():
                sums[name] = sums[name] + value if name in sums else value
            step += 1
        history.append({name: float(total) / (step - before) for name, total in sums.items()})
        if broken := [name for name, value in history[-1].items() if not math.isfinite(value)]:
            what = f"tuning: {broken[0]} is not finite in epoch {len(history) - 1}, steps {before} to {step - 1}"
            raise DataError(message(what, fix="lower the learning rate or the strengths, or set head.unit_rms"))
    head.eval()
    return history


def train_step(
    head: ResidualHead, optimizer: torch.optim.Optimizer, batch: Batch, regularisers: Regularisers | None
) -> dict[str, Tensor]:
    """Take one step.

    Args:
        head: In training mode; its batch norms see both views together.
        optimizer: Of its parameters.
        batch: Two views.
        regularisers: What is added to the cross-entropy.

    Returns:
        The weighted loss terms before the step, detached.
    """
    adapted, scaled = head.adapt(torch.cat([batch.first, batch.second]))
    losses = tuning_losses(adapted, head.classifier(adapted), scaled, batch.labels, regularisers)
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()
    return {name: value.detach() for name, value in losses.items()}


def draw_pairs(images: int, views: int, batch_size: int, seed: int, epoch: int) -> Iterator[npt.NDArray[np.int64]]:
    """Draw the order of images of one epoch and two different views of each.

    Args:
        images: How many, n.
        views: Views per image, at least 2.
        batch_size: Images per batch; the last may be smaller.
        seed: Of the draws.
        epoch: Every epoch has its own.

    Yields:
        Row, first view and second view of the images of a batch, [3, B].
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(images)
    first = rng.integers(views, size=images)
    second = (first + rng.integers(1, views, size=images)) % views
    drawn = np.stack([order, first, second])
    for start in range(0, images, batch_size):
        yield drawn[:, start : start + batch_size]


def cached_batches(views: Tensor, labels: Tensor, batch_size: int, seed: int, epoch: int) -> Iterator[Batch]:
    """Draw the batches of one epoch from views that were encoded before.

    Args:
        views: Frozen features, [V, n, D].
        labels: [n].
        batch_size: See :func:`draw_pairs`, as the next two.
        seed: Of the draws.
        epoch: Of the draws.
    """
    for rows, first, second in draw_pairs(views.shape[1], len(views), batch_size, seed, epoch):
        yield Batch(views[first, rows], views[second, rows], labels[rows])


def live_batches(
    encoder: nn.Module,
    pictures: Callable[[int, int], Tensor],
    labels: Tensor,
    drawn: Iterable[npt.NDArray[np.int64]],
) -> Iterator[Batch]:
    """Encode the two views of each batch now: what the cache spares, for views too many to keep.

    Args:
        encoder: The model; it is put into evaluation mode before every batch and gets no gradient.
        pictures: Returns a view of an image by row and view, [3, height, width].
        labels: [n].
        drawn: What :func:`draw_pairs` yields.
    """
    for rows, first, second in drawn:
        places = [(int(row), int(view)) for views in (first, second) for row, view in zip(rows, views, strict=True)]
        encoder.eval()
        with torch.no_grad():
            features: Tensor = encoder(torch.stack([pictures(row, view) for row, view in places]))
        yield Batch(features[: len(rows)], features[len(rows) :], labels[rows])


def fit_head(views: Array, labels: npt.NDArray[np.int64], num_classes: int, arm: Arm, seed: int) -> Fitted:
    """Train a head on cached views, on one thread.

    Args:
        views: Frozen features of V views of n images, [V, n, D].
        labels: Class of each image, [n].
        num_classes: C.
        arm: How.
        seed: Of weights and draws; arms with the same seed see the same batches.

    Returns:
        The head after the last epoch.
    """
    with one_thread():
        cached, targets = torch.from_numpy(views), torch.from_numpy(labels)
        head = ResidualHead(views.shape[2], num_classes, arm.head, torch.Generator().manual_seed(seed))
        if arm.head.unit_rms:
            head.set_scale(cached.flatten(0, 1))
        size, epochs = arm.fit.batch_size, arm.fit.epochs
        batches = (cached_batches(cached, targets, size, seed, epoch) for epoch in range(epochs))
        return Fitted(head, train(head, batches, epochs * -(-len(labels) // size), arm))


@torch.no_grad()
def log_probabilities(head: ResidualHead, features: Array) -> npt.NDArray[np.float64]:
    """Return the log-probability of every class for frozen features [m, D], [m, C]."""
    with one_thread():
        return torch.log_softmax(head(torch.from_numpy(features)).double(), dim=1).numpy()


@torch.no_grad()
def adapted_features(head: ResidualHead, features: Array) -> Tensor:
    """Return z for frozen features [m, D], float64 [m, D]."""
    with one_thread():
        return head.adapt(torch.from_numpy(features))[0].double()
