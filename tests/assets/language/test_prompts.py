import subprocess
import sys

import pytest
from pydantic import ValidationError

from assets.errors import ConfigError
from assets.language.prompts import BUILT_IN, Facet, PromptSet, clean_caption, prompt_set
from assets.section import parse

FACETS = [
    "overall",
    "main_category",
    "main_attribute",
    "minor_category",
    "minor_attribute",
    "action_event",
    "atmosphere",
]


def test_cleaning_equals_the_reference(case):
    assert [clean_caption(str(caption)) for caption in case["clean/in"]] == case["clean/out"].tolist()


@pytest.mark.parametrize(
    "caption", ["", "?", "??", '"', '?"', '"?', "a dog", "wow!", " ", "a\n", "'", ".", "Hund?!", "…"]
)
def test_cleaning_twice_changes_nothing_more(caption):
    once = clean_caption(caption)
    assert clean_caption(once) == once
    assert '"' not in once
    assert not once or once[-1] in ".'"


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_sets_ask_for_one_word_and_end_where_the_answer_begins(name):
    prompts = prompt_set(name)
    assert list(prompts.names) == FACETS
    assert all(facet.text.startswith(" ") and "one word" in facet.text for facet in prompts.facets)
    assert all(facet.text.endswith(':"') and facet.text.count('"') == 1 for facet in prompts.facets)
    assert len({facet.text for facet in prompts.facets}) == len(FACETS)
    for wrapper in (prompts.wrapper("short"), prompts.wrapper("long")):
        assert wrapper.before.endswith(': "')
        assert wrapper.after.startswith('". ') and wrapper.after.endswith(",")
    assert "detail" not in prompts.wrapper("short").before.lower()
    assert "detail" in prompts.wrapper("long").before.lower()


def test_brief_questions_are_about_half_as_long():
    length = {name: sum(len(facet.text) for facet in prompts.facets) for name, prompts in BUILT_IN.items()}
    assert length["brief"] < 0.6 * length["full"]


def test_the_digest_names_the_wording_and_the_order():
    prompts = prompt_set("full")
    assert prompts.digest == PromptSet.model_validate(prompts.model_dump()).digest
    changed = [
        prompts.model_copy(update={"facets": prompts.facets[::-1]}),
        prompts.model_copy(update={"facets": (Facet(name="overall", text=" one word:"), *prompts.facets[1:])}),
        prompts.model_copy(update={"wrappers": prompt_set("brief").wrappers}),
    ]
    assert len({prompts.digest, *(other.digest for other in changed)}) == 4


def test_facets_are_chosen_by_name_in_the_order_asked_for():
    prompts = prompt_set("full")
    assert [facet.name for facet in prompts.choose(["atmosphere", "overall"])] == ["atmosphere", "overall"]
    assert prompts.choose() == prompts.facets


@pytest.mark.parametrize(
    ("names", "said"),
    [(["overal"], "did you mean 'overall'"), ([], "got 'none'"), (["overall", "overall"], "each once")],
)
def test_facets_that_cannot_be_chosen_are_refused(names, said):
    with pytest.raises(ConfigError, match=said):
        prompt_set("full").choose(names)


def test_an_unknown_set_is_refused():
    with pytest.raises(ConfigError, match=r"unknown prompt set 'ful' .*'full'"):
        prompt_set("ful")


def test_a_set_of_ones_own_can_stand_in_params_yaml():
    values = prompt_set("brief").model_dump(mode="json")
    assert parse(PromptSet, values, "params.yaml: prompts") == prompt_set("brief")
    values["facets"] = [values["facets"][0]] * 2
    with pytest.raises(ConfigError, match="facets with the same name"):
        parse(PromptSet, values, "params.yaml: prompts")
    with pytest.raises(ValidationError):
        PromptSet(wrappers=prompt_set("brief").wrappers, facets=())


def test_reading_prompts_and_sources_loads_no_framework():
    imports = "import sys, assets.language.prompts, assets.language.model_source"
    command = [sys.executable, "-c", f"{imports}; print({{'torch', 'transformers'}} & set(sys.modules))"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "set()\n"
