"""The project of coloured squares (``squares.py``), made once."""

import json
from pathlib import Path

import pytest

from assets.manifest import version_of
from tests.evaluation.squares import RUNS, write_model, write_params, write_raw, write_valid


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder with ``data``, ``models/clip-s0`` and ``params.yaml``."""
    root = tmp_path_factory.mktemp("squares")
    raw = write_raw(root / "data/raw/squares")
    write_valid(root / "data/valid/squares", raw, frozenset({"train-0003"}))
    for seed, name in enumerate(RUNS):
        write_model(root / "models" / name, name, seed)
    write_params(root / "params.yaml", RUNS)
    return root


@pytest.fixture(scope="session")
def scored(squares: Path) -> Path:
    """The same project with every run evaluated and the training logs that ``compare`` reads."""
    from evaluation.evaluate import evaluate

    for number, name in enumerate(RUNS):
        data = squares / "data"
        out = squares / "reports/runs" / name
        evaluate(
            name, squares / "params.yaml", squares / "models" / name, data / "raw/squares", data / "valid/squares", out
        )
        log = squares / "runs" / name
        (log / "plots/metrics/train").mkdir(parents=True)
        lines = ["step\tloss"] + [f"{step}\t{4 - 0.1 * step - 0.01 * number}" for step in range(5)]
        (log / "plots/metrics/train/loss.tsv").write_text("\n".join(lines) + "\n")
        (log / "metrics.json").write_text(json.dumps({"step": 4}))
        (log / "plots/metrics/holdout").mkdir()
        rows = [f"{step}\t{0.1 * step}" for step in (1, 3, 4)]
        (log / "plots/metrics/holdout/image_to_text_r1.tsv").write_text("\n".join(["step\timage_to_text_r1", *rows]))
        if name == "clip-s1":
            (log / "plots/metrics/mask").mkdir()
            (log / "plots/metrics/mask/object_coverage.tsv").write_text("step\tobject_coverage\n0\t0.5\n4\t0.9\n")
        cost = {
            "samples_seen": 640,
            "flops": 1e12,
            "trainable_params": 9e5,
            "inference_params": 9e5,
        }
        model = version_of(squares / "models" / name)
        (log / "summary.json").write_text(json.dumps({"cost": cost, "model_version": model}))
        spent = {"train_seconds": 10.0 + number, "total_seconds": 72.0}
        facts = {"model_version": model, "cost": spent, "git": "0" * 40, "device": f"a <toy> {number}"}
        (squares / "logs" / name).mkdir(parents=True)
        (squares / "logs" / name / "machine.json").write_text(json.dumps(facts))
    return squares
