import time

from assets.progress import Stage, setup_logging


def test_progress_lines_are_sparse_and_carry_rate_and_eta(caplog, monkeypatch):
    monkeypatch.setattr(setup_logging(), "propagate", True)
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with caplog.at_level("INFO"), Stage("toy@x") as stage, stage.progress("train", 100, "step") as progress:
        for step in range(1, 101):
            now[0] += 1.0
            progress.advance(loss=1.0 / step)
    lines = [record.message for record in caplog.records if "train" in record.message]
    assert len(lines) == 10  # one every ten seconds, the last on completion
    assert lines[4].startswith("toy@x train 50/100 step (50 %), 1.0/s, ETA 50 s loss=0.02")


def test_a_resumed_stage_counts_only_new_work_in_its_rate(caplog, monkeypatch):
    monkeypatch.setattr(setup_logging(), "propagate", True)
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with caplog.at_level("INFO"), Stage("toy@x") as stage, stage.progress("train", 100, "step", initial=90) as progress:
        now[0] += 20.0
        progress.advance(5)
    assert "95/100 step (95 %), 0.2/s, ETA 20 s" in caplog.text
