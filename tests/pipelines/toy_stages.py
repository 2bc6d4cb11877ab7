"""The stage programs of the toy project (conftest.py): small, and shaped like ours. Usage: toy_stages.py STAGE NAME."""

import os
import signal
import sys
import time
from pathlib import Path

from assets.atomic import write_json
from assets.progress import Stage
from assets.section import read_yaml

KNOBS = read_yaml(Path("params.yaml"))["toy"]


def stamps(stage: Stage, name: str) -> None:
    for stamp in ("ingest", "validate", "train"):
        write_json(Path("stamps") / f"{stamp}.json", {"code": "0" * 16})


def ingest(stage: Stage, name: str) -> None:
    write_json(Path("data/raw") / name / "manifest.json", {"counts": {"samples": KNOBS["samples"]}})
    write_json(Path("data/raw") / name / "rows.json", list(range(KNOBS["samples"])))


def validate(stage: Stage, name: str) -> None:
    folder = Path("data/valid") / name
    checks = [
        {
            "name": "share of rejects",
            "description": "not too many",
            "passed": KNOBS["quality"] != "bad",
            "severity": "error",
            "observed": {"share": 0.25},
        },
        {
            "name": "captions vary",
            "description": "",
            "passed": KNOBS["quality"] != "odd",
            "severity": "warning",
            "observed": {},
        },
    ]
    write_json(folder / "checks.json", checks)
    write_json(folder / "metrics.json", {"accepted": KNOBS["samples"], "rejected_by_reason": {"blank": 1}})
    write_json(Path("reports/validation") / name / "index.json", {})
    if KNOBS["quality"] == "stops":
        checks[0]["passed"] = False
        write_json(folder / "checks.json", checks)
        sys.exit("error: too many samples were rejected")


def train(stage: Stage, name: str) -> None:
    """Train until done; on SIGINT write a checkpoint and stop, as our trainer does."""
    stopped: list[int] = []
    if not KNOBS["stubborn"]:
        signal.signal(signal.SIGINT, lambda number, frame: stopped.append(number))
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    work = Path("work")
    work.mkdir(exist_ok=True)
    (work / "trainer.pid").write_text(str(os.getpid()))
    with stage.progress("train", KNOBS["steps"], "step") as progress:
        for step in range(KNOBS["steps"]):
            time.sleep(KNOBS["seconds_per_step"])
            if stopped:
                (work / "checkpoint").write_text(str(step))
                sys.exit(130)
            progress.advance(loss=1.0 / (step + 1))
    folder = Path("runs") / name / "plots/metrics/train"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "loss.tsv").write_text("step\tloss\n1\t2.0\n2\t1.0\n")
    write_json(Path("runs") / name / "metrics.json", {"train": {"loss": 1.0}})
    write_json(Path("runs") / name / "summary.json", {"cost": {"train_seconds": 1.5}, "device": "cpu"})
    write_json(Path("models") / name / "manifest.json", {"counts": {"steps": KNOBS["steps"]}})


if __name__ == "__main__":
    command, name = sys.argv[1], sys.argv[2]
    with Stage(f"{command}@{name}") as running:
        {"stamps": stamps, "ingest": ingest, "validate": validate, "train": train}[command](running, name)
