import os

import pytest

from pipelines.ui import serve
from tests.pipelines.ui_walk import Walk, browser_page, find_browser, free_port, graph_names, groups, shown

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def browser() -> str:
    executable = find_browser()
    if executable is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must have a Chromium; install the Debian package chromium")
        pytest.skip("no Chromium on this machine; install the package chromium to run this test")
    return executable


def test_a_user_sees_the_graph_materialises_and_reads_checks_and_metadata(toy, browser, tmp_path):
    toy.dvc("repro", "-q", "ingest")
    with serve(toy.root, free_port()) as server, browser_page(browser) as page:
        walk = Walk(page, server.url, tmp_path / "pictures")
        seen = walk.graph(groups(toy.root))
        assert [name for name in graph_names(toy.root) if not shown(name, seen)] == []

        walk.materialize("data/valid-emoji")
        text = walk.asset("data/valid-emoji")
        assert "rejected_by_reason/blank" in text
        assert "validate@emoji" in text
        text = walk.checks("data/valid-emoji")
        assert "all 1 rules hold" in text
        assert "Succeeded" in text
        assert "Success" in walk.runs()
    assert "up to date" in toy.dvc("status", "validate")
    assert {path.stem for path in (tmp_path / "pictures").glob("*.png")} >= {"graph", "asset-valid-emoji", "runs"}


def test_the_plots_page_draws_without_a_network(toy, browser):
    from pipelines.plots_template import write_plots_template

    write_plots_template(toy.root / ".dvc/plots.html")
    toy.dvc("config", "plots.html_template", "plots.html")
    toy.dvc("repro", "-q", "pretrain")
    address = toy.dvc("plots", "show").strip().splitlines()[-1]

    asked: list[str] = []
    with browser_page(browser) as page:
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.locator("canvas, svg.marks").first.wait_for()
        assert "loss" in page.inner_text("body") or page.locator("canvas, svg.marks").count() >= 1
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
