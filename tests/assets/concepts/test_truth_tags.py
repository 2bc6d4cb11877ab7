import pytest

from assets.concepts.concept_list import Concept
from assets.concepts.truth_tags import COLUMNS, object_names, read_scenes, truth_tags
from assets.errors import DataError
from assets.index import read_index
from assets.progress import Stage
from assets.sources.base import Sample
from tests.assets.concepts.case_a import lists_of
from tests.toy_folders import write_shards

LISTED = [Concept("dog", ("hound",), ""), Concept("wine_glass", (), ""), Concept("cat", (), "")]


def test_objects_are_found_by_name_and_alias_once_each(tmp_path):
    told = [["Hound", "dog", "tree"], ["wine glass", "CAT"], [], None]
    assert lists_of(truth_tags(told, LISTED, tmp_path)) == [[0], [1, 2], [], []]


def test_a_data_set_that_says_nothing_of_its_pictures_is_refused(tmp_path):
    with pytest.raises(DataError, match="lists objects with names; set images to kind clip"):
        truth_tags([None, None], LISTED, tmp_path)


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        ({"objects": [{"name": "dog"}, {"name": 3}, "cat", {}]}, ["dog"]),
        ({"objects": []}, []),
        ({"objects": {"name": "dog"}}, None),
        ({}, None),
    ],
)
def test_data_of_others_may_have_anything_there(metadata, names):
    assert object_names(metadata) == names


def test_what_is_read_belongs_to_the_pairs_asked_for_over_shards(tmp_path):
    def sample(number: int, **metadata) -> Sample:
        return Sample(f"pair-{number}", b"no picture", "jpg", "a caption", metadata)

    first = [sample(0, objects=[{"name": "dog"}], noise=None), sample(1, objects=[{"name": "cat"}], noise="mismatch")]
    second = [sample(2), sample(3, objects=[{"name": "hound"}, {"name": "cat"}], noise="generic")]
    write_shards(tmp_path / "raw", "train", [first, second])
    rows = read_index(tmp_path / "raw", COLUMNS, "train")
    with Stage("test") as stage:
        whole = read_scenes(tmp_path / "raw", rows, stage)
        some = read_scenes(tmp_path / "raw", rows.filter([True, False, True, True]), stage)
        silent = read_scenes(tmp_path / "raw", rows.slice(2, 1), stage)
    assert whole.objects == [["dog"], ["cat"], None, ["hound", "cat"]]
    assert whole.noise == [None, "mismatch", None, "generic"] and whole.tells_noise
    assert some.objects == [["dog"], None, ["hound", "cat"]] and some.noise == [None, None, "generic"]
    assert not silent.tells_noise
