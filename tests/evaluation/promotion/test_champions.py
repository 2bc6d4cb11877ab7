import dataclasses
import json
import subprocess
import sys

import pytest

from assets.errors import DataError
from evaluation.promotion.champions import (
    ChampionEvent,
    History,
    read_history,
    write_history,
)
from tests.evaluation.promotion.histories import history, version


def test_an_absent_file_is_an_empty_history(tmp_path):
    found = read_history(tmp_path, "champion")
    assert found == History("champion") and found.champion is None


def test_a_history_survives_the_disk_in_the_same_bytes(tmp_path):
    written = history(2, barred=("c" * 16,), versions=(version(1), version(2, published="s3://b/champion/v2.0.0")))
    written = dataclasses.replace(written, events=(ChampionEvent("2026-11-28T21:00:00Z", "promoted", 2, "better"),))
    path = write_history(tmp_path, written)
    first = path.read_bytes()
    found = read_history(tmp_path, "champion")
    assert found == written and found.champion == version(2, published="s3://b/champion/v2.0.0")
    assert write_history(tmp_path, found).read_bytes() == first
    data = json.loads(first)
    assert set(data) == {"name", "current", "barred", "versions", "events"}
    assert set(data["versions"][0]) == {
        *("version", "run", "model", "md5", "size", "files", "dataset", "data", "evaluation"),
        *("scores", "reason", "commit", "when", "tag", "published"),
    }


def test_no_current_version_is_no_champion(tmp_path):
    write_history(tmp_path, history(None))
    assert read_history(tmp_path, "champion").champion is None


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda data: data.pop("barred"), "KeyError"),
        (lambda data: data.update(current=7), "current version 7 is not among"),
        (lambda data: data["versions"].reverse(), r"versions are \[2, 1\]"),
        (lambda data: data["versions"][0].pop("tag"), "lacks or does not know tag"),
        (lambda data: data["versions"][0].update(colour="red"), "does not know colour"),
        (lambda data: data.update(name="other"), "it is of 'other'"),
        (
            lambda data: data["events"].append({"when": "", "what": "sold", "version": 1, "reason": ""}),
            "unknown event 'sold'",
        ),
    ],
)
def test_a_damaged_history_is_refused_with_the_way_back(tmp_path, damage, fault):
    path = write_history(tmp_path, history(1))
    data = json.loads(path.read_text())
    damage(data)
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=fault) as error:
        read_history(tmp_path, "champion")
    assert f'run "git checkout {path}"' in str(error.value)
    path.write_text("{")
    with pytest.raises(DataError, match="JSONDecodeError"):
        read_history(tmp_path, "champion")


def test_a_history_that_could_not_be_read_again_is_not_written(tmp_path):
    with pytest.raises(DataError, match="current version 5"):
        write_history(tmp_path, history(5))
    assert not list(tmp_path.iterdir())


def test_the_modules_that_definitions_import_are_light():
    code = (
        "import sys, evaluation.promotion.champions, evaluation.promotion.config;"
        "print([name for name in ('torch', 'numpy', 'pandas', 'pyarrow', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
