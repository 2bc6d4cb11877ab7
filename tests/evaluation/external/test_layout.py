"""What is refused before any picture is decoded."""

import pytest

from assets.errors import DataError
from evaluation.external.layout import read_set
from tests.evaluation.external.sets import COLOURS, captions, picture, write_captions, write_classes


def labelled(*classes):
    return [
        one
        for n, number in enumerate(classes)
        for one in ((f"s{n}.png", picture(n)), (f"s{n}.cls", str(number).encode()))
    ]


def test_a_set_with_classes_is_read_in_the_order_of_its_shards(tmp_path):
    found = read_set(write_classes(tmp_path), "colours", "test")
    assert found.role == "zero_shot"
    assert found.keys == tuple(f"s{n:07d}" for n in range(40))
    assert found.labels == tuple(n % 6 for n in range(40))
    place = found.pictures[30]
    assert place.shard.read_bytes()[place.offset : place.offset + place.size] == picture(30)


def test_every_line_of_a_text_is_a_caption(tmp_path):
    found = read_set(write_captions(tmp_path), "pairs", "test")
    assert found.role == "retrieval"
    assert found.captions[4] == tuple(captions(4))


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        (labelled(0, 1, 2, 3, 4), r"1 of 6 classes have no image, first number 5 \('purple'\)"),
        (labelled(0, 1, 2, 3, 4, 6), "1 of 6 pictures have no valid class, first s5, got '6', wanted KEY.cls"),
        ([*labelled(*range(6)), ("s9.cls", b"1")], "1 samples have no picture .* first is s9"),
        ([*labelled(*range(6)), ("s9.png", picture(9))], "no valid class, first s9"),
    ],
)
def test_samples_that_do_not_fit_the_classes_are_refused(tmp_path, members, fault):
    with pytest.raises(DataError, match=fault):
        read_set(write_classes(tmp_path, [members]), "colours", "test")


def test_pictures_without_caption_and_captions_without_picture_are_refused(tmp_path):
    both = [("a.png", picture(0)), ("a.txt", b"a square")]
    with pytest.raises(DataError, match="1 of 2 pictures have no caption, the first is b"):
        read_set(write_captions(tmp_path / "blank", [*both, ("b.png", picture(1)), ("b.txt", b" \n")]), "x", "test")
    with pytest.raises(DataError, match="1 samples have no picture"):
        read_set(write_captions(tmp_path / "bare", [*both, ("b.txt", b"nothing")]), "x", "test")


def test_a_few_classes_of_one_name_are_noted_and_many_refused(tmp_path):
    names = (*(f"thing {n}" for n in range(58)), "crane", "Crane ")
    folder = write_classes(tmp_path / "few", [labelled(*range(60))], names)
    (note,) = read_set(folder, "few", "test").notes
    assert "2 of 60 classes share their name with another (crane)" in note
    with pytest.raises(DataError, match="2 of 6 classes share their name"):
        read_set(write_classes(tmp_path / "many", None, (*COLOURS[:5], "Red")), "many", "test")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match="absent does not exist"):
        read_set(tmp_path / "absent", "absent", "test")
    folder = write_classes(tmp_path / "colours")
    (folder / "test/1.tar").unlink()
    with pytest.raises(DataError, match=r"1\.tar cannot be read .* says there are 2 shards"):
        read_set(folder, "colours", "test")
    (folder / "test/nshards.txt").unlink()
    with pytest.raises(DataError, match=r"nshards\.txt: wrong or missing"):
        read_set(folder, "colours", "test")


def test_a_prompt_without_class_is_refused(tmp_path):
    folder = write_classes(tmp_path)
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {}.\n")
    with pytest.raises(DataError, match=r"wrong prompt, got 'a photo of a \{\}\.'"):
        read_set(folder, "colours", "test")
