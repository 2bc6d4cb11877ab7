"""Two real processes against one: losses, gradient norms and weights, in every way of spreading the work."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.training.conftest import PARAMS
from tests.training.engine import rank_cases
from tests.training.episode_batches import PROTOCLIP, TEACHER
from tests.training.frozen_text import RECIPES as FROZEN_TEXT
from tests.training.view_batches import RECIPES

DISTILL = {"kind": "distill_affinity", "affinity_share": 0.7}
CASES = {
    "clip": ({}, {}),
    "siglip": ({"method": {"kind": "siglip"}}, {}),
    "masked": ({"masking": {"kind": "random", "keep": 0.5}}, {}),
    "averaged": ({"optim": {**PARAMS["recipes"]["clip"]["optim"], "ema_decay": 0.9}}, {}),
    "micro_batch": ({"masking": {"kind": "random", "keep": 0.5}}, {"micro_batch": 3}),
    "sharded": ({}, {"shard_parameters": True}),
    "sharded_siglip_in_parts": ({"method": {"kind": "siglip"}}, {"shard_parameters": True, "micro_batch": 4}),
    "recomputed": ({}, {"activation_checkpointing": True}),
    **{name: (recipe, {}) for name, recipe in (RECIPES | FROZEN_TEXT).items()},
    "flame_in_parts": (FROZEN_TEXT["flame"], {"micro_batch": 3}),
    "sharded_flame": (FROZEN_TEXT["flame"], {"shard_parameters": True}),
    "aclip_in_parts": (RECIPES["aclip"], {"micro_batch": 3}),
    "sharded_aclip": (RECIPES["aclip"], {"shard_parameters": True}),
    "watched": (RECIPES["aclip"] | {"masking": {"kind": "attentive", "watch": True}}, {}),
    "protoclip": ({"method": {**PROTOCLIP, "teacher": TEACHER}}, {}),
    "protoclip_in_parts": ({"method": {**PROTOCLIP, "teacher": TEACHER}}, {"micro_batch": 3}),
    "distill": ({"method": DISTILL}, {}),
    "distill_in_parts": ({"method": DISTILL}, {"micro_batch": 3}),
    "sharded_distill": ({"method": DISTILL}, {"shard_parameters": True}),
    "sharded_protoclip": ({"method": {**PROTOCLIP, "teacher": TEACHER}}, {"shard_parameters": True}),
}


def write_cases(folder: Path) -> Path:
    cases = {}
    for name, (recipe, machine) in CASES.items():
        whole = copy.deepcopy(PARAMS["recipes"]["clip"]) | recipe
        whole["towers"]["vision"]["layers"] = 2
        cases[name] = {"recipe": whole, "machine": PARAMS["machine"] | machine}
        (folder / name).mkdir(parents=True)
    file = folder / "cases.json"
    file.write_text(json.dumps(cases))
    return file


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> tuple[Path, Path]:
    """Folders of the one-process run and of the two-process run over all cases."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    rank_cases.main(write_cases(one))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", rank_cases.__file__]
    root = Path(__file__).parents[3]
    subprocess.run(
        [sys.executable, *command, str(write_cases(two))],
        check=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    return one, two


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one_with_the_same_global_batch(results, case):
    one, two = (json.loads((folder / "curves.json").read_text())[case] for folder in results)
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert two["norms"] == pytest.approx(one["norms"], rel=1e-4)
    weights = [load_file(folder / case / "final.safetensors") for folder in results]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        # Adam divides tiny gradients by their own size, which turns their rounding into a share of the rate, 1e-3
        assert (value - weights[1][name]).abs().max() < 2e-5, name


@pytest.mark.slow
def test_what_is_watched_is_the_mean_over_the_rows_of_all_ranks(results):
    one, two = (json.loads((folder / "curves.json").read_text())["watched"]["watched"] for folder in results)
    assert len(one) == len(two) == 2 * rank_cases.STEPS
    for alone, together in zip(one, two, strict=True):
        assert alone.keys() == {"mask/kept_share", "mask/object_coverage", "mask/attention_entropy"}
        assert together == pytest.approx(alone, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "pair",
    [
        ("clip", "sharded"),
        ("clip", "recomputed"),
        ("masked", "micro_batch"),
        ("flame", "flame_in_parts"),
        ("flame", "sharded_flame"),
        ("aclip", "aclip_in_parts"),
        ("aclip", "sharded_aclip"),
        ("aclip", "watched"),
        ("protoclip", "protoclip_in_parts"),
        ("protoclip", "sharded_protoclip"),
        ("distill", "distill_in_parts"),
        ("distill", "sharded_distill"),
    ],
)
def test_how_the_machine_is_used_does_not_change_the_result(results, pair):
    for folder in results:
        weights = [load_file(folder / case / "final.safetensors") for case in pair]
        for name, value in weights[0].items():
            assert (value - weights[1][name]).abs().max() < 2e-5, name
