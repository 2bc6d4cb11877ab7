"""Copies a stage's outputs to the object store once they passed their checks, and says so as the check ``pushed``.

A store that is down must be seen, but must not stop a training that has all its data on this machine: after some tries
the check warns and the run goes on.
"""

import configparser
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dagster import AssetCheckResult, AssetCheckSeverity, AssetCheckSpec, AssetKey, MetadataValue

from assets.errors import ConfigError, StoreError
from pipelines.checks import PUSHED
from pipelines.dvc_command import Outcome

PAUSES = (5.0, 20.0)


@dataclass(frozen=True, slots=True)
class Pushed:
    """Whether the outputs are in the store, and the reason or remote."""

    passed: bool
    text: str
    seconds: float = 0.0


def pushed_spec(key: AssetKey) -> AssetCheckSpec:
    """Return the check of an asset that DVC keeps in its cache."""
    return AssetCheckSpec(PUSHED, asset=key, description="The output is in the object store (dvc push).")


def pushed_result(key: AssetKey, pushed: Pushed) -> AssetCheckResult:
    """Turn the outcome of a push into a result that can only warn."""
    return AssetCheckResult(
        asset_key=key,
        check_name=PUSHED,
        passed=pushed.passed,
        severity=AssetCheckSeverity.WARN,
        description=pushed.text,
        metadata={"seconds": MetadataValue.float(round(pushed.seconds, 3))},
    )


def remote_url(root: Path) -> str | None:
    """Return the address of DVC's default remote, or None when it has none or our store was never configured."""
    found: dict[str, str] = {}
    name = None
    for file in ("config", "config.local"):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        parser.read(root / ".dvc" / file)
        name = parser.get("core", "remote", fallback=name)
        section = f"'remote \"{name}\"'"
        if parser.has_section(section):
            found |= parser[section]
    url = found.get("url")
    # without an endpoint the address would mean a bucket of that name at Amazon
    return None if url is None or (url.startswith("s3://") and "endpointurl" not in found) else url


def push(
    root: Path, address: str, dvc: Callable[[list[str]], Outcome], pauses: Sequence[float] | None = None
) -> Pushed:
    """Push the outputs of one stage, again after a pause when the store fails; what has arrived is not sent twice.

    Args:
        root: The project.
        address: The stage.
        dvc: Runs ``dvc`` with arguments.
        pauses: Seconds before each further try; :data:`PAUSES` when None.

    Returns:
        Whether it worked; a failure is in the text.
    """
    url = remote_url(root)
    if url is None:
        return Pushed(False, 'not pushed: no object store is configured; run "clipfoundry store start"')
    seconds, reason = 0.0, ""
    pauses = PAUSES if pauses is None else pauses
    for pause in (0.0, *pauses):
        time.sleep(pause)
        try:
            fault, taken = _try_push(root, url, address, dvc)
        except ConfigError as error:
            return Pushed(False, f"not pushed: {error}", seconds)
        seconds += taken
        if fault is None:
            return Pushed(True, f"in {url}", seconds)
        reason = fault
    tries = f" (tried {len(pauses) + 1} times)" if pauses else ""
    return Pushed(False, f"not pushed: {reason}{tries}", seconds)


def _try_push(root: Path, url: str, address: str, dvc: Callable[[list[str]], Outcome]) -> tuple[str | None, float]:
    """Return what went wrong, None when nothing did, and the seconds that DVC took."""
    if url.startswith("s3://"):
        from assets.store import STORE_FOLDER, open_store
        from pipelines.params import load_store

        try:
            # quick and clear; DVC itself retries for minutes and ends in a traceback
            open_store(load_store(root / "params.yaml"), root / STORE_FOLDER).health()
        except StoreError as error:
            return str(error), 0.0
    outcome = dvc(["push", address])
    if not outcome.code:
        return None, outcome.seconds
    errors = (line.strip() for line in reversed(outcome.tail) if line.startswith("ERROR"))
    last = next(errors, "see the step's output")
    return f"dvc push ended with exit code {outcome.code}: {last}", outcome.seconds
