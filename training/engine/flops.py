"""Floating-point operations of one training step, counted from the operators that really run."""

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode

from training.data.loader import Batch
from training.engine.accumulate import total_loss
from training.engine.gather import GatheredFeatures
from training.engine.holdout import evaluating
from training.methods.base import Method

_ROWS = 16


class FlopsProbe:
    """A copy of a method on the meta device: shapes only, so that a step runs in no time and no memory."""

    def __init__(self, method: Method) -> None:
        """Copy.

        Args:
            method: As built; left untouched.
        """
        self.renew(method)

    def renew(self, method: Method) -> None:
        """Count on a method that has another shape now.

        Args:
            method: Left untouched.
        """
        self._method = copy.deepcopy(method).to("meta")
        self._method.__dict__.pop("encode", None)  # one that is compiled belongs to the method itself

    def count(self, batch: Batch, step: int = 0) -> float:
        """Count forward and backward multiply-adds (as two operations each) of one step, per sample.

        Args:
            batch: A real batch; at most 16 of its rows are used.
            step: The step to take, for methods whose losses depend on it.

        Returns:
            Operations per sample of a batch; the loss's own quadratic part is that of the small batch and negligible.
        """
        part = _part(batch)
        rows = len(part["image"])
        with FlopCounterMode(display=False) as counter:
            with torch.no_grad():
                part = self._method.enrich(part)
            features = GatheredFeatures(self._method.encode(part), slice(0, rows))
            total_loss(self._method.losses(features, step)).backward()
        return counter.get_total_flops() / rows

    def count_snapshot(self, batch: Batch) -> float:
        """Count the operations of ``Method.snapshot``, per sample.

        Args:
            batch: A real batch; at most 16 of its rows are used.
        """
        part = _part(batch)
        with FlopCounterMode(display=False) as counter, evaluating(self._method):
            self._method.snapshot(part)
        return counter.get_total_flops() / len(part["image"])


def _part(batch: Batch) -> Batch:
    return {name: value[:_ROWS].to("meta") for name, value in batch.items()}
