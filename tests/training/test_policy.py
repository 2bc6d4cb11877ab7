"""A run on a policy: which pairs it trains on, with which captions, and what is refused."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.errors import ConfigError, DataError
from assets.index import write_table
from assets.manifest import version_of, write_manifest
from assets.reduction.plan import KIND, PLAN, SCHEMA, read_plan
from training.config import load_run
from training.data.holdout import hold_out
from training.data.pairs import load_pairs
from training.pretrain import Paths, pretrain

POLICY = {
    "dataset": "toy",
    "embeddings": "none",
    "captioner": "none",
    "concepts": "none",
    "steps": [{"kind": "random", "keep": 0.5}],
}
ON_POLICY = {"policies": {"half": POLICY}, "runs.toy-s0.policy": "half"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def plan(toy_data, tmp_path):
    """Return a function that publishes a plan: keeps every pair whose number it accepts, with captions by number."""
    raw, valid = toy_data

    def write(keeps, captions=None, name="plan"):
        keys = load_pairs(raw, valid).keys.to_pylist()
        numbers = [int(key.rpartition("-")[2]) for key in keys]
        rows = [
            {
                "key": key,
                "kept": keeps(number),
                "reason": "" if keeps(number) else "1 random: not drawn",
                "cluster": -1,
                "score": float("nan"),
                "likelihood": float("nan"),
                "caption": (captions or {}).get(number),
                "order": -1,
                "similarity": float("nan"),
                "caption_of": None,
            }
            for key, number in zip(keys, numbers, strict=True)
        ]
        folder = tmp_path / name
        folder.mkdir()
        write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / PLAN)
        inputs = {"raw": version_of(raw), "valid": version_of(valid)}
        write_manifest(folder, KIND, name, {}, {"pool": len(rows), "kept": sum(map(keeps, numbers))}, inputs, "0")
        return folder

    return write


def even(number: int) -> bool:
    return number % 2 == 0


def test_kept_pairs_stand_in_index_order_with_the_captions_of_the_plan(toy_data, plan):
    raw, valid = toy_data
    whole = load_pairs(raw, valid)
    found = load_pairs(raw, valid, plan=read_plan(plan(even, {2: "two discs", 3: "never seen"}), raw, valid))
    chosen = np.arange(0, 63, 2)
    assert found.keys.to_pylist() == [whole.keys[place].as_py() for place in chosen]
    captions = [whole.captions[place].as_py() for place in chosen]
    captions[1] = "two discs"
    assert found.captions.to_pylist() == captions
    np.testing.assert_array_equal(found.offset, whole.offset[chosen])
    assert found.shard_sizes.tolist() == [16, 16]


def test_a_shard_without_kept_pairs_is_not_opened_any_more(toy_data, plan):
    raw, valid = toy_data
    found = load_pairs(raw, valid, plan=read_plan(plan(lambda number: number >= 40), raw, valid))
    assert found.shards == ("train/00001.tar",) and len(found) == 23


def test_held_out_pairs_are_those_with_the_smallest_hashes_of_what_is_left(toy_data, plan):
    raw, valid = toy_data
    _, all_held_out = hold_out(load_pairs(raw, valid), 20)
    kept = load_pairs(raw, valid, plan=read_plan(plan(even), raw, valid))
    _, held_out = hold_out(kept, 5)
    before = set(all_held_out.keys.to_pylist()) & set(kept.keys.to_pylist())
    assert len(before) >= 5 and set(held_out.keys.to_pylist()) <= before


def test_another_plan_is_another_run_and_the_model_says_which(toy_data, params, plan, here):
    file = params(**ON_POLICY)
    models = []
    for number, folder in enumerate((plan(even, name="a"), plan(even, {4: "a red one"}, "b"), plan(even, name="c"))):
        out = here / f"model-{number}"
        pretrain("toy-s0", file, Paths(*toy_data, out, here / f"log-{number}", reduced=folder))
        models.append((out / "manifest.json").read_text())
        facts = json.loads(models[-1])
        assert facts["inputs"]["reduced"] and facts["counts"]["pairs"] == 32
        assert json.loads((here / f"log-{number}/summary.json").read_text())["cost"]["pairs"] == 32
    assert models[0] == models[2] != models[1]


def test_a_plan_of_other_data_is_refused(toy_data, params, plan, here):
    folder = plan(even)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["inputs"]["valid"] = "0" * 16
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"valid differs"):
        pretrain("toy-s0", params(**ON_POLICY), Paths(*toy_data, here / "m", here / "l", reduced=folder))


def test_a_plan_that_is_not_of_the_accepted_pairs_is_refused(toy_data, plan):
    raw, valid = toy_data
    folder = plan(even)
    rows = pq.read_table(folder / PLAN)
    write_table(rows.take(np.arange(len(rows))[::-1].copy()), folder / PLAN)
    with pytest.raises(DataError, match="keeps 32 pairs, of which 32 stand in the index in this order"):
        load_pairs(raw, valid, plan=read_plan(folder, raw, valid))


def test_too_few_kept_pairs_for_a_batch_are_refused(toy_data, params, plan, here):
    file = params(**ON_POLICY)
    with pytest.raises(ConfigError, match=r"fewer pairs than one batch, got 10.*let the policy keep more"):
        folder = plan(lambda number: number < 10)
        pretrain("toy-s0", file, Paths(*toy_data, here / "m", here / "l", reduced=folder))
    with pytest.raises(DataError, match="the policy keeps no pair"):
        pretrain(
            "toy-s0", file, Paths(*toy_data, here / "m", here / "l", reduced=plan(lambda number: False, name="no"))
        )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"runs.toy-s0.policy": "hafl", "policies": {"half": POLICY}}, r"unknown \w+ 'hafl' \(did you mean 'half'\?\)"),
        (
            ON_POLICY | {"policies": {"half": POLICY | {"dataset": "other"}}, "datasets": {"toy": {}, "other": {}}},
            "is of another data set than its policy half, got 'toy', wanted other",
        ),
        (
            ON_POLICY | {"policies": {"half": {"dataset": "toy", "captioner": "none", "concepts": "none"}}},
            "policies.half.embeddings",
        ),
    ],
    ids=["unknown", "other data", "no word about embeddings"],
)
def test_a_wrong_policy_is_refused_before_any_work(params, changes, text):
    with pytest.raises(ConfigError, match=text):
        load_run(params(**changes), "toy-s0")


def test_new_captions_are_refused_where_the_text_is_frozen(params):
    towers = {
        "kind": "custom",
        "image_size": 32,
        "vision": {"kind": "vit", "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        "text": {"kind": "frozen", "center": False},
    }
    changes = {
        "captioners": {"codes": {"dataset": "toy"}},
        "policies": {"half": POLICY | {"captioner": "codes"}},
        "features": {"rows": {"kind": "sentences", "dataset": "toy", "encoder": "minilm"}},
        "recipes.clip.towers": towers,
        "runs.toy-s0.policy": "half",
        "runs.toy-s0.features": "rows",
    }
    with pytest.raises(ConfigError, match=r"policy half changes captions, but the text of recipe clip is frozen"):
        load_run(params(**changes), "toy-s0")
    same = POLICY | {"captioner": "codes", "captions": {"kind": "original"}}
    assert load_run(params(**changes | {"policies": {"half": same}}), "toy-s0").policy == "half"
