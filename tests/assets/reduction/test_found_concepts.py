import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.concepts.concept_list import Concept
from assets.concepts.csr import Csr
from assets.concepts.folder import Hits, count_concepts, write_concepts
from assets.errors import ConfigError, DataError
from assets.manifest import write_manifest
from assets.reduction.run import reduce
from tests.assets.reduction.pool_folders import MACHINE, PoolFolders, inputs_of, make_pool, policy

BALANCE = {"kind": "concept_balance", "threshold": 5, "entries": "found"}
AGREE = {"kind": "concept_agreement"}


def csr(rows: list[list[int]]) -> Csr:
    pointer = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return Csr(pointer, np.array([concept for row in rows for concept in row], dtype=np.int32))


def write(pool: PoolFolders, image: bool = True) -> None:
    """Captions speak of concept 0 or 1 by turns, every tenth picture of concept 2 instead, every seventh of nothing."""
    folder = pool.root / "concepts"
    folder.mkdir(exist_ok=True)
    said = [[number % 2] for number in range(len(pool.keys))]
    shown = [[2] if not number % 10 else [] if not number % 7 else row for number, row in enumerate(said)]
    concepts = [Concept(name, (), "") for name in ("zebra", "apple", "car")]
    hits = Hits(pa.array(pool.keys), csr(said), csr(shown) if image else None)
    write_concepts(folder, count_concepts(concepts, hits.text, hits.image), hits)
    write_manifest(folder, "concepts", "c", {}, {}, inputs_of(pool), "test")


@pytest.fixture(scope="module")
def pool(emoji_raw, tmp_path_factory) -> PoolFolders:
    return make_pool(emoji_raw, tmp_path_factory.mktemp("pool"))


def plan(pool: PoolFolders, out: str, steps: list[dict]) -> list[dict]:
    folders = pool.folders(out)
    reduce("toy", policy(concepts="c", steps=steps), folders, MACHINE)
    return pq.read_table(folders.out / "plan.parquet").to_pylist()


def test_pairs_whose_sides_share_no_concept_are_dropped_and_empty_sides_are_not(pool):
    write(pool)
    rows = plan(pool, "agree", [AGREE])
    assert [number for number, row in enumerate(rows) if not row["kept"]] == list(range(0, len(rows), 10))
    assert {row["reason"] for row in rows} == {"", "1 concept_agreement: caption and picture share no concept"}


def test_found_concepts_are_balanced_by_what_caption_and_picture_share(pool):
    write(pool)
    rows = plan(pool, "balance", [BALANCE])
    kept = [number for number, row in enumerate(rows) if row["kept"]]
    unmatched = [row for row in rows if row["reason"].endswith("no concept")]
    assert len(unmatched) == sum(not n % 10 or not n % 7 for n in range(len(rows)))
    assert 0 < len(kept) < 30 and not any(not n % 10 or not n % 7 for n in kept)


def test_without_pictures_the_captions_decide_and_agreement_is_refused(pool):
    write(pool, image=False)
    rows = plan(pool, "text", [BALANCE])
    assert not any(row["reason"].endswith("no concept") for row in rows)
    with pytest.raises(ConfigError, match="looked at no pictures"):
        plan(pool, "refused", [AGREE])


def test_concepts_of_other_data_are_refused(pool):
    write(pool)
    write_manifest(pool.root / "concepts", "concepts", "c", {}, {}, inputs_of(pool) | {"raw": "other"}, "test")
    with pytest.raises(DataError, match="another data version"):
        plan(pool, "other", [AGREE])


def test_steps_that_ask_for_concepts_need_them_named():
    for step in (BALANCE, AGREE):
        with pytest.raises(ConfigError, match="name them in concepts"):
            policy(steps=[step])
