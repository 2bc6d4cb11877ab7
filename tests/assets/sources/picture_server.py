"""A web server on this machine that gives pictures, and every fault that pictures on the web have."""

import io
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

SLOW_SECONDS = 3.0


def picture(number: int, width: int = 120, height: int = 80, form: str = "JPEG") -> bytes:
    """A picture of its own for every number."""
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 3 + number * 37, columns * 2 + number * 11, rows + columns + number * 71], axis=-1)
    stream = io.BytesIO()
    Image.fromarray((pixels % 256).astype(np.uint8)).save(stream, form)
    return stream.getvalue()


class _Handler(BaseHTTPRequestHandler):
    server: "PictureServer"

    def do_GET(self) -> None:
        self.server.note(self.path)
        self.server.before_answer()
        self.server.gate.wait()
        kind, _, rest = self.path.strip("/").partition("/")
        number = int(rest.split(".")[0]) if rest.split(".")[0].isdigit() else 0
        getattr(self, f"_{kind}", self._gone)(number)

    def _gone(self, number: int) -> None:
        self.send_error(404)

    def _broken(self, number: int) -> None:
        self.send_error(500)

    def _picture(self, number: int) -> None:
        self._send(picture(number))

    def _large(self, number: int) -> None:
        self._send(picture(number, 700, 500))

    def _tiny(self, number: int) -> None:
        self._send(picture(number, 8, 8))

    def _wide(self, number: int) -> None:
        self._send(picture(number, 600, 40))

    def _slow(self, number: int) -> None:
        self.server.closing.wait(SLOW_SECONDS)
        self._send(picture(number))

    def _page(self, number: int) -> None:
        self._send(b"<html><body>The picture has moved.</body></html>", kind="text/html")

    def _cut(self, number: int) -> None:
        content = picture(number)
        self._send(content[: len(content) // 2], length=len(content))

    def _moved(self, number: int) -> None:
        self._redirect(f"/picture/{number}")

    def _circle(self, number: int) -> None:
        self._redirect(self.path)

    def _private(self, number: int) -> None:
        self._send(picture(number), robots="noai")

    def _hangup(self, number: int) -> None:
        self.close_connection = True
        self.connection.close()

    def _flaky(self, number: int) -> None:
        # fails once, then works
        if self.server.requests[self.path] == 1:
            self.send_error(503)
        else:
            self._send(picture(number))

    def _redirect(self, target: str) -> None:
        self.send_response(302)
        self.send_header("Location", target)
        self.end_headers()

    def _send(self, content: bytes, kind: str = "image/jpeg", length: int | None = None, robots: str = "") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        if robots:
            self.send_header("X-Robots-Tag", robots)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


class PictureServer(ThreadingHTTPServer):
    """Serves until closed.

    Attributes:
        requests: Number of requests by path.
        gate: Answers wait while it is not set.
        closing: Set at the end.
        before_answer: Called before each answer.
    """

    request_queue_size = 256
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: Counter[str] = Counter()
        self.gate, self.closing = threading.Event(), threading.Event()
        self.gate.set()
        self.before_answer: Callable[[], object] = lambda: None
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def note(self, path: str) -> None:
        with self._lock:
            self.requests[path] += 1

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"

    def close(self) -> None:
        self.closing.set()
        self.gate.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        # a client that hangs up is what some of the tests are about
        pass
