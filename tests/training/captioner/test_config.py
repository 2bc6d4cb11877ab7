import copy

import pytest
from ruamel.yaml import YAML

from assets.config import SECTIONS
from assets.errors import ConfigError
from assets.section import parse
from tests.training.captioner.conftest import ENTRY
from training.captioner.config import CaptionerConfig, load_captioner


def changed(**changes):
    data = copy.deepcopy(ENTRY)
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        place = data
        for key in parents:
            place = place[key]
        place[last] = value
    return data


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"image_size": 30}, "image_size 30 is not a multiple of patch_size 8"),
        ({"codebook.width": 12}, "vision width 32 is not a multiple of codebook.width 12"),
        ({"codebook.size": 70000}, "codebook.size: .*65536"),
        ({"codebook.beta": 0.25}, "unknown key 'beta'"),
        ({"vision.head_width": 24}, "not a multiple of head_width 24"),
        ({"vision.pool_type": "avg"}, "pool_type has no meaning for a captioner"),
        ({"decoder.heads": 5}, "decoder width 32 is not a multiple of heads 5"),
        ({"describe.max_tokens": 12}, "leaves no place for the start token in a context of 12"),
        ({"describe.min_tokens": 10}, "min_tokens 10 is not below max_tokens 10"),
        ({"optim.ema_decay": 0.9}, "ema_decay is not offered for captioners"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(changes, fault):
    with pytest.raises(ConfigError, match=fault):
        parse(CaptionerConfig, changed(**changes), "params.yaml: captioners.toy")


def test_an_entry_names_a_data_set_that_exists(tmp_path):
    data = {section: {} for section in SECTIONS} | {"datasets": {"toy": {}}, "captioners": {"toy": ENTRY}}
    path = tmp_path / "params.yaml"

    def write() -> None:
        with path.open("w") as stream:
            YAML().dump(data, stream)

    write()
    assert load_captioner(path, "toy").code_length == 16 * 2
    with pytest.raises(ConfigError, match=r"unknown captioner 'toi' .*did you mean 'toy'"):
        load_captioner(path, "toi")
    data["datasets"] = {"other": {}}
    write()
    with pytest.raises(ConfigError, match="unknown data set 'toy'"):
        load_captioner(path, "toy")
