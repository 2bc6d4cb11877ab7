"""The store suite, run for real against both servers that we can start."""

import hashlib
import http.server
import io
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from assets.errors import ConfigError, StoreError
from assets.store import CREDENTIALS, Credentials, Store, StoreConfig, open_store
from pipelines import store_server
from pipelines.dvc_remote import configure_dvc_remote, configured_url

REPOSITORY = Path(__file__).resolve().parents[2]
MINIO = REPOSITORY / ".bin" / "minio"
MIB = 1 << 20


def free_port() -> int:
    """A port with room for a server's other services above it; differs between test processes."""
    first = 20000 + os.getpid() * 37 % 9000
    return next(port for port in range(first, first + 3000, 29) if store_server.port_is_free(port))


def config_at(port: int, server: str = "seaweedfs", bucket: str = "clipfoundry") -> StoreConfig:
    return StoreConfig.model_validate(
        {"server": server, "endpoint": f"http://127.0.0.1:{port}", "bucket": bucket, "region": "us-east-1"}
    )


class Running:
    """A started server with its folder."""

    def __init__(self, server: str, root: Path) -> None:
        self.config, self.root = config_at(free_port(), server), root
        self.folder = root / ".store"
        store_server.start(self.config, root)

    @property
    def store(self) -> Store:
        return open_store(self.config, self.folder)


@pytest.fixture(scope="module", params=["seaweedfs", pytest.param("minio", marks=pytest.mark.minio)])
def running(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    if request.param == "minio":
        if not MINIO.is_file():
            reason = 'the MinIO server is not built; run "make minio" (needs Go 1.24 or newer)'
            pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
        (root / ".bin").mkdir()
        (root / ".bin" / "minio").symlink_to(MINIO)
    server = Running(request.param, root)
    yield server
    store_server.stop(server.config, root)


def put(store: Store, name: str, content: bytes, part_size: int = 0) -> None:
    store.client.put_object(store.config.bucket, name, io.BytesIO(content), len(content), part_size=part_size)


def get(store: Store, name: str, version: str | None = None) -> bytes:
    response = store.client.get_object(store.config.bucket, name, version_id=version)
    try:
        return response.read()
    finally:
        response.close()
        response.release_conn()


def test_start_creates_the_bucket_and_a_second_start_changes_nothing(running):
    before = store_server.status(running.config, running.root)
    assert running.store.client.bucket_exists("clipfoundry")
    assert running.store.ensure_bucket() is False
    assert store_server.start(running.config, running.root).pid == before.pid
    running.store.health()


def test_a_missing_bucket_is_named_then_created(running):
    store = Store(config_at(running.config.port, running.config.server, "another-bucket"), running.store.credentials)
    with pytest.raises(StoreError, match=r"has no bucket 'another-bucket'.*clipfoundry store configure"):
        store.health()
    with pytest.raises(StoreError, match="has no bucket 'another-bucket'"):
        list(store.list_objects())
    assert store.ensure_bucket() is True
    store.health()


def test_objects_come_back_and_are_listed_by_prefix_in_order(running):
    store = running.store
    for name in ("list/b", "list/a", "list/sub/c", "other"):
        put(store, name, name.encode())
    assert get(store, "list/sub/c") == b"list/sub/c"
    assert [(o.name, o.size) for o in store.list_objects("list/")] == [("list/a", 6), ("list/b", 6), ("list/sub/c", 10)]
    assert next(store.list_objects("list/a")).etag == hashlib.md5(b"list/a").hexdigest()


@pytest.mark.slow
def test_a_listing_longer_than_one_page_is_complete(running):
    store = running.store
    names = [f"pages/{i:04d}" for i in range(1005)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: put(store, name, b"x"), names))
    assert [o.name for o in store.list_objects("pages/")] == names


def test_a_multipart_upload_comes_back_byte_for_byte(running):
    content = os.urandom(12 * MIB + 7)
    put(running.store, "large", content, part_size=5 * MIB)
    assert next(running.store.list_objects("large")).etag.endswith("-3")
    assert get(running.store, "large") == content


def test_versioning_keeps_what_is_overwritten(running):
    store = running.store
    assert store.versioning is False
    store.set_versioning(True)
    assert store.versioning is True
    put(store, "versioned", b"first")
    put(store, "versioned", b"second")
    versions = list(store.client.list_objects("clipfoundry", prefix="versioned", include_version=True))
    assert sorted(get(store, "versioned", v.version_id) for v in versions) == [b"first", b"second"]
    assert get(store, "versioned") == b"second"
    store.set_versioning(False)
    assert store.versioning is False


@pytest.mark.parametrize("part", ["access key", "secret key"])
def test_wrong_keys_are_refused_and_their_source_is_named(running, part):
    right = running.store.credentials
    access = "someone-else" if part == "access key" else right.access_key
    wrong = Store(running.config, Credentials(access, "not-the-secret", "the test"))
    with pytest.raises(StoreError, match=f"refuses the {part} from the test.*restart"):
        wrong.health()
    with pytest.raises(StoreError, match="refuses"):
        wrong.ensure_bucket()
    assert "not-the-secret" not in repr(wrong.credentials)


def test_the_server_listens_on_loopback_only(running):
    process = psutil.Process(store_server.status(running.config, running.root).pid)
    listening = [c for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert running.config.port in {c.laddr.port for c in listening}
    assert {c.laddr.ip for c in listening} <= {"127.0.0.1", "::1"}


def test_a_restart_keeps_the_data(running):
    content = os.urandom(6 * MIB)
    put(running.store, "kept", content)
    put(running.store, "empty", b"")
    first = store_server.status(running.config, running.root).pid
    assert store_server.stop(running.config, running.root) is True
    assert store_server.status(running.config, running.root).running is False
    assert store_server.stop(running.config, running.root) is False
    assert store_server.start(running.config, running.root).pid != first
    assert get(running.store, "kept") == content
    assert get(running.store, "empty") == b""


def test_lost_keys_are_made_anew_by_a_start(running):
    put(running.store, "before-the-loss", b"still here")
    (running.folder / CREDENTIALS).unlink()
    with pytest.raises(StoreError, match="no credentials"):
        running.store.health()
    store_server.start(running.config, running.root)
    assert get(running.store, "before-the-loss") == b"still here"


def test_another_port_in_params_moves_the_server(running):
    put(running.store, "moving", b"moved")
    running.config = config_at(free_port(), running.config.server)
    store_server.start(running.config, running.root)
    assert get(running.store, "moving") == b"moved"


def run(*command: str, folder: Path) -> str:
    environment = os.environ | {"DVC_NO_ANALYTICS": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dvc(folder: Path, *arguments: str) -> str:
    return run(sys.executable, "-m", "dvc", *arguments, folder=folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.slow
def test_dvc_pull_in_a_second_clone_restores_the_pushed_folder_byte_for_byte(running, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    (first / "data" / "train").mkdir(parents=True)
    for number, size in enumerate((0, 1, 513, 70_000, 11 * MIB)):
        (first / "data" / "train" / f"{number:05d}.tar").write_bytes(os.urandom(size))
    (first / "data" / "names with blanks.json").write_text('{"name": "caf\u00e9"}', encoding="utf-8")
    run("git", "init", "-q", folder=first)
    dvc(first, "init", "-q")
    dvc(first, "add", "-q", "data")
    assert configured_url(first) is None
    assert configure_dvc_remote(running.config, running.store.credentials, first) is True
    assert configure_dvc_remote(running.config, running.store.credentials, first) is False
    assert configured_url(first) == "s3://clipfoundry/dvc"
    dvc(first, "push", "-r", "store")
    run("git", "add", ".", folder=first)
    run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "data", folder=first)
    tracked = run("git", "ls-files", folder=first)
    assert "config.local" not in tracked
    run("git", "clone", "-q", str(first), str(second), folder=tmp_path)
    configure_dvc_remote(running.config, running.store.credentials, second)
    dvc(second, "pull", "-r", "store")
    assert contents(second / "data") == contents(first / "data")
    assert "Everything is up to date" in dvc(first, "push", "-r", "store")


def test_a_server_that_is_down_is_reported_quickly(tmp_path):
    config = config_at(free_port())
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"no answer from the store at .*clipfoundry store start"):
        Store(config, Credentials("a", "b", "the test")).health()
    assert time.monotonic() - began < 5
    external = config.model_copy(update={"server": "external"})
    with pytest.raises(StoreError, match=r"no answer .*start that server or correct store.endpoint"):
        Store(external, Credentials("a", "b", "the test")).health()


@pytest.mark.parametrize("status", [200, 404])
def test_something_else_on_the_port_is_not_taken_for_a_store(status):
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>hello")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(StoreError, match="answers, but not as an S3 server"):
            Store(config_at(server.server_port), Credentials("a", "b", "the test")).health()
        server.shutdown()


def test_a_taken_port_is_refused_before_anything_starts_and_its_holder_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StoreError, match=rf"port {port} .* is taken by .*pid {os.getpid()}.*store.endpoint"):
            store_server.start(config_at(port), tmp_path)
    assert not list((tmp_path / ".store").glob("*.pid.json"))


def test_a_server_that_dies_at_once_shows_its_last_words(tmp_path):
    program = tmp_path / ".bin" / "minio"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho broken disk >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(StoreError, match="minio stopped right after its start: broken disk"):
        store_server.start(config_at(free_port(), "minio"), tmp_path)


def test_a_missing_minio_says_how_to_build_it(tmp_path):
    with pytest.raises(StoreError, match=r"\.bin/minio is missing.*make minio"):
        store_server.start(config_at(free_port(), "minio"), tmp_path)


def test_an_external_server_is_never_started_by_us(tmp_path):
    config = config_at(free_port()).model_copy(update={"server": "external"})
    with pytest.raises(StoreError, match="external"):
        store_server.start(config, tmp_path)
    assert store_server.stop(config, tmp_path) is False


@pytest.mark.slow
def test_the_server_outlives_the_command_that_started_it_and_foreign_pids_are_left_alone(tmp_path):
    config = config_at(free_port())
    code = (
        "import sys; from pathlib import Path\n"
        "from assets.store import StoreConfig; from pipelines import store_server\n"
        "store_server.start(StoreConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", code, config.model_dump_json(), str(tmp_path)], cwd=REPOSITORY, check=True)
    try:
        open_store(config, tmp_path / ".store").health()
    finally:
        assert store_server.stop(config, tmp_path) is True
    record = tmp_path / ".store" / "seaweedfs.pid.json"
    record.write_text(f'{{"pid": {os.getpid()}, "endpoint": "{config.endpoint}"}}')
    assert store_server.status(config, tmp_path).running is False
    assert store_server.stop(config, tmp_path) is False


def test_configuring_the_remote_keeps_other_settings_and_copies_no_keys_from_the_environment(tmp_path):
    local = tmp_path / ".dvc" / "config.local"
    with pytest.raises(ConfigError, match="run inside the repository"):
        configure_dvc_remote(config_at(9000), Credentials("a", "b", "file"), tmp_path)
    local.parent.mkdir()
    local.write_text("[cache]\n    type = reflink\n['remote \"store\"']\n    secret_access_key = old\n")
    configure_dvc_remote(config_at(9000), Credentials("key", "hush", "environment variables X"), tmp_path)
    text = local.read_text()
    assert "reflink" in text and "hush" not in text and "old" not in text and "http://127.0.0.1:9000" in text
    configure_dvc_remote(config_at(9000), Credentials("key", "hush", ".store/credentials.json"), tmp_path)
    assert "secret_access_key = hush" in local.read_text()
    assert local.stat().st_mode & 0o777 == 0o600
