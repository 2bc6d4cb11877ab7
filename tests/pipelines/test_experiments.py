import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from dagster import DagsterInstance

from assets.errors import ConfigError
from pipelines.dvc_command import DvcCommand
from pipelines.dvc_project import load_project
from pipelines.experiments import STEP, Experiment, experiment_arguments, experiment_job, scores_table
from pipelines.process_group import Patience

DRIVER = """
import sys
from pathlib import Path
from dagster import DagsterInstance
from pipelines.dvc_command import DvcCommand
from pipelines.dvc_project import load_project
from pipelines.experiments import experiment_job
from pipelines.process_group import Patience
root = Path.cwd()
job = experiment_job(load_project(root), DvcCommand(root, Patience(interrupt=30, terminate=2)))
values = {"toy.steps": "600", "toy.seconds_per_step": "0.1"}
config = {"ops": {"run_experiment": {"config": {"set": values, "targets": ["pretrain"], "name": "slow"}}}}
job.execute_in_process(instance=DagsterInstance.get(), run_config=config, raise_on_error=False)
"""


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(["git", *identity, *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout


def commit(root: Path) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-qm", "state")


def workspace(root: Path) -> dict[str, bytes]:
    """Content of everything a user would see change; DVC's own bookkeeping is not among it."""
    files = [path for path in root.rglob("*") if path.is_file()]
    kept = [path for path in files if path.relative_to(root).parts[0] not in (".git", ".dvc", "__pycache__")]
    return {str(path.relative_to(root)): path.read_bytes() for path in kept}


def temporary_folders(root: Path) -> list[Path]:
    return list((root / ".dvc/tmp/exps/standalone").glob("tmp*"))


def run(toy, instance: DagsterInstance, **config):
    job = experiment_job(load_project(toy.root), DvcCommand(toy.root, Patience()))
    chosen = {"ops": {STEP: {"config": config}}}
    return job.execute_in_process(instance=instance, run_config=chosen, raise_on_error=False)


def output_metadata(result):
    event = next(event for event in result.all_events if event.is_successful_output)
    return event.step_output_data.metadata


def failure_text(result) -> str:
    return next(event for event in result.all_events if event.is_step_failure).step_failure_data.error.message


@pytest.mark.slow
def test_values_reach_the_stage_and_the_workspace_stays(toy, instance):
    program = toy.root / "toy_stages.py"
    text = program.read_text(encoding="utf-8")
    program.write_text(text.replace('{"loss": 1.0}', '{"loss": 1.0 / KNOBS["steps"]}'), encoding="utf-8")
    toy.set(steps=4)
    toy.dvc("repro", "-q")
    commit(toy.root)
    before = workspace(toy.root)

    result = run(toy, instance, set={"toy.steps": "8"}, targets=["pretrain"], name="eight")

    assert result.success
    assert workspace(toy.root) == before
    assert git(toy.root, "status", "--short") == ""
    assert temporary_folders(toy.root) == []
    metadata = output_metadata(result)
    assert metadata["experiment"].value == "eight"
    assert metadata["set"].value == {"toy.steps": "8"}
    assert "| train.loss (runs/clip-s0/metrics.json) | 0.25 | 0.125 | -0.125 |" in metadata["scores"].value
    assert "pretrain@clip-s0" in metadata["stages run"].value
    assert "ingest@emoji" not in metadata["stages run"].value
    run_tags = instance.get_run_by_id(result.run_id).tags
    assert run_tags["dvc/experiment"] == "eight"
    assert run_tags[f"progress/{STEP}"] == "done", "the stage's progress did not arrive"

    toy.dvc("exp", "apply", "eight")
    assert json.loads((toy.root / "models/clip-s0/manifest.json").read_text())["counts"] == {"steps": 8}
    with pytest.raises(ConfigError, match=r"an experiment eight already.*dvc exp remove eight"):
        experiment_arguments(load_project(toy.root), Experiment(), "eight")


@pytest.mark.slow
def test_a_failed_stage_says_its_own_error(toy, instance):
    commit(toy.root)

    result = run(toy, instance, set={"toy.quality": "stops"}, targets=["validate"], name="bad")

    assert not result.success
    assert "experiment bad failed: error: too many samples were rejected" in failure_text(result)
    assert temporary_folders(toy.root) == []
    assert git(toy.root, "for-each-ref", "refs/exps") == ""


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"set": {"toy.stepz": "8"}}, "params.yaml.toy: unknown key 'stepz' (did you mean 'steps'?)"),
        ({"set": {"toy.steps.more": "8"}}, "params.yaml.toy.steps holds a value"),
        ({"set": {"toy": "8"}}, "params.yaml: toy is a section; set one of its keys: toy.samples"),
        ({"set": {"toy.steps": "many"}}, "value of toy.steps, got 'many', wanted one like 3"),
        ({"targets": ["pretrian"]}, "unknown stage 'pretrian' (did you mean 'pretrain'?)"),
        ({"name": "a b"}, "name of the experiment, got 'a b'"),
    ],
)
def test_a_wrong_choice_is_refused_before_any_work(toy, instance, config, said):
    commit(toy.root)

    result = run(toy, instance, **config)

    assert not result.success
    assert said in failure_text(result)
    assert not (toy.root / ".dvc/tmp/exps").exists(), "DVC was started"


def test_a_project_without_a_commit_is_told_to_make_one(toy):
    with pytest.raises(ConfigError, match="no git commit yet"):
        experiment_arguments(load_project(toy.root), Experiment(), "first")


def test_values_keep_their_type_and_their_commas(toy):
    commit(toy.root)
    chosen = Experiment(set={"toy.seconds_per_step": "3e-3", "toy.stubborn": "true", "toy.quality": "it's, [so]"})

    arguments = experiment_arguments(load_project(toy.root), chosen, "typed")

    assert [text.partition("=")[2] for text in arguments if text.startswith("--set-param")] == [
        "toy.seconds_per_step=0.003",
        "toy.stubborn=true",
        r"toy.quality='it\'s, [so]'",
    ]


def test_the_scores_of_all_runs_come_first_and_a_long_table_is_cut():
    many = {f"m{number:02d}": {"old": 1.0, "new": 2.0, "diff": 1.0} for number in range(50)}

    table = scores_table({"a.json": many, "reports/scores.json": {"top1": {"old": None, "new": 0.5}}}, "try")

    lines = table.splitlines()
    assert lines[2] == "| top1 (reports/scores.json) | - | 0.5 |  |"
    assert sum(line.startswith("| m") and "a.json" in line for line in lines) == 39
    assert lines[-1].startswith("11 more")
    assert scores_table({}, "try") == "No metric differs from HEAD."


@pytest.mark.slow
def test_cancelling_stops_the_trainer_and_leaves_the_workspace_clean(toy, instance):
    toy.dvc("repro", "-q", "validate")
    commit(toy.root)
    before = workspace(toy.root)
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER], cwd=toy.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    until = time.monotonic() + 120
    while not (found := [p for f in temporary_folders(toy.root) for p in f.glob("work/trainer.pid") if p.read_text()]):
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < until, "the trainer never started"
        time.sleep(0.1)
    trainer = psutil.Process(int(found[0].read_text()))
    assert os.getpgid(trainer.pid) != os.getpgid(driver.pid)

    driver.send_signal(signal.SIGINT)
    output, _ = driver.communicate(timeout=90)

    assert not trainer.is_running() or trainer.status() == psutil.STATUS_ZOMBIE, output
    assert temporary_folders(toy.root) == []
    assert workspace(toy.root) == before
    assert git(toy.root, "for-each-ref", "refs/exps") == ""
