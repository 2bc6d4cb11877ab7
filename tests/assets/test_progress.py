import logging
import time

import pytest

from assets.progress import Stage, setup_logging


class Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


@pytest.fixture
def lines():
    """Return the list that log lines are added to as they come."""
    handler, logger = Lines(), setup_logging()
    logger.addHandler(handler)
    yield handler.texts
    logger.removeHandler(handler)


def test_progress_lines_are_sparse_and_carry_rate_and_eta(lines, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Stage("toy@x") as stage, stage.progress("train", 100, "step") as progress:
        for step in range(1, 101):
            now[0] += 1.0
            progress.advance(loss=1.0 / step)
    shown = [text for text in lines if "train" in text]
    assert len(shown) == 10  # one every ten seconds, the last on completion
    assert shown[4].startswith("toy@x train 50/100 step (50 %), 1.0/s, ETA 50 s loss=0.02")


def test_a_quiet_stage_says_no_more_than_warnings_and_leaves_the_next_one_alone(lines):
    with Stage("toy@x", quiet=True) as stage:
        stage.log.info("not said")
        stage.log.warning("said")
    with Stage("toy@y"):
        pass
    assert [text for text in lines if "toy@x" in text or "said" in text] == ["said"]
    assert "toy@y started" in lines


def test_a_resumed_stage_counts_only_new_work_in_its_rate(lines, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Stage("toy@x") as stage, stage.progress("train", 100, "step", initial=90) as progress:
        now[0] += 20.0
        progress.advance(5)
    assert any("95/100 step (95 %), 0.2/s, ETA 20 s" in text for text in lines)
