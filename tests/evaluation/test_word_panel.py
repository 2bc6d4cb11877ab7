import json
import re
import shutil

import pyarrow as pa
import pytest

from assets.index import write_table
from evaluation.compare import compare
from evaluation.results import Folders


@pytest.fixture
def page(scored, tmp_path):
    """The leaderboard page of a project of whose runs one has words."""
    root = tmp_path / "project"
    shutil.copytree(scored, root)
    words = [("held_out_style", "image", "elsewhere", 1, 0.9, 4), ("in_domain", "text", "spoken", 1, 0.8, 4)]
    words += [("in_domain", "image", "<ing>", 2, 0.25, 0), ("in_domain", "image", "square", 1, 0.5, 7)]
    names = ("suite", "side", "word", "rank", "share", "train_captions")
    report = root / "reports/runs/clip-s1"
    write_table(
        pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in words]), report / "active_words.parquet"
    )
    metrics = json.loads((report / "metrics.json").read_text())
    metrics["words"] = {"in_domain": {"num_active_image": 12.5, "num_junk_share_image": 0.031}}
    (report / "metrics.json").write_text(json.dumps(metrics))
    places = {name: root / place for name, place in (("runs", "runs"), ("models", "models"), ("raw", "data/raw"))}
    folders = Folders(reports=root / "reports/runs", valid=None, params=root / "params.yaml", **places)
    compare(folders, tmp_path / "leaderboard.json", tmp_path / "leaderboard.html")
    return (tmp_path / "leaderboard.html").read_text()


def test_the_page_shows_the_words_of_pictures_by_rank_and_marks_junk(page):
    panel = page[page.index("<h2>Words</h2>") : page.index("<h2>What the best run retrieves</h2>")]
    assert panel.count("<figure") == 1 and "clip-s1, in-domain" in panel
    assert "12.5 words per picture, 3.1 % of their weight on junk" in panel
    rows = re.findall(
        r'<th scope="row">(.*?)</th>\s*<td class="n">(.*?) %</td><td class="bar"><span style="(.*?)"', panel
    )
    assert rows == [
        ("square", "50.0", "width: 50.0%"),
        ('&lt;ing&gt; <b class="warn">junk</b>', "25.0", "width: 25.0%"),
    ]


def test_a_page_of_runs_without_words_has_no_such_panel(scored, tmp_path):
    places = {name: scored / place for name, place in (("runs", "runs"), ("models", "models"), ("raw", "data/raw"))}
    folders = Folders(reports=scored / "reports/runs", valid=None, params=scored / "params.yaml", **places)
    compare(folders, tmp_path / "leaderboard.json", tmp_path / "leaderboard.html")
    assert "<h2>Words</h2>" not in (tmp_path / "leaderboard.html").read_text()
