"""A real object store on this machine, and a network in front of it that can fail."""

import io
import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from assets.store import Store, StoreConfig, open_store
from pipelines import store_server

MINIO = Path(__file__).resolve().parents[1] / ".bin" / "minio"
# for tests that take long and in which the server plays a small part
ONLY_SEAWEEDFS = pytest.mark.parametrize("object_store", ["seaweedfs"], indirect=True)
ONLY_MINIO = pytest.mark.parametrize("object_store", [pytest.param("minio", marks=pytest.mark.minio)], indirect=True)


class ObjectStore:
    """A started server.

    Attributes:
        config: Its section ``store``.
        keys: The folder of its credentials.json.
    """

    def __init__(self, server: str, root: Path) -> None:
        first = 29000 + os.getpid() * 41 % 3000
        port = next(port for port in range(first, first + 3000, 31) if store_server.port_is_free(port))
        values = {
            "server": server,
            "endpoint": f"http://127.0.0.1:{port}",
            "bucket": "clipfoundry",
            "region": "us-east-1",
        }
        self.config = StoreConfig.model_validate(values)
        self.root, self.keys = root, root / ".store"
        store_server.start(self.config, root)

    @property
    def store(self) -> Store:
        return open_store(self.config, self.keys)

    def put(self, name: str, content: bytes, part_size: int = 0) -> str:
        """Store an object in our bucket and return its URL."""
        self.store.client.put_object("clipfoundry", name, io.BytesIO(content), len(content), part_size=part_size)
        return f"s3://clipfoundry/{name}"


class Network:
    """Passes TCP connections on to a server.

    Attributes:
        gets: Path of every GET that came through.
        cuts: Bytes of answer after which the connection of a coming GET breaks, one entry for each.
        held: Set when an answer is being held back.
        hold_after: Bytes of answer after which everything waits for ``release``; None for never.
        release: Lets what is held go on.
    """

    def __init__(self, port: int) -> None:
        self.gets: list[str] = []
        self.cuts: list[int] = []
        self.hold_after: int | None = None
        self.held, self.release = threading.Event(), threading.Event()
        self._server = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.release.set()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                left: list[int | None] = [None]
                threading.Thread(target=self._up, args=(client, server, left), daemon=True).start()
                threading.Thread(target=self._down, args=(client, server, left), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket, left: list[int | None]) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                if data.startswith(b"GET "):
                    self.gets.append(data.split(b" ", 2)[1].decode())
                    left[0] = self.cuts.pop(0) if self.cuts else None
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _down(self, client: socket.socket, server: socket.socket, left: list[int | None]) -> None:
        passed = 0
        with suppress(OSError), client, server:
            while data := server.recv(1 << 16):
                if left[0] is not None:
                    data = data[: left[0]]
                    left[0] -= len(data)
                client.sendall(data)
                passed += len(data)
                if left[0] == 0:
                    client.shutdown(socket.SHUT_RDWR)
                    return
                if self.hold_after is not None and passed >= self.hold_after:
                    self.held.set()
                    self.release.wait()


@pytest.fixture(scope="session", params=["seaweedfs", pytest.param("minio", marks=pytest.mark.minio)])
def object_store(request, tmp_path_factory):
    """A running server with an empty bucket; use names of your own in it."""
    root = tmp_path_factory.mktemp(f"store-{request.param}")
    if request.param == "minio":
        if not MINIO.is_file():
            reason = 'the MinIO server is not built; run "make minio" (needs Go 1.24 or newer)'
            pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
        (root / ".bin").mkdir()
        (root / ".bin" / "minio").symlink_to(MINIO)
    server = ObjectStore(request.param, root)
    yield server
    store_server.stop(server.config, root)


@pytest.fixture
def network(object_store):
    """The way to the object store, which a test can watch and break."""
    network = Network(object_store.config.port)
    yield network
    network.close()
