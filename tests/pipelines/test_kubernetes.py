"""Stages in pods: the manifests against Kubernetes' own schemas, the way there against a cluster's API played by us."""

import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from assets.errors import ConfigError
from pipelines.dvc_command import DvcCommand
from pipelines.kubernetes import PYTHON, KubernetesCommand, choose_command
from pipelines.stage_pods import PodRun, pod_template, stage_pod

kubernetes = pytest.importorskip("kubernetes", reason="the extra deploy is not installed")
REPOSITORY = Path(__file__).resolve().parents[2]
POD = {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "stage", "image": "x"}]}}


class Cluster(http.server.ThreadingHTTPServer):
    """The part of Kubernetes' API that we use; a pod is a process on this machine.

    Attributes:
        created: Every manifest that was posted.
        deleted: Names of pods that were deleted while they lived.
        faults: How many coming requests are answered with 503.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.root = root
        self.pods: dict[str, subprocess.Popen[bytes]] = {}
        self.created: list[dict] = []
        self.deleted: list[str] = []
        self.faults = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def start(self, pod: dict) -> None:
        self.created.append(pod)
        container = pod["spec"]["containers"][0]
        env = {"PATH": os.environ["PATH"], **{one["name"]: one["value"] for one in container["env"]}}
        command = [sys.executable, *container["command"][1:]]
        log = (self.root / f"{pod['metadata']['name']}.log").open("wb")
        self.pods[pod["metadata"]["name"]] = subprocess.Popen(command, cwd=self.root, env=env, stdout=log, stderr=log)

    def describe(self, name: str) -> dict:
        code = self.pods[name].poll()
        phase = "Running" if code is None else "Failed" if code else "Succeeded"
        state = {"running": {}} if code is None else {"terminated": {"exitCode": code}}
        status = {"name": "stage", "state": state, "image": "", "imageID": "", "ready": True, "restartCount": 0}
        return {"metadata": {"name": name}, "status": {"phase": phase, "containerStatuses": [status]}}


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers for :class:`Cluster`."""

    server: Cluster

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: object) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(body, bytes) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def name(self) -> str | None:
        """The pod meant, when it is there and the cluster is well; else the answer is given."""
        name = self.path.partition("?")[0].removeprefix("/api/v1/namespaces/default/pods").strip("/").split("/")[0]
        if self.server.faults:
            self.server.faults -= 1
            self.answer(503, {"message": "the cluster is busy"})
        elif name and name not in self.server.pods:
            self.answer(404, {"message": "no such pod"})
        else:
            return name
        return None

    def do_POST(self) -> None:
        pod = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.name() is not None:
            self.server.start(pod)
            self.answer(201, pod)

    def do_GET(self) -> None:
        if (name := self.name()) is None:
            return
        if "/log" in self.path:
            self.server.pods[name].wait()
            self.answer(200, (self.server.root / f"{name}.log").read_bytes())
        else:
            self.answer(200, self.server.describe(name))

    def do_DELETE(self) -> None:
        if (name := self.name()) is None:
            return
        process = self.server.pods.pop(name)
        if process.poll() is None:
            self.server.deleted.append(name)
            process.terminate()
            process.wait()
        self.answer(200, {"metadata": {"name": name}})


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    cluster = Cluster(tmp_path)
    address = f"http://127.0.0.1:{cluster.server_port}"
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "clusters": [{"name": "here", "cluster": {"server": address}}],
        "users": [{"name": "me", "user": {}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(kubeconfig))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    yield cluster
    cluster.shutdown()
    for process in cluster.pods.values():
        process.kill()


def pod_run(
    cluster: Cluster, program: str, lines: list[str] | None = None, address: str = "pretrain@clip-s0"
) -> PodRun:
    configuration = kubernetes.client.Configuration(host=f"http://127.0.0.1:{cluster.server_port}")
    configuration.retries = 0
    api = kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(configuration))
    pod = stage_pod(POD, address, ["python", "-c", program], {})
    write = lines.append if lines is not None else (lambda text: None)
    return PodRun(api, "default", pod, write, wait=lambda seconds: None)


def test_output_and_exit_code_come_back_and_no_pod_stays(cluster):
    lines: list[str] = []
    assert pod_run(cluster, "import sys; print('loss 2.31'); sys.exit(3)", lines).run() == 3
    assert "loss 2.31\n" in "".join(lines)
    assert pod_run(cluster, "print('well')").run() == 0
    assert cluster.pods == {}


def test_what_an_earlier_try_left_is_stopped_before_the_next_one_starts(cluster):
    left = pod_run(cluster, "import time; time.sleep(600)")
    left.api.create_namespaced_pod("default", left.pod)
    assert pod_run(cluster, "pass").run() == 0
    assert cluster.deleted == [left.name]


def test_a_cluster_that_is_busy_is_asked_again(cluster):
    lines: list[str] = []
    cluster.faults = 2
    assert pod_run(cluster, "pass", lines).run() == 0
    assert sum("does not answer" in line for line in lines) == 2


def test_stages_whose_names_differ_by_a_sign_have_pods_of_their_own():
    names = {stage_pod(POD, one, ["python"], {})["metadata"]["name"] for one in ("train@a-b", "train@a_b", "train@a.b")}
    assert len(names) == 3 and all(len(name) <= 63 for name in names)
    long = stage_pod(POD, "pretrain@" + "x" * 200, ["python"], {})["metadata"]["name"]
    assert len(long) <= 63


def test_a_pod_gets_what_pipes_and_dvc_say_and_no_secret():
    env = {"DAGSTER_PIPES_CONTEXT": "c", "DVC_STAGE": "s", "AWS_SECRET_ACCESS_KEY": "k", "DAGSTER_PG_PASSWORD": "p"}
    pod = stage_pod(POD, "pretrain@clip-s0", ["python", "-m", "training"], env)
    assert {one["name"] for one in pod["spec"]["containers"][0]["env"]} == {"DAGSTER_PIPES_CONTEXT", "DVC_STAGE"}
    assert "env" not in POD["spec"]["containers"][0], "the template is left alone"


def with_pods(toy, monkeypatch) -> None:
    """Give the toy project our shim and a template for its pool gpu, and put temporary files on its volume."""
    folder = toy.root / "deploy" / "pods"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(REPOSITORY / "deploy" / "pods" / "bin" / "python")
    YAML().dump(POD, folder / "gpu.yaml")
    (toy.root / ".dagster" / "tmp").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(toy.root / ".dagster" / "tmp"))


@pytest.mark.slow
def test_only_stages_of_a_pool_with_a_template_leave_for_a_pod_and_their_facts_come_back(
    toy, instance, cluster, monkeypatch
):
    from dagster import materialize

    from pipelines.dvc_assets import dvc_assets
    from pipelines.dvc_project import load_project

    with_pods(toy, monkeypatch)
    cluster.root = toy.root
    project = load_project(toy.root)
    assets = dvc_assets(project, command=KubernetesCommand(toy.root))
    assert materialize(assets, instance=instance, raise_on_error=False).success
    assert [pod["metadata"]["annotations"]["clipfoundry/stage"] for pod in cluster.created] == ["pretrain@clip-s0"]
    assert (toy.root / "models/clip-s0").is_dir()
    tags = instance.get_runs()[0].tags
    assert any(key.startswith("progress/") for key in tags), "progress came through the shared volume"


@pytest.mark.slow
def test_a_stage_that_is_told_to_stop_stops_its_pod_and_waits_for_it(toy, cluster, monkeypatch):
    with_pods(toy, monkeypatch)
    cluster.root = toy.root
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (open('saved', 'w').close(), sys.exit()))\n"
        "open('ready', 'w').close()\n"
        "time.sleep(600)"
    )
    env = {**os.environ, PYTHON: sys.executable, "DVC_ROOT": str(toy.root), "DVC_STAGE": "pretrain@clip-s0"}
    stand_in = toy.root / "deploy/pods/bin/python"
    with subprocess.Popen([stand_in, "-c", program], cwd=toy.root, env=env) as process:
        until = time.monotonic() + 60
        while not (toy.root / "ready").exists():
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        process.terminate()
        assert process.wait(60) == 130
    assert (toy.root / "saved").exists()
    assert len(cluster.deleted) == 1 and cluster.pods == {}


def test_pods_are_refused_where_they_could_not_report(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    with pytest.raises(ConfigError, match=r"not on the volume of the pods, got '/tmp'; set TMPDIR"):
        KubernetesCommand(tmp_path / "project").run(None, ["status"])  # pyright: ignore[reportArgumentType]


def test_the_environment_chooses_how_dvc_is_called(tmp_path, monkeypatch):
    monkeypatch.delenv("CLIPFOUNDRY_STAGE_PODS", raising=False)
    assert type(choose_command(tmp_path)) is DvcCommand
    monkeypatch.setenv("CLIPFOUNDRY_STAGE_PODS", "yes")
    assert type(choose_command(tmp_path)) is KubernetesCommand


def test_a_template_with_two_containers_is_refused(toy, monkeypatch):
    with_pods(toy, monkeypatch)
    assert pod_template(toy.root, "ingest@emoji") is None
    assert pod_template(toy.root, "pretrain@clip-s0") == POD
    YAML().dump({**POD, "spec": {"containers": []}}, toy.root / "deploy/pods/gpu.yaml")
    with pytest.raises(ConfigError, match="wanted kind: Pod with one container"):
        pod_template(toy.root, "pretrain@clip-s0")


def test_the_stand_in_hands_on_to_the_real_python(tmp_path):
    stand_in = REPOSITORY / "deploy/pods/bin/python"
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    env = {**os.environ, PYTHON: sys.executable, "DVC_ROOT": str(tmp_path), "DVC_STAGE": "stamps"}
    program = "import sys; print(sys.argv[1:]); sys.exit(7)"
    done = subprocess.run([stand_in, "-c", program, "a b"], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "['a b']\n")
