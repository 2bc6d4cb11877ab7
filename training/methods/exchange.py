"""What engine and methods hand to each other, apart from batches."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor, nn

from training.data.views import View, ViewsConfig
from training.models.masking_config import EmaTowerConfig, Masking

Features = dict[str, Tensor]
"""What a method makes of a batch, by name; the first dimension is that of the batch."""


class ImageInput(NamedTuple):
    """What a recipe says about the images that a method gets.

    Attributes:
        views: The random view.
        masking: Which patches the tower sees in training.
        ema_tower: The averaged image tower, or None.
    """

    views: ViewsConfig
    masking: Masking
    ema_tower: EmaTowerConfig | None = None


class Needs(NamedTuple):
    """What a method wants the loader to put into the batch.

    Attributes:
        views: Name -> a view of the image.
        boxes: Whether it wants the place of each view.
        objects: Whether it wants the places of the objects.
    """

    views: dict[str, View]
    boxes: bool
    objects: bool


class ParamGroup(NamedTuple):
    """Parameters that share optimiser settings.

    Attributes:
        params: With their names.
        weight_decay: Decoupled, as AdamW's.
        lr_scale: Times the scheduled rate.
        name: How ``group_lr`` knows them.
        clip: Whether their gradients count in, and shrink with, the global norm.
        options: Further settings of torch.optim.AdamW for this group, such as ``betas`` or ``maximize``.
    """

    params: list[tuple[str, nn.Parameter]]
    weight_decay: float
    lr_scale: float = 1.0
    name: str = ""
    clip: bool = True
    options: Mapping[str, Any] = MappingProxyType({})


class StepOutput(NamedTuple):
    """What one step yields.

    Attributes:
        losses: Weighted terms, scalar; the engine sums all of them.
        logs: Detached scalars worth a curve; never summed.
    """

    losses: dict[str, Tensor]
    logs: dict[str, Tensor]


class Snapshot(NamedTuple):
    """What a method's ``snapshot`` gave for the pairs of a coming episode, without gradients.

    Attributes:
        features: This rank's rows, [n, ...] each, in float32 where they are numbers.
        positions: Their places in the episode, ascending, int64 [n]: row i of the global batch of the episode's step s
            has place s * G + i.
        size: Rows of the whole episode, over all ranks.
        seed: Decides the draws of this call of ``on_epoch``; the same on every rank.
    """

    features: Features
    positions: Tensor
    size: int
    seed: tuple[int, ...]


EmbedFn = Callable[[], Snapshot]
