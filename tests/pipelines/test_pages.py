"""Which files the web server shows, and that it really does, in the real server."""

import http.client
import os
import socket
import subprocess
import sys
import time

import pytest

from pipelines.pages import Pages

DVC_YAML = """
stages:
  compare:
    cmd: "true"
    outs:
      - reports/leaderboard.html
      - reports/runs
      - models
"""


@pytest.fixture
def root(tmp_path):
    project = tmp_path / "project"
    files = {
        "dvc.yaml": DVC_YAML,
        "params.yaml": "a: 1\n",
        "reports/leaderboard.html": "<h1>board</h1>",
        "reports/times.js": "times = {}",
        "reports/other.html": "not declared",
        "reports/runs/clip-s0/index.html": "<h1>run</h1>",
        "reports/runs/clip-s0/figure.svg": "<svg/>",
        "reports/runs/clip-s0/metrics.json": "{}",
        "reports/runs/.hidden/index.html": "hidden",
        "models/weights.safetensors": "weights",
        ".store/credentials.json": "secret",
        "secret.json": "secret",
    }
    for name, text in files.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    (tmp_path / "x.json").write_text("outside")
    return project


SHOWN = [
    "reports/leaderboard.html",
    "reports/times.js",
    "reports/runs/clip-s0/index.html",
    "reports/runs/clip-s0/figure.svg",
    "reports/runs/clip-s0/metrics.json",
]
REFUSED = [
    ".store/credentials.json",
    "../x.json",
    "reports/runs/../../secret.json",
    "reports/runs/../../.store/credentials.json",
    "reports/runs/./clip-s0/index.html",
    "reports//runs/clip-s0/index.html",
    "/etc/hosts.json",
    "reports/runs/.hidden/index.html",
    "reports/other.html",
    "params.yaml",
    "dvc.yaml",
    "secret.json",
    "models/weights.safetensors",
    "reports/runs/missing.html",
    "reports/runs",
    "",
]


@pytest.mark.parametrize("path", SHOWN)
def test_pages_of_outputs_are_found(root, path):
    assert Pages(root).find(path) == root / path


@pytest.mark.parametrize("path", REFUSED)
def test_nothing_else_is(root, path):
    assert Pages(root).find(path) is None


def test_a_link_that_leads_out_of_the_output_is_refused_and_one_into_the_cache_is_followed(root):
    (root / "reports/runs/leak.json").symlink_to(root / "secret.json")
    cached = root / ".dvc/cache/files/md5/ab/cd"
    cached.parent.mkdir(parents=True)
    cached.write_text("<h1>cached</h1>")
    (root / "reports/runs/cached.html").symlink_to(cached)
    assert Pages(root).find("reports/runs/leak.json") is None
    assert Pages(root).find("reports/runs/cached.html") == cached


def test_a_stage_that_is_added_shows_its_pages_without_a_restart_and_a_broken_file_changes_nothing(root):
    pages = Pages(root)
    assert pages.find("reports/other.html") is None
    (root / "dvc.yaml").write_text(DVC_YAML + "      - reports/other.html\n")
    assert pages.find("reports/other.html") is not None
    (root / "dvc.yaml").write_text("stages: [")
    assert pages.find("reports/leaderboard.html") is not None


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        # as it stands: a browser would tidy up the dots first
        connection.putrequest("GET", path, skip_host=False)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


@pytest.fixture
def port(root, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    (root / "workspace.yaml").write_text("load_from: []\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "pipelines.web", "-h", "127.0.0.1", "-p", str(number), "-w", "workspace.yaml"]
    with (tmp_path / "web.log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=root, env={**os.environ, "DAGSTER_HOME": str(home)}, stdout=log, stderr=log
        )
    try:
        until = time.monotonic() + 120
        while True:
            assert server.poll() is None and time.monotonic() < until, (tmp_path / "web.log").read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", number)) == 0:
                    break
            time.sleep(0.2)
        yield number
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.slow
def test_the_real_web_server_serves_pages_beside_the_ui(port):
    for path in SHOWN:
        status, headers, _ = get(port, f"/pages/{path}")
        assert status == 200
        # a page cannot act on the UI in whose origin it lies
        assert "sandbox allow-scripts" in headers["content-security-policy"]
        assert "allow-same-origin" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    status, headers, text = get(port, "/pages/reports/leaderboard.html")
    assert headers["content-type"].startswith("text/html")
    assert text == "<h1>board</h1>"
    for path in [*REFUSED, "%2e%2e/x.json", "reports/runs/%2e%2e/%2e%2e/secret.json", "..%2fx.json"]:
        status, _, text = get(port, f"/pages/{path}")
        assert status == 404, path
        assert "secret" not in text
    assert get(port, "/server_info")[0] == 200
    assert "<html" in get(port, "/assets")[2]
