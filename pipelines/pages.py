"""Pages of the project, served by the web server itself: browsers refuse links to files in a page from a server.

Only pages and what pages are made of, and only from outputs that dvc.yaml declares. A page is sandboxed: scripts in it
(or in a caption that it shows) run without this origin, so they cannot press the UI's buttons.
"""

from pathlib import Path, PurePosixPath
from urllib.parse import quote

from assets.errors import ConfigError
from pipelines.dvc_project import DVC_YAML, PARAMS, load_project

PAGES = "/pages"
TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
_UNDECLARED = ("reports/times.js",)
"""What pages load although it is no output: it differs between machines."""
_CACHE = Path(".dvc/cache")
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "sandbox allow-scripts allow-popups allow-downloads; default-src 'none'; script-src 'self' 'unsafe-inline'; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'self'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def page_address(path: str) -> str:
    """Return the address of a page on the web server.

    Args:
        path: Its file, relative to the project.
    """
    return f"{PAGES}/{quote(path)}"


class Pages:
    """The files of one project that may be served.

    Attributes:
        root: The project, an absolute path.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._outs: tuple[str, ...] = ()
        self._read: list[tuple[int, int]] = []

    def find(self, path: str) -> Path | None:
        """Return the file that a path stands for.

        Args:
            path: What follows ``/pages/`` in the address, decoded.

        Returns:
            The file, or None where there is none or it is none of a browser's business.
        """
        parts = path.split("/")
        if PurePosixPath(path).suffix not in TYPES or "\\" in path or "\0" in path:
            return None
        if any(not part or part.startswith(".") for part in parts):
            return None
        out = next((out for out in self._declared() if path == out or path.startswith(f"{out}/")), None)
        if out is None:
            return None
        file = (self.root / path).resolve()
        # DVC may have put links to its cache in the place of files
        homes = (self.root / out, self.root / _CACHE)
        return file if file.is_file() and any(file.is_relative_to(home) for home in homes) else None

    def _declared(self) -> tuple[str, ...]:
        """Return the outputs of all stages; dvc.yaml is read again only when it or params.yaml has changed."""
        files = [self.root / name for name in (DVC_YAML, PARAMS)]
        read = [(found.st_mtime_ns, found.st_size) for file in files if file.is_file() for found in (file.stat(),)]
        if read != self._read:
            try:
                stages = load_project(self.root).stages.values()
            except ConfigError:
                return self._outs  # someone is editing; what was known stays
            self._outs = (*(out.path for stage in stages for out in stage.outs), *_UNDECLARED)
            self._read = read
        return self._outs
