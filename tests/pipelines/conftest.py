"""A toy project: a git and DVC repository of its own whose stages take no time, for real runs of DVC and Dagster."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, ExecuteInProcessResult, materialize
from ruamel.yaml import YAML

from pipelines.dvc_assets import dvc_assets
from pipelines.dvc_command import DvcCommand, stage_environment
from pipelines.dvc_project import load_project
from pipelines.process_group import Patience

STAGES = Path(__file__).with_name("toy_stages.py")
REPOSITORY = Path(__file__).parents[2]
DVC_YAML = """
stages:
  stamps:
    cmd: python toy_stages.py stamps all
    deps:
      - toy_stages.py
    outs:
      - stamps:
          cache: false
    meta: {dagster: {hidden: true}}
  ingest:
    foreach: ${datasets}
    do:
      desc: Raw ${key}
      cmd: python toy_stages.py ingest ${key}
      deps:
        - stamps/ingest.json
      params:
        - toy.samples
      outs:
        - data/raw/${key}
      meta: {dagster: {group: data, kinds: [json], owners: ["team:data"], pool: cpu}}
  validate:
    foreach: ${datasets}
    do:
      cmd: python toy_stages.py validate ${key}
      deps:
        - data/raw/${key}
        - stamps/validate.json
      params:
        - toy.quality
      outs:
        - data/valid/${key}
        - reports/validation/${key}
      meta:
        dagster:
          group: data
          checks: data/valid/${key}/checks.json
  pretrain:
    foreach: ${runs}
    do:
      cmd: python toy_stages.py train ${key}
      deps:
        - data/valid/${item.dataset}
        - stamps/train.json
      params:
        - toy.steps
        - toy.seconds_per_step
        - runs.${key}
      outs:
        - models/${key}
        - runs/${key}/summary.json
      metrics:
        - runs/${key}/metrics.json
      plots:
        - runs/${key}/plots/metrics
      meta: {dagster: {group: training, pool: gpu}}
  compare:
    cmd: cat runs/*/metrics.json > leaderboard.json
    deps:
      - runs
    outs:
      - leaderboard.json
"""
PARAMS: dict[str, Any] = {
    "datasets": {"emoji": {}},
    "runs": {"clip-s0": {"dataset": "emoji"}},
    "toy": {"samples": 3, "quality": "good", "steps": 3, "seconds_per_step": 0.0, "stubborn": False},
}


@dataclass(frozen=True)
class Toy:
    """The project and what tests do with it."""

    root: Path

    def set(self, **knobs: Any) -> None:
        """Change keys of the section ``toy`` in params.yaml."""
        YAML().dump({**PARAMS, "toy": {**PARAMS["toy"], **knobs}}, self.root / "params.yaml")

    def dvc(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=self.root,
            env=stage_environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def materialize(
        self, instance: DagsterInstance, *selection: str, patience: Patience | None = None, force: str | None = None
    ) -> ExecuteInProcessResult:
        """Materialise assets by key, e.g. ``"data/raw-emoji"``; all when none is named; ``force`` names an op."""
        assets = dvc_assets(load_project(self.root), command=DvcCommand(self.root, patience or Patience()))
        config = {"ops": {force: {"config": {"force": True}}}} if force else None
        chosen = [f'key:"{key}"' for key in selection]
        return materialize(
            assets, instance=instance, selection=" or ".join(chosen) or None, raise_on_error=False, run_config=config
        )


def many_stages(root: Path, count: int) -> None:
    """Write our own dvc.yaml and the demo's params.yaml with as many more runs as make at least ``count`` stages."""
    params = YAML(typ="safe", pure=True).load((REPOSITORY / "profiles/demo.yaml").read_text(encoding="utf-8"))
    (root / "dvc.yaml").write_text((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    (name, run), *_ = params["runs"].items()
    stages = 0
    while stages < count:
        # every run is two stages, training and evaluation
        for _ in range((count - stages + 1) // 2):
            seed = len(params["runs"]) + 100
            params["runs"][f"{name.rpartition('-s')[0]}-s{seed}"] = {**run, "seed": seed}
        YAML().dump(params, root / "params.yaml")
        stages = len(load_project(root).stages)


@pytest.fixture
def sixty_stages(tmp_path: Path) -> Path:
    many_stages(tmp_path, 60)
    return tmp_path


@pytest.fixture(scope="session")
def toy_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("toy")
    (root / "toy_stages.py").write_text(STAGES.read_text(encoding="utf-8"), encoding="utf-8")
    (root / "dvc.yaml").write_text(DVC_YAML, encoding="utf-8")
    (root / ".gitignore").write_text("/data\n/models\n/runs\n/reports\n/stamps\n/work\n/leaderboard.json\n")
    toy = Toy(root)
    toy.set()
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    toy.dvc("init", "-q")
    (root / ".dvc/config").write_text('[core]\n    analytics = false\n[cache]\n    type = "hardlink,symlink"\n')
    return root


@pytest.fixture
def toy(toy_template: Path, tmp_path: Path) -> Toy:
    root = tmp_path / "toy"
    subprocess.run(["cp", "-a", str(toy_template), str(root)], check=True)
    return Toy(root)


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DagsterInstance:
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    return DagsterInstance.from_config(str(home))
