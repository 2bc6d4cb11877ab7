"""What a running stage says of itself, as observations of its first output: curves in the UI while it runs.

An observation leaves the data version alone: Dagster takes the version of an asset that it can make from its
materialisations only, so nothing becomes stale or fresh by it (a test holds us to that).
"""

import time
from collections.abc import Callable
from typing import Any

from dagster import AssetExecutionContext, AssetKey, AssetObservation, DagsterEvent, MetadataValue

_LEAST_SECONDS = 10.0
_SHARE_OF_TIME = 20
"""Each next pause is this part of the time that has passed: 20 points in 200 s, about 180 in a week."""
_NOT_PLOTTED = ("done", "total", "eta_seconds")


class LiveFacts:
    """Logs the numbers of a stage's messages now and then; a listener of ``ProgressLog``."""

    def __init__(
        self, context: AssetExecutionContext, key: AssetKey, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Prepare for one step.

        Args:
            context: The running step.
            key: The asset that the numbers are shown on.
            clock: Seconds since some moment.
        """
        self._context = context
        self._key = key
        self._clock = clock
        self._started = clock()
        self._last = float("-inf")

    def take(self, payload: Any) -> None:
        """Take one message, and log it if the last one logged is old enough.

        Args:
            payload: What the stage sent; messages without progress or numbers are passed over.
        """
        if not isinstance(payload, dict) or not isinstance(payload.get("total"), int | float):
            return
        now = self._clock()
        if now - self._last < max(_LEAST_SECONDS, (now - self._started) / _SHARE_OF_TIME):
            return
        numbers = live_numbers(payload)
        if numbers:
            self._last = now
            self._log(numbers)

    def _log(self, numbers: dict[str, float]) -> None:
        metadata = {name: MetadataValue.float(value) for name, value in numbers.items()}
        # by the step's own context, because an event that the op yields would wait until the stage has ended
        DagsterEvent.asset_observation(
            self._context.get_step_execution_context(), AssetObservation(self._key, metadata=metadata)
        )


def live_numbers(payload: dict[str, Any]) -> dict[str, float]:
    """Return what of a progress message is plotted.

    Args:
        payload: ``done`` and ``total``, and facts by name.

    Returns:
        ``live/percent``, and ``live/NAME`` for every other number.
    """
    numbers = {"live/percent": 100 * float(payload.get("done", 0)) / max(float(payload["total"]), 1.0)}
    for name, value in payload.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in _NOT_PLOTTED:
            numbers[f"live/{name}"] = float(value)
    return numbers
