from typing import Annotated, Literal

import pytest
from pydantic import Field

from assets.errors import ConfigError
from assets.section import Section, parse, read_yaml


class Round(Section):
    kind: Literal["round"]
    radius: float


class Square(Section):
    kind: Literal["square"]
    side: float


class Picture(Section):
    shape: Annotated[Round | Square, Field(discriminator="kind")]
    crop: tuple[float, float] = (0.5, 1.0)
    names: dict[str, Round] = {}
    depth: int = 1


GOOD = {"shape": {"kind": "round", "radius": 2}, "crop": [0.1, 1]}


def test_yaml_lists_become_tuples_and_whole_numbers_floats():
    assert parse(Picture, GOOD, "p").crop == (0.1, 1.0)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"dept": 2}, r"p: unknown key 'dept' \(did you mean 'depth'\?\); valid: crop, depth, names, shape"),
        ({"shape": {"kind": "square", "sid": 1}}, r"p.shape.square: unknown key 'sid' \(did you mean 'side'"),
        ({"names": {"a": {"kind": "round", "radios": 1}}}, r"p.names.a: unknown key 'radios' \(did you mean 'radius'"),
        ({"depth": "3"}, r"p.depth: .*integer, got '3'"),
        ({"depth": True}, r"p.depth: .*integer, got True"),
        ({"shape": {"kind": "oval"}}, r"p.shape: .*round.*square"),
    ],
)
def test_a_wrong_value_is_named_with_its_place_and_what_was_wanted(change, fault):
    with pytest.raises(ConfigError, match=fault):
        parse(Picture, GOOD | change, "p")


def test_every_fault_is_reported_at_once():
    with pytest.raises(ConfigError) as error:
        parse(Picture, GOOD | {"depth": "x", "croop": 1}, "p")
    assert len(str(error.value).splitlines()) == 2


def test_yaml_numbers_with_an_exponent_are_numbers(tmp_path):
    (tmp_path / "p.yaml").write_text("lr: 1e-3\n")
    assert read_yaml(tmp_path / "p.yaml") == {"lr": 1e-3}


@pytest.mark.parametrize(("text", "fault"), [("a: [1", "not readable as YAML"), ("- 1\n", "must hold a mapping")])
def test_an_unreadable_file_is_named(tmp_path, text, fault):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"p\.yaml.*{fault}"):
        read_yaml(tmp_path / "p.yaml")
    with pytest.raises(ConfigError, match="does not exist"):
        read_yaml(tmp_path / "q.yaml")
