import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from assets.command import STORE_FAILED, USER_ERROR
from assets.section import read_yaml
from pipelines import preflight as preflight_module
from pipelines import store_server
from pipelines.cli import main

REPOSITORY = Path(__file__).resolve().parents[2]
# one stage instead of the real ones; "python" must be found although no environment is activated
TOY_GRAPH = """
stages:
  compare:
    cmd: >-
      python -c "import json, pathlib; pathlib.Path('reports').mkdir(exist_ok=True);
      pathlib.Path('ran').open('a').write('x'); pathlib.Path('data').write_text('data');
      pathlib.Path('reports/leaderboard.json').write_text(pathlib.Path('board.json').read_text())"
    deps: [board.json]
    outs: [data]
    metrics:
      - reports/leaderboard.json:
          cache: false
"""


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def free_port() -> int:
    first = 31000 + os.getpid() * 41 % 9000
    return next(port for port in range(first, first + 3000, 31) if store_server.port_is_free(port))


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder that looks like a clone, with the demo profile on a port of its own and a toy graph."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    shutil.copytree(REPOSITORY / ".dvc", tmp_path / ".dvc", ignore=lambda *_: {"cache", "tmp", "config.local"})
    (tmp_path / ".gitignore").write_text("/.store/\n/ran\n/stamps/\n/data\n")
    (tmp_path / "dvc.yaml").write_text(TOY_GRAPH)
    params = read_yaml(REPOSITORY / "profiles" / "demo.yaml")
    params["store"]["endpoint"] = f"http://127.0.0.1:{free_port()}"
    (tmp_path / "profiles").mkdir()
    with (tmp_path / "profiles" / "demo.yaml").open("w", encoding="utf-8") as stream:
        stream.write("# a toy\n")
        YAML(typ="safe").dump(params, stream)
    shutil.copy(tmp_path / "profiles" / "demo.yaml", tmp_path / "params.yaml")
    row = {"run": "toy", "recipe": "clip", "dataset": "emoji", "policy": "none", "features": "none", "seed": 0}
    row |= {"intervals": {}, "metrics": {}, "cost": {"samples_seen": 1000}, "versions": {"model": "a"}}
    (tmp_path / "board.json").write_text(json.dumps([row]))
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "toy")
    yield tmp_path
    if (tmp_path / "params.yaml").is_file():
        main(["store", "stop"])


def edit(old: str, new: str) -> None:
    path = Path("params.yaml")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def refused(capsys, *arguments: str) -> str:
    """Run a command that must fail with one clean message."""
    capsys.readouterr()
    assert main(list(arguments)) in (USER_ERROR, STORE_FAILED)
    error = capsys.readouterr().err
    assert error.count("error: ") == 1 and "Traceback" not in error
    return error


def test_the_help_lists_every_command_and_loads_nothing_heavy():
    code = (
        "import sys; from pipelines import cli; cli._parser().format_help();"
        "print([m for m in ('torch', 'dagster', 'dvc', 'minio', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", [["repro"], ["demo"]])
class TestPreflight:
    """Each fault is found before any work, with the way out."""

    @pytest.fixture(autouse=True)
    def nothing_runs(self, clone):
        yield
        assert not Path("ran").exists()

    def test_an_unknown_key(self, command, capsys):
        edit("workers:", "wrokers:")
        assert "unknown key 'wrokers' (did you mean 'workers'?)" in refused(capsys, *command)

    def test_an_unknown_recipe(self, command, capsys):
        recipe = next(iter(read_yaml(Path("params.yaml"))["runs"].values()))["recipe"]
        edit(f"recipe: {recipe}", f"recipe: {recipe}x")
        assert f"unknown recipe '{recipe}x' (did you mean" in refused(capsys, *command)

    def test_a_wrong_type(self, command, capsys):
        edit("device: auto", "device: [1]")
        assert "machine.device" in refused(capsys, *command)

    def test_a_file_that_is_no_yaml(self, command, capsys):
        Path("params.yaml").write_text("store: {")
        assert "not readable as YAML" in refused(capsys, *command)
        shutil.copy("profiles/demo.yaml", "params.yaml")

    def test_a_full_disk(self, command, capsys, monkeypatch):
        monkeypatch.setattr(preflight_module, "free_gib", lambda root: 0.1)
        assert "0.1 GiB left, wanted 2.0 GiB; free some" in refused(capsys, *command)

    def test_no_git_repository(self, command, capsys):
        shutil.rmtree(".git")
        assert "is not inside a git repository" in refused(capsys, *command)

    def test_a_folder_below_the_repository(self, command, capsys, monkeypatch):
        Path("below").mkdir()
        monkeypatch.chdir("below")
        assert "is not the top of the repository" in refused(capsys, *command)
        monkeypatch.chdir("..")


def test_demo_refuses_a_taken_port_and_names_the_holder(clone, capsys):
    port = int(read_yaml(Path("params.yaml"))["store"]["endpoint"].rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        assert f"port {port} on 127.0.0.1 is taken by" in refused(capsys, "demo")
    assert not Path("ran").exists()


def test_demo_refuses_an_external_store_that_is_down_or_without_keys(clone, capsys, monkeypatch):
    edit("server: seaweedfs", "server: external")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    assert "no credentials for the store" in refused(capsys, "demo")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    assert "AWS_SECRET_ACCESS_KEY is not" in refused(capsys, "demo")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    assert "no answer from the store" in refused(capsys, "demo")
    assert not Path("ran").exists()


@pytest.mark.slow
def test_demo_runs_pushes_and_shows_the_leaderboard_and_a_second_one_does_no_work(clone, capfd):
    assert main(["demo"]) == 0
    first = capfd.readouterr()
    assert "pushed to the store" in first.err and "make ui" in first.out
    assert any(line.startswith("toy ") and line.endswith("1,000") for line in first.out.splitlines())
    began = time.monotonic()
    assert main(["demo"]) == 0
    seconds = time.monotonic() - began
    second = capfd.readouterr()
    assert "the store has everything already" in second.err
    assert Path("ran").read_text() == "x"
    assert seconds < 20
    # an emptied store is noticed although dvc.lock is the same
    main(["store", "stop"])
    shutil.rmtree(".store/seaweedfs")
    assert main(["demo"]) == 0
    assert "pushed to the store" in capfd.readouterr().err
    assert Path("ran").read_text() == "x"


@pytest.mark.slow
def test_a_failing_stage_ends_the_command_with_an_error_and_no_traceback(clone, capfd):
    Path("board.json").unlink()
    assert main(["repro"]) == 2
    error = capfd.readouterr().err
    assert '"dvc repro" failed with exit code' in error and "Traceback" not in error


def test_store_start_status_configure_stop(clone, capsys):
    assert main(["store", "status"]) == 1
    assert "not running" in capsys.readouterr().out
    assert main(["store", "start"]) == 0
    assert "is up, bucket clipfoundry" in capsys.readouterr().out
    assert main(["store", "status"]) == 0
    assert "healthy at" in capsys.readouterr().out
    Path(".dvc/config.local").unlink()
    assert main(["store", "configure"]) == 0
    assert "endpointurl" in Path(".dvc/config.local").read_text()
    assert main(["store", "stop"]) == 0
    assert "stopped" in capsys.readouterr().out
    assert main(["store", "stop"]) == 0
    assert "was not running" in capsys.readouterr().out


def test_store_operations_are_checked(clone, capsys):
    assert "unknown store operation 'strat' (did you mean 'start'?)" in refused(capsys, "store", "strat")
    assert "store use seaweedfs|minio" in refused(capsys, "store", "use")
    assert "unknown server 'minoi' (did you mean 'minio'?)" in refused(capsys, "store", "use", "minoi")


def test_store_use_changes_one_word_of_params(clone, capsys):
    # a port of its own: a demo may be running beside the tests
    before = (REPOSITORY / "profiles" / "demo.yaml").read_text().replace(":8333", ":28333")
    Path("params.yaml").write_text(before)
    assert ".bin/minio is missing" in refused(capsys, "store", "use", "minio")
    assert Path("params.yaml").read_text() == before.replace("server: seaweedfs", "server: minio")


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["ingest", "toy"], ["assets", "ingest", "--name", "toy"]),
        (["validate", "toy"], ["assets", "validate", "--name", "toy"]),
        (["pretrain", "clip-s0"], ["training", "pretrain", "--name", "clip-s0"]),
        (["evaluate", "clip-s0"], ["evaluation", "evaluate", "--name", "clip-s0"]),
        (["compare"], ["evaluation", "compare"]),
    ],
)
def test_stage_calls_the_stage_program_and_returns_its_exit_code(monkeypatch, arguments, command):
    called = []

    def run(words, check):
        called.append(words)
        return subprocess.CompletedProcess(words, 7)

    monkeypatch.setattr(subprocess, "run", run)
    assert main(["stage", *arguments]) == 7
    assert called == [[sys.executable, "-m", *command]]


def test_baseline_calls_the_data_program_and_returns_its_exit_code(monkeypatch):
    called = []

    def run(words, check):
        called.append(words)
        return subprocess.CompletedProcess(words, 2)

    monkeypatch.setattr(subprocess, "run", run)
    assert main(["baseline", "emoji"]) == 2
    assert called == [[sys.executable, "-m", "assets", "baseline", "--name", "emoji"]]


def test_stage_refuses_unknown_stages_and_missing_names(capsys):
    assert "unknown stage 'pretrian' (did you mean 'pretrain'?)" in refused(capsys, "stage", "pretrian", "x")
    assert "wanted the name of a data set or run" in refused(capsys, "stage", "ingest")
    assert "wanted no name" in refused(capsys, "stage", "compare", "x")


def test_profile_lists_marks_and_selects(clone, capsys):
    shutil.copy("profiles/demo.yaml", "profiles/other.yaml")
    Path("profiles/other.yaml").write_text("# another\n" + Path("profiles/other.yaml").read_text())
    assert main(["profile"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("* demo") and lines[0].endswith("a toy") and lines[1].startswith("  other")
    assert main(["profile", "other"]) == 0
    assert "params.yaml is now profiles/other.yaml" in capsys.readouterr().out
    edit("workers:", "# mine\n  workers:")
    assert "was edited" in refused(capsys, "profile", "demo")
    assert main(["profile", "demo", "--force"]) == 0
    assert "kept your params.yaml as params.yaml.bak" in capsys.readouterr().out


def test_leaderboard_without_one_says_what_makes_it(clone, capsys):
    assert "reports/leaderboard.json does not exist; run" in refused(capsys, "leaderboard")
