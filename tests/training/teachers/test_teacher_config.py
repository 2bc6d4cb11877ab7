from pathlib import Path

import pytest

from assets.errors import ConfigError
from tests.evaluation.squares import run, write_params
from training.teachers.config import load_teacher

ENTRY = {
    "dataset": "squares",
    "run": "clip-s0",
    "ensemble_with": "none",
    "logit_scale": 50,
    "cache": {"views": 4, "seed": 0, "crop": {"crop_area": [0.9, 1.0]}},
}
CHECKPOINT = {"kind": "folder", "path": "elsewhere"}


def load(folder: Path, other: dict | None = None, **changes):
    teachers = {"teacher": ENTRY | changes, "other": ENTRY | (other or {})}
    datasets = {"squares": {}, "circles": {}}
    params = write_params(folder / "params.yaml", {"clip-s0": run("clip", 0)}, teachers=teachers, datasets=datasets)
    return load_teacher(params, "teacher")


def test_an_entry_is_read_and_its_model_is_that_of_a_run_or_a_checkpoint(tmp_path):
    config = load(tmp_path, ensemble_with="other")
    assert (config.cache.views, config.logit_scale, config.batch_size) == (4, 50.0, 256)
    assert load(tmp_path, run="none", checkpoint=CHECKPOINT, cache=None).checkpoint.kind == "folder"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"run": "clip-s1"}, r"unknown run 'clip-s1' \(did you mean 'clip-s0'\?\)"),
        ({"dataset": "square"}, r"unknown data set 'square' \(did you mean 'squares'\?\)"),
        ({"run": "none"}, "name one of the two, not both or neither"),
        ({"checkpoint": CHECKPOINT}, "name one of the two, not both or neither"),
        ({"cache": ENTRY["cache"] | {"views": 0}}, r"teachers.teacher.cache.views: .*greater than or equal to 1"),
        ({"logit_scale": 0}, "logit_scale: .*greater than 0"),
        ({"ensemble_with": "othr"}, r"unknown teacher 'othr' \(did you mean 'other'\?\)"),
        ({"ensemble_with": "teacher"}, "names the teacher itself"),
        ({"ensemble_with": "other", "other": {"dataset": "circles"}}, "other teaches another data set, got 'circles'"),
        ({"ensemble_with": "other", "other": {"cache": None}}, "other has another cache, got 'no cache'"),
        ({"ensemble_with": "other", "other": {"cache": ENTRY["cache"] | {"seed": 1}}}, "one cache"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(tmp_path, changes, told):
    with pytest.raises(ConfigError, match=told):
        load(tmp_path, **changes)
