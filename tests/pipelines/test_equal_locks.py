"""Two clones that make everything themselves end with the same dvc.lock: no output tells the machine or the moment."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipelines.dvc_command import stage_environment
from tests.project_copy import REPOSITORY, copy_project

SIZES = {"train": 60, "test": 12, "test_style": 12, "test_pairs": 12}
# places in which time, order of sets and host differ
PLACES = ({"PYTHONHASHSEED": "1", "TZ": "UTC"}, {"PYTHONHASHSEED": "2", "TZ": "Asia/Tokyo"})


def tiny_params(path: Path) -> None:
    """Write the smoke profile with next to no data, one run and the quick evaluators."""
    params: dict[str, Any] = YAML(typ="safe").load((REPOSITORY / "profiles/smoke.yaml").read_text(encoding="utf-8"))
    params["machine"] |= {"workers": 0, "threads": 1, "device": "cpu"}
    source = params["datasets"]["emoji"]["source"]
    source |= {"image_size": 32, "num_concepts": 30, "num_classes": 8}
    source["sizes"] |= SIZES
    recipe = params["recipes"]["clip"]
    recipe["towers"]["image_size"] = 32
    recipe["budget"] = {"samples_seen": 128, "batch_size": 16}
    recipe["holdout"] |= {"pairs": 8, "every": 4}
    recipe["log_every"] = 2
    recipe["optim"]["warmup_steps"] = 2
    params["runs"] = {"clip-s0": params["runs"]["clip-s0"]}
    for section in ("features", "embeddings", "captioners", "concepts", "policies", "teachers", "exports", "indexes"):
        params[section] = {}
    params["studies"] = params["promotions"] = {}
    evaluation = params["evaluation"]
    evaluation["bootstrap"]["resamples"] = 100
    evaluation["evaluators"] = {name: evaluation["evaluators"][name] for name in ("zero_shot", "retrieval")}
    columns = ["zero_shot.in_domain.top1", "retrieval.in_domain.image_to_text_r1"]
    params["report"] |= {"main_metric": columns[0], "columns": columns}
    YAML(typ="safe").dump(params, path)


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    return subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def clone(folder: Path) -> Path:
    """Make a repository of the working tree's files, with a commit of its own."""
    copy_project(folder)
    tiny_params(folder / "params.yaml")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", folder.name)
    return folder


def repro(folder: Path, place: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start everything up to the leaderboard; what it says goes to a file, which no pipe can hold up."""
    with folder.with_suffix(".log").open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro", "compare"],
            cwd=folder,
            env={**stage_environment(), **place, "OMP_NUM_THREADS": "1"},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )


@pytest.mark.slow
def test_two_clones_end_with_the_same_lock_file(tmp_path):
    clones = [clone(tmp_path / name) for name in ("first", "second")]
    running = [repro(folder, place) for folder, place in zip(clones, PLACES, strict=True)]
    for process, folder in zip(running, clones, strict=True):
        assert process.wait() == 0, folder.with_suffix(".log").read_text()[-3000:]

    locks = [YAML(typ="safe").load((folder / "dvc.lock").read_text())["stages"] for folder in clones]
    assert {"ingest@emoji", "validate@emoji", "pretrain@clip-s0", "evaluate@clip-s0", "compare"} <= locks[0].keys()
    unlike = [name for name in locks[0] if locks[0][name] != locks[1][name]]
    assert not unlike, {name: [lock[name] for lock in locks] for name in unlike}
    assert (clones[0] / "dvc.lock").read_bytes() == (clones[1] / "dvc.lock").read_bytes()
    times = [json.loads((folder / "reports/times.json").read_text())["clip-s0"] for folder in clones]
    assert times[0]["model"] == times[1]["model"]
    assert times[0]["git"] != times[1]["git"]  # what differs is there to be read all the same
    changed = git(clones[0], "status", "--porcelain").split()
    assert changed == ["??", "dvc.lock"], "a stage has written what git does not ignore"
