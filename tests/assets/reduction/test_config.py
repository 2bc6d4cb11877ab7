import subprocess
import sys

import pytest

from assets.errors import ConfigError
from assets.reduction.config import load_policy
from tests.assets.reduction.pool_folders import policy

EMBEDDED = {"embeddings": "e"}


def test_a_share_has_a_point_and_a_count_has_none():
    steps = policy(steps=[{"kind": "random", "keep": 1.0}, {"kind": "random", "keep": 1}]).steps
    assert [type(step.keep) for step in steps] == [float, int]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"steps": [{"kind": "clip_score", "keep": 0.5}]}, "steps.0 (clip_score) looks at scores"),
        ({"steps": [{"kind": "semdedup", "eps": 0.1, "clusters": 4}]}, "clusters image embeddings"),
        (
            {"steps": [{"kind": "caption_likelihood", "keep": 9}], **EMBEDDED},
            "how likely captions are; name the captioner",
        ),
        ({"steps": [{"kind": "tldr", "keep": 0.2, "clusters": 4, "features": "codes_mean"}]}, "looks at scores"),
        (
            {"steps": [{"kind": "tldr", "keep": 0.2, "clusters": 4, "features": "codes_hist"}], **EMBEDDED},
            "name the captioner",
        ),
        ({"captions": {"kind": "concat"}}, "name a captioner"),
        ({"captions": {"kind": "generated_only"}, "captioner": "c"}, "collapses for want of diversity"),
        ({"captions": {"kind": "budgeted_concat", "words": 16, "reserve": 16}, "captioner": "c"}, "no room"),
        ({"steps": [{"kind": "random", "keep": 1.5}]}, "a share must be above 0"),
        ({"steps": [{"kind": "random", "keep": 0}]}, "a count must be 1 or more"),
        ({"steps": [{"kind": "random", "keep": True}]}, "keep"),
        ({"steps": [{"kind": "tldr", "keep": 0.6, "clusters": 4}], **EMBEDDED}, "keep at most 0.5"),
        ({"steps": [{"kind": "tldr", "rule": "uniform", "keep": 9, "clusters": 4}], **EMBEDDED}, "with a point"),
        ({"steps": [{"kind": "tldr", "rule": "reference", "keep": 9, "clusters": 4}], **EMBEDDED}, "stride instead"),
        ({"steps": [{"kind": "tldr", "clusters": 4}], **EMBEDDED}, "keep is needed"),
        (
            {"steps": [{"kind": "tldr", "rule": "uniform", "keep": 0.1, "quota": "cap", "clusters": 4}], **EMBEDDED},
            "takes no quota",
        ),
        ({"steps": [{"kind": "tldr", "keep": 0.1, "order": "score", "clusters": 4}], **EMBEDDED}, "order score is"),
        ({"steps": [{"kind": "semdedup", "clusters": 4}], **EMBEDDED}, "takes keep or eps"),
        ({"steps": [{"kind": "semdedup", "keep": 0.5, "clusters": 4, "components": 9}], **EMBEDDED}, "components out"),
        ({"steps": [{"kind": "concept_balance", "keep": 5, "threshold": 5}]}, "takes keep or threshold"),
        ({"steps": [{"kind": "randum", "keep": 5}]}, "random"),
        ({"steps": [{"kind": "clip_score", "keeps": 5}], **EMBEDDED}, "did you mean 'keep'"),
    ],
)
def test_a_policy_that_cannot_be_carried_out_is_refused_with_the_reason(values, told):
    with pytest.raises(ConfigError) as error:
        policy(**values)
    assert told in str(error.value)


def test_captions_are_budgeted_with_a_captioner_and_original_without():
    assert policy().caption_rule.kind == "original" and not policy().changes_captions
    assert policy(captioner="c").caption_rule.kind == "budgeted_concat" and policy(captioner="c").changes_captions
    forced = policy(captioner="c", captions={"kind": "generated_only", "force": True})
    assert forced.caption_rule.kind == "generated_only"


PARAMS = """
profile: toy
machine: {{}}
store: {{}}
features: {{}}
teachers: {{}}
recipes: {{}}
runs: {{}}
exports: {{}}
indexes: {{}}
concepts: {{}}
studies: {{}}
evaluation: {{}}
report: {{}}
promotions: {{}}
automation: {{}}
datasets: {{emoji: {{}}, other: {{}}}}
embeddings: {{e: {{dataset: {of_embeddings}}}}}
captioners: {{c: {{dataset: emoji}}}}
policies: {{p: {{dataset: emoji, embeddings: {name}, captioner: c, concepts: none}}}}
"""


@pytest.mark.parametrize(
    ("name", "of_embeddings", "told"), [("e", "other", "of another data set"), ("f", "emoji", "did you mean 'e'")]
)
def test_a_policy_names_embeddings_of_its_own_data_set(tmp_path, name, of_embeddings, told):
    params = tmp_path / "params.yaml"
    params.write_text(PARAMS.format(name="e", of_embeddings="emoji"))
    assert load_policy(params, "p").embeddings == "e"
    params.write_text(PARAMS.format(name=name, of_embeddings=of_embeddings))
    with pytest.raises(ConfigError) as error:
        load_policy(params, "p")
    assert told.replace(" (did you mean 'e'?)", "") in str(error.value) or "valid: e" in str(error.value)


def test_checking_a_policy_loads_no_pytorch():
    code = "import sys, assets.reduction.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
