import pytest

from assets.section import Section
from evaluation import EVALUATORS
from evaluation.base import entry_modules, evaluator_class


@pytest.mark.parametrize("name", sorted(EVALUATORS))
def test_every_evaluator_of_the_table_keeps_the_contract(name):
    found = evaluator_class(name)
    assert issubclass(found.Config, Section)
    offered = {"images", "captions", "pooled", "further_captions", "metadata", "patches", "pictures", "caption_sets"}
    assert found.needs and all(wanted <= offered for wanted in found.needs.values())
    assert callable(found.run)


def test_the_code_stamp_covers_every_evaluator_but_no_training_method():
    from assets.code_stamp import closure

    files = closure(entry_modules())
    assert {"evaluation/zero_shot.py", "evaluation/retrieval.py", "evaluation/intervals.py"} <= set(files)
    assert not [name for name in files if name.startswith(("training/methods", "training/losses", "training/engine"))]
