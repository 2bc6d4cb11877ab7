import importlib

import pytest

from assets.sources import SOURCES
from assets.sources.base import Source, open_source


@pytest.mark.parametrize("kind", sorted(SOURCES))
def test_every_entry_of_the_table_names_a_source_of_its_kind(kind):
    module, _, name = SOURCES[kind].partition(":")
    found = getattr(importlib.import_module(module), name)
    assert issubclass(found, Source)
    assert found.kind == kind


def test_a_config_opens_its_source(emoji_config):
    assert open_source(emoji_config()).kind == "emoji_scenes"
