"""The stage and the command, on the coloured squares and a stand-in for a lexical model that sees their colours."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from assets.manifest import read_manifest, write_manifest
from evaluation.__main__ import main
from evaluation.words.index import load_index
from tests.evaluation.squares import COLOURS, RUNS, write_params
from tests.evaluation.words.seer import Preprocess, SeeingModel, seer

ENTRY = {"run": "clip-s0", "dataset": "squares", "splits": ["test", "zero_shot"], "batch_size": 8}
INDEXES = {
    "colours": ENTRY,
    "few": {**ENTRY, "splits": ["train"], "cut": {"above": 0.0, "at_most": 2}},
    "none": {**ENTRY, "splits": ["train"], "cut": {"above": 0.999}},
    "elsewhere": {**ENTRY, "splits": ["tset"]},
}


@pytest.fixture(scope="module")
def project(squares, tmp_path_factory) -> Path:
    """The squares with two indexes."""
    root = tmp_path_factory.mktemp("indexed")
    for name in ("data", "models"):
        shutil.copytree(squares / name, root / name)
    write_params(root / "params.yaml", RUNS, indexes=INDEXES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("evaluation.words.build.load_encoder", lambda *_: seer())
        assert main(["index", "--name", "colours"]) == 0
        assert main(["index", "--name", "few"]) == 0
    return root


@pytest.fixture
def here(project, monkeypatch):
    """The project as working directory, with the stand-in for every model."""
    monkeypatch.chdir(project)
    export = SimpleNamespace(model=SeeingModel(), preprocess=Preprocess())
    monkeypatch.setattr("evaluation.encoder.load_encoder", lambda *_: seer())
    monkeypatch.setattr("evaluation.words.build.load_encoder", lambda *_: seer())
    monkeypatch.setattr("training.models.frozen_export.load_export", lambda *_: export)
    return project


@pytest.fixture
def ask(here, capsys):
    def run(*arguments: str) -> dict:
        assert main(["search", "--json", *arguments]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def refused(here, capsys):
    def run(*arguments: str) -> str:
        assert main([*arguments]) == 2
        return capsys.readouterr().err

    return run


def test_the_index_holds_the_accepted_pictures_of_its_splits_in_order(here):
    index = load_index(here / "indexes/colours")
    splits = index.pictures["split"].to_pylist()
    assert splits == ["test"] * 30 + ["zero_shot"] * 18
    assert index.pictures["key"].to_pylist()[29:31] == ["test-0029", "zero_shot-0000"]
    assert "train-0003" not in load_index(here / "indexes/few").pictures["key"].to_pylist()  # rejected


def test_the_manifest_says_what_the_index_was_made_of_and_how_full_it_is(here):
    folder = here / "indexes/colours"
    manifest, facts = read_manifest(folder, "index"), json.loads((folder / "index.json").read_text())
    rows = load_index(folder).to_rows()
    assert manifest["counts"]["pictures"] == 48 and manifest["counts"]["postings"] == rows.nnz
    assert set(manifest["inputs"]) == {"raw", "valid", "model"}
    assert manifest["config"]["entry"]["splits"] == ["test", "zero_shot"]
    assert manifest["config"]["vocabulary"] == facts["vocabulary"] == "v1"
    assert facts["mean_active_words"] == pytest.approx(rows.nnz / 48)
    assert facts["sparsity"] == pytest.approx(1 - rows.nnz / 48 / len(COLOURS))
    assert facts["bytes"]["images.npy"] == (folder / "images.npy").stat().st_size
    assert np.diff(load_index(here / "indexes/few").to_rows().indptr).tolist() == [2] * 7


def test_the_same_index_has_the_same_bytes(here, tmp_path):
    assert main(["index", "--name", "colours", "--out", str(tmp_path / "again")]) == 0
    folders = (here / "indexes/colours", tmp_path / "again")
    contents = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert contents[0] == contents[1]


def test_a_sentence_finds_the_pictures_of_its_colours(ask):
    found = ask("a red square on blue", "--index", "colours", "--top", "3")
    assert found["hits"][0]["caption"] in ("a red square on blue", "a blue square on red")
    assert set(found["words"]) == {"red", "blue"}
    for hit in found["hits"]:
        assert sum(hit["words"].values()) == hit["score"]


def test_words_weigh_and_leave_out(ask):
    found = ask("--words", "red^2 +green -blue", "--index", "colours", "--top", "48")
    assert found["words"] == {"red": 2.0, "green": 1.0}
    assert found["must"] == ["green"] and found["must_not"] == ["blue"]
    shown = load_index(Path("indexes/colours")).to_rows().toarray() > 0
    green, blue = COLOURS.index("green"), COLOURS.index("blue")
    assert found["matching"] == len(found["hits"]) == int((shown[:, green] & ~shown[:, blue]).sum()) > 0


def test_conditions_go_with_a_sentence_too(ask):
    free = ask("red", "--index", "colours", "--top", "48")
    found = ask("red", "--index", "colours", "--top", "48", "--must", "green", "--must-not", "blue")
    assert 0 < found["matching"] < free["matching"]
    scores = {hit["key"]: hit["score"] for hit in free["hits"]}
    assert all(scores[hit["key"]] == hit["score"] for hit in found["hits"])


def test_the_answer_in_the_terminal_and_the_page_agree(here, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["search", "a red square on blue", "--index", "colours", "--top", "2", "--html", str(page)]) == 0
    told, html = capsys.readouterr().out, page.read_text()
    keys = re.findall(r"^ *\d\. (\S+)", told, re.M)
    assert keys == re.findall(r"<code>(\S+)</code> of", html) and len(keys) == 2
    drawn = re.findall(r'<rect x="(\d)" y="(\d)" width="1" height="1"/>\s*</svg>\s*<figcaption>(\w+)<', html)
    middle = {name: {x, y} <= {"1", "2"} for x, y, name in drawn[:2]}  # of the first hit
    inside = re.search(r"^ *1\. .* a (\w+) square on", told, re.M)
    assert inside is not None
    assert middle == {name: name == inside[1] for name in ("red", "blue")}


def test_words_alone_need_no_model(here, tmp_path, ask):
    models = tmp_path / "nowhere"
    assert ask("--words", "red", "--index", "few", "--models", str(models))["matching"] > 0


def test_what_is_wrong_with_a_search_is_told(refused, here, tmp_path):
    assert "'redd' is none of the model's 6 words; the nearest are red" in refused(
        "search", "--words", "redd", "--index", "few"
    )
    assert "several indexes: colours, few; choose one with --index" in refused("search", "red")
    assert "unknown index 'colour' (did you mean 'colours'?)" in refused("search", "red", "--index", "colour")
    assert "there is no index" in refused("search", "red", "--indexes", str(tmp_path))
    assert "give one of the two" in refused("search", "--index", "few")
    assert "give one of the two" in refused("search", "red", "--words", "red", "--index", "few")
    assert "query is empty" in refused("search", "nothing of that", "--index", "few")
    assert "query is empty" in refused("search", " ", "--index", "few")
    assert "--top" in refused("search", "red", "--index", "few", "--top", "0")
    page = str(tmp_path / "page.html")
    assert "index.parquet does not exist" in refused(
        "search", "red", "--index", "few", "--raw", str(tmp_path), "--html", page
    )


def test_another_vocabulary_than_the_indexs_is_refused(refused, monkeypatch):
    monkeypatch.setattr("evaluation.encoder.load_encoder", lambda *_: seer("v2"))
    text = refused("search", "red", "--index", "few")
    assert "another version of the vocabulary than model clip-s0 has" in text and "dvc repro index@few" in text


def test_another_model_than_the_indexs_is_refused(refused, here, tmp_path):
    shutil.copytree(here / "models", tmp_path / "models")
    write_manifest(tmp_path / "models/clip-s0", "model", "clip-s0", {"changed": True}, {}, {}, "0")
    for query in (["red"], ["--words", "red"]):
        text = refused("search", *query, "--index", "few", "--models", str(tmp_path / "models"))
        assert "index few was made with another version of" in text and "dvc repro index@few" in text


def test_a_model_without_words_cannot_be_indexed(refused, monkeypatch):
    monkeypatch.setattr("evaluation.words.build.load_encoder", lambda *_: seer(words=()))
    text = refused("index", "--name", "few")
    assert "the model of run clip-s0 has no words; train a recipe with towers.head of kind lexical" in text


def test_vectors_that_are_not_over_the_words_are_refused(refused, monkeypatch):
    monkeypatch.setattr("evaluation.words.build.load_encoder", lambda *_: seer(words=("red", "blue")))
    assert "vectors that are not over its words, got 6, wanted 2" in refused("index", "--name", "few")


def test_unknown_splits_and_indexes_are_named(refused):
    assert "unknown split 'tset' (did you mean 'test'?)" in refused("index", "--name", "elsewhere")
    assert "unknown index 'fwe' (did you mean 'few'?)" in refused("index", "--name", "fwe")


def test_an_index_that_keeps_no_word_can_be_made_and_says_so(here, tmp_path, refused):
    out = tmp_path / "indexes/none"
    assert main(["index", "--name", "none", "--out", str(out)]) == 0
    assert read_manifest(out)["counts"]["pictures_without_words"] == 7
    assert "the index is empty" in refused("search", "red", "--indexes", str(out.parent))


def test_an_index_goes_to_lucene(here, tmp_path):
    assert main(["lucene", "--index", "few", "--out", str(tmp_path / "lucene")]) == 0
    lines = (tmp_path / "lucene/documents/part-00000.jsonl").read_text().splitlines()
    impacts = [weight for line in lines for weight in json.loads(line)["vector"].values()]
    assert len(lines) == 7 and len(impacts) == 14 and max(impacts) == 255
    assert read_manifest(tmp_path / "lucene", "lucene")["counts"]["documents"] == 7
