import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jsonschema import Draft202012Validator

from assets.errors import ConfigError, DataError
from assets.index import write_table
from evaluation.__main__ import main
from evaluation.compare import compare
from evaluation.results import Folders, chance_of, group_rows, read_rows
from tests.evaluation.squares import REPORT, RUNS, write_model, write_params

FOIL = ("suite", "kind", "key", "caption", "foil", "right")
ROOT = Path(__file__).resolve().parents[2]


def board(root, out, params=None, valid=True, exports=None, logs=None):
    folders = Folders(
        reports=root / "reports/runs",
        runs=root / "runs",
        models=root / "models",
        raw=root / "data/raw",
        valid=root / "data/valid" if valid else None,
        params=params or root / "params.yaml",
        exports=exports,
        logs=logs or root / "logs",
    )
    compare(folders, out / "leaderboard.json", out / "leaderboard.html")
    return json.loads((out / "leaderboard.json").read_text()), (out / "leaderboard.html").read_text()


@pytest.fixture
def project(scored, tmp_path):
    """A copy of the scored project that a test may damage."""
    shutil.copytree(scored, tmp_path / "project")
    return tmp_path / "project"


def test_the_leaderboard_keeps_its_schema_and_is_sorted(scored, tmp_path):
    rows, _ = board(scored, tmp_path)
    schema = json.loads((ROOT / "docs/leaderboard.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(rows)
    assert {row["run"] for row in rows} == set(RUNS)
    scores = [row["metrics"]["zero_shot.in_domain.top1"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    broken = [{**rows[0], "cost": {}}]
    assert not Draft202012Validator(schema).is_valid(broken)


def test_the_page_is_self_contained_and_stable(scored, tmp_path):
    _, page = board(scored, tmp_path / "a")
    _, again = board(scored, tmp_path / "b")
    assert page == again
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page) + re.findall(r"url\(([^)]*)\)", page)
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in addresses if address != "times.js")
    assert "@import" not in page and "<link" not in page
    identifiers = re.findall(r'\sid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    used = set(re.findall(r'xlink:href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert used <= set(identifiers)
    assert "#0505" not in page and "#0101" not in page  # no stand-in colour is left


def test_what_the_machine_says_stands_beside_table_and_page(project, tmp_path):
    rows, page = board(project, tmp_path / "here")
    times = json.loads((tmp_path / "here/times.json").read_text())
    models = {row["run"]: row["versions"]["model"] for row in rows}
    assert times["siglip-s0"] == {
        **{"model": models["siglip-s0"], "train_seconds": 12.0, "total_seconds": 72.0},
        **{"device": "a <toy> 2", "git": "0" * 40},
    }
    script = (tmp_path / "here/times.js").read_text()
    shown = json.loads(script.removeprefix("const runTimes = ").removesuffix(";\n"))
    words = {"train_seconds": "12.0 s", "total_seconds": "1 min 12 s", "device": "a <toy> 2", "git": "0" * 12}
    assert shown.keys() == set(RUNS) and shown["siglip-s0"]["words"] == words
    assert "<" not in script
    (project / "logs/clip-s0/machine.json").unlink()  # as in a clone that pulled the model
    facts = json.loads((project / "logs/clip-s1/machine.json").read_text()) | {"model_version": "of another model"}
    (project / "logs/clip-s1/machine.json").write_text(json.dumps(facts))
    again = board(project, tmp_path / "there")
    assert again == (rows, page)
    assert json.loads((tmp_path / "there/times.json").read_text()).keys() == {"siglip-s0"}


def test_the_page_shows_runs_seeds_plots_pictures_and_data(scored, tmp_path):
    rows, page = board(scored, tmp_path)
    for row in rows:
        assert row["run"] in page and row["versions"]["model"] in page
    assert page.count("<svg") == 2 + 1 + 1 + 1 + 1  # columns, costs, frequencies, one curve, reject reasons
    assert "Recipes over seeds" in page and "data:image/jpeg" in page
    assert "Validation accepted 85 of 86 samples" in page
    _, bare = board(scored, tmp_path, valid=False)
    assert "Validation accepted" not in bare


def test_the_contents_lead_to_every_part_and_parts_fold(scored, tmp_path):
    _, page = board(scored, tmp_path)
    contents = re.search(r'<nav class="contents".*?</nav>', page, re.DOTALL)[0]
    links = re.findall(r'href="#([^"]+)">([^<]+)', contents)
    parts = re.findall(r'<details class="part" id="([^"]+)"( open)?>\s*<summary><h2>([^<]+)</h2>', page)
    assert links == [(anchor, title) for anchor, _, title in parts]
    titles = [title for _, _, title in parts]
    assert titles[:4] == ["Leaderboard", "Scores with intervals", "Paired comparisons", "Score against cost"]
    assert {"Every class", "What the best run gets wrong", "Versions"} <= set(titles)
    assert not {"Languages", "Damaged pictures", "Captions with one thing wrong", "Frozen features"} & set(titles)
    assert [title for _, opened, title in parts if opened] == [*titles[:4], "How to read this page"]


def test_recipes_are_compared_in_pairs_with_the_first_run_of_the_params(scored, tmp_path):
    rows, page = board(scored, tmp_path)
    part = page[page.index("<h2>Paired comparisons</h2>") : page.index("<h2>Score against cost</h2>")]
    assert "Every recipe minus clip" in part
    metric = "zero_shot.in_domain.top1"
    means = {
        recipe: [row["metrics"][metric] for row in rows if row["recipe"] == recipe] for recipe in ("clip", "siglip")
    }
    clip, siglip = (100 * sum(scores) / len(scores) for scores in means.values())
    shown = re.findall(r'<td class="n [^>]*>([^<]+)<small>', part)
    numbers = [float(number.replace("\u2212", "-")) for number in shown]
    assert len(numbers) == 4  # two cells of the matrix, two columns of the table
    assert numbers[:2] in ([round(clip - siglip, 1), round(siglip - clip, 1)], [-n for n in numbers[:2]][::-1])
    assert numbers[2] == pytest.approx(siglip - clip, abs=0.051)
    turned = {name: RUNS[name] for name in ("siglip-s0", "clip-s0", "clip-s1")}
    _, other = board(scored, tmp_path / "other", write_params(tmp_path / "p.yaml", turned))
    assert "Every recipe minus siglip" in other


def test_runs_scored_on_different_images_are_refused(project, tmp_path):
    path = project / "reports/runs/siglip-s0/per_image.parquet"
    write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(DataError, match="siglip were not scored on the same samples"):
        board(project, tmp_path / "out")


def test_further_evaluators_get_their_parts(project, tmp_path):
    for name in RUNS:
        path = project / "reports/runs" / name / "metrics.json"
        metrics = json.loads(path.read_text())
        metrics["robustness"] = {"in_domain": {"top1": 0.5, "gaussian_noise_top1": 0.25, "num_retained": 0.5}}
        metrics["composition"] = {"in_domain": {"swap_accuracy": 0.625, "chance_accuracy": 0.5}}
        metrics["caption_retrieval"] = {"in_domain": {"de_image_to_text_r1": 0.125, "de_text_to_image_r1": 0.0625}}
        metrics["spectra"] = {"in_domain": {"num_sve": 3.25}}
        path.write_text(json.dumps(metrics))
        foils = [dict(zip(FOIL, ("in_domain", "swap", "test-0001", "true <one>", "a foil", 0.0), strict=True))]
        write_table(pa.Table.from_pylist(foils), path.parent / "foils.parquet")
    _, page = board(project, tmp_path / "out")

    def part(title):
        return page[page.index(f"<h2>{title}</h2>") :].partition("</details>")[0]

    assert "gaussian noise top-1" in part("Damaged pictures") and "25.0" in part("Damaged pictures")
    composition = part("Captions with one thing wrong")
    assert "62.5" in composition and "50.0" in composition and "true &lt;one&gt;" in composition
    assert "12.5" in part("Languages") and "<small>6.2</small>" in part("Languages")
    assert ">SVE<" in part("Frozen features") and "3.25" in part("Frozen features")


def test_configured_curves_stand_against_compute_and_runs_without_one_are_left_out(scored, tmp_path):
    curves = {"curves": ["mask/object_coverage"], "compute_curves": ["holdout/image_to_text_r1", "holdout/absent"]}
    _, page = board(scored, tmp_path, write_params(tmp_path / "p.yaml", RUNS, report={**REPORT, **curves}))
    assert "<h2>Score against compute</h2>" in page and "its own last point" in page
    label = re.search(r'aria-label="(Holdout: image to text R@1 against [^"]*)"', page)
    ends = set(label[1].rpartition(": ")[2].split("; ")) if label else set()
    assert ends == {"clip 40.0 % at 1e+12", "siglip 40.0 % at 1e+12"}
    assert 'aria-label="mask/object_coverage over steps: clip ends at 0.900"' in page
    _, bare = board(scored, tmp_path)
    assert "Score against compute" not in bare


def test_markup_in_captions_and_titles_is_escaped(project, tmp_path):
    path = project / "reports/runs/clip-s0/retrieval.json"
    for name in RUNS:
        path = project / "reports/runs" / name / "retrieval.json"
        path.write_text(path.read_text().replace("square on", "<script>alert(1)</script>"))
    params = write_params(project / "p.yaml", RUNS, report={**REPORT, "title": "a <b> & c"})
    _, page = board(project, tmp_path / "out", params)
    assert "<script>alert" not in page
    assert "<title>a &lt;b&gt; &amp; c</title>" in page


def test_runs_without_results_are_all_named(project, tmp_path):
    shutil.rmtree(project / "reports/runs/clip-s1")
    (project / "runs/siglip-s0/summary.json").unlink()
    with pytest.raises(DataError) as caught:
        board(project, tmp_path / "out")
    assert "2 of 3 runs cannot be compared" in str(caught.value)
    assert "run clip-s1" in str(caught.value) and "run siglip-s0" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_report_of_an_older_model_is_refused(project, tmp_path):
    shutil.rmtree(project / "models/clip-s0")
    write_model(project / "models/clip-s0", "clip-s0", seed=99)
    with pytest.raises(DataError, match=r"run clip-s0: .* scores another model"):
        board(project, tmp_path / "out")


@pytest.mark.parametrize(("fact", "name"), [("code", "evaluation"), ("config_digest", "evaluation"), ("valid", "data")])
def test_rows_scored_differently_are_refused(project, tmp_path, fact, name):
    path = project / "reports/runs/clip-s1/manifest.json"
    manifest = json.loads(path.read_text())
    (manifest["inputs"] if fact == "valid" else manifest)[fact] = "other"
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=f"runs clip-s0 and clip-s1 were scored with different versions of {name}"):
        board(project, tmp_path / "out")


def test_an_unknown_main_metric_is_answered_with_the_nearest(scored, tmp_path):
    params = write_params(tmp_path / "p.yaml", RUNS, report={**REPORT, "main_metric": "zero_shot.in_domain.top2"})
    with pytest.raises(ConfigError, match=r"did you mean 'zero_shot\.in_domain\.top"):
        board(scored, tmp_path, params)


def test_no_runs_is_a_config_error(scored, tmp_path):
    with pytest.raises(ConfigError, match="nothing to compare"):
        board(scored, tmp_path, write_params(tmp_path / "p.yaml", {}))


def test_one_run_alone_makes_a_page(scored, tmp_path):
    rows, page = board(scored, tmp_path, write_params(tmp_path / "p.yaml", {"clip-s0": RUNS["clip-s0"]}))
    assert len(rows) == 1 and "Recipes over seeds" not in page


def test_seeds_are_grouped_and_chance_is_found(scored, tmp_path):
    from training.config import RunConfig

    folders = Folders(
        scored / "reports/runs", scored / "runs", scored / "models", scored / "data/raw", None, scored / "p.yaml"
    )
    runs = {name: RunConfig(**config) for name, config in RUNS.items()}
    rows = read_rows(runs, folders, "zero_shot.in_domain.top1")
    groups = {group.label: group for group in group_rows(rows)}
    assert sorted(row.run for row in groups["clip"].rows) == ["clip-s0", "clip-s1"]
    metric = "retrieval.in_domain.mean_recall"
    both, single = groups["clip"].estimate(metric), groups["siglip"].estimate(metric)
    assert both and both.over == "seeds and test set" and both.value == pytest.approx(sum(both.scores) / 2)
    halves = [row.metrics[metric] - row.intervals[metric][0] for row in groups["clip"].rows]
    by_seeds = 12.706 * abs(both.scores[0] - both.scores[1]) / 2
    assert both.low == pytest.approx(max(0.0, both.value - (by_seeds**2 + (sum(halves) / 2) ** 2) ** 0.5))
    assert (
        single and single.over == "test set" and (single.low, single.high) == rows[0].intervals.get(metric)
    ) or single
    assert groups["clip"].estimate("absent.metric") is None
    assert groups["clip"].cost("flops") == pytest.approx(1e12)
    metrics = rows[0].metrics
    assert (
        chance_of("retrieval.in_domain.text_to_image_group_r5", metrics)
        == metrics["retrieval.in_domain.chance_group_r5"]
    )
    assert chance_of("retrieval.in_domain.text_to_image_r5", metrics) == metrics["retrieval.in_domain.chance_r5"]
    assert chance_of("zero_shot.in_domain.head", metrics) is None


def test_the_command_line_answers_mistakes_in_one_line(scored, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(scored)
    assert main(["evaluate", "--name", "clip-s9"]) == 2
    assert "did you mean 'clip-s" in capsys.readouterr().err
    assert main(["compare", "--out-json", str(tmp_path / "l.json"), "--out-html", str(tmp_path / "l.html")]) == 0
    assert (tmp_path / "l.json").is_file() and (tmp_path / "l.html").is_file()
    assert main(["compare", "--reports", str(tmp_path)]) == 2
    assert "3 of 3 runs cannot be compared" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.browser
def test_the_page_fits_a_phone_and_sorts_by_click(scored, tmp_path):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on the path")
    from playwright.sync_api import sync_playwright

    rows, _ = board(scored, tmp_path)
    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": 400, "height": 800}, offline=True)
        page.goto((tmp_path / "leaderboard.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")
        first = "document.querySelector('.sortable tbody th').textContent"
        page.get_by_role("button", name="run", exact=True).click()
        assert page.evaluate(first) == min(row["run"] for row in rows)
        page.get_by_role("button", name="training time").click()
        assert page.evaluate(first) == "siglip-s0"
        assert page.locator(".told[data-run=siglip-s0][data-fact=device]").last.text_content() == "a <toy> 2"
        assert page.locator("td.told[data-run=clip-s1]").first.inner_text() == "11.0 s"
        assert not page.locator(".untimed").is_visible() and page.locator(".timed").is_visible()
        (tmp_path / "times.js").unlink()  # as after dvc pull in another clone
        page.goto((tmp_path / "leaderboard.html").as_uri())
        assert set(page.locator(".told").all_text_contents()) == {"-"}
        assert page.locator(".untimed").is_visible() and not page.locator(".timed").is_visible()
        page.get_by_role("button", name="run", exact=True).click()
        assert page.evaluate(first) == min(row["run"] for row in rows)
        browser.close()
