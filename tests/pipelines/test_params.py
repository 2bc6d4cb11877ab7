import importlib
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from assets.errors import ConfigError
from assets.section import read_yaml
from pipelines.params import load_params, load_store
from tests.training.captioner.conftest import ENTRY

DEMO = Path(__file__).resolve().parents[2] / "profiles" / "demo.yaml"
VALID = read_yaml(DEMO)


@pytest.fixture
def faults(tmp_path):
    """Change the demo profile and return what load_params says about it."""

    def check(change) -> str:
        data = deepcopy(VALID)
        change(data)
        path = tmp_path / "params.yaml"
        with path.open("w", encoding="utf-8") as stream:
            YAML(typ="safe").dump(data, stream)
        with pytest.raises(ConfigError) as caught:
            load_params(path)
        return str(caught.value).replace(str(path), "params.yaml")

    return check


def first(section: str) -> str:
    return next(iter(VALID[section]))


def test_the_demo_profile_passes_whole():
    params = load_params(DEMO)
    assert params.profile == "demo"
    assert set(params.runs) == set(VALID["runs"])
    assert load_store(DEMO) == params.store


@pytest.mark.parametrize("section", ["machine", "store", "evaluation", "report"])
def test_an_unknown_key_is_named_with_its_place(faults, section):
    assert f"params.yaml: {section}" in (text := faults(lambda data: data[section].update(wrokers=1)))
    assert "'wrokers'" in text


def test_an_unknown_key_gets_the_nearest_valid_one(faults):
    assert "did you mean 'workers'?" in faults(lambda data: data["machine"].update(wrokers=1))


def test_an_unknown_section_gets_the_nearest_one(faults):
    assert "unknown section 'recipe' (did you mean 'recipes'?)" in faults(lambda data: data.update(recipe={}))


def test_a_missing_section_is_named(faults):
    assert "lacks the sections report; copy them from profiles/" in faults(lambda data: data.pop("report"))


def test_a_file_from_before_policies_is_told_what_to_add(faults):
    def change(data):
        for section in ("embeddings", "captioners", "policies"):
            del data[section]

    text = faults(change)
    assert 'add "embeddings: {}" and "captioners: {}" and "policies: {}"' in text


@pytest.mark.parametrize(("section", "noun"), [("recipes", "recipe"), ("datasets", "data set")])
def test_a_run_that_names_something_unknown_gets_the_nearest_name(faults, section, noun):
    name = first(section)
    text = faults(lambda data: data["runs"][first("runs")].update({section[:-1]: name + "x"}))
    assert f"params.yaml: runs.{first('runs')}: unknown {noun} '{name}x' (did you mean '{name}'?)" in text


def minilm(dataset: str) -> dict[str, str]:
    return {"kind": "sentences", "dataset": dataset, "encoder": "minilm"}


def test_features_may_be_none_or_an_entry_of_the_same_data_set(faults):
    def change(data):
        data["features"] = {"minilm": minilm(first("datasets")), "none": minilm("nope")}
        data["datasets"]["other"] = data["datasets"][first("datasets")]
        runs = data["runs"]
        runs["far"] = runs[first("runs")] | {"features": "minilm", "dataset": "other"}
        runs["mistyped"] = runs[first("runs")] | {"features": "minilm2"}

    lines = faults(change).splitlines()
    assert "features.none: unknown data set 'nope'" in lines[0]
    assert "features.none: that name says that none is wanted" in lines[1]
    assert "runs.far: features minilm of another data set" in lines[2]
    assert "runs.mistyped: unknown features 'minilm2' (did you mean 'minilm'?)" in lines[3]
    assert len(lines) == 4


def scored(data: dict, **policy) -> dict:
    """Give a params.yaml a scorer, its embeddings, and a policy that goes by them."""
    dataset = first("datasets")
    data["embeddings"] = {"scorer": {"dataset": dataset, "run": first("runs")}}
    steps = [{"kind": "clip_score", "keep": 0.5}]
    half = {
        "dataset": dataset,
        "embeddings": "scorer",
        "captioner": "none",
        "concepts": "none",
        "steps": steps,
        **policy,
    }
    data["policies"] = {"half": half}
    data["runs"]["reduced"] = data["runs"][first("runs")] | {"policy": "half"}
    return data


def test_a_run_on_a_policy_that_goes_by_another_run_is_fine(tmp_path):
    path = tmp_path / "params.yaml"
    with path.open("w", encoding="utf-8") as stream:
        YAML(typ="safe").dump(scored(deepcopy(VALID)), stream)
    params = load_params(path)
    assert params.runs["reduced"].policy == "half" and params.embeddings["scorer"].run == first("runs")


def test_names_of_policies_embeddings_and_captioners_are_looked_up(faults):
    def change(data):
        scored(data, captioner="codebook")
        data["embeddings"]["other"] = {"dataset": "nope", "run": "none", "checkpoint": {"kind": "folder", "path": "x"}}
        data["embeddings"]["none"] = {"dataset": first("datasets"), "run": "rum"}
        data["runs"]["lost"] = data["runs"][first("runs")] | {"policy": "hafl"}

    lines = faults(change).splitlines()
    assert "embeddings.none: unknown run 'rum'" in lines[0]
    assert "embeddings.other: unknown data set 'nope'" in lines[1]
    assert "embeddings.none: that name says that none is wanted" in lines[2]
    assert "policies.half: unknown captioner 'codebook'; valid: none" in lines[3]
    assert "runs.lost: unknown policy 'hafl' (did you mean 'half'?)" in lines[4]
    assert len(lines) == 5


def test_a_policy_and_its_run_must_be_of_one_data_set(faults):
    def change(data):
        data["datasets"]["other"] = data["datasets"][first("datasets")]
        scored(data)["policies"]["half"]["dataset"] = "other"

    lines = faults(change).splitlines()
    assert f"policies.half: embeddings scorer of another data set, got '{first('datasets')}', wanted other" in lines[0]
    assert f"runs.reduced: policy half of another data set, got 'other', wanted {first('datasets')}" in lines[1]
    assert len(lines) == 2


def test_a_scorer_that_needs_its_own_scores_is_told_its_circle(faults):
    def change(data):
        scored(data)["embeddings"]["scorer"]["run"] = "reduced"
        data["runs"]["second"] = data["runs"]["reduced"]

    (line,) = faults(change).splitlines()
    assert "runs.reduced depends on itself (runs.reduced -> policies.half -> embeddings.scorer -> runs.reduced)" in line
    assert "let embeddings.scorer name a run that does without it" in line


def test_a_captioner_that_starts_as_a_run_on_its_own_captions_is_told_its_circle(faults):
    def change(data):
        scored(data, captioner="codebook")["captioners"]["codebook"] = ENTRY | {
            "dataset": first("datasets"),
            "run": "reduced",
        }

    (line,) = faults(change).splitlines()
    assert "(runs.reduced -> policies.half -> captioners.codebook -> runs.reduced)" in line
    assert "let captioners.codebook name a run that does without it" in line


def taught(data: dict, **teachers) -> dict:
    """Give a params.yaml teachers (name -> changes of an entry) and two runs beside its first one."""
    entry = {"dataset": first("datasets"), "run": first("runs"), "ensemble_with": "none"}
    data["teachers"] = {name: entry | changes for name, changes in teachers.items()}
    for name in ("one", "two"):
        data["runs"][name] = dict(data["runs"][first("runs")])
    return data


def test_runs_that_start_as_each_other_are_told_their_circle(faults):
    def change(data):
        taught(data)["runs"]["one"]["start"] = "two"
        data["runs"]["two"]["start"] = "one"

    (line,) = faults(change).splitlines()
    assert "runs.one depends on itself (runs.one -> runs.two -> runs.one)" in line
    assert "let one of them start as another run, or as none" in line


def test_a_run_that_starts_as_itself_is_told(faults):
    def change(data):
        taught(data)["runs"]["one"]["start"] = "one"

    (line,) = faults(change).splitlines()
    assert "runs.one depends on itself (runs.one -> runs.one)" in line


def test_a_run_that_learns_from_itself_is_told_its_circle(faults):
    def change(data):
        taught(data, vit={"run": "one"})["runs"]["one"]["teacher"] = "vit"

    (line,) = faults(change).splitlines()
    assert "runs.one depends on itself (runs.one -> teachers.vit -> runs.one)" in line
    assert "let teachers.vit name a run that does without it" in line


def test_a_start_and_a_teacher_can_make_a_circle_together(faults):
    def change(data):
        taught(data, vit={"run": "two"})["runs"]["one"]["teacher"] = "vit"
        data["runs"]["two"]["start"] = "one"

    (line,) = faults(change).splitlines()
    assert "(runs.one -> teachers.vit -> runs.two -> runs.one)" in line
    assert "let teachers.vit name a run that does without it" in line


def test_teachers_that_take_each_other_in_are_told_their_circle(faults):
    def change(data):
        taught(data, vit={"ensemble_with": "resnet"}, resnet={"ensemble_with": "vit"})

    (line,) = faults(change).splitlines()
    assert "teachers.resnet depends on itself (teachers.resnet -> teachers.vit -> teachers.resnet)" in line
    assert "set ensemble_with of one of them to none" in line


def test_names_of_runs_and_data_sets_of_indexes_are_looked_up(faults):
    def change(data):
        run, dataset = first("runs"), first("datasets")
        data["indexes"] = {
            "good": {"run": run, "dataset": dataset, "splits": ["test"]},
            "lost": {"run": "gone", "dataset": "nowhere", "splits": ["test"]},
            "twice": {"run": run, "dataset": dataset, "splits": ["test", "test"]},
            "empty": {"run": run, "dataset": dataset, "splits": []},
        }

    lines = sorted(line.partition("params.yaml: ")[2].partition("; ")[0] for line in faults(change).splitlines())
    assert [line.partition(" (")[0].partition(",")[0] for line in lines] == [
        "indexes.empty.splits: Tuple should have at least 1 item after validation",
        "indexes.lost: unknown data set 'nowhere'",
        "indexes.lost: unknown run 'gone'",
        "indexes.twice.splits: a split is named twice",
    ]


def test_names_of_teachers_starts_and_exports_are_looked_up(faults):
    def change(data):
        data["datasets"]["other"] = data["datasets"][first("datasets")]
        taught(data, vit={}, both={"ensemble_with": "vitt"}, lost={"run": "onee"})
        data["runs"]["one"] |= {"teacher": "vti", "start": "tow"}
        data["runs"]["two"] |= {"teacher": "vit", "dataset": "other"}
        data["exports"] = {"small": {"run": "onee"}}

    lines = sorted(faults(change).splitlines())
    assert [line.partition("params.yaml: ")[2].partition(" (")[0].partition(", got")[0] for line in lines] == [
        "exports.small: unknown run 'onee'",
        "runs.one: unknown run 'tow'",
        "runs.one: unknown teacher 'vti'",
        "runs.two: teacher vit of another data set",
        "teachers.both: unknown teacher 'vitt'",
        "teachers.lost: unknown run 'onee'",
    ]


def test_a_chain_of_teachers_and_starts_is_fine(tmp_path):
    data = taught(deepcopy(VALID), vit={}, both={"ensemble_with": "vit", "run": "one"})
    data["runs"]["one"] |= {"teacher": "vit"}
    data["runs"]["two"] |= {"teacher": "both", "start": "one"}
    path = tmp_path / "params.yaml"
    with path.open("w", encoding="utf-8") as stream:
        YAML(typ="safe").dump(data, stream)
    assert load_params(path).teachers["both"].ensemble_with == "vit"


def test_new_captions_are_refused_where_the_text_is_frozen(faults):
    def change(data):
        scored(data, captioner="codebook")
        data["features"] = {"minilm": minilm(first("datasets"))}
        recipe = deepcopy(data["recipes"]["clip_vit"])
        recipe["towers"] |= {"text": {"kind": "frozen", "center": False}}
        recipe["method"] = {"kind": "flame", "loss": "softmax"}
        data["recipes"]["frozen"] = recipe
        data["runs"]["reduced"] |= {"recipe": "frozen", "features": "minilm"}

    lines = faults(change).splitlines()
    assert "unknown captioner" in lines[0]
    assert "runs.reduced: policy half changes captions, but the text of recipe frozen is frozen" in lines[1]
    assert "captions to {kind: original}" in lines[1] and len(lines) == 2


def test_embeddings_name_either_a_run_or_a_checkpoint(faults):
    text = faults(lambda data: scored(data)["embeddings"]["scorer"].update(run="none"))
    assert "params.yaml: embeddings.scorer: the model is that of a run or a checkpoint" in text


def test_a_wrong_entry_of_features_is_named(faults):
    text = faults(lambda data: data.update(features={"minilm": minilm(first("datasets")) | {"encodr": "x"}}))
    assert "params.yaml: features.minilm" in text and "did you mean 'encoder'?" in text


def test_a_wrong_type_says_what_it_got(faults):
    text = faults(lambda data: data["machine"].update(workers="two"))
    assert "params.yaml: machine.workers" in text and "'two'" in text


def test_an_unknown_key_of_a_method_is_found_before_training(faults):
    text = faults(lambda data: data["recipes"][first("recipes")]["method"].update(temprature=1))
    assert f"params.yaml: recipes.{first('recipes')}.method" in text and "'temprature'" in text


def test_an_unknown_method_gets_the_nearest_one(faults):
    text = faults(lambda data: data["recipes"][first("recipes")]["method"].update(kind="clpi"))
    assert "unknown method 'clpi' (did you mean 'clip'?)" in text


def test_all_faults_are_shown_at_once(faults):
    def change(data):
        data["machine"]["device"] = "tpu"
        data["store"]["bucket"] = "UPPER"
        data["runs"][first("runs")]["recipe"] = "nope"

    text = faults(change)
    assert "machine.device" in text and "store.bucket" in text and "unknown recipe 'nope'" in text
    assert len(text.splitlines()) == 3


@pytest.mark.parametrize("name", ["Two Words", "a@b", "-x", "a/b"])
def test_a_name_that_is_no_folder_or_asset_key_is_refused(faults, name):
    text = faults(lambda data: data["runs"].update({name: data["runs"][first("runs")]}))
    assert f"params.yaml: runs: bad name {name!r}" in text


def test_names_that_dagster_cannot_tell_apart_are_refused(faults):
    def change(data):
        run = data["runs"].pop(first("runs"))
        data["runs"].update({"a-b": run, "a_b": run})

    assert "'a-b' and 'a_b' differ in punctuation only" in faults(change)


def test_a_main_metric_of_an_evaluator_that_does_not_run_is_refused(faults):
    text = faults(lambda data: data["report"].update(main_metric="zeroshot.in_domain.top1"))
    assert "report.main_metric" in text and "did you mean 'zero_shot'?" in text


def test_an_empty_section_is_refused(faults):
    assert "params.yaml: runs, got {}" in faults(lambda data: data.update(runs={}))


def test_a_file_that_is_no_yaml_says_where(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("machine:\n  workers: [1\n")
    with pytest.raises(ConfigError, match=r"not readable as YAML .*line"):
        load_params(path)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"endpoint": "127.0.0.1:9000"}, "http://HOST:PORT"),
        ({"endpoint": "http://127.0.0.1:9000/path"}, "without a path"),
        ({"endpoint": "http://me:secret@127.0.0.1:9000"}, "do not belong in the endpoint"),
        ({"endpoint": "http://storage.example.org:9000"}, "runs on this machine only"),
        ({"endpoint": "http://127.0.0.1"}, "runs on this machine only"),
        ({"bucket": "Not_A_Bucket"}, "3 to 63 lower-case"),
        ({"server": "s3"}, "store.server"),
        ({"secret_key": "x"}, "'secret_key'"),
    ],
)
def test_a_wrong_store_is_refused_with_what_is_wanted(faults, change, wanted):
    assert wanted in faults(lambda data: data["store"].update(change))


def test_a_method_that_passed_is_not_loaded_again_but_a_changed_one_is(tmp_path, monkeypatch):
    memory = tmp_path / "work" / "passed.json"
    load_params(DEMO, memory)

    load = importlib.import_module

    def refuse_methods(module: str) -> object:
        if module.startswith("training.methods."):
            raise ConfigError(f"{module} was loaded")
        return load(module)

    monkeypatch.setattr("pipelines.params.importlib.import_module", refuse_methods)
    load_params(DEMO, memory)
    changed = tmp_path / "params.yaml"
    changed.write_text(DEMO.read_text().replace("kind: clip\n", "kind: clip\n      logit_scale_init: 0.5\n", 1))
    with pytest.raises(ConfigError, match="was loaded"):
        load_params(changed, memory)


def test_reading_params_again_loads_no_torch(tmp_path):
    load_params(DEMO, tmp_path / "passed.json")
    code = (
        "import sys; from pathlib import Path; from pipelines.params import load_params;"
        f"load_params(Path({str(DEMO)!r}), Path({str(tmp_path / 'passed.json')!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=DEMO.parents[1])
