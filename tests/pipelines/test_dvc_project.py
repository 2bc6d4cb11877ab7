import json
import subprocess
import sys
from pathlib import Path

import pytest

from assets.errors import ConfigError
from pipelines.dvc_project import load_project, read_lock
from pipelines.dvc_template import interpolate
from pipelines.translator import Translator

ROOT = Path(__file__).parents[2]
# what DVC itself makes of a project, printed by a process of its own so that this one stays free of DVC
ASK_DVC = """
import json
from dvc.repo import Repo
found = {}
for stage in Repo().index.stages:
    params = [dep for dep in stage.deps if type(dep).__name__ == "ParamsDependency"]
    found[stage.addressing] = {
        "cmd": [stage.cmd] if isinstance(stage.cmd, str) else stage.cmd,
        "desc": stage.desc or "",
        "meta": stage.meta or {},
        "deps": sorted(dep.def_path for dep in stage.deps if dep not in params),
        "params": sorted(key for dep in params for key in dep.params),
        "outs": sorted([out.def_path, bool(out.use_cache)] for out in stage.outs),
    }
print(json.dumps(found))
"""
MATRIX = """
stages:
  embed:
    matrix:
      model: [clip, siglip]
      size: ${sizes}
      extra:
        - {wide: true}
    desc: ${item.model} at ${item.size} \\${literal}
    cmd:
      - echo ${item.model} ${item.extra.wide}
      - echo ${key}
    deps:
      - ${folders[0]}/${item.model}
    outs:
      - out/${item.model}-${item.size}:
          persist: true
  each:
    foreach:
      - 1
      - two
    do:
      cmd: echo ${item} ${nested.flag}
      meta: {count: "${sizes[1]}"}
"""


def ours(root):
    return {
        stage.address: {
            "cmd": list(stage.cmd),
            "desc": stage.desc,
            "meta": dict(stage.meta),
            "deps": sorted(stage.deps),
            "params": sorted(stage.params),
            "outs": sorted([out.path, out.cached] for out in stage.outs),
        }
        for stage in load_project(root).stages.values()
    }


def theirs(root):
    done = subprocess.run([sys.executable, "-c", ASK_DVC], cwd=root, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_toy_project_reads_as_dvc_reads_it(toy):
    assert ours(toy.root) == theirs(toy.root)


@pytest.mark.slow
@pytest.mark.parametrize("profile", sorted((ROOT / "profiles").glob("*.yaml")), ids=lambda path: path.stem)
def test_our_own_graph_reads_as_dvc_reads_it(toy, profile):
    (toy.root / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    (toy.root / "params.yaml").write_text(profile.read_text())
    assert ours(toy.root) == theirs(toy.root)


@pytest.mark.slow
def test_matrix_lists_and_literals_read_as_dvc_reads_them(toy):
    (toy.root / "dvc.yaml").write_text(MATRIX)
    (toy.root / "params.yaml").write_text("sizes: [32, 64]\nfolders: [data]\nnested: {flag: true}\n")
    found = ours(toy.root)
    assert found == theirs(toy.root)
    assert "embed@clip-32-extra0" in found


def test_a_template_that_names_nothing_says_what_there_is():
    with pytest.raises(ConfigError, match=r"dvc.yaml: .*unknown key 'dataset' \(did you mean 'datasets'\?\)"):
        interpolate("${dataset}", {"datasets": {}}, "dvc.yaml")


def test_a_list_inside_a_text_is_refused():
    with pytest.raises(ConfigError, match=r"stands in a text, got .a list."):
        interpolate("--sizes ${sizes}", {"sizes": [1, 2]}, "dvc.yaml")


def test_without_a_lock_there_are_no_versions(tmp_path):
    assert read_lock(tmp_path) == {}


def test_a_dependency_on_a_folder_reaches_every_asset_inside_it(toy):
    project, translator = load_project(toy.root), Translator()
    keys = [key.to_user_string() for key in translator.upstream_keys(project.stages["compare"], project)]
    assert keys == ["runs/clip-s0-summary.json"]


def test_a_dependency_on_metrics_reaches_the_first_asset_of_their_stage(toy):
    text = (
        (toy.root / "dvc.yaml")
        .read_text()
        .replace("deps:\n      - runs\n", "deps:\n      - runs/clip-s0/metrics.json\n")
    )
    (toy.root / "dvc.yaml").write_text(text)
    project, translator = load_project(toy.root), Translator()
    keys = [key.to_user_string() for key in translator.upstream_keys(project.stages["compare"], project)]
    assert keys == ["models/clip-s0"]


def test_names_that_dagster_cannot_tell_apart_are_refused(toy):
    (toy.root / "params.yaml").write_text("datasets: {a-b: {}, a_b: {}}\nruns: {}\n")
    project = load_project(toy.root)
    with pytest.raises(ConfigError, match="ingest@a-b and ingest@a_b are both"):
        Translator().check_names(project)


def test_an_unknown_key_under_meta_is_refused(toy):
    text = (toy.root / "dvc.yaml").read_text().replace("pool: gpu", "pol: gpu")
    (toy.root / "dvc.yaml").write_text(text)
    project = load_project(toy.root)
    with pytest.raises(ConfigError, match="unknown key 'pol'"):
        Translator().pool(project.stages["pretrain@clip-s0"])
