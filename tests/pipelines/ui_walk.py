"""Walks through the UI in a real browser: graph, materialise, check results, metadata; leaves screenshots.

``test_ui_in_browser.py`` does it on the toy project. For any other project, with its outputs already made or not:
``python tests/pipelines/ui_walk.py --project . --asset data/valid-emoji --pictures docs/images``.
"""

import argparse
import os
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Page, expect, sync_playwright

from pipelines.dvc_project import load_project
from pipelines.translator import Translator
from pipelines.ui import serve

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
PATIENCE = 180_000
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


def find_browser() -> str | None:
    """Return a Chromium of this machine."""
    return next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def browser_page(executable: str, width: int = 1600, height: int = 1000) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        yield page
        browser.close()


@dataclass
class Walk:
    """One visit; every step leaves ``<pictures>/<step>.png``."""

    page: Page
    url: str
    pictures: Path

    def picture(self, name: str) -> None:
        self.pictures.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=self.pictures / f"{name}.png")

    def graph(self, groups: Iterable[str]) -> list[str]:
        """Open the whole graph with these groups unfolded and return the names in it."""
        unfolded = ",".join(f"global@global:{group}" for group in groups)
        self.page.goto(f"{self.url}/asset-groups?expanded={quote(unfolded)}")
        expect(self.page.get_by_text("Materialize all")).to_be_visible()
        expect(self.page.get_by_label("unfold_more")).to_have_count(0)
        self.page.wait_for_timeout(4000)
        self.picture("graph")
        return self.page.inner_text("body").splitlines()

    def materialize(self, asset: str) -> None:
        """Press the button on an asset's page and wait until the asset is green."""
        started = time.time()
        self.page.goto(f"{self.url}/assets/{asset}")
        button = self.page.get_by_role("button", name="Materialize").first
        confirm, launched = self.page.get_by_role("button", name="Confirm"), self.page.get_by_text("Launched")
        answered = confirm.or_(launched).first
        while not answered.is_visible():
            # a press before the page has loaded its definitions does nothing
            assert time.time() - started < PATIENCE / 1000, "the button does nothing"
            button.click()
            self.page.wait_for_timeout(5000)
        if confirm.is_visible():
            # the stage has more than one output
            confirm.click()
        self.picture(f"launched-{Path(asset).name}")
        while "executed" not in self.page.inner_text("body"):
            assert time.time() - started < PATIENCE / 1000, f"{asset} was not materialised"
            self.page.wait_for_timeout(2000)
            self.page.reload()
            expect(self.page.get_by_text("Latest materialization")).to_be_visible()
            self.page.wait_for_timeout(1500)

    def asset(self, asset: str, shows: str = "dvc_hash") -> str:
        """Open an asset's page and return its text, once it shows a piece of metadata."""
        self.page.goto(f"{self.url}/assets/{asset}")
        expect(self.page.get_by_text(shows, exact=True).first).to_be_visible()
        self.page.wait_for_timeout(1000)
        self.picture(f"asset-{Path(asset).name}")
        return self.page.inner_text("body")

    def checks(self, asset: str) -> str:
        """Open an asset's checks and return the text."""
        self.page.goto(f"{self.url}/assets/{asset}?view=checks")
        expect(self.page.get_by_text("Evaluation result")).to_be_visible()
        self.page.wait_for_timeout(1000)
        self.picture(f"checks-{Path(asset).name}")
        return self.page.inner_text("body")

    def runs(self) -> str:
        """Open the list of runs and return its text."""
        self.page.goto(f"{self.url}/runs")
        expect(self.page.get_by_text("Success").first).to_be_visible()
        self.picture("runs")
        return self.page.inner_text("body")

    def run(self, run_id: str, name: str) -> str:
        """Open a run's page while it goes on and return its text."""
        self.page.goto(f"{self.url}/runs/{run_id}")
        expect(self.page.get_by_text("ETA").first).to_be_visible()
        self.picture(f"run-{name}")
        return self.page.inner_text("body")

    def ticks(self, place: str) -> str:
        """Open a sensor or schedule, e.g. ``sensors/dvc_lock``, and return the text of its ticks."""
        self.page.goto(f"{self.url}/locations/__repository__@clipfoundry/{place}")
        expect(self.page.get_by_text("tick", exact=False).first).to_be_visible()
        self.page.wait_for_timeout(3000)
        self.picture(place.partition("/")[0])
        return self.page.inner_text("body")


def graph_names(root: Path) -> list[str]:
    """Return what the graph must show: the last part of every asset's key."""
    translator = Translator()
    return [
        translator.asset_key(out).path[-1]
        for stage in load_project(root).stages.values()
        if not translator.hidden(stage)
        for out in translator.asset_outs(stage)
    ]


def shown(name: str, seen: list[str]) -> bool:
    """Say whether a name is on the page; the graph shortens long ones in the middle."""
    shortened = [line.partition(ELLIPSIS) for line in seen if ELLIPSIS in line]
    return name in seen or any(name.startswith(head) and name.endswith(tail) for head, _, tail in shortened)


def groups(root: Path) -> list[str]:
    """Return the groups of a project's assets."""
    stages = load_project(root).stages.values()
    return sorted({Translator().group(stage) for stage in stages if not Translator().hidden(stage)})


def main() -> None:
    parser = argparse.ArgumentParser(description="Walk through the UI of a project and take pictures.")
    parser.add_argument("--project", type=Path, default=Path())
    parser.add_argument("--asset", action="append", default=[], help="asset key to materialise and photograph")
    parser.add_argument("--pictures", type=Path, required=True)
    options = parser.parse_args()
    executable = find_browser()
    assert executable, "no Chromium on this machine"
    root, pictures = options.project.resolve(), options.pictures.resolve()
    os.chdir(root)
    with serve(root, free_port()) as server, browser_page(executable) as page:
        walk = Walk(page, server.url, pictures)
        for asset in options.asset:
            walk.materialize(asset)
            walk.asset(asset)
            walk.checks(asset)
        seen = walk.graph(groups(root))
        missing = [name for name in graph_names(root) if not shown(name, seen)]
        assert not missing, f"the graph lacks {missing}"
        walk.runs()


if __name__ == "__main__":
    main()
