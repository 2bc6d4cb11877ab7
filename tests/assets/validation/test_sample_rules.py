from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from assets.validation.config import LanguageRule, SafetyRule, ValidationConfig
from assets.validation.language import CaptionLanguages, labels
from assets.validation.sample_rules import RULES, Samples, normalise
from assets.validation.scan import NO_BYTES, TOO_LARGE, UNDECODABLE


def samples(captions=("a small dog",), width=64, height=64, contrast=40.0):
    rows = len(captions)
    full = lambda value: np.full(rows, value)  # noqa: E731
    words = np.array([len(caption.split()) for caption in captions], dtype=np.int32)
    return Samples(pa.array(captions, pa.string()), words, full(width), full(height), full(np.float32(contrast)))


def found(rule: str, given: Samples, config: ValidationConfig) -> list[tuple[int, str]]:
    hits = RULES[rule](given, config)
    return list(zip(hits.rows.tolist(), hits.values, strict=True))


def test_a_good_sample_breaks_no_rule(config):
    for rule in RULES:
        assert found(rule, samples(), config) == []


@pytest.mark.parametrize(
    ("rule", "given", "value"),
    [
        ("no_image", {"contrast": NO_BYTES, "width": 0, "height": 0}, "0 bytes"),
        ("undecodable", {"contrast": UNDECODABLE}, "64x64"),
        ("undecodable", {"width": 0, "height": 0}, "0x0"),
        ("blank", {"contrast": 1.94}, "1.9"),
        ("too_small", {"width": 15}, "15x64"),
        ("too_large", {"height": 257}, "64x257"),
        ("too_large", {"contrast": TOO_LARGE}, "64x64"),
        ("aspect_ratio", {"width": 200, "height": 60}, "200x60"),
        ("aspect_ratio", {"width": 60, "height": 200}, "60x200"),
        ("empty_caption", {"captions": ["  "]}, "  "),
        ("short_caption", {"captions": ["dog"]}, "dog"),
        ("long_caption", {"captions": ["dog " * 21]}, "21"),
        ("generic", {"captions": [" a  PHOTO."]}, " a  PHOTO."),
    ],
)
def test_each_rule_finds_its_sample_and_says_what_it_met(rule, given, value, config):
    assert found(rule, samples(**given), config) == [(0, value)]


def test_a_picture_that_was_not_decoded_is_not_blank(config):
    for contrast in (NO_BYTES, TOO_LARGE, UNDECODABLE):
        assert found("blank", samples(contrast=contrast), config) == []


def test_limits_themselves_are_accepted(config):
    given = samples(["dog " * 20], width=16, height=48, contrast=2.0)
    assert [rule for rule in RULES if found(rule, given, config)] == []


@pytest.mark.parametrize(
    "caption",
    [
        "IMG_1234.jpg",
        "DSC02651.JPG",
        "untitled8929.bmp",
        "image4176",
        "img-20200101-1200",
        "holiday photo 2.png",
        "https://example.org/a/b",
        "www.example.org",
        "C:\\pictures\\dog.webp",
        "/pictures/me/dog",
        "Screenshot_2020-01-02",
    ],
)
def test_file_names_paths_and_addresses_are_no_captions(caption, config):
    assert found("file_name", samples([caption]), config) == [(0, caption)]


@pytest.mark.parametrize(
    "caption",
    [
        "a dog",
        "image of a dog",
        "photo 2 of a dog",
        "the dog's image 12",
        "a dog. jpg is a format",
        "a man who saved his favourite picture as dog.jpg",
        "two .png files on a screen",
        "1984",
    ],
)
def test_captions_that_look_a_little_like_file_names_stay(caption, config):
    assert found("file_name", samples([caption]), config) == []


def test_switched_off_rules_find_nothing(settings):
    settings["caption"] |= {"file_names": True, "generic": []}
    config = ValidationConfig.model_validate(settings)
    assert found("file_name", samples(["a.jpg"]), config) == found("generic", samples(["A photo"]), config) == []


def test_normalising_keeps_letters_of_every_script():
    assert normalise(pa.array(["Ein BILD!", " \u56fe\u7247\u3002", "a-photo_2"])).to_pylist() == [
        "ein bild",
        "\u56fe\u7247",
        "a photo 2",
    ]


@pytest.mark.parametrize(
    "caption",
    [
        "OLYMPUS DIGITAL CAMERA",
        "SONY DSC",
        "Konica Minolta Digital Camera",
        "SAMSUNG CAMERA PICTURES",
        "Exif_JPEG_PICTURE",
        "This image has an empty alt attribute; its file name is a.png",
        "Lorem ipsum dolor sit amet",
        "No description available.",
        "insert title here",
        "Image may contain: 2 people",
        "Photo credit: Ann",
        "Copyright 2014 J. Smith",
        "2014-05-03 12:31",
        "12 / 3",
        "!!!",
    ],
)
def test_what_nobody_wrote_about_the_picture_is_boilerplate(caption, config):
    assert found("boilerplate", samples([caption]), config) == [(0, caption)]
    accepting = config.model_copy(update={"caption": config.caption.model_copy(update={"boilerplate": True})})
    assert found("boilerplate", samples([caption]), accepting) == []


@pytest.mark.parametrize(
    "caption",
    [
        "a kodak camera",
        "the year 2012 in pictures",
        "no dogs here",
        "missing cat poster",
        "add the eggs to the mixture",
        "a copyright lawyer",
        "title fight in vegas",
        "3d",
        "\u732b",
        "\u043a\u043e\u0442 2",
    ],
)
def test_captions_that_only_resemble_boilerplate_stay(caption, config):
    assert found("boilerplate", samples([caption]), config) == []


def test_pictures_above_the_limit_are_unsafe_and_unscored_ones_are_not(config):
    scores = np.array([0.1, 0.8, 0.81, np.nan], dtype=np.float32)
    given = replace(samples(["a small dog"] * 4), unsafe=scores)
    assert found("unsafe", given, config) == []
    strict = config.model_copy(update={"safety": SafetyRule(max_score=0.8)})
    assert found("unsafe", given, strict) == [(2, "0.810")]


def test_a_foreign_caption_is_found_only_when_it_is_sure(config):
    known = labels()
    answers = np.array([[known.index(code), p] for code, p in (("en", 0.9), ("de", 0.6), ("de", 0.4))], np.float32)
    given = replace(samples(["a small dog"] * 3), languages=CaptionLanguages(answers, frozenset({"en"})))
    rule = LanguageRule(min_probability=0.5)
    asked = config.model_copy(update={"caption": config.caption.model_copy(update={"language": rule})})
    assert found("language", given, config) == []
    assert found("language", given, asked) == [(1, "de 0.60")]
