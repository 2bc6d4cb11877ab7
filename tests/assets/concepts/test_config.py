import json
import subprocess
import sys

import pytest

from assets.concepts.config import ClipImages, TruthImages, load_concepts
from assets.config import SECTIONS
from assets.errors import ConfigError

KNOWN = {"datasets": {"emoji": {}, "other": {}}, "embeddings": {"e": {"dataset": "emoji"}, "o": {"dataset": "other"}}}


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Return a function that reads an entry with the given values."""
    monkeypatch.chdir(tmp_path)

    def read(name: str = "c", **values):
        entry = {"dataset": "emoji", "list": "classes", "embeddings": "none", "images": {"kind": "truth"}, **values}
        data = {section: {} for section in SECTIONS} | KNOWN | {"concepts": {"c": entry}}
        (tmp_path / "params.yaml").write_text(json.dumps(data))
        return load_concepts(tmp_path / "params.yaml", name)

    return read


def test_defaults(load):
    config = load()
    assert isinstance(config.images, TruthImages) and config.policy == "phrase"
    assert config.embeddings == "none" and config.list_file is None
    clip = load(images={"kind": "clip"}, embeddings="e")
    assert isinstance(clip.images, ClipImages) and clip.images.precision == 0.9


def test_a_list_is_a_file_where_it_does_not_say_classes(load, tmp_path):
    (tmp_path / "birds.txt").write_text("owl\n")
    file = load(list="birds.txt").list_file
    assert file is not None and file.name == "birds.txt"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"dataset": "emojis"}, "unknown data set 'emojis' (did you mean 'emoji'?)"),
        ({"images": {"kind": "clip"}}, "name the embeddings that hold them"),
        ({"embeddings": "e"}, "embeddings are for images of kind clip alone"),
        (
            {"images": {"kind": "clip"}, "embeddings": "o"},
            "embeddings.o is of another data set, got 'other', wanted emoji",
        ),
        ({"images": {"kind": "clip"}, "embeddings": "x"}, "unknown embeddings 'x'"),
        ({"images": {"kind": "clip", "precision": 0}, "embeddings": "e"}, "greater than 0"),
        ({"images": {"kind": "clip", "precision": 1}, "embeddings": "e"}, "less than 1"),
        ({"images": {"kind": "ram"}}, "truth"),
        ({"list": "missing.txt"}, "list missing.txt does not exist; write classes, or the path of a file"),
        ({"list": " "}, "one concept a line"),
        ({"policy": "exact"}, "phrase"),
        ({"polycy": "phrase"}, "did you mean 'policy'"),
        ({"name": "d"}, "'d'"),
    ],
)
def test_an_entry_that_cannot_be_carried_out_is_refused_with_the_reason(load, values, told):
    with pytest.raises(ConfigError) as error:
        load(**values)
    assert told in str(error.value)


def test_reading_the_entry_loads_nothing_heavy():
    heavy = "{'torch', 'pyarrow', 'scipy', 'numpy'}"
    code = f"import sys, assets.concepts.config; print({heavy} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "set()"
