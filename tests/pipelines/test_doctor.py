import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.errors import StoreError
from pipelines import doctor
from pipelines.doctor import CHECKS, examine, print_findings

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path):
    """The parts of a clone that doctor looks at."""
    for name in ("dvc.yaml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    shutil.copytree(REPOSITORY / "profiles", tmp_path / "profiles")
    shutil.copy(REPOSITORY / "profiles" / "demo.yaml", tmp_path / "params.yaml")
    (tmp_path / ".dvc").mkdir()
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


def finding(root: Path, check: str) -> doctor.Finding:
    only = {check: CHECKS[check]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "CHECKS", only)
        return next(iter(examine(root)))


@pytest.mark.parametrize("check", ["repository", "params", "disk", "packages", "selections", "torch", "shards"])
def test_a_good_clone_passes(clone, check):
    assert finding(clone, check).state == "OK", finding(clone, check)


def test_a_folder_without_git_fails_with_the_fix(tmp_path):
    found = finding(tmp_path, "repository")
    assert (found.state, "clone of clipfoundry" in found.fix) == ("FAIL", True)


def test_wrong_params_fail(clone):
    (clone / "params.yaml").write_text("profile: x\n")
    assert finding(clone, "params").state == "FAIL"


@pytest.mark.parametrize(("free", "state"), [(1.0, "FAIL"), (5.0, "WARN"), (50.0, "OK")])
def test_disk_space_fails_warns_or_passes(clone, monkeypatch, free, state):
    monkeypatch.setattr("pipelines.preflight.free_gib", lambda root: free)
    assert finding(clone, "disk").state == state


def test_a_store_without_keys_or_down_fails_with_the_command_that_starts_it(clone):
    found = finding(clone, "store")
    assert (found.state, "clipfoundry store start" in found.fix) == ("FAIL", True)


def test_keys_that_others_can_read_warn(clone, monkeypatch):
    class Healthy:
        class credentials:
            source = "the test"

    monkeypatch.setattr("pipelines.preflight.check_store", lambda config, root: Healthy)
    (clone / ".store").mkdir()
    (clone / ".store" / "credentials.json").write_text("{}")
    (clone / ".store" / "credentials.json").chmod(0o644)
    assert finding(clone, "store").fix == f"chmod 600 {clone / '.store' / 'credentials.json'}"
    (clone / ".store" / "credentials.json").chmod(0o600)
    assert finding(clone, "store").state == "OK"


def test_the_remote_must_be_the_one_of_params(clone):
    assert finding(clone, "dvc remote").state == "FAIL"
    local = clone / ".dvc" / "config.local"
    local.write_text("['remote \"store\"']\n    url = s3://elsewhere/dvc\n")
    assert "s3://elsewhere/dvc" in finding(clone, "dvc remote").text
    local.write_text("['remote \"store\"']\n    url = s3://clipfoundry/dvc\n")
    assert finding(clone, "dvc remote").state == "OK"


def test_other_versions_than_pinned_warn_and_local_builds_pass(clone):
    (clone / "constraints.txt").write_text("pytest==0.1\nnot-installed-here==1.0\n")
    found = finding(clone, "packages")
    assert found.state == "WARN" and "pytest" in found.text and "not-installed" not in found.text


def test_a_broken_selection_parser_or_torch_pair_fails(clone, monkeypatch):
    def broken(name: str) -> object:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("importlib.import_module", broken)
    assert "hydra-core>=1.4.0rc3" in finding(clone, "selections").fix
    assert "torchvision::nms" in finding(clone, "torch").text


def test_a_wanted_gpu_that_is_not_there_fails(clone, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert finding(clone, "gpu").text == "none, models run on the CPU"
    monkeypatch.setattr(shutil, "which", lambda name: name)
    assert finding(clone, "gpu").state == "WARN"
    params = clone / "params.yaml"
    params.write_text(params.read_text().replace("device: auto", "device: cuda"))
    assert finding(clone, "gpu").state == "FAIL"


def test_fewer_shards_than_workers_warn(clone):
    folder = clone / "data" / "raw" / "toy"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")

    def write_index(*shards: str) -> None:
        pq.write_table(pa.table({"split": ["train"] * len(shards), "shard": shards}), folder / "index.parquet")

    write_index("train/00000.tar", "train/00000.tar")
    found = finding(clone, "shards")
    assert (found.state, "toy has 1" in found.text) == ("WARN", True)
    write_index("../../external/00000.tar", "../../external/00001.tar")
    assert finding(clone, "shards").state == "OK"


def test_a_taken_ui_port_warns_with_its_holder(clone, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(doctor, "UI_PORT", taken.getsockname()[1])
        assert f"pid {os.getpid()}" in finding(clone, "ui port").text


def test_a_missing_browser_only_warns(clone, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert finding(clone, "browser").state == "WARN"


def test_lines_and_json_tell_the_same_and_failures_set_the_exit_code(clone, capsys, monkeypatch):
    def bad(root: Path) -> doctor.Outcome:
        raise StoreError("it is down; start it")

    monkeypatch.setattr(doctor, "CHECKS", {"good": lambda root: ("OK", "fine", ""), "bad": bad})
    assert print_findings(clone) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["OK", "good", "fine"] and lines[1].split()[0] == "FAIL" and "-> start it" in lines[2]
    assert lines[-1] == "1 of 2 checks failed"
    assert print_findings(clone, as_json=True) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert report["findings"][1] == {"check": "bad", "state": "FAIL", "text": "it is down", "fix": "start it"}
    monkeypatch.setattr(doctor, "CHECKS", {"good": lambda root: ("OK", "fine", "")})
    assert print_findings(clone) == 0


@pytest.mark.slow
def test_the_command_line_prints_every_check():
    command = [sys.executable, "-m", "pipelines.cli", "doctor", "--json"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert [found["check"] for found in report["findings"]] == list(CHECKS)
    assert done.returncode == (0 if report["ok"] else 1)
