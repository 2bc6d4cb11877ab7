"""``python -m pipelines.web``: Dagster's web server with the pages of the project in the current folder.

Takes the arguments of ``dagster-webserver``.
"""

from pathlib import Path, PurePosixPath
from typing import Any

from dagster_webserver import app, cli
from dagster_webserver.webserver import DagsterWebserver
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from pipelines.pages import HEADERS, PAGES, TYPES, Pages


class Webserver(DagsterWebserver[Any, Any]):
    """Dagster's web server and one more route."""

    def build_routes(self) -> Any:
        """Return Dagster's routes after the one of our pages, because the last of Dagster's takes every address."""
        pages = Pages(Path.cwd())

        def serve(request: Request) -> Response:
            file = pages.find(request.path_params["path"])
            if file is None:
                return PlainTextResponse("no page of this project\n", status_code=404, headers=HEADERS)
            # by the name in the address: a file in DVC's cache has none
            suffix = PurePosixPath(request.path_params["path"]).suffix
            return FileResponse(file, media_type=TYPES[suffix], headers=HEADERS)

        return [Route(f"{self._app_path_prefix}{PAGES}/{{path:path}}", serve), *super().build_routes()]


def main() -> None:
    """Run the command line of ``dagster-webserver``."""
    # the command makes its server by this name and offers no other way in
    setattr(app, DagsterWebserver.__name__, Webserver)
    cli.cli(auto_envvar_prefix="DAGSTER_WEBSERVER")


if __name__ == "__main__":
    main()
