"""A project of a few small files in a git and DVC repository, in which models can be promoted for real."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from assets.manifest import version_of, write_manifest
from assets.section import read_yaml
from assets.store import Store
from evaluation.promotion.champions import CHAMPIONS, read_history

REPOSITORY = Path(__file__).resolve().parents[2]
METRIC = "zero_shot.in_domain.top1"
NAME, RUN, DATASET = "champion", "clip-s0", "emoji"
_IGNORED = "/data\n/models/?*\n!/models/*.dvc\n/reports\nwork/*\n/.store\n"


def run(root: Path, *command: str) -> str:
    """Run a program that must succeed, and return what it printed."""
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class Project:
    """The repository and what tests do with it."""

    root: Path

    def git(self, *arguments: str) -> str:
        return run(self.root, "git", *arguments).strip()

    def dvc(self, *arguments: str) -> str:
        return run(self.root, sys.executable, "-m", "dvc", *arguments)

    @property
    def folder(self) -> Path:
        """The champion's folder."""
        return self.root / "models" / NAME

    @property
    def history(self):
        return read_history(self.root / CHAMPIONS, NAME)

    def train(self, write: Callable[[Path], None]) -> str:
        """Replace the run's model, as a stage does: with new files."""
        folder = self.root / "models" / RUN
        run(self.root, "rm", "-rf", str(folder))
        write(folder)
        return version_of(folder)

    def train_text(self, text: str) -> str:
        def write(folder: Path) -> None:
            (folder / "tower").mkdir(parents=True)
            (folder / "README.md").write_text(f"# {text}\n")
            (folder / "tower/weights.bin").write_bytes(text.encode() * 1000)
            write_manifest(folder, "model", RUN, {}, {}, {}, "0")

        return self.train(write)

    def decide(self, verdict: str = "promote", reason: str = "better by 2.0 points", **changes: Any) -> None:
        """Write what the stage challenge would."""
        champion = self.history.champion
        shown = champion and {key: getattr(champion, key) for key in ("version", "run", "model", "scores")}
        decision = {
            "promotion": NAME,
            "run": RUN,
            "dataset": DATASET,
            "verdict": verdict,
            "reason": reason,
            "challenger": {
                "model": version_of(self.root / "models" / RUN),
                "data": version_of(self.root / "data/valid" / DATASET),
                "evaluation": "e-c",
                "scores": {METRIC: 0.25},
            },
            "champion": shown,
            "main": {"metric": METRIC},
            "rules": [],
        }
        path = self.root / "reports/promotion" / NAME / "decision.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(decision | changes))

    def tags(self) -> list[str]:
        return self.git("tag", "--list").split()

    def state(self) -> tuple[str, list[str], str]:
        """What a refusal may not change."""
        dvc = self.root / f"models/{NAME}.dvc"
        return self.git("rev-parse", "HEAD"), self.tags(), dvc.read_text() if dvc.is_file() else ""


def make_project(root: Path, store: Store | None = None, bucket: str = "none") -> Project:
    """Make the repository; with a store champions go to a bucket there."""
    params = read_yaml(REPOSITORY / "profiles/smoke.yaml")
    params["runs"] = {RUN: {**next(iter(params["runs"].values())), "dataset": DATASET}}
    entry = {"run": RUN, "dataset": DATASET, "metric": METRIC, "rule": "better"}
    params["promotions"] = {NAME: entry | {"bucket": bucket}}
    if store is not None:
        params["store"] = store.config.model_dump()
    root.mkdir()
    with (root / "params.yaml").open("w", encoding="utf-8") as stream:
        YAML(typ="safe").dump(params, stream)
    (root / ".gitignore").write_text(_IGNORED)
    (root / "dvc.lock").write_text("schema: '2.0'\n")
    (root / "code.py").write_text("")
    project = Project(root)
    project.git("init", "-q", "-b", "main")
    project.git("config", "user.name", "t")
    project.git("config", "user.email", "t@example.org")
    project.dvc("init", "-q")
    text = "[core]\n    remote = store\n    analytics = false\n    autostage = false\n"
    (root / ".dvc/config").write_text(
        f"""{text}[cache]\n    type = "hardlink,symlink"\n['remote "store"']\n    url = s3://nowhere/dvc\n"""
    )
    project.git("add", ".")
    project.git("commit", "-qm", "begin")
    valid = root / "data/valid" / DATASET
    valid.mkdir(parents=True)
    (valid / "accepted.txt").write_text("a b c")
    write_manifest(valid, "valid", DATASET, {}, {}, {}, "0")
    return project


def promote_and_die(
    project: Project, step: str, keys: Path | None, call: str = "promote(root, NAME, store, die)"
) -> int:
    """Promote in a process of its own that is killed right after a step; return how it ended."""
    program = f"""
import os, signal
from pathlib import Path
from assets.store import open_store
from pipelines.params import load_store
from pipelines.promotion.promote import promote
from pipelines.promotion.rollback import rollback
NAME, root = {NAME!r}, Path({str(project.root)!r})
store = None if {keys is None} else open_store(load_store(root / "params.yaml"), Path({str(keys)!r}))
def die(step):
    if step == {step!r}:
        os.kill(os.getpid(), signal.SIGKILL)
{call}
"""
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([sys.executable, "-c", program], cwd=project.root, env=env, check=False).returncode
