import io
import json
import re
import shutil
from pathlib import Path

import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from assets.errors import ConfigError, DataError
from assets.manifest import read_manifest, verify_manifest, version_of, write_manifest
from evaluation.__main__ import main
from evaluation.evaluate import evaluate
from evaluation.promotion.champions import History, read_history, write_history
from evaluation.promotion.config import load_promotion
from evaluation.promotion.present import Folders
from evaluation.promotion.run import challenge
from tests.evaluation.promotion.histories import version
from tests.evaluation.squares import COLOURS, EVALUATION, SPLITS, run, sample, write_model, write_params

pytestmark = pytest.mark.slow
TOP1, TAIL, RECALL = "zero_shot.in_domain.top1", "zero_shot.in_domain.tail", "retrieval.in_domain.mean_recall"
RUNS = {"weak": run("clip", 0), "strong": run("clip", 1)}
CHAMPION = {
    **{"run": "strong", "dataset": "squares", "metric": TOP1, "rule": "better"},
    **{"slices": {TAIL: 0.05}, "floors": {"zero_shot.in_domain.mean_per_class": 0.3}},
}
PROMOTIONS = {"champion": CHAMPION, "reverse": {**CHAMPION, "run": "weak", "floors": {}}}


def train(folder: Path, steps: int) -> None:
    """Train a tiny model on the pictures of the zero-shot split: enough steps learn them by heart."""
    write_model(folder)
    source = f"local-dir:{folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(source)
    number = SPLITS["zero_shot"][2]
    items = [sample("zero_shot", i, "zero_shot") for i in range(number)]
    images = torch.stack([preprocess(Image.open(io.BytesIO(item.image)).convert("RGB")) for item in items])
    prompts = open_clip.get_tokenizer(source)([f"a {name} square" for name in COLOURS])
    labels = torch.arange(number) % len(COLOURS)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    torch.manual_seed(0)
    for _ in range(steps):
        scores = model.encode_image(images, normalize=True) @ model.encode_text(prompts, normalize=True).T
        loss = torch.nn.functional.cross_entropy(20 * scores, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tensors = {key: value.detach().contiguous() for key, value in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    write_manifest(folder, "model", folder.name, {}, {}, {}, "0")


def score(root: Path, name: str) -> None:
    places = root / "models" / name, root / "data/raw/squares", root / "data/valid/squares"
    evaluate(name, root / "params.yaml", *places, root / "reports/runs" / name)


@pytest.fixture(scope="module")
def trained(squares, tmp_path_factory):
    """A project with two runs, one of which learnt its classes, and no champion."""
    root = tmp_path_factory.mktemp("promotion")
    shutil.copytree(squares / "data", root / "data")
    write_params(root / "params.yaml", RUNS, promotions=PROMOTIONS)
    for name, steps in (("weak", 1), ("strong", 120)):
        train(root / "models" / name, steps)
        score(root, name)
    write_checks(root, {"blank": True})
    return root


@pytest.fixture
def project(trained, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(trained, tmp_path / "project")
    return tmp_path / "project"


def write_checks(root: Path, passed: dict[str, bool]) -> None:
    folder = root / "reports/validation/squares"
    folder.mkdir(parents=True, exist_ok=True)
    checks = [{"name": name, "passed": holds, "severity": "error"} for name, holds in passed.items()]
    checks.append({"name": "only a warning", "passed": False, "severity": "warning"})
    (folder / "checks.json").write_text(json.dumps(checks))


def crown(root: Path, name: str, made_by: str, barred: tuple[str, ...] = ()) -> None:
    """Make a run's model the champion of a promotion."""
    shutil.copytree(root / "models" / made_by, root / "models" / name)
    first = version(1, run=made_by, model=version_of(root / "models" / name))
    write_history(root / "champions", History(name, 1, barred, (first,)))


def ask(root: Path, name: str = "champion", out: str = "out", params: Path | None = None) -> dict:
    params = params or root / "params.yaml"
    config = load_promotion(params, name)
    folders = Folders(
        model=root / "models" / config.run,
        report=root / "reports/runs" / config.run,
        champion=root / "models" / name,
        raw=root / "data/raw/squares",
        valid=root / "data/valid/squares",
        validation=root / "reports/validation/squares",
        external=root / "data/external",
        champions=root / "champions",
        out=root / out,
    )
    challenge(name, config, folders, params)
    return json.loads((root / out / "decision.json").read_text())


def broken(decision: dict) -> list[str]:
    return [rule["name"] for rule in decision["rules"] if not rule["passed"]]


def test_the_first_champion_needs_no_rival(project):
    decision = ask(project)
    assert decision["verdict"] == "promote" and broken(decision) == []
    assert decision["champion"] is None and not (project / "out/champion").exists()
    assert decision["main"] == {
        **{"metric": TOP1, "challenger": decision["challenger"]["scores"][TOP1], "champion": None},
        **dict.fromkeys(("difference", "low", "high", "p")),
    }
    manifest = read_manifest(project / "reports/runs/strong")
    assert decision["challenger"]["model"] == version_of(project / "models/strong")
    assert decision["challenger"]["data"] == version_of(project / "data/valid/squares")
    assert decision["challenger"]["evaluation"] == f"{manifest['config_digest']}-{manifest['code']}"
    assert decision["rules"] == json.loads((project / "out/checks.json").read_text())
    assert {rule["severity"] for rule in decision["rules"]} == {"warning"}


def test_a_model_that_learnt_more_replaces_the_champion_and_not_the_other_way_round(project):
    crown(project, "champion", "weak")
    decision = ask(project)
    assert decision["verdict"] == "promote", decision["reason"]
    main = decision["main"]
    assert main["difference"] == pytest.approx(main["challenger"] - main["champion"], abs=1e-5)
    assert 0 < main["low"] < main["difference"] < main["high"] and main["p"] < 0.05
    assert decision["champion"]["run"] == "weak" and decision["champion"]["version"] == 1

    crown(project, "reverse", "strong")
    decision = ask(project, "reverse", "other")
    assert decision["verdict"] == "keep" and f"main {TOP1}" in broken(decision)
    assert decision["main"]["difference"] == pytest.approx(-main["difference"], abs=1e-5)


def test_the_champion_is_scored_anew_by_what_is_named_alone_with_the_same_numbers(project):
    crown(project, "champion", "weak")
    decision = ask(project)
    found, whole = project / "out/champion", project / "reports/runs/weak"
    metrics = json.loads((found / "metrics.json").read_text())
    assert metrics == {"zero_shot": json.loads((whole / "metrics.json").read_text())["zero_shot"]}
    assert (found / "per_image.parquet").read_bytes() == (whole / "per_image.parquet").read_bytes()
    assert not (found / "per_query.parquet").exists() and verify_manifest(found) == []
    assert decision["champion"]["scores"][TOP1] == metrics["zero_shot"]["in_domain"]["top1"]
    units = [pq.read_table(report / "per_image.parquet")["top1"].to_numpy().mean() for report in (found, whole)]
    assert units[0] == units[1] == pytest.approx(decision["main"]["champion"], abs=1e-6)


def test_the_folder_is_complete_and_the_same_bytes_twice(project):
    crown(project, "champion", "weak")
    ask(project)
    ask(project, out="again")
    manifest = read_manifest(project / "out", "promotion")
    assert verify_manifest(project / "out") == [] and manifest["counts"] == {"rules": 8, "broken": 0}
    files = sorted(path.relative_to(project / "out") for path in (project / "out").rglob("*") if path.is_file())
    assert {"decision.json", "checks.json", "index.html", "figure.svg"} <= {str(path) for path in files}
    for path in files:
        assert (project / "out" / path).read_bytes() == (project / "again" / path).read_bytes(), path


def test_another_champion_gives_another_decision(project):
    crown(project, "champion", "weak")
    assert ask(project)["verdict"] == "promote"
    shutil.rmtree(project / "models/champion")
    crown(project, "champion", "strong")
    shutil.rmtree(project / "models/champion")  # a champion that is the challenger needs no second copy of its model
    decision = ask(project)
    assert decision["verdict"] == "keep" and broken(decision) == ["another_model"]
    assert decision["main"]["difference"] is None and decision["main"]["champion"] == decision["main"]["challenger"]


def test_what_is_wrong_with_the_challenger_itself_keeps_the_champion(project):
    crown(project, "champion", "weak", barred=(version_of(project / "models/strong"),))
    assert broken(ask(project)) == ["not_barred"]
    write_history(project / "champions", History("champion"))
    write_checks(project, {"blank": False})
    decision = ask(project)
    assert broken(decision) == ["data_quality"] and "data set squares breaks blank" in decision["reason"]
    write_checks(project, {"blank": True})
    with (project / "models/strong/open_clip_model.safetensors").open("ab") as stream:
        stream.write(b"x")
    decision = ask(project)
    assert decision["verdict"] == "keep" and broken(decision) == ["export_complete"]


def test_the_page_is_self_contained_escaped_and_tells_the_history(project):
    crown(project, "champion", "weak")
    decision = ask(project)
    page = (project / "out/index.html").read_text()
    assert page.startswith("<!doctype html>") and "<title>champion: promote</title>" in page
    assert "the luck of training is not in it" in page and decision["reason"] in page.replace("&#39;", "'")
    assert page.count("<svg") == 2 and "v1" in page and "2026-11-01" in page
    assert "reason &lt;1&gt;" in page and "reason <1>" not in page
    assert "<link" not in page and "@import" not in page and "<script" not in page
    assert all(address.startswith("#") for address in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert not re.search("#0[1-5]0", page)  # no stand-in colour is left
    figure = (project / "out/figure.svg").read_text()
    assert figure.startswith("<svg") and "prefers-color-scheme: dark" in figure and "holds" in figure


def other_params(project: Path, **sections) -> Path:
    return write_params(project / "other.yaml", RUNS, **{"promotions": PROMOTIONS, **sections})


def test_a_report_of_something_else_is_refused(project):
    params = other_params(project, evaluation={**EVALUATION, "bootstrap": {"resamples": 200, "seed": 0}})
    with pytest.raises(DataError, match=r'another version of settings.*"dvc repro evaluate@strong"'):
        ask(project, params=params)
    manifest = json.loads((project / "reports/runs/strong/manifest.json").read_text())
    (project / "reports/runs/strong/manifest.json").write_text(json.dumps({**manifest, "code": "0"}))
    with pytest.raises(DataError, match="another version of code, got '0'"):
        ask(project)
    shutil.rmtree(project / "reports/runs/strong")
    with pytest.raises(DataError, match=r"has no manifest\.json"):
        ask(project)
    shutil.copytree(project / "reports/runs/weak", project / "reports/runs/strong")
    with pytest.raises(DataError, match="another version of model"):
        ask(project)
    assert not (project / "out").exists()


def test_a_champion_that_is_not_there_is_asked_for(project):
    crown(project, "champion", "weak")
    shutil.rmtree(project / "models/champion")
    with pytest.raises(DataError, match=r'is not on this machine; run "dvc pull models/champion\.dvc"'):
        ask(project)
    shutil.copytree(project / "models/strong", project / "models/champion")
    with pytest.raises(DataError, match="is not version 1 of champion champion"):
        ask(project)


def test_checks_that_are_missing_are_asked_for(project):
    shutil.rmtree(project / "reports/validation")
    with pytest.raises(DataError, match='run "dvc repro validate@squares"'):
        ask(project)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"metric": "zero_shot.in_domain.top2"}, "unknown metric 'zero_shot.in_domain.top2'"),
        ({"slices": {"zero_shot.in_domain.tail_top1": 0.1}}, "did you mean 'zero_shot.in_domain.t"),
        ({"metric": TAIL}, f"cannot be compared in pairs.*one of .*{RECALL}.*{TOP1}.*under slices or floors"),
    ],
)
def test_metrics_that_cannot_serve_are_refused_with_those_that_can(project, change, text):
    params = other_params(project, promotions={"champion": {**CHAMPION, **change}})
    with pytest.raises(ConfigError, match=text):
        ask(project, params=params)
    assert not (project / "out").exists() and not (project / "out.partial").exists()


def test_mean_recall_can_be_the_main_metric(project):
    crown(project, "champion", "weak")
    decision = ask(project, params=other_params(project, promotions={"champion": {**CHAMPION, "metric": RECALL}}))
    assert set(json.loads((project / "out/champion/metrics.json").read_text())) == {"zero_shot", "retrieval"}
    main = decision["main"]
    assert main["difference"] == pytest.approx(main["challenger"] - main["champion"], abs=1e-5)


def test_the_command_line_decides_and_answers_mistakes_in_one_line(project, capsys, monkeypatch):
    monkeypatch.chdir(project)
    assert main(["challenge", "--name", "champion"]) == 0
    assert json.loads(Path("reports/promotion/champion/decision.json").read_text())["verdict"] == "promote"
    assert main(["challenge", "--name", "champ"]) == 2
    assert "did you mean 'champion'" in capsys.readouterr().err
    assert read_history(Path("champions"), "champion") == History("champion")
