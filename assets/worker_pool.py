"""Many tasks spread over processes that survive neither their parent nor a Ctrl-C that they should not answer."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Event
from typing import Any, TypeVar

from assets.errors import DataError, message

StateT = TypeVar("StateT")
TaskT = TypeVar("TaskT")
_shared: tuple[Callable[[Any, Any], int], Any, Event] | None = None
"""What a worker process was started with: the function, its state, and whether the main process is stopping."""


def run_tasks(
    function: Callable[[StateT, TaskT], int], state: StateT, todo: Sequence[TaskT], workers: int
) -> Iterator[tuple[TaskT, int]]:
    """Run a function on every task.

    Args:
        function: Gets the state and a task; one that worker processes can import.
        state: Sent to each process once, so that what it loads is loaded once.
        todo: The tasks.
        workers: Processes beside this one, at most one per task; 0 works here, in the order of the tasks.

    Yields:
        Each task and what the function returned, as they are finished.

    Raises:
        DataError: A worker process was killed.
    """
    workers = min(workers, len(todo))
    if workers == 0:
        for task in todo:
            yield task, function(state, task)
        return
    # spawn, because a fork of a process that has started threads (pyarrow, BLAS) may hang
    context = multiprocessing.get_context("spawn")
    stopping = context.Event()
    pool = ProcessPoolExecutor(workers, context, _start_process, (function, state, stopping))
    try:
        futures = {pool.submit(_work, task): task for task in todo}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise DataError(
            message(
                "a worker process was killed, perhaps for want of memory",
                fix="run the same command again to go on, with a smaller machine.workers",
            )
        ) from error
    finally:
        # the pool has handed out more tasks than it can cancel
        stopping.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _start_process(function: Callable[[Any, Any], int], state: Any, stopping: Event) -> None:
    # Ctrl-C reaches the whole group; only the main process answers it, and lets the tasks under way be finished
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    global _shared
    _shared = function, state, stopping


def _die_with_parent() -> None:
    """End this process when the main one is killed; the pool's queue would keep it waiting for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(task: Any) -> int:
    assert _shared is not None
    function, state, stopping = _shared
    return 0 if stopping.is_set() else function(state, task)
