import json

import pytest

from assets.concepts.concept_list import Concept, canonical, list_concepts, merge, places
from assets.errors import ConfigError, DataError


def test_classes_with_their_plurals(emoji_raw, emoji_facts):
    found = list_concepts(None, emoji_raw)
    assert found.notes == ()
    assert [concept.name for concept in found.concepts] == [entry["name"] for entry in emoji_facts["classes"]]
    for concept, entry in zip(found.concepts, emoji_facts["classes"], strict=True):
        assert concept.group == entry["group"]
        assert concept.aliases == ((entry["plural"],) if entry["plural"] not in (None, entry["name"]) else ())


def test_lines_of_a_file(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("\ufeffdog\thound|doggy| \tanimals\n\n polar_bear \ncrane\t\ttools\n", encoding="utf-8")
    assert list_concepts(path, tmp_path).concepts == (
        Concept("dog", ("hound", "doggy"), "animals"),
        Concept("polar_bear", (), ""),
        Concept("crane", (), "tools"),
    )


def test_names_that_collide_are_one_concept_with_all_aliases():
    found = merge(
        [
            Concept("Polar_Bear", ("ice bear",), ""),
            Concept("dog", (), "animals"),
            Concept("polar  bear", ("polar_bear", "Ice Bear", "nanuk"), "animals"),
        ]
    )
    assert found.concepts == (Concept("Polar_Bear", ("ice bear", "nanuk"), "animals"), Concept("dog", (), "animals"))
    (note,) = found.notes
    assert "'Polar_Bear' is listed 2 times" in note and "groups" not in note


def test_a_name_in_two_groups_is_noted():
    found = merge([Concept("crane", ("bird",), "animals"), Concept("Crane", ("derrick",), "tools")])
    assert found.concepts == (Concept("crane", ("bird", "derrick"), "animals"),)
    assert "in the groups animals, tools: it counts for animals" in found.notes[0]


@pytest.mark.parametrize("other", ["polar bear", "POLAR_BEAR", " polar\tbear ", "\uff50olar bear"])
def test_spellings_of_one_name(other):
    assert canonical(other) == canonical("Polar Bear") == "polar bear"


def test_an_alias_stands_for_all_that_have_it_but_never_for_what_has_that_name():
    concepts = [Concept("leaf", ("leaves",), ""), Concept("leaves", (), ""), Concept("elm", ("Tree", "tree"), "")]
    assert places([*concepts, Concept("oak", ("tree",), "")]) == {
        "leaf": (0,),
        "leaves": (1,),
        "elm": (2,),
        "oak": (3,),
        "tree": (2, 3),
    }


@pytest.mark.parametrize(
    ("content", "error", "told"),
    [
        ("\n \n", ConfigError, "lists no concept"),
        ("dog\n\tpuppy\n", DataError, "line 2 is no concept, got 'no name'"),
        ("dog\ta\tb\tc\n", DataError, "line 1 is no concept, got '4 columns'"),
        ("dog\n--\n", ConfigError, "1 concepts have no letter and no digit in their name ('--')"),
        (b"d\xf6g\n", DataError, "not readable as UTF-8"),
        (None, DataError, "not readable as UTF-8"),
    ],
)
def test_lists_that_cannot_be_searched_for_are_refused(tmp_path, content, error, told):
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(error) as raised:
        list_concepts(path, tmp_path)
    assert told in str(raised.value)


def test_a_data_set_without_classes_is_told_to_take_a_file(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps({"classes": []}))
    with pytest.raises(ConfigError, match=r"names no classes.*name it in list"):
        list_concepts(None, tmp_path)
    with pytest.raises(DataError, match=r"dataset.json is not readable"):
        list_concepts(None, tmp_path / "elsewhere")
