"""The functions that run in worker processes are the standard library's, because those cannot import a test file."""

import operator
import os

import pytest

from assets.errors import DataError
from assets.worker_pool import run_tasks


def test_without_workers_tasks_run_here_in_their_order():
    assert list(run_tasks(operator.mul, 10, [3, 1, 2], 0)) == [(3, 30), (1, 10), (2, 20)]


@pytest.mark.slow
def test_worker_processes_give_the_same():
    assert sorted(run_tasks(operator.mul, 10, [3, 1, 2], 2)) == [(1, 10), (2, 20), (3, 30)]


@pytest.mark.slow
def test_a_worker_that_dies_is_told_with_a_way_out():
    with pytest.raises(DataError, match=r"a worker process was killed.*smaller machine\.workers"):
        list(run_tasks(os.execv, "/bin/false", [("false",)], 2))


@pytest.mark.slow
def test_a_fault_in_a_worker_is_raised_here():
    with pytest.raises(ZeroDivisionError):
        list(run_tasks(operator.floordiv, 1, [0], 1))


def test_nothing_to_do_starts_no_process():
    assert list(run_tasks(os.execv, "/bin/false", [], 4)) == []
