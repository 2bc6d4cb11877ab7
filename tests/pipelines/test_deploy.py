"""compose.yaml, the images and the Kubernetes manifests, checked without a container engine or a cluster."""

import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from copy import deepcopy
from importlib.metadata import entry_points
from itertools import pairwise
from pathlib import Path

import pytest
from dagster._core.instance.config import dagster_instance_config
from ruamel.yaml import YAML

from assets.errors import ConfigError
from pipelines.deployment import prepare
from pipelines.dvc_remote import configured_url
from pipelines.instance import POSTGRES_VARIABLES
from pipelines.process_group import Patience
from tests.conftest import ONLY_SEAWEEDFS

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
LOADER = ROOT / ".bin" / "compose-config"
WORKERS = ("prepare", "code", "webserver", "daemon")
GIVEN = {"POSTGRES_PASSWORD": "a", "STORE_ACCESS_KEY": "b", "STORE_SECRET_KEY": "c"}
SECRET_NAME = re.compile(r"PASSWORD|SECRET|ACCESS_KEY|ROOT_USER|TOKEN")


def read(path: Path) -> list[dict]:
    return list(YAML(typ="safe").load_all(path.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def compose() -> dict:
    return read(ROOT / "compose.yaml")[0]


@pytest.fixture(scope="module")
def values() -> dict:
    return read(DEPLOY / "helm-values.yaml")[0]


def config_command() -> list[str]:
    """How compose files are resolved here: by Docker's plugin, or by a program of the library that it uses."""
    if shutil.which("docker") and not subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        return ["docker", "compose", "--env-file", os.devnull]
    if LOADER.is_file():
        return [str(LOADER)]
    reason = 'neither "docker compose" nor .bin/compose-config is here; run "make compose-config" (needs Go)'
    pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)


def resolve(given: dict[str, str], *files: str) -> subprocess.CompletedProcess[str]:
    command = config_command()
    words = [word for file in files for word in ("-f", file)] + ["config"] if command[0] == "docker" else [*files]
    env = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **given}
    return subprocess.run([*command, *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_compose_takes_the_files_and_a_gpu_is_an_addition():
    plain, gpu = (resolve(GIVEN, "compose.yaml", *more) for more in ((), ("deploy/compose.gpu.yaml",)))
    assert plain.returncode == 0, plain.stderr
    assert gpu.returncode == 0, gpu.stderr
    services = YAML(typ="safe").load(plain.stdout)["services"]
    assert {*services} == {"postgres", "store", *WORKERS}
    assert all("deploy" not in service for service in services.values())
    devices = YAML(typ="safe").load(gpu.stdout)["services"]["code"]["deploy"]["resources"]["reservations"]["devices"]
    assert [device["capabilities"] for device in devices] == [["gpu"]]


@pytest.mark.parametrize("missing", GIVEN)
def test_a_missing_secret_is_refused_with_what_to_do(missing):
    done = resolve({key: value for key, value in GIVEN.items() if key != missing}, "compose.yaml")
    assert done.returncode != 0
    assert missing in done.stderr and "copy deploy/env.example to .env" in done.stderr


def test_nothing_listens_beyond_this_machine(compose):
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert ports and all(re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-\d+\}:\d+", port) for port in ports), ports


def test_secrets_come_from_the_environment_alone(compose):
    found = [
        (name, key, value)
        for name, service in compose["services"].items()
        for key, value in service.get("environment", {}).items()
        if SECRET_NAME.search(key)
    ]
    assert len(found) >= 4 + 3
    assert [one for one in found if not re.fullmatch(r"\$\{[A-Z_]+:\?[^}]+\}", one[2])] == []


def test_the_example_environment_names_just_the_variables_that_are_used():
    text = "".join(path.read_text() for path in (ROOT / "compose.yaml", DEPLOY / "compose.gpu.yaml"))
    named = set(re.findall(r"^(?:# )?([A-Z_]+)=", (DEPLOY / "env.example").read_text(), re.MULTILINE))
    assert set(re.findall(r"\$\{([A-Z_]+)", text)) == named - {"COMPOSE_FILE"}
    ignored = subprocess.run(["git", "check-ignore", "-q", ".env"], cwd=ROOT, check=False)
    assert ignored.returncode == 0


def test_services_wait_for_each_other_and_say_when_they_are_well(compose):
    services = compose["services"]
    for name, service in services.items():
        conditions = {other: how["condition"] for other, how in service.get("depends_on", {}).items()}
        assert set(conditions) <= set(services)
        for other, condition in conditions.items():
            assert condition == ("service_completed_successfully" if other == "prepare" else "service_healthy")
        assert ("healthcheck" in service) == (name != "prepare"), name
        assert (service["restart"] == "no") == (name == "prepare")
    named = {mount.split(":")[0] for service in services.values() for mount in service["volumes"]}
    assert {name for name in named if not name.startswith("$")} == set(compose["volumes"])


def test_workers_share_one_environment_that_our_code_reads(compose):
    for name in WORKERS:
        service = compose["services"][name]
        assert set(POSTGRES_VARIABLES) | {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= set(service["environment"])
        assert service["environment"]["DAGSTER_HOME"] == f"{service['working_dir']}/.dagster/postgres"
        assert service["user"].startswith("${CLIPFOUNDRY_UID")
        assert service["cap_drop"] == ["ALL"]


def known_words(command: list[str]) -> tuple[list[str], list[str]]:
    """Split a command into the program with its subcommands, and the options."""
    start = 3 if command[:2] == ["python", "-m"] else 1
    end = next((at for at in range(start, len(command)) if command[at].startswith("-")), len(command))
    return command[:end], [word for word in command[end:] if re.fullmatch(r"--?[a-z][a-z-]*", word)]


def help_of(program: list[str], monkeypatch, capsys) -> str:
    """What a program prints for --help, in this process: importing Dagster takes seconds each time."""
    monkeypatch.setattr(sys, "argv", [*program, "--help"])
    with pytest.raises(SystemExit) as ended:
        if program[:2] == ["python", "-m"]:
            monkeypatch.delitem(sys.modules, program[2], raising=False)
            runpy.run_module(program[2], run_name="__main__")
        else:
            next(iter(entry_points(group="console_scripts", name=program[0]))).load()()
    assert not ended.value.code, program
    return capsys.readouterr().out


@pytest.mark.slow
def test_every_command_and_option_exists(compose, monkeypatch, capsys):
    commands = {tuple(compose["services"][name]["command"]) for name in WORKERS}
    commands |= {tuple(compose["services"][name]["healthcheck"]["test"][1:]) for name in ("code", "daemon")}
    for command in sorted(commands):
        program, options = known_words(list(command))
        words = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", help_of(program, monkeypatch, capsys)))
        assert set(options) <= words, command
        for place in [Path(after) for before, after in pairwise(command) if before == "-w"]:
            assert read(ROOT / place)[0]["load_from"][0]["grpc_server"]["host"] in compose["services"]
        for module in [after for before, after in pairwise(command) if before == "-m"]:
            assert importlib.util.find_spec(module) is not None


def test_the_images_install_what_the_makefile_installs():
    makefile, docker = (ROOT / "Makefile").read_text(), (DEPLOY / "Dockerfile").read_text()
    minio = re.search(r"MINIO_VERSION := (\S+)", makefile)
    assert minio and minio[1] in (DEPLOY / "minio.Dockerfile").read_text()
    smollm = re.search(r"SMOLLM2 := (\S+)", makefile)
    assert smollm and smollm[1] in docker
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = re.findall(r"--extra (\w+)", docker)
    assert asked and set(asked) <= set(extras)
    for line in (DEPLOY / "requirements.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            assert importlib.util.find_spec(line.split("==")[0].replace("-", "_")), line


def test_the_build_context_holds_what_is_copied_and_nothing_else():
    kept = [line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"]
    copied = re.findall(r"^COPY (.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert sorted(word for line in copied for word in line.split()) == sorted(kept)
    assert all((ROOT / name).is_file() for name in kept)


class TestPrepare:
    """``python -m pipelines.deployment``."""

    @pytest.fixture
    def clone(self, tmp_path, monkeypatch):
        for name in POSTGRES_VARIABLES:
            monkeypatch.delenv(name, raising=False)
        subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
        (tmp_path / ".dvc").mkdir()
        (tmp_path / "dvc.yaml").write_text("stages: {}\n")
        return tmp_path

    def set_store(self, clone: Path, server: str, endpoint: str) -> None:
        store = {"server": server, "endpoint": endpoint, "bucket": "clipfoundry", "region": "us-east-1"}
        YAML().dump({**read(ROOT / "params.yaml")[0], "store": store}, clone / "params.yaml")

    @ONLY_SEAWEEDFS
    @pytest.mark.slow
    def test_it_makes_instance_bucket_and_remote_and_a_second_time_changes_nothing(
        self, clone, object_store, monkeypatch
    ):
        keys = object_store.store.credentials
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.secret_key)
        self.set_store(clone, "external", object_store.config.endpoint)
        home = prepare(clone)
        assert home == clone / ".dagster"
        assert configured_url(clone) == "s3://clipfoundry/dvc"
        assert keys.secret_key not in (clone / ".dvc/config.local").read_text()
        before = {path: path.read_bytes() for path in (home / "dagster.yaml", clone / ".dvc/config.local")}
        prepare(clone)
        assert {path: path.read_bytes() for path in before} == before

    def test_a_store_of_this_machine_is_refused(self, clone):
        self.set_store(clone, "seaweedfs", "http://127.0.0.1:8333")
        with pytest.raises(ConfigError, match=r"store\.server, got 'seaweedfs', wanted external; .*http://store:9000"):
            prepare(clone)
        assert not (clone / ".dagster").exists()

    def test_a_folder_that_is_no_clone_is_refused(self, tmp_path):
        with pytest.raises(ConfigError, match="is not inside a git repository"):
            prepare(tmp_path)


def validate(manifest: dict) -> None:
    """Hold a manifest against the schema that Kubernetes publishes, unknown keys refused."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    kubernetes_validate.validate(manifest, "1.37", strict=True)


def worker_pod(part: dict, **more: object) -> dict:
    """The pod that the chart makes of one part of its values, as far as the values say it."""
    image = part["image"]
    container = {
        "name": "dagster",
        "image": f"{image['repository']}:{image['tag']}",
        "imagePullPolicy": image["pullPolicy"],
        "securityContext": part["securityContext"],
        "volumeMounts": part["volumeMounts"],
        "env": part.get("env", []),
        "envFrom": [{"secretRef": secret} for secret in part.get("envSecrets", ())],
        **more,
    }
    spec = {"containers": [container], "volumes": part["volumes"], "securityContext": part["podSecurityContext"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}


@pytest.mark.slow
def test_pods_are_ones_that_kubernetes_takes(values):
    deployment = values["dagster-user-deployments"]["deployments"][0]
    for part in (deployment, values["dagsterWebserver"], values["dagsterDaemon"]):
        validate(worker_pod(part))
    run = values["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]
    pod = worker_pod(deployment, **run["containerConfig"])
    pod["spec"] |= {**run["podSpecConfig"], "restartPolicy": "Never"}
    job = {"spec": {**run["jobSpecConfig"], "template": {"spec": pod["spec"]}}}
    validate({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "run"}, **job})
    template = read(DEPLOY / "pods/gpu.yaml")[0]
    validate({**template, "metadata": {**template["metadata"], "name": "stage"}})
    for manifest in read(DEPLOY / "kubernetes.yaml"):
        validate(manifest)


def test_the_schemas_would_find_a_fault():
    template = deepcopy(read(DEPLOY / "pods/gpu.yaml")[0])
    template["spec"]["containers"][0]["resource"] = {}
    with pytest.raises(Exception, match="resource"):
        validate(template)


def test_all_pods_share_one_image_one_volume_and_one_owner(values):
    parts = [values["dagsterWebserver"], values["dagsterDaemon"], *values["dagster-user-deployments"]["deployments"]]
    stage = read(DEPLOY / "pods/gpu.yaml")[0]["spec"]
    claim, job = read(DEPLOY / "kubernetes.yaml")
    prepare_pod = job["spec"]["template"]["spec"]
    images = {f"{part['image']['repository']}:{part['image']['tag']}" for part in parts}
    assert images == {stage["containers"][0]["image"]} == {prepare_pod["containers"][0]["image"]}
    claims = {
        volume["persistentVolumeClaim"]["claimName"]
        for volumes in (*(part["volumes"] for part in parts), stage["volumes"], prepare_pod["volumes"])
        for volume in volumes
        if "persistentVolumeClaim" in volume
    }
    assert claims == {claim["metadata"]["name"]}
    owners = {pod["securityContext"]["runAsUser"] for pod in (stage, prepare_pod)}
    assert owners == {part["podSecurityContext"]["runAsUser"] for part in parts}


def test_each_grace_period_leaves_time_for_the_one_inside(values):
    patience = Patience()
    stage = read(DEPLOY / "pods/gpu.yaml")[0]["spec"]["terminationGracePeriodSeconds"]
    run = values["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]["podSpecConfig"]
    assert stage < patience.interrupt < patience.interrupt + patience.terminate < run["terminationGracePeriodSeconds"]
    assert run["terminationGracePeriodSeconds"] < values["dagsterDaemon"]["runMonitoring"]["cancelTimeoutSeconds"]


def test_one_run_at_a_time_because_dvc_locks_by_process_number(values):
    assert values["concurrency"]["runs"]["maxConcurrentRuns"] == 1
    assert "config" not in values["dagsterDaemon"]["runCoordinator"], "the chart refuses the limit in both places"


@pytest.mark.slow
def test_the_instance_settings_are_ones_that_dagster_takes(values, tmp_path, monkeypatch):
    """What the chart writes to dagster.yaml from these values."""
    pytest.importorskip("dagster_postgres")
    pytest.importorskip("dagster_k8s")
    monkeypatch.setenv("DAGSTER_PG_PASSWORD", "x")
    server, limits = values["postgresql"], values["concurrency"]
    database = {
        "scheme": server["postgresqlScheme"],
        "hostname": server["postgresqlHost"],
        "username": server["postgresqlUsername"],
        "db_name": server["postgresqlDatabase"],
        "port": server["service"]["port"],
        "password": {"env": "DAGSTER_PG_PASSWORD"},
    }
    logs = values["computeLogManager"]["config"]["customComputeLogManager"]
    run = values["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]
    names = {key: re.sub("([A-Z])", r"_\1", key).lower() for key in run}
    launcher = {
        "service_account_name": "dagster",
        "instance_config_map": "dagster-instance",
        "dagster_home": values["global"]["dagsterHome"],
        "postgres_password_secret": values["global"]["postgresqlSecretName"],
        "run_k8s_config": {names[key]: part for key, part in run.items()},
    }
    settings = {
        "storage": {"postgres": {"postgres_db": database}},
        "run_launcher": {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": launcher},
        "compute_logs": logs,
        "concurrency": {
            "pools": {"default_limit": limits["pools"]["defaultLimit"], "granularity": limits["pools"]["granularity"]},
            "runs": {"max_concurrent_runs": limits["runs"]["maxConcurrentRuns"]},
        },
    }
    YAML().dump(settings, tmp_path / "dagster.yaml")
    config, _ = dagster_instance_config(str(tmp_path))
    assert config["concurrency"]["runs"]["max_concurrent_runs"] == 1
    from dagster._config import process_config
    from dagster_k8s import K8sRunLauncher

    checked = process_config(K8sRunLauncher.config_type(), launcher)
    assert checked.success, checked.errors


def test_no_manifest_holds_a_secret():
    text = "".join(path.read_text() for path in DEPLOY.rglob("*.yaml"))
    assert not re.search(r"(?i)^\s*\w*(password|secret_?key)\w*:\s+(?!\{)(\"|')?[A-Za-z0-9+/]{6,}", text, re.MULTILINE)
