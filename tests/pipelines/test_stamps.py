import json
from pathlib import Path

import pytest

from assets import code_stamp
from assets.errors import ConfigError
from pipelines import stamps

PARAMS = """
datasets:
  emoji: {source: {kind: emoji_scenes}}
recipes:
  plain: {method: {kind: clip}}
  other: {method: {kind: siglip}}
"""


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS)
    return path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Our packages replaced by a small one, so that the test can edit code."""
    root = tmp_path / "code"
    (root / "training/templates").mkdir(parents=True)
    (root / "training/__init__.py").write_text('"""Doc."""\n')
    (root / "training/pretrain.py").write_text('"""Doc."""\nfrom training.loss import f\n')
    (root / "training/loss.py").write_text("def f():\n    return 1\n")
    (root / "training/unused.py").write_text("x = 1\n")
    (root / "training/templates/card.md.jinja").write_text("card")
    for module in (code_stamp, stamps):
        monkeypatch.setattr(module, "ROOT", root)
    code_stamp._read.cache_clear()
    return root / "training"


def code(*modules):
    code_stamp._read.cache_clear()
    return stamps.stamp(modules or ["training.pretrain"])["code"]


def test_there_is_a_stamp_for_each_data_set_and_recipe(params):
    entries = stamps.entry_modules(stamps.read_yaml(params), params)
    stages = ["compare", "evaluate", "ingest-emoji", "pretrain-other", "pretrain-plain", "validate-emoji"]
    assert sorted(entries) == stages
    assert entries["pretrain-plain"] == ["training.pretrain", "training.methods.clip"]
    assert entries["ingest-emoji"][0] == "assets.ingest"


def test_embeddings_captioners_policies_and_indexes_have_stamps_of_their_own_stages(params):
    params.write_text(PARAMS + "embeddings: {a: {}}\ncaptioners: {b: {}}\npolicies: {c: {}}\nindexes: {d: {}}\n")
    entries = stamps.entry_modules(stamps.read_yaml(params), params)
    assert entries["embed-a"] == ["evaluation.embed"]
    assert entries["captioner-b"] == ["training.captioner.run"]
    assert entries["reduce-c"] == ["assets.reduction.run"]
    assert entries["index-d"] == ["evaluation.words.build"]
    for modules in (entries["embed-a"], entries["captioner-b"], entries["reduce-c"]):
        assert stamps.stamp(modules)["code"]


def test_code_that_is_reached_changes_the_stamp_and_other_code_does_not(package):
    before = code()
    (package / "unused.py").write_text("x = 2\n")
    assert code() == before
    (package / "loss.py").write_text("def f():\n    return 2\n")
    assert code() != before


def test_comments_and_docstrings_change_nothing(package):
    before = code()
    (package / "loss.py").write_text('"""New."""\n# why\ndef f():\n    """Two."""\n    return 1\n')
    assert code() == before


def test_a_template_beside_the_code_counts(package):
    before = code()
    (package / "templates/card.md.jinja").write_text("another card")
    assert code() != before


def test_an_unchanged_stamp_is_not_written_again(params, tmp_path, monkeypatch):
    monkeypatch.setattr(stamps, "stamp", lambda modules: {"code": "-".join(modules), "files": {}})
    folder = tmp_path / "stamps"
    assert len(stamps.write_stamps(params, folder)) == 6
    before = (folder / "validate-emoji.json").stat().st_mtime_ns
    assert stamps.stamps_are_current(params, folder)

    params.write_text(PARAMS.replace("siglip", "clip"))

    assert not stamps.stamps_are_current(params, folder)
    assert stamps.write_stamps(params, folder) == ["pretrain-other"]
    assert (folder / "validate-emoji.json").stat().st_mtime_ns == before


def test_a_baseline_changes_the_stamp_of_its_data_set_alone(params, tmp_path, monkeypatch):
    monkeypatch.setattr(stamps, "stamp", lambda modules: {"code": "0", "files": {}})
    folder = tmp_path / "stamps"
    params.write_text(PARAMS.replace("emoji: {source", "other: {source: {kind: emoji_scenes}}\n  emoji: {source"))
    stamps.write_stamps(params, folder)
    written = json.loads((folder / "validate-emoji.json").read_text())
    assert written["baseline"] == "none" and stamps.stamp_version(written) == "0"

    (tmp_path / "baselines").mkdir()
    (tmp_path / "baselines/emoji.json").write_text("{}")
    assert not stamps.stamps_are_current(params, folder)
    assert stamps.write_stamps(params, folder) == ["validate-emoji"]
    assert stamps.stamp_version(json.loads((folder / "validate-emoji.json").read_text())).startswith("0-")
    assert "baseline" not in json.loads((folder / "ingest-emoji.json").read_text())

    (tmp_path / "baselines/unknown.json").write_text("{}")
    assert stamps.write_stamps(params, folder) == []
    (tmp_path / "baselines/emoji.json").unlink()
    assert stamps.write_stamps(params, folder) == ["validate-emoji"]


def test_stamps_of_recipes_that_are_gone_are_removed(params, tmp_path, monkeypatch):
    monkeypatch.setattr(stamps, "stamp", lambda modules: {"code": "0", "files": {}})
    stamps.write_stamps(params, tmp_path / "stamps")
    params.write_text(PARAMS.replace("  other: {method: {kind: siglip}}\n", ""))
    assert stamps.write_stamps(params, tmp_path / "stamps") == ["pretrain-other"]
    assert not (tmp_path / "stamps/pretrain-other.json").exists()


def test_a_damaged_stamp_is_written_anew(params, tmp_path, monkeypatch):
    monkeypatch.setattr(stamps, "stamp", lambda modules: {"code": "0", "files": {}})
    stamps.write_stamps(params, tmp_path / "stamps")
    (tmp_path / "stamps/compare.json").write_text("{")
    assert stamps.write_stamps(params, tmp_path / "stamps") == ["compare"]
    assert json.loads((tmp_path / "stamps/compare.json").read_text())["code"] == "0"


def test_an_unknown_kind_names_the_nearest_one(params):
    params.write_text(PARAMS.replace("kind: clip", "kind: clp"))
    with pytest.raises(ConfigError, match=r"recipes.plain.method.kind: unknown method 'clp' \(did you mean 'clip'\?\)"):
        stamps.entry_modules(stamps.read_yaml(params), params)


def test_a_module_without_a_file_is_refused(package):
    with pytest.raises(ConfigError, match=r"no file holds the module training\.gone"):
        stamps.stamp(["training.gone"])
