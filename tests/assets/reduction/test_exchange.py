from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.reduction.config import ExchangedCaptions
from assets.reduction.exchange import apply_swaps, caption_sources, swaps
from assets.reduction.plan import read_plan
from assets.reduction.run import reduce
from tests.assets.reduction.pool_folders import MACHINE, PoolFolders, make_pool, policy

CASE = Path("tests/fixtures/nmtune/case_a.npz")
KEYS = pa.array([f"key-{number:04d}" for number in range(401)])


@pytest.fixture(scope="module")
def pool(emoji_raw, tmp_path_factory) -> PoolFolders:
    return make_pool(emoji_raw, tmp_path_factory.mktemp("pool"))


def sources(share: float, seed: int = 0, keys: pa.StringArray = KEYS, mode: str = "cyclic") -> np.ndarray:
    return caption_sources(ExchangedCaptions(kind="exchanged", share=share, mode=mode), keys, seed)


def displaced(found: np.ndarray) -> set[int]:
    return set(np.flatnonzero(found != np.arange(len(found))).tolist())


def test_the_published_exchanges_are_reproduced():
    with np.load(CASE) as case:
        found = apply_swaps(len(case["noise_perm"]), case["noise_swap_pairs"])
        assert found.tolist() == case["noise_perm"].tolist()
        assert len(displaced(found)) / len(found) == float(case["noise_displaced_frac"])


@pytest.mark.parametrize("share", [0.0, 0.05, 0.1, 0.2, 0.3, 1.0])
def test_the_share_is_exact_and_no_caption_is_lost(share):
    found = sources(share)
    assert len(displaced(found)) == round(share * len(KEYS))
    assert sorted(found.tolist()) == list(range(len(KEYS)))


def test_more_noise_displaces_the_same_pairs_and_others():
    few, many = displaced(sources(0.1)), displaced(sources(0.3))
    assert few < many
    assert displaced(sources(0.1, seed=1)) != few


def test_the_displaced_form_one_circle():
    found, place, length = sources(0.2), min(displaced(sources(0.2))), 1
    start = place
    while (place := int(found[place])) != start:
        length += 1
    assert length == len(displaced(found))


@pytest.mark.parametrize("mode", ["cyclic", "reference_swaps"])
def test_who_takes_whose_caption_depends_on_keys_and_not_on_rows(mode):
    back = KEYS.take(pa.array(np.arange(len(KEYS))[::-1]))

    def owners(keys: pa.StringArray) -> dict[str, str]:
        names = keys.to_pylist()
        return {names[row]: names[source] for row, source in enumerate(sources(0.3, 2, keys, mode))}

    assert owners(KEYS) == owners(back)


def test_one_alone_has_nobody_to_exchange_with():
    assert displaced(sources(1.0, keys=KEYS.slice(0, 1))) == set()
    assert displaced(sources(1 / 401)) == set()


def test_published_exchanges_displace_about_what_theory_says():
    shares = [len(displaced(swaps(2000, 0.2, seed))) / 2000 for seed in range(5)]
    assert np.mean(shares) == pytest.approx(1 - np.exp(-0.4), abs=0.02)


def test_a_policy_writes_down_whose_caption_each_pair_got(pool):
    folders = pool.folders("noisy")
    reduce("toy", policy(captions={"kind": "exchanged", "share": 0.25}), folders, MACHINE)
    rows = pq.read_table(folders.out / "plan.parquet").to_pylist()
    given = [row for row in rows if row["caption_of"]]
    assert all(row["kept"] for row in rows) and len(given) == 30
    captions = dict(zip(pool.keys, pool.captions, strict=True))
    assert all(row["caption_of"] != row["key"] for row in given)
    assert all((row["caption"] or captions[row["key"]]) == captions[row["caption_of"]] for row in given)
    assert all(row["caption"] is None for row in rows if not row["caption_of"])
    plan = read_plan(folders.out, folders.raw, folders.valid)
    told = [text or captions[key] for key, text in zip(plan.kept.to_pylist(), plan.captions.to_pylist(), strict=True)]
    assert Counter(told) == Counter(pool.captions)
