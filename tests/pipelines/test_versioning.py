"""The walk-through of docs/versioning.md with the real data stages, and the page that ``clipfoundry diff`` prints."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from assets.errors import ConfigError, DataError
from pipelines.revision_diff import Revision, page
from tests.project_copy import REPOSITORY, copy_project, dvc, run

DATA_STAGES = ("ingest@emoji", "validate@emoji")


def commit(folder: Path, name: str) -> None:
    run(folder, "git", "add", ".")
    run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", name)
    run(folder, "git", "tag", name)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines(before: Revision, after: Revision) -> dict[str, list[str]]:
    """Label -> the words after it, of every line of the page."""
    found = {}
    for line in page(before, after):
        label, *cells = line.strip().split("  ")
        found[label] = [cell.strip() for cell in cells if cell.strip()]
    return found


@pytest.fixture
def clone(tmp_path):
    """The project's own graph and code in a repository of its own, with data of no size."""
    return copy_project(tmp_path / "clone")


def set_train(folder: Path, pairs: int) -> None:
    params = YAML(typ="safe").load((REPOSITORY / "profiles/smoke.yaml").read_text(encoding="utf-8"))
    params["datasets"]["emoji"]["samples_per_shard"] = 25
    source = params["datasets"]["emoji"]["source"]
    source["image_size"] = 32
    source["sizes"] |= {"train": pairs, "test": 10, "test_style": 10, "test_pairs": 10}
    YAML(typ="safe").dump(params, folder / "params.yaml")


@pytest.mark.slow
def test_pairs_are_added_shown_and_taken_back(clone):
    set_train(clone, 50)
    dvc(clone, "repro", "-q", "validate@emoji")
    commit(clone, "small")
    small = contents(clone / "data")
    set_train(clone, 125)
    assert "50" in dvc(clone, "params", "diff")

    dvc(clone, "repro", "-q", "validate@emoji")

    large = contents(clone / "data")
    for shard in ("raw/emoji/train/00000.tar", "raw/emoji/train/00001.tar", "raw/emoji/test/00000.tar"):
        assert large[shard] == small[shard], "samples that were there before have changed"
    changed = json.loads(dvc(clone, "diff", "--json"))
    shards = {state: [e["path"] for e in entries if e["path"].endswith(".tar")] for state, entries in changed.items()}
    assert shards["added"] == [f"data/raw/emoji/train/{number:05d}.tar" for number in (2, 3, 4)]
    assert not shards["deleted"] and not shards["modified"]
    counts = [json.loads(data["valid/emoji/metrics.json"])["rejected"] for data in (small, large)]
    shown = lines(Revision("HEAD", clone), Revision("workspace", clone))
    assert shown["datasets.emoji.source.sizes.train"] == ["50", "125", "+75"]
    assert shown["pairs in train"] == ["50", "125", "+75"]
    assert "pairs in test" not in shown
    assert shown["rejected"] == [str(counts[0]), str(counts[1]), f"{counts[1] - counts[0]:+d}"]
    commit(clone, "large")

    run(clone, "git", "checkout", "-q", "small")
    dvc(clone, "checkout", "-q", *DATA_STAGES)
    assert contents(clone / "data") == small
    assert lines(Revision("large", clone), Revision("workspace", clone))["pairs in train"] == ["125", "50", "-75"]
    assert "didn't change" in dvc(clone, "repro", "validate@emoji")

    run(clone, "git", "checkout", "-q", "large")
    dvc(clone, "checkout", "-q", *DATA_STAGES)
    assert contents(clone / "data") == large

    shutil.rmtree(clone / ".dvc/cache")
    with pytest.raises(DataError, match=r"dataset\.json of revision small is neither in the cache nor .*dvc push"):
        page(Revision("small", clone), Revision("workspace", clone))


@pytest.fixture
def history(tmp_path):
    """A project whose results are in git itself: one commit, and changes on top of it in the workspace."""
    run(tmp_path, "git", "init", "-q")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").touch()
    params: dict[str, Any] = {
        "machine": {"workers": 2},
        "datasets": {"cats": {"source": {"urls": ["a", "b"]}}},
        "report": {"columns": ["zero_shot.top1", "retrieval.r1"]},
    }
    rows = [
        {"run": "clip", "metrics": {"zero_shot.top1": 0.5, "retrieval.r1": 0.25}, "intervals": {}},
        {"run": "gone", "metrics": {"zero_shot.top1": 0.125}, "intervals": {"zero_shot.top1": [0.1, 0.2]}},
    ]
    checks = [{"name": "rejected_share", "passed": True}, {"name": "columns", "passed": True}]
    write(tmp_path, params, rows, checks, {"rejected": 2, "accepted": 8, "rejected_by_reason": {"blank": 2}})
    commit(tmp_path, "first")
    params["machine"]["workers"] = 4
    params["datasets"]["cats"]["source"]["urls"] = ["a" * 40]
    rows = [
        {"run": "new", "metrics": {"zero_shot.top1": 1.0}, "intervals": {}},
        {"run": "clip", "metrics": {"zero_shot.top1": 0.375, "retrieval.r1": 0.25}, "intervals": {}},
    ]
    checks[0]["passed"] = False
    write(tmp_path, params, rows, checks, {"rejected": 3, "accepted": 8, "rejected_by_reason": {"tiny": 3}})
    return tmp_path


def write(root: Path, params: dict[str, Any], rows: Any, checks: Any, metrics: Any) -> None:
    YAML(typ="safe").dump(params, root / "params.yaml")
    for path, content in (
        ("reports/leaderboard.json", rows),
        ("reports/validation/cats/checks.json", checks),
        ("data/valid/cats/metrics.json", metrics),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(json.dumps(content), encoding="utf-8")


def test_a_page_shows_what_differs_and_nothing_else(history):
    shown = lines(Revision("first", history), Revision("workspace", history))
    assert shown["datasets.cats.source.urls"] == ["['a', 'b']", f"['{'a' * 27}..."]
    assert shown["blank"] == ["2", "-"] and shown["tiny"] == ["-", "3"]
    assert shown["rejected"] == ["2", "3", "+1"]
    assert shown["failing checks"] == ["-", "rejected_share"]
    assert not {"machine.workers", "accepted", "retrieval.r1"} & set(shown)
    assert page(Revision("first", history), Revision("HEAD", history)) == [
        "first and HEAD have the same parameters, data sets and scores"
    ]


def test_scores_are_percent_with_their_interval_and_runs_may_come_and_go(history):
    text = page(Revision("first", history), Revision("workspace", history))
    scores = [line.split() for line in text if line.strip().startswith("zero_shot.top1")]
    assert scores == [
        ["zero_shot.top1", "-", "100.0"],
        ["zero_shot.top1", "50.0", "37.5", "-12.5"],
        ["zero_shot.top1", "12.5", "+-", "5.0", "-"],
    ]
    assert [line.split(",")[0] for line in text if line.startswith("run ")] == ["run new", "run clip", "run gone"]


def test_an_unknown_revision_is_named(history):
    with pytest.raises(ConfigError, match="unknown git revision, got 'frist'"):
        Revision("frist", history)
