from collections import Counter

import pandas as pd
import pytest

from assets.validation.language import base_codes, declared_share
from assets.validation.split_facts import add_facts


def facts(config, languages=("en",), **listed):
    found = {"train": ("train", 8), "test": ("retrieval", 4), "zero": ("zero_shot", 2), "gone": ("retrieval", 0)}
    splits = pd.DataFrame([{"split": name, "role": role, "found": n} for name, (role, n) in found.items()])
    dataset = {"languages": list(languages), "splits": {name: {"listed": n} for name, n in listed.items()}}
    counts = {"train": {"en": 6, "de": 2}, "test": {"de": 4}, "zero": {"la": 2}}
    profile = {"splits": {name: {"languages": given} for name, given in counts.items()}}
    return add_facts(splits, dataset, profile, config).set_index("split")


def test_what_is_missing_of_the_listed_is_a_share_of_them(config):
    table = facts(config, train=10, test=4, zero=1)
    assert table["listed"].tolist() == [10, 4, 1, 0]
    assert table["left_out_share"].tolist() == pytest.approx([0.2, 0, 0, 0])
    assert (table["warn_left_out"] == 0.01).all()


def test_languages_are_judged_where_captions_are_sentences(config):
    assert facts(config)["language_share"].tolist() == [0.75, 0, 1, 1]
    assert facts(config, languages=("de", "en"))["language_share"].tolist() == [1, 1, 1, 1]
    assert (facts(config, languages=())["language_share"] == 1).all()


def test_a_declared_language_may_name_script_and_region():
    assert base_codes(["en", "zh-Hant", "pt_BR"]) == {"en", "zh", "pt"}
    assert declared_share(Counter(zh=3, en=1), ["zh-Hant"]) == 0.75
