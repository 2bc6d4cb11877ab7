"""The stage on a small set of emoji scenes whose truth is known."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from assets.concepts.config import ConceptsConfig
from assets.concepts.folder import read_concepts, read_hits, read_summary
from assets.concepts.run import Folders, concepts, judge_flag
from assets.errors import ConfigError, DataError
from assets.manifest import read_manifest, verify_manifest, version_of, write_manifest
from assets.section import parse
from assets.sidecar import SidecarWriter
from tests.assets.concepts.case_a import lists_of
from tests.assets.reduction.pool_folders import PoolFolders, make_pool
from tests.toy_folders import accept

WIDTH = 96
CLIP = {"embeddings": "e", "images": {"kind": "clip"}}


def entry(**values) -> ConceptsConfig:
    known = {"dataset": "small", "list": "classes", "embeddings": "none", "images": {"kind": "truth"}, **values}
    return parse(ConceptsConfig, known, "params.yaml: concepts.toy")


@pytest.fixture(scope="module")
def pool(emoji_raw, tmp_path_factory) -> PoolFolders:
    """120 pairs, accepted, in three shards; do not write into its folders, only beside them."""
    return make_pool(emoji_raw, tmp_path_factory.mktemp("pool"))


@pytest.fixture(scope="module")
def names(pool) -> list[str]:
    """All that pictures show."""
    return sorted({item["name"] for facts in pool.truth for item in facts["objects"]})


@pytest.fixture(scope="module")
def listed(pool, names) -> str:
    """A file with all of that, and two concepts that do not occur."""
    path = pool.root / "list.txt"
    path.write_text("".join(f"{name}\t{name} thing\tgroup\n" for name in [*names, "zeppelin mast", "zeppelin hook"]))
    return str(path)


def folders_of(pool: PoolFolders, out: str) -> Folders:
    return Folders(pool.raw, pool.root / "valid", pool.root / "vectors", pool.root / out)


def made(pool: PoolFolders, out: str, **values) -> Path:
    folders = folders_of(pool, out)
    concepts("toy", entry(**values), folders)
    return folders.out


@pytest.fixture(scope="module")
def folder(pool, listed) -> Path:
    """What the stage makes of all concepts with the truth about pictures."""
    return made(pool, "truth", list=listed)


def test_what_is_published_belongs_together(folder, pool, names):
    table, hits, summary = read_concepts(folder), read_hits(folder), read_summary(folder)
    assert verify_manifest(folder) == []
    manifest = read_manifest(folder, "concepts")
    assert set(manifest["inputs"]) == {"raw", "valid", "list"}
    assert manifest["counts"]["concepts"] == len(names) + 2 and manifest["counts"]["pairs"] == 120
    assert list(table.names[:-2]) == names and set(table.groups) == {"group"}
    assert table.aliases[0] == (f"{names[0]} thing",)
    assert hits.keys.to_pylist() == pool.keys and hits.image is not None
    for counts, found in ((table.text, hits.text), (table.image, hits.image)):
        np.testing.assert_array_equal(counts, found.counts(len(table.names)))
    joint = [set(a) & set(b) for a, b in zip(lists_of(hits.text), lists_of(hits.image), strict=True)]
    assert table.joint.tolist() == [sum(c in row for row in joint) for c in range(len(table.names))]
    assert (table.joint <= np.minimum(table.text, table.image)).all() and (table.joint >= 0).all()
    assert (summary["concepts"], summary["pairs"]) == (len(names) + 2, 120)


def test_pictures_are_tagged_with_the_truth(folder, pool, names):
    hits = read_hits(folder)
    assert hits.image is not None
    wanted = [sorted({names.index(item["name"]) for item in facts["objects"]}) for facts in pool.truth]
    assert lists_of(hits.image) == wanted


def test_captions_are_searched_for_names(folder, pool, names):
    table, found = read_concepts(folder), lists_of(read_hits(folder).text)
    silent = [row for row, facts in enumerate(pool.truth) if facts["noise"] in ("generic", "file_name")]
    true = [row for row, facts in enumerate(pool.truth) if facts["noise"] is None]
    assert silent and not any(found[row] for row in silent)
    shown = [{names.index(item["name"]) for item in facts["objects"]} for facts in pool.truth]
    assert np.mean([bool(found[row]) for row in true]) > 0.7  # more where the search knows plurals
    assert all(set(found[row]) <= shown[row] for row in true)
    assert table.text[-2:].tolist() == [0, 0]


def test_the_flag_finds_captions_of_other_pictures(folder, pool):
    summary = read_summary(folder)
    noise, split = summary["noise"], summary["misalignment"]
    planted = [facts["noise"] for facts in pool.truth]
    counted = {kind: told["pairs"] for kind, told in noise["by_kind"].items()}
    assert counted == {kind or "none": planted.count(kind) for kind in set(planted)}
    assert counted["mismatch"] > 0 and noise["recall"] >= 0.75 and noise["precision"] == 1.0
    assert noise["by_kind"]["none"]["flagged"] == 0 and noise["flagged"] == split["disjoint"]
    assert split["no_text"] + split["no_image"] - split["neither"] + split["overlap"] + split["disjoint"] == 120
    assert summary["with_text"] == 120 - split["no_text"] and summary["with_image"] == 120 - split["no_image"]
    assert split["rate_given_both"] == split["disjoint"] / (split["disjoint"] + split["overlap"])


def test_thirds_and_the_tail_follow_joint_counts(folder, names):
    table, summary = read_concepts(folder), read_summary(folder)
    least = {third: table.joint[np.array(table.frequency) == third].min() for third in ("head", "mid")}
    most = {third: table.joint[np.array(table.frequency) == third].max() for third in ("mid", "tail")}
    assert least["head"] >= most["mid"] and least["mid"] >= most["tail"]
    assert len(summary["tail_concepts"]) == 20 and "zeppelin mast" in summary["tail_concepts"]
    assert set(summary["tail"]) == {"text", "image", "joint"}
    assert summary["tail"]["image"]["zero_share"] == pytest.approx(2 / (len(names) + 2))
    assert summary["tail"]["joint"]["zero_share"] == pytest.approx((table.joint == 0).mean())


def test_without_an_image_side_only_captions_are_counted(pool, listed, folder):
    alone = made(pool, "alone", list=listed, images={"kind": "none"})
    table, summary = read_concepts(alone), read_summary(alone)
    assert read_hits(alone).image is None and not table.has_images
    assert (table.image == -1).all() and (table.joint == -1).all()
    np.testing.assert_array_equal(table.text, read_concepts(folder).text)
    assert summary["misalignment"] is None is summary["noise"] and summary["with_image"] is None
    assert set(summary["tail"]) == {"text"} and "head" in table.frequency
    assert table.text[table.frequency.index("head")] >= table.text[table.frequency.index("tail")]


def test_classes_of_the_data_set_are_concepts(pool, emoji_facts):
    table = read_concepts(made(pool, "classes"))
    assert list(table.names) == [known["name"] for known in emoji_facts["classes"]]
    # the source counts them, too, in the same accepted pairs
    assert table.image.tolist() == [known["train_count"] for known in emoji_facts["classes"]]


def test_the_same_inputs_give_the_same_bytes(pool, listed, folder):
    again = made(pool, "again", list=listed)
    assert read_manifest(again)["files"] == read_manifest(folder)["files"]
    assert version_of(again) == version_of(folder)


def test_counts_of_two_halves_add_up(pool, listed, folder):
    halves = []
    for number, keys in enumerate((pool.keys[:50], pool.keys[50:])):
        root = pool.root / f"half-{number}"
        root.mkdir()
        accept(root / "valid", keys, "train")
        write_manifest(root / "valid", "valid", "small", {}, {"accepted": len(keys)}, {}, "test")
        folders = Folders(pool.raw, root / "valid", None, root / "out")
        concepts("toy", entry(list=listed), folders)
        halves.append(read_concepts(folders.out))
    whole = read_concepts(folder)
    for side in ("text", "image", "joint"):
        np.testing.assert_array_equal(sum(getattr(half, side) for half in halves), getattr(whole, side))


def make_vectors(pool: PoolFolders, names: list[str], inputs: dict[str, str], where: Path) -> None:
    concept = np.random.default_rng(0).normal(size=(len(names), WIDTH))
    shown = [sorted({names.index(item["name"]) for item in facts["objects"]}) for facts in pool.truth]
    rows = np.stack([concept[some].sum(axis=0) for some in shown])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    writer = SidecarWriter(where, "float16", (2, WIDTH))
    nonsense = np.zeros_like(rows)
    writer.write_shard("train/00000", pool_keys(pool), np.stack([rows, nonsense], axis=1).astype(np.float16))
    writer.finish(["train/00000"], "scorer", {}, {**inputs, "model": "m"}, "test")


def pool_keys(pool: PoolFolders):
    return read_hits(pool.root / "truth").keys


def test_pictures_are_tagged_by_their_embeddings(pool, names, listed, folder):
    inputs = {"raw": version_of(pool.raw), "valid": version_of(pool.root / "valid")}
    make_vectors(pool, names, inputs, pool.root / "vectors")
    by_vectors = made(pool, "vectors-out", list=listed, **CLIP)
    found, truth, summary = read_hits(by_vectors).image, read_hits(folder).image, read_summary(by_vectors)
    assert found is not None and truth is not None
    right = found.intersection(truth).counts(len(names)).sum()
    assert right / len(found.concepts) > 0.8  # with 120 pairs many concepts are too rare to be found at all
    assert summary["image_side"] == "clip" and summary["noise"]["by_kind"]["none"]["pairs"] > 90
    assert set(read_manifest(by_vectors)["inputs"]) == {"raw", "valid", "list", "embeddings"}


def test_embeddings_of_other_data_are_refused(pool, names, listed, folder, tmp_path):
    assert folder.exists()
    make_vectors(pool, names, {"raw": "another", "valid": "another"}, tmp_path / "vectors")
    folders = replace(folders_of(pool, "never"), embeddings=tmp_path / "vectors")
    with pytest.raises(DataError, match="made from another data version"):
        concepts("toy", entry(list=listed, **CLIP), folders)
    assert not folders.out.exists()


@pytest.mark.parametrize(
    ("content", "error", "told"),
    [
        ("zeppelin mast\n", DataError, "no caption of 120 names any of 1 concepts"),
        ("\n", ConfigError, "lists no concept"),
        (None, DataError, "does not exist"),
    ],
)
def test_a_list_of_nothing_is_refused_and_nothing_is_published(pool, tmp_path, content, error, told):
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(error, match=told):
        concepts("toy", entry(list=str(path)), replace(folders_of(pool, "never"), embeddings=None))
    assert not (pool.root / "never").exists()


def test_names_that_stand_twice_are_noted(pool, names, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text(f"{names[0]}\t\tone\n{names[0].upper()}\t\tother\n{names[1]}\n")
    summary = read_summary(made(pool, "twice", list=str(path)))
    assert summary["concepts"] == 2 and "groups one, other" in summary["notes"][0]


def test_an_unfinished_folder_is_refused(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({}))
    for read in (read_concepts, read_hits, read_summary):
        with pytest.raises(DataError, match="missing or unfinished"):
            read(tmp_path)


def test_the_flag_is_judged_by_the_kind_it_should_find():
    noise = ["mismatch", "mismatch", "partial", None, None]
    found = judge_flag(np.array([True, False, True, True, False]), noise)
    assert (found["flagged"], found["precision"], found["recall"]) == (3, 1 / 3, 1 / 2)
    assert found["by_kind"]["partial"] == {"pairs": 1, "flagged": 1}
    clean = judge_flag(np.array([False, False]), [None, None])
    assert clean["precision"] is None is clean["recall"]
