"""Runs with a teacher or a start: what they must name, whom they may learn from, and what they publish."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from safetensors.torch import load_file

from assets.errors import ConfigError, DataError
from assets.manifest import read_manifest, verify_manifest, version_of
from assets.reduction.plan import Plan
from assets.section import parse
from tests.training.conftest import PARAMS
from tests.training.distillation import AFFINITY, AUTO, CACHE, CROP, ENTRY, teach, towers, write_model
from training.config import RecipeConfig, RunConfig
from training.lineage import check_lineage, check_new_captions, open_lineage
from training.models.dense_export import load_dense
from training.pretrain import Paths, pretrain

RUN = PARAMS["runs"]["toy-s0"]

KNOWN = {
    "teachers": {"asked": ENTRY, "anew": ENTRY},
    "runs.big": PARAMS["runs"]["toy-s0"],
    "runs.first": PARAMS["runs"]["toy-s0"],
}
"""What params.yaml must know of for runs to name it."""


@pytest.fixture(scope="module")
def root(toy_data, tmp_path_factory):
    """A model and two teachers made of it, one with a cache and one without."""
    folder = tmp_path_factory.mktemp("lineage")
    write_model(folder / "models/big")
    teach(toy_data, folder, "asked")
    teach(toy_data, folder, "anew", cache=None)
    return folder


def recipe_of(**changes) -> RecipeConfig:
    return parse(RecipeConfig, PARAMS["recipes"]["clip"] | changes, "recipe")


def run_of(**changes) -> RunConfig:
    return parse(RunConfig, RUN | changes, "run")


def inputs_of(toy_data) -> dict[str, str]:
    return dict(zip(("raw", "valid"), map(version_of, toy_data), strict=True))


def num_parameters(folder: Path) -> int:
    return sum(p.numel() for p in load_dense(folder).model.parameters())


@pytest.mark.parametrize(
    ("recipe", "run", "fault"),
    [
        (
            {"method": AFFINITY},
            {},
            "method distill_affinity of recipe clip want a teacher.*set runs.r.teacher to a name",
        ),
        ({"start": {"source": "teacher"}}, {}, "start.source: teacher of recipe clip want a teacher"),
        (
            {},
            {"teacher": "t"},
            "nothing in recipe clip learns from the teacher of run r, got 't'; set runs.r.teacher to none",
        ),
        ({}, {"start": "big"}, "nothing in recipe clip uses the start of run r.*set runs.r.start to none"),
        ({"start": {"source": "run"}}, {}, "start.source: run of recipe clip wants a run.*set runs.r.start to a name"),
        (
            {"method": AFFINITY, "start": {"source": "teacher"}},
            {"teacher": "t", "start": "big"},
            "nothing in recipe clip uses the start of run r",
        ),
    ],
)
def test_names_and_wants_must_agree(recipe, run, fault):
    with pytest.raises(ConfigError, match=fault):
        check_lineage("r", run_of(**run), recipe_of(**recipe))


@pytest.mark.parametrize(
    ("recipe", "run"),
    [
        ({}, {}),
        ({"method": AFFINITY}, {"teacher": "t"}),
        ({"start": {"source": "teacher"}}, {"teacher": "t"}),
        ({"method": AFFINITY, "start": {"source": "run"}}, {"teacher": "t", "start": "big"}),
    ],
)
def test_what_agrees_is_let_pass(recipe, run):
    check_lineage("r", run_of(**run), recipe_of(**recipe))


def test_a_cache_of_other_views_is_refused_with_what_differs(root, toy_data):
    recipe = recipe_of(method=AFFINITY, views=CROP | {"flip": 0.0, "crop_area": [0.2, 0.5]})
    with pytest.raises(ConfigError, match="has been over other views than recipe clip shows") as told:
        open_lineage(run_of(teacher="asked"), recipe, (root / "teachers/asked", None), inputs_of(toy_data))
    text = str(told.value)
    assert "crop_area" in text and "flip" in text and "colour" not in text.split(";")[0]
    assert "set recipes.clip.views to those of teachers.asked.cache.crop" in text


def test_other_captions_than_the_index_has_are_refused_with_a_cache_only(root, toy_data):
    recipe = recipe_of(method=AFFINITY, views=CROP, captions=["caption", "long"])
    with pytest.raises(ConfigError, match=r"has read the caption of the index only.*leave recipes.clip.captions out"):
        open_lineage(run_of(teacher="asked"), recipe, (root / "teachers/asked", None), inputs_of(toy_data))
    lineage = open_lineage(run_of(teacher="anew"), recipe, (root / "teachers/anew", None), inputs_of(toy_data))
    assert lineage.replay is None and lineage.teacher.online is not None


def test_new_captions_of_a_policy_are_refused_with_a_cache_only(root, toy_data):
    run, recipe = run_of(teacher="asked", policy="told"), recipe_of(method=AFFINITY, views=CROP)
    plans = [Plan(pa.array(["a", "b"]), pa.array([None, caption], pa.string())) for caption in (None, "a new one")]
    lineages = {
        name: open_lineage(run, recipe, (root / "teachers" / name, None), inputs_of(toy_data))
        for name in ("asked", "anew")
    }
    for plan in (None, *plans):
        check_new_captions(run, lineages["anew"], plan)
    for plan in (None, plans[0]):
        check_new_captions(run, lineages["asked"], plan)
    with pytest.raises(ConfigError, match=r"policy told gives pairs new ones; set teachers\.asked\.cache to null"):
        check_new_captions(run, lineages["asked"], plans[1])


def test_a_cache_of_other_data_is_refused(root, toy_data):
    recipe = recipe_of(method=AFFINITY, views=CROP)
    with pytest.raises(DataError, match=r"another version of the data set \(valid differs\)"):
        inputs = inputs_of(toy_data) | {"valid": "0" * 16}
        open_lineage(run_of(teacher="asked"), recipe, (root / "teachers/asked", None), inputs)


def test_with_a_cache_no_model_of_the_teacher_is_loaded(root, toy_data):
    recipe = recipe_of(method=AFFINITY, views=CROP)
    lineage = open_lineage(run_of(teacher="asked"), recipe, (root / "teachers/asked", None), inputs_of(toy_data))
    assert lineage.teacher.online is None and lineage.start is None
    assert (lineage.teacher.widths, lineage.teacher.logit_scales) == ((24,), (50.0,))
    assert (lineage.replay.seed, lineage.replay.rows.views) == (CACHE["seed"], CACHE["views"])


def test_a_teacher_that_is_started_as_need_not_teach(root, toy_data):
    recipe = recipe_of(start={"source": "teacher"})
    lineage = open_lineage(run_of(teacher="asked"), recipe, (root / "teachers/asked", None), inputs_of(toy_data))
    assert lineage.teacher is None and lineage.replay is None
    assert lineage.start.config["embed_dim"] == 24


def test_a_missing_or_foreign_start_is_refused(root, toy_data, tmp_path):
    recipe, run = recipe_of(start={"source": "run"}), run_of(start="big")
    for folder in (tmp_path / "none", root / "teachers/asked"):
        with pytest.raises(DataError):
            open_lineage(run, recipe, (None, folder), inputs_of(toy_data))


def test_a_run_with_a_cached_teacher_says_whom_it_learnt_from(root, toy_data, params, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = {
        "method": AFFINITY,
        "views": CROP,
        "start": {"source": "teacher"},
        "towers": towers(text={"layers": 2}, vision={"layers": 1}),
        "holdout": {"pairs": 8, "every": 6},
    }
    file = params(**{f"recipes.clip.{n}": v for n, v in changes.items()}, **KNOWN, **{"runs.toy-s0.teacher": "asked"})
    teacher = root / "teachers/asked"
    pretrain("toy-s0", file, Paths(*toy_data, tmp_path / "model", tmp_path / "log", teacher=teacher))
    assert verify_manifest(tmp_path / "model") == []
    assert read_manifest(tmp_path / "model", "model")["inputs"]["teacher"] == version_of(teacher)
    began = json.loads((tmp_path / "model/began.json").read_text())
    assert began["image"]["layers"] == [[0]] and began["text"]["layers"] == [[0, 1]]
    summary = json.loads((tmp_path / "log/summary.json").read_text())
    assert "holdout/teacher_divergence" in json.dumps(summary)
    assert not [name for name in load_file(tmp_path / "model/open_clip_model.safetensors") if "teacher" in name]


def test_two_stages_cut_a_model_down_from_its_teacher(root, toy_data, params, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = {
        "method": AUTO,
        "towers": {"kind": "start"},
        "start": {"source": "teacher"},
        "budget": {"samples_seen": 224, "batch_size": 16},
    }

    teacher = root / "teachers/anew"

    def train(name: str, begin: Path | None = None, **more) -> dict:
        file = params(
            **{f"recipes.clip.{n}": v for n, v in (changes | more).items()},
            **KNOWN,
            **{"runs.toy-s0.teacher": "anew", "runs.toy-s0.start": "none" if begin is None else "first"},
        )
        folders = Paths(*toy_data, tmp_path / name, tmp_path / f"{name}-log", teacher=teacher, start=begin)
        pretrain("toy-s0", file, folders)
        assert verify_manifest(tmp_path / name) == []
        return json.loads((tmp_path / f"{name}-log/summary.json").read_text())["cost"]

    first = train("first")
    whole, once = map(num_parameters, (root / "models/big", tmp_path / "first"))
    assert first["inference_params"] == once < whole
    second = train("second", tmp_path / "first", start={"source": "run"}, method=AUTO | {"sparsity": 0.7})
    twice = num_parameters(tmp_path / "second")
    assert second["inference_params"] == twice < once
    assert 0 < second["flops"] < first["flops"]
    manifest = read_manifest(tmp_path / "second", "model")
    assert manifest["inputs"]["start"] == version_of(tmp_path / "first")


def test_shards_of_parameters_do_not_go_with_a_cut(root, toy_data, params, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = {"method": AUTO, "towers": {"kind": "start"}, "start": {"source": "teacher"}}
    file = params(
        **{f"recipes.clip.{n}": v for n, v in changes.items()},
        **KNOWN,
        **{"runs.toy-s0.teacher": "anew", "machine.shard_parameters": True},
    )
    folders = Paths(*toy_data, tmp_path / "model", tmp_path / "log", teacher=root / "teachers/anew")
    with pytest.raises(ConfigError, match=r"machine.shard_parameters is for models that keep their shape"):
        pretrain("toy-s0", file, folders)
