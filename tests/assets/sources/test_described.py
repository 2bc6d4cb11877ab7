"""What the sources that the user describes share: names of classes, and the rule for splits."""

import pytest
from pydantic import TypeAdapter

from assets.errors import ConfigError, DataError
from assets.section import parse
from assets.sources.base import Sample
from assets.sources.described.class_names import ClassNames
from assets.sources.described.config import DescribedConfig, DescribedSplit, SplitName
from assets.sources.described.source import DescribedSource, SplitListing


class Plain(DescribedConfig[DescribedSplit]):
    """The least config a source of this kind can have."""

    title: str = "Nothing much"


class Counted(DescribedSource[Plain, SplitListing]):
    """Lists as many samples as a split's name has letters, and notes when it does."""

    listed = "letters"

    def _list_splits(self, names):
        self.asked = [*getattr(self, "asked", []), names]
        return {name: SplitListing(len(name), {"too late": 1200}, {"no caption": 3}, f"d-{name}") for name in names}

    def _further_faults(self, split, listing):
        return [f"{split} is short."] if listing.size < 5 else []

    def samples(self, split, start, stop):
        yield Sample(split, b"", "jpg", "", {})


def plain(**splits) -> Plain:
    return parse(Plain, {"licence": "CC0", "faults": ["Blurred."], "splits": splits}, "source")


@pytest.mark.parametrize(("text", "line"), [("", 1), ("dog\n\nhen\n", 2)])
def test_a_file_of_names_with_a_gap_is_refused(tmp_path, text, line):
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(DataError, match=rf"names.txt line {line} has no class name"):
        ClassNames.from_file(tmp_path / "names.txt")


def test_a_class_is_mentioned_by_whole_words_only(tmp_path):
    (tmp_path / "names.txt").write_text("cat\nhot dog\ndog\n")
    names = ClassNames.from_file(tmp_path / "names.txt")
    assert names.mentioned("A HOT-DOG for two cats") == ("0", "1", "2")
    assert names.mentioned("a category of hot things") == ()


def test_names_that_come_without_groups_are_one_group():
    assert [entry.group for entry in ClassNames(["dog", "hen"]).classes({})] == ["class", "class"]
    assert [entry.group for entry in ClassNames(["dog", "hen"], ["pet", "bird"]).classes({})] == ["pet", "bird"]


def test_train_is_listed_first_and_only_once():
    source = Counted(plain(test={"role": "retrieval", "style": "drawn"}, train={"role": "train"}))
    assert [(split.name, split.size, split.style) for split in source.splits()] == [
        ("train", 5, None),
        ("test", 4, "drawn"),
    ]
    assert source.about().inputs == {"letters of train": "d-train", "letters of test": "d-test"}
    assert source.asked == [["train", "test"]]


def test_the_card_says_what_the_listing_showed():
    faults = Counted(plain(train={"role": "train"}, test={"role": "retrieval"})).about().faults
    assert faults == (
        "Blurred.",
        "1,200 samples of train left out: too late.",
        "3 samples of train incomplete: no caption.",
        "1,200 samples of test left out: too late.",
        "3 samples of test incomplete: no caption.",
        "test is short.",
    )


def test_classes_come_from_the_file_that_the_splits_name(tmp_path):
    (tmp_path / "names.txt").write_text("dog\tpet\nhen\n")
    source = Counted(plain(train={"role": "train"}, zs={"role": "zero_shot", "classes": str(tmp_path / "names.txt")}))
    assert [(entry.name, entry.train_count) for entry in source.classes({"1": 7})] == [("dog", 0), ("hen", 7)]
    assert source.about().concept_names == {"0": "dog", "1": "hen"}
    assert "mention its name or plural" in source.about().faults[-1]
    assert Counted(plain(train={"role": "train"})).classes({}) == []


@pytest.mark.parametrize(
    ("splits", "wanted"),
    [
        ({"test": {"role": "retrieval"}}, "one split of role train"),
        ({"train": {"role": "retrieval"}}, "one split of role train"),
        ({"train": {"role": "train"}, "x": {"role": "train", "domain": "held_out_style"}}, "one split of role train"),
        ({"train": {"role": "train"}, "x": {"role": "retrieval"}, "y": {"role": "retrieval"}}, "different domains"),
        (
            {
                "train": {"role": "train"},
                "x": {"role": "zero_shot", "classes": "a"},
                "y": {"role": "zero_shot", "classes": "b", "domain": "held_out_style"},
            },
            "the same file of classes",
        ),
        ({"train": {"role": "train", "dmain": "in_domain"}}, "did you mean 'domain'"),
    ],
)
def test_splits_that_do_not_go_together_are_refused(splits, wanted):
    with pytest.raises(ConfigError, match=wanted):
        plain(**splits)


@pytest.mark.parametrize("name", ["Train", "a/b", "x" * 21, "1st", ""])
def test_the_name_of_a_split_fits_folders_and_keys(name):
    with pytest.raises(ValueError, match="match pattern"):
        TypeAdapter(SplitName).validate_python(name)
