"""Runs one DVC stage under Dagster Pipes: its own Pipes client, because Dagster's stops only the ``dvc`` process.

The stage program is a grandchild: Dagster -> ``dvc repro`` -> stage. The Pipes address reaches it through the
environment that DVC hands on, so its progress and facts come straight back.
"""

import multiprocessing
import os
import re
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from dagster import (
    AssetExecutionContext,
    Failure,
    PipesMessageReader,
    PipesTempFileContextInjector,
    RetryRequested,
)
from dagster._core.execution.context.op_execution_context import OpExecutionContext
from dagster._core.pipes.context import PipesMessageHandler, build_external_execution_context_data
from dagster._core.pipes.utils import PipesTempFileMessageReader
from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, DAGSTER_PIPES_MESSAGES_ENV_VAR, encode_param

from assets.command import STORE_FAILED
from assets.errors import ConfigError
from pipelines.dvc_project import StageRecord
from pipelines.orphaned_runs import HOST_TAG
from pipelines.process_group import Patience, ProcessGroup
from pipelines.stamps import stamps_are_current

Context: TypeAlias = AssetExecutionContext | OpExecutionContext
Listener: TypeAlias = Callable[[Any], None]
"""Gets every message of a stage as it arrives."""
_SECONDS_BETWEEN_LOG_LINES = 10.0
_SECONDS_BETWEEN_TRIES = (2.0, 5.0, 15.0, 30.0)
_SECONDS_BETWEEN_LOOKS = 1.0
_RETRY_SECONDS = (10.0, 30.0, 90.0)
_TAIL = 40
STAMPS = "stamps"
_BUSY = re.compile(r"'([^']*)' is busy, it is being blocked by")
_RAN = re.compile(r"^Running stage '([^']+)'")
_STAGE_CODE = re.compile(r"^ERROR: failed to reproduce .*, exited with (\d+)\s*$", re.MULTILINE)


@dataclass(slots=True)
class Outcome:
    """What came of one ``dvc`` call.

    Attributes:
        code: Exit code.
        ran: Addresses of the stages whose command really ran.
        facts: The last value of every fact that the stage sent.
        tail: The last lines of output.
        seconds: Wall-clock time.
    """

    code: int = 0
    ran: list[str] = field(default_factory=list[str])
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    tail: deque[str] = field(default_factory=lambda: deque[str](maxlen=_TAIL))
    seconds: float = 0.0

    @property
    def blocked_path(self) -> str | None:
        """The path that another DVC process holds, when this is why the call failed."""
        found = _BUSY.search("".join(self.tail)) if self.code else None
        return found[1] if found else None

    @property
    def stage_code(self) -> int | None:
        """The exit code of the stage's own command, when it is what made the call fail."""
        found = _STAGE_CODE.search("".join(self.tail)) if self.code else None
        return int(found[1]) if found else None

    def line(self, text: str) -> None:
        """Take one line of output."""
        self.tail.append(text)
        if found := _RAN.match(text):
            self.ran.append(found[1])


class _Handler(PipesMessageHandler):
    """Takes progress out of the stream of Pipes messages as it arrives; leaves the rest to Dagster."""

    def __init__(self, context: Context, reader: PipesMessageReader, progress: "ProgressLog") -> None:
        super().__init__(context, reader)
        self._progress = progress

    def handle_message(self, message: Any) -> None:
        if message["method"] == "report_custom_message":
            self._progress.take(message["params"]["payload"])
        else:
            super().handle_message(message)


class ProgressLog:
    """Turns a stage's messages into few log lines, a tag on the run, and facts to keep.

    Attributes:
        facts: The last value of every fact, but for the ones that describe progress itself.
    """

    def __init__(self, context: Context, op_name: str, listener: Listener | None = None) -> None:
        self.facts: dict[str, Any] = {}
        self._listener = listener
        self._context = context
        self._tag = f"progress/{op_name}"
        self._last = float("-inf")

    def take(self, payload: Any) -> None:
        """Take one message."""
        if self._listener is not None:
            self._listener(payload)
        if not isinstance(payload, dict):
            return
        known = ("stage", "activity", "unit", "done", "total", "per_second", "eta_seconds")
        self.facts |= {key: value for key, value in payload.items() if key not in known}
        if "total" not in payload:
            return
        finished = payload["done"] >= payload["total"]
        now = time.monotonic()
        if now - self._last < _SECONDS_BETWEEN_LOG_LINES and not finished:
            return
        self._last = now
        self._context.log.info(progress_line(payload, known))
        share = 100 * payload["done"] / max(payload["total"], 1)
        self._write_tag(f"{payload.get('activity', '')} {share:.0f} %, ETA {_duration(payload.get('eta_seconds'))}")

    def clear(self) -> None:
        """Say on the run that this stage has ended."""
        if self._last > float("-inf"):
            self._write_tag("done")

    def _write_tag(self, text: str) -> None:
        instance = self._context.instance
        if instance.has_run(self._context.run.run_id):
            instance.add_run_tags(self._context.run.run_id, {self._tag: text})


def progress_line(payload: Mapping[str, Any], known: tuple[str, ...]) -> str:
    """Write one progress message as a sentence, e.g. ``train 40/100 step (40 %), 3.1/s, ETA 19 s, loss 2.31``."""
    share = 100 * payload["done"] / max(payload["total"], 1)
    parts = [
        f"{payload.get('activity', '')} {payload['done']}/{payload['total']} {payload.get('unit', '')} ({share:.0f} %)"
    ]
    if isinstance(payload.get("per_second"), int | float):
        parts.append(f"{payload['per_second']:.3g}/s")
    parts.append(f"ETA {_duration(payload.get('eta_seconds'))}")
    facts = {key: value for key, value in payload.items() if key not in known}
    parts += [f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in facts.items()]
    return ", ".join(parts)


def _duration(seconds: Any) -> str:
    if not isinstance(seconds, int | float) or seconds == float("inf"):
        return "unknown"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True, slots=True)
class DvcCommand:
    """Calls ``dvc`` in a project.

    Attributes:
        root: The project.
        patience: How long an interrupted stage may take to save its work.
        retry_seconds: Pauses before a stage that the object store failed is tried again.
    """

    root: Path
    patience: Patience = field(default_factory=Patience)
    retry_seconds: tuple[float, ...] = _RETRY_SECONDS

    def repro(
        self,
        context: Context,
        stage: StageRecord,
        op_name: str,
        force: bool = False,
        listener: Listener | None = None,
    ) -> Outcome:
        """Bring one stage up to date, and the code stamps before it if it depends on one.

        Args:
            context: The running Dagster step.
            stage: The stage.
            op_name: Name of the step's op, for the progress tag.
            force: Run the stage even if nothing changed.
            listener: Gets the stage's messages.

        Returns:
            What came of it, with exit code 0.

        Raises:
            RetryRequested: The object store failed the stage, and it has not been tried often enough.
            Failure: DVC or the stage failed; carries the last lines of its output.
        """
        _tag_host(context)
        first = [STAMPS] if any(dep.startswith(f"{STAMPS}/") for dep in stage.deps) else []
        if force and first:
            self._repeat(context, first, op_name, listener)
        arguments = ["--force", stage.address] if force else [*first, stage.address]
        outcome = self._repeat(context, arguments, op_name, listener)
        if outcome.code:
            failure = stage_failure(stage.address, outcome)
            if outcome.stage_code == STORE_FAILED:
                self._ask_for_retry(context, failure)
            raise failure
        return outcome

    def _ask_for_retry(self, context: Context, failure: Failure) -> None:
        """Let Dagster run the step again after a pause, unless it has been tried often enough."""
        tried, most = context.retry_number, len(self.retry_seconds)
        if tried >= most:
            return
        pause = self.retry_seconds[tried]
        context.log.warning(f"{failure.description}; trying again in {pause:g} s ({tried + 1} of {most})")
        raise RetryRequested(max_retries=most, seconds_to_wait=pause) from failure

    def _repeat(self, context: Context, targets: list[str], op_name: str, listener: Listener | None) -> Outcome:
        """Call repro again while another DVC process holds a path that it needs."""
        tries = 0
        while True:
            with self.pipes(context, op_name, listener) as (env, progress):
                outcome = self.run(context, ["repro", "--single-item", *targets], env)
                outcome.facts = progress.facts
            blocked = outcome.blocked_path
            if blocked is None:
                return outcome
            if Path(blocked) == self.root / STAMPS and STAMPS in targets and self._stamps_are_current(context):
                # a running stage holds its stamp; all stamps are right already, so there is no need to wait for it
                context.log.info("the code stamps are in use by a running stage, and current")
                targets = [target for target in targets if target != STAMPS]
                if not targets:
                    return Outcome()
                continue
            pause = _SECONDS_BETWEEN_TRIES[min(tries, len(_SECONDS_BETWEEN_TRIES) - 1)]
            tries += 1
            context.log.info(f"{blocked} is in use by another DVC process, trying again in {pause:g} s")
            time.sleep(pause)

    def _stamps_are_current(self, context: Context) -> bool:
        if self.run(context, ["status", "--quiet", STAMPS]).code == 0:
            return True
        try:
            # an edited comment changes the code but no stamp
            return stamps_are_current(self.root / "params.yaml", self.root / STAMPS)
        except ConfigError:
            return False

    def run(self, context: Context, arguments: list[str], env: Mapping[str, str] | None = None) -> Outcome:
        """Run ``dvc --wait-for-lock ARGUMENTS`` and hand its output on.

        An interrupt stops all it started, and so does the end of the run worker that this step belongs to.

        Args:
            context: The running Dagster step.
            arguments: Command and options.
            env: More environment variables.

        Returns:
            Exit code and output.

        Raises:
            Failure: The run worker is gone.
        """
        outcome = Outcome()

        def on_line(text: str) -> None:
            outcome.line(text)
            sys.stdout.write(text)
            sys.stdout.flush()

        started = time.monotonic()
        command = [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]
        group = ProcessGroup(command, self.root, {**stage_environment(), **(env or {})}, on_line, self.patience)
        try:
            while (code := group.poll(_SECONDS_BETWEEN_LOOKS)) is None:
                if worker_is_gone():
                    raise Failure("the process that executes this run is gone, so the step ends", allow_retries=False)
            outcome.code = code
        except BaseException:
            context.log.info(f"interrupted: stopping {' '.join(arguments)}")
            with _deaf_to_interrupts():
                group.stop(self.patience, context.log.info)
            raise
        outcome.seconds = time.monotonic() - started
        return outcome

    @contextmanager
    def pipes(
        self, context: Context, op_name: str, listener: Listener | None = None
    ) -> Generator[tuple[dict[str, str], ProgressLog]]:
        """Take messages of a stage while the block runs.

        Args:
            context: The running Dagster step.
            op_name: Name of the step's op, for the progress tag.
            listener: Gets the messages, too.

        Yields:
            The environment that the stage needs, and what becomes of its messages.
        """
        progress = ProgressLog(context, op_name, listener)
        reader, injector = PipesTempFileMessageReader(), PipesTempFileContextInjector()
        handler = _Handler(context, reader, progress)
        data = build_external_execution_context_data(context, None)
        with injector.inject_context(data) as where, handler.handle_messages() as messages:
            yield (
                {
                    DAGSTER_PIPES_CONTEXT_ENV_VAR: encode_param(where),
                    DAGSTER_PIPES_MESSAGES_ENV_VAR: encode_param(messages),
                },
                progress,
            )
        progress.clear()


def worker_is_gone() -> bool:
    """Say whether the process that started this one as a step is no longer there; never where none did."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()


def _tag_host(context: Context) -> None:
    """Note on the run where it is executed, for those who look whether it still is."""
    run = context.run
    if HOST_TAG not in run.tags and context.instance.has_run(run.run_id):
        context.instance.add_run_tags(run.run_id, {HOST_TAG: socket.gethostname()})


@contextmanager
def _deaf_to_interrupts() -> Generator[None]:
    """Let a second Ctrl-C, or Dagster repeating itself, not cut short the time that a stage gets for its checkpoint."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def stage_environment() -> dict[str, str]:
    """Return our environment for a stage: this interpreter comes first, and nothing calls home."""
    here = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", "")
    if path.split(os.pathsep)[0] != here:
        path = f"{here}{os.pathsep}{path}"
    return {
        **os.environ,
        "PATH": path,
        "PYTHONUNBUFFERED": "1",
        "DVC_NO_ANALYTICS": "1",
        "GX_ANALYTICS_ENABLED": "False",
    }


def stage_failure(address: str, outcome: Outcome) -> Failure:
    """Make the error that a failed stage ends with: the last line that names a fault, and the end of its output."""
    lines = [line.rstrip() for line in outcome.tail if line.strip()]
    fault = next((line for line in reversed(lines) if line.lower().startswith(("error: ", "dataerror"))), "")
    ours = next((line for line in lines if line.startswith("error: ")), fault)
    return Failure(
        f"{address} failed: {ours or f'dvc ended with exit code {outcome.code}'}",
        metadata={"output": "\n".join(lines), "exit_code": outcome.code},
        allow_retries=False,
    )
