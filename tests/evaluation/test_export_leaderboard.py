import json
import logging
import re

import pytest

from assets.errors import DataError
from assets.manifest import version_of, write_manifest
from evaluation.pareto import pareto_front
from tests.evaluation.squares import RUNS
from tests.evaluation.test_compare import board

MACHINE = {"cpu": "Some CPU", "cores": 2, "threads": 2, "load_average": 0.0}


def cell(median):
    return {"median_ms": median, "lower_quartile_ms": 0.9 * median, "upper_quartile_ms": 1.1 * median, "runs": 30}


def write(folder, root, run, scale=1.0, has_text=True, machine=MACHINE, version=None):
    """An export folder as the stage writes it, without its ONNX files."""
    folder.mkdir(parents=True)
    image = {"1": cell(2 * scale), "64": cell(90 * scale)}
    text = {"1": cell(1 * scale), "64": cell(30 * scale)} if has_text else None
    report = {
        "run": run,
        "parameters": {"image": 1000, "text": 500, "token_embedding": 2000, "total": 3501},
        "flops": {"image": 2e6 * scale, "text": 1e6 * scale if has_text else None},
        "latency": {engine: {"image": image, "text": text} for engine in ("pytorch", "onnxruntime")},
        "machine": machine,
    }
    (folder / "report.json").write_text(json.dumps(report))
    inputs = {"model": version or version_of(root / "models" / run)}
    write_manifest(folder, "export", folder.name, {"run": run}, {}, inputs, "0")


def labels(page):
    """What the plots of size and speed say; those of training cost have a Pareto front too."""
    page = page[page.index("<h2>Size and speed</h2>") :]
    return [label for label in re.findall(r'aria-label="([^"]*)"', page) if "Pareto front" in label]


def test_the_page_shows_size_and_speed_of_exported_runs(scored, tmp_path):
    exports = tmp_path / "exports"
    (exports / "none").mkdir(parents=True)
    write(exports / "a", scored, "clip-s0", 1.0)
    write(exports / "b", scored, "siglip-s0", 10.0)
    rows, page = board(scored, tmp_path, exports=exports)
    assert "<h2>Size and speed</h2>" in page and "Some CPU, 2 threads" in page
    drawn = labels(page)
    assert [re.search(r"against (.*?): ", label)[1] for label in drawn] == [
        "parameters", "FLOPs per pair", "latency at batch 1, ms", "latency at batch 64, ms",
    ]  # fmt: skip
    assert "clip 0" not in drawn[1] and " at 3e+06" in drawn[1] and " at 3e+07" in drawn[1]
    assert " at 3;" in drawn[2] or " at 3 " in drawn[2] or drawn[2].count(" at 3") == 2
    assert " at 120" in drawn[3] and " at 1.2e+03" in drawn[3]
    score = {row["run"]: row["metrics"]["zero_shot.in_domain.top1"] for row in rows}
    assert f"clip {100 * score['clip-s0']:.1f} % at 3e+06" in drawn[1]  # the exported seed's score alone
    front = ["clip"] + (["siglip"] if score["siglip-s0"] > score["clip-s0"] else [])
    assert drawn[1].endswith("Pareto front: " + ", ".join(front))
    _, again = board(scored, tmp_path / "again", exports=exports)
    assert page == again
    identifiers = re.findall(r'\sid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))


def test_fewer_than_two_exports_show_nothing(scored, tmp_path):
    _, plain = board(scored, tmp_path / "plain")
    write(tmp_path / "exports/a", scored, "clip-s0")
    _, one = board(scored, tmp_path / "one", exports=tmp_path / "exports")
    _, absent = board(scored, tmp_path / "absent", exports=tmp_path / "nowhere")
    assert plain == one == absent and "Size and speed" not in plain


def test_exports_of_another_model_or_run_are_left_out(scored, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("clipfoundry"), "propagate", True)
    exports = tmp_path / "exports"
    write(exports / "a", scored, "clip-s0")
    write(exports / "b", scored, "siglip-s0", version="0" * 16)
    write(exports / "c", scored, "clip-s0")
    write(exports / "d", scored, "clip-s0")
    (exports / "d/manifest.json").write_text(
        (exports / "d/manifest.json").read_text().replace('"run": "clip-s0"', '"run": "gone"')
    )
    _, page = board(scored, tmp_path, exports=exports)
    assert "Size and speed" not in page
    assert "b is of another model than run siglip-s0 has now" in caplog.text
    assert "c is another export of run clip-s0" in caplog.text


def test_latencies_of_different_machines_are_not_plotted(scored, tmp_path):
    write(tmp_path / "exports/a", scored, "clip-s0")
    write(tmp_path / "exports/b", scored, "siglip-s0", machine={**MACHINE, "threads": 1})
    _, page = board(scored, tmp_path, exports=tmp_path / "exports")
    assert "Measured on different machines" in page
    assert not any("latency" in label for label in labels(page)) and len(labels(page)) == 2


def test_runs_without_a_text_tower_have_no_cost_per_pair(scored, tmp_path):
    write(tmp_path / "exports/a", scored, "clip-s0")
    write(tmp_path / "exports/b", scored, "clip-s1")
    write(tmp_path / "exports/c", scored, "siglip-s0", has_text=False)
    _, page = board(scored, tmp_path, exports=tmp_path / "exports")
    assert len(labels(page)) == 1  # one group is left for the others
    table = page[page.index("<h2>Size and speed</h2>") :]
    assert all(run in table for run in RUNS)


def test_a_folder_of_another_kind_is_refused(scored, tmp_path):
    (tmp_path / "exports/a").mkdir(parents=True)
    write_manifest(tmp_path / "exports/a", "model", "a", {}, {}, {}, "0")
    with pytest.raises(DataError, match="another kind"):
        board(scored, tmp_path, exports=tmp_path / "exports")


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(1.0, 0.5)], [0]),
        ([(2.0, 0.5), (1.0, 0.4), (3.0, 0.45)], [1, 0]),
        ([(1.0, 0.5), (1.0, 0.6)], [1]),  # as cheap, and better
        ([(1.0, 0.5), (2.0, 0.5)], [0]),  # as good, and cheaper
        ([(1.0, 0.5), (1.0, 0.5), (2.0, 0.4)], [0, 1]),
        ([], []),
    ],
)
def test_the_front_holds_what_no_other_beats(points, front):
    assert pareto_front(points) == front


def test_the_front_agrees_with_asking_every_pair():
    points = [(float(7 * n % 13), float(5 * n % 11)) for n in range(40)]

    def beaten(point):
        return any(a <= point[0] and b >= point[1] and (a, b) != point for a, b in points)

    assert {points[place] for place in pareto_front(points)} == {point for point in points if not beaten(point)}
