import json
import shutil
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.errors import ConfigError, DataError
from assets.index import write_table
from assets.manifest import MANIFEST, read_manifest, verify_manifest, write_manifest
from assets.reduction import shards_out
from assets.reduction.explain import explain
from assets.reduction.plan import read_plan
from assets.reduction.run import reduce
from assets.shards import read_shard
from tests.assets.reduction.pool_folders import MACHINE, PoolFolders, make_pool, policy

RANDOM = {"kind": "random", "keep": 0.25}
TLDR = {"kind": "tldr", "keep": 0.25, "clusters": 6, "components": 8}
SCORE = {"kind": "clip_score", "keep": 50}
DEDUP = {"kind": "semdedup", "eps": 0.01, "clusters": 3}
BALANCE = {"kind": "concept_balance", "keep": 40, "entries": "words"}
BOTH = {"embeddings": "e", "captioner": "c", "captions": {"kind": "original"}}
CHAIN = {**BOTH, "steps": [DEDUP, {**SCORE, "keep": 0.8}, {**TLDR, "features": "codes_mean"}], "captions": None}


@pytest.fixture(scope="module")
def pool(emoji_raw, tmp_path_factory) -> PoolFolders:
    """120 pairs with embeddings, scores, codes and captions; do not write into its folders, only beside them."""
    return make_pool(emoji_raw, tmp_path_factory.mktemp("pool"))


def made(pool: PoolFolders, out: str, **values) -> Path:
    folders = pool.folders(out)
    reduce("toy", policy(**values), folders, MACHINE)
    return folders.out


def rows_of(folder: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(folder / "plan.parquet")
    return {name: np.array(table.column(name).to_pylist()) for name in table.column_names}


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def bytes_of(folder: Path) -> dict[str, str]:
    """Checksums of all that is published, none of which may differ between two runs."""
    files = read_manifest(folder)["files"]
    return {name: facts["sha256"] for name, facts in files.items()}


def test_a_random_quarter_is_exact_and_everything_about_it_is_published(pool):
    out = made(pool, "random", steps=[RANDOM])
    assert verify_manifest(out) == []
    manifest = read_manifest(out, "reduced")
    assert manifest["counts"] == {"pool": 120, "kept": 30}
    assert set(manifest["inputs"]) == {"raw", "valid"}
    assert manifest["config"]["stage"] == policy(steps=[RANDOM]).model_dump(mode="json")
    rows = rows_of(out)
    assert rows["key"].tolist() == pool.keys and rows["kept"].sum() == 30
    assert set(rows["reason"]) == {"", "1 random: later in hash order"}
    assert np.isnan(rows["score"]).all() and (rows["cluster"] == -1).all() and not any(rows["caption"])
    assert not (pool.root / "work" / "reduce" / "toy").exists() or not any((pool.root / "work/reduce/toy").iterdir())


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        (SCORE, 50),
        ({"kind": "caption_likelihood", "keep": 51}, 51),
        ({**TLDR, "by": "likelihood"}, 30),
        (TLDR, 30),
        ({**TLDR, "rule": "budget", "quota": "sqrt", "keep": 31}, 31),
        ({**TLDR, "rule": "budget", "quota": "cap", "order": "score"}, 30),
        ({**TLDR, "features": "codes_mean"}, 30),
        ({**TLDR, "features": "codes_hist"}, 30),
        ({**TLDR, "features": "codes_raw"}, 30),
        ({"kind": "semdedup", "keep": 70, "clusters": 3}, 70),
        ({**BALANCE, "unmatched": "keep"}, 40),
        (BALANCE, 40),
    ],
)
def test_every_budget_is_kept_to_the_pair(pool, step, kept):
    assert rows_of(made(pool, "budget", **BOTH, steps=[step]))["kept"].sum() == kept


def test_uniform_keeps_its_share_of_every_cluster(pool):
    rows = rows_of(made(pool, "uniform", **BOTH, steps=[{**TLDR, "rule": "uniform", "keep": 0.1}]))
    for cluster in np.unique(rows["cluster"]):
        among = rows["cluster"] == cluster
        assert rows["kept"][among].sum() == -(-among.sum() // 10)
        assert sorted(rows["order"][among]) == list(range(among.sum()))
        assert rows["order"][among & rows["kept"]].max() < -(-among.sum() // 10)


def test_the_reference_rule_strides_through_clusters_in_index_order_and_takes_the_better_half(pool):
    rows = rows_of(made(pool, "reference", **BOTH, steps=[{"kind": "tldr", "rule": "reference", "clusters": 6}]))
    wanted = np.zeros(120, dtype=bool)
    for cluster in np.unique(rows["cluster"]):
        wanted[np.flatnonzero(rows["cluster"] == cluster)[::2]] = True
    wanted &= rows["score"] >= np.sort(rows["score"])[60]
    assert np.array_equal(rows["kept"], wanted)


def test_scores_drop_the_noise_and_semdedup_the_copies_and_the_report_says_so(pool):
    out = made(pool, "chain", **BOTH, steps=[{**SCORE, "keep": 90}, DEDUP])
    rows, summary = rows_of(out), summary_of(out)
    assert pool.noisy.sum() > 10
    assert not (rows["kept"] & pool.noisy).any()
    scores = rows["score"]
    dropped = rows["reason"] == "1 clip_score: score below the threshold"
    assert scores[dropped].max() < scores[~dropped].min() == summary["steps"][0]["threshold"]
    truth = summary["truth"]
    assert truth["noise"]["pool"] == pool.noisy.sum() and truth["noise"]["recall"] == 1
    assert truth["copies"]["pool"] > 0 == truth["copies"]["kept"]
    page = (pool.root / "report" / "chain" / "index.html").read_text()
    assert "src=" in page and page.count("src=") == page.count('src="data:image/jpeg;base64,')
    assert "http" not in page.replace('xmlns="http://www.w3.org/2000/svg"', "")
    for words in (
        "1 clip_score",
        "2 semdedup",
        "false captions",
        "copies beyond the first",
        "Most frequent",
    ):
        assert words in page


def test_the_captioner_judges_pairs_without_embeddings(pool):
    step = {"kind": "caption_likelihood", "keep": int((~pool.noisy).sum())}
    out = made(pool, "likely", embeddings="none", captioner="c", steps=[step], captions={"kind": "original"})
    rows, summary = rows_of(out), summary_of(out)
    assert np.array_equal(rows["kept"], ~pool.noisy) and np.isnan(rows["score"]).all()
    assert set(rows["reason"][pool.noisy]) == {"1 caption_likelihood: likelihood below the threshold"}
    assert summary["scores"] is None and summary["likelihoods"]["kept_mean"] == -1
    assert "pairs by likelihood" in (pool.root / "report" / "likely" / "index.html").read_text()
    assert "threshold -1.0000 by likelihood" in explain(out, pool.keys[0])


def test_near_duplicates_go_without_a_model_and_the_first_of_them_stays(pool):
    out = made(pool, "near", steps=[{"kind": "near_duplicates"}])
    rows, copies = rows_of(out), summary_of(out)["truth"]["copies"]
    assert copies["pool"] > 0 == copies["kept"]
    dropped = pool.original[~rows["kept"]]
    assert set(rows["reason"]) == {"", "1 near_duplicates: looks nearly like an earlier one"}
    first = [pool.original.tolist().index(original) for original in dropped]
    assert len(dropped) and rows["kept"][first].all()


def test_pictures_are_compared_alike_by_any_number_of_workers(pool):
    entry, folders = policy(steps=[{"kind": "near_duplicates"}]), pool.folders("workers", "work-workers")
    reduce("toy", entry, folders, MACHINE.model_copy(update={"workers": 2}))
    assert (folders.out / "plan.parquet").read_bytes() == (
        made(pool, "alone", steps=[{"kind": "near_duplicates"}]) / "plan.parquet"
    ).read_bytes()


def test_a_near_duplicate_of_a_pair_that_an_earlier_step_dropped_stays(pool):
    steps = [{"kind": "random", "keep": 0.5}, {"kind": "near_duplicates"}]
    rows = rows_of(made(pool, "near_later", steps=steps))
    seen = rows["reason"] != "1 random: later in hash order"
    for original in np.unique(pool.original[seen]):
        among = np.flatnonzero(seen & (pool.original == original))
        assert rows["kept"][among].tolist() == [True] + [False] * (len(among) - 1)


def test_a_chain_numbers_its_reasons_and_each_step_sees_what_the_last_one_kept(pool):
    out = made(pool, "numbers", **CHAIN)
    steps = summary_of(out)["steps"]
    assert [step["step"] for step in steps] == ["1 semdedup", "2 clip_score", "3 tldr"]
    assert [step["seen"] for step in steps[1:]] == [step["kept"] for step in steps[:-1]]
    assert all(step["seen"] - step["kept"] == sum(step["dropped"].values()) for step in steps)
    reasons = {reason.split(":")[0] for reason in rows_of(out)["reason"]}
    assert reasons == {"", "1 semdedup", "2 clip_score", "3 tldr"}


def test_the_plan_depends_neither_on_shards_nor_on_processes_nor_on_the_order_of_rows(
    pool, emoji_config, emoji_ingest, tmp_path
):
    other = make_pool(emoji_ingest(emoji_config(), tmp_path / "raw", tmp_path / "ingest", per_shard=17), tmp_path)
    shuffle = np.random.default_rng(1).permutation(120)
    for table in (other.root / "embeddings" / "scores.parquet", other.root / "captioned" / "captions.parquet"):
        write_table(pq.read_table(table).take(pa.array(shuffle)), table)
    here, there = made(pool, "one", **CHAIN), made(other, "two", **CHAIN)
    assert (here / "plan.parquet").read_bytes() == (there / "plan.parquet").read_bytes()


def test_another_seed_keeps_other_pairs(pool):
    kept = [
        set(read_plan(made(pool, "s", seed=s, steps=[RANDOM]), pool.raw, pool.root / "valid").kept.to_pylist())
        for s in (0, 1)
    ]
    assert len(kept[0] & kept[1]) < 20


def test_kept_pairs_get_final_captions_and_training_reads_them(pool):
    out = made(pool, "captions", captioner="c", embeddings="none", steps=[RANDOM], captions={"kind": "concat"})
    plan = read_plan(out, pool.raw, pool.root / "valid")
    rows, own = rows_of(out), dict(zip(pool.keys, pool.captions, strict=True))
    assert plan.kept.to_pylist() == rows["key"][rows["kept"]].tolist()
    generated = dict(
        zip(*pq.read_table(pool.root / "captioned/captions.parquet").select([0, 1]).to_pydict().values(), strict=True)
    )
    finals = dict(zip(plan.kept.to_pylist(), plan.captions.to_pylist(), strict=True))
    used = {key: text for key, text in finals.items() if text is not None}
    assert used and all(text == f"{own[key]}; {generated[key]}" for key, text in used.items())
    assert summary_of(out)["captions"]["outcomes"]["used"] == len(used)
    assert rows["caption"][~rows["kept"]].tolist() == [None] * 90


def test_a_policy_without_steps_keeps_the_whole_pool(pool):
    out = made(pool, "all")
    assert read_manifest(out)["counts"] == {"pool": 120, "kept": 120}
    assert len(read_plan(out, pool.raw, pool.root / "valid").kept) == 120


def test_shards_hold_final_captions_and_the_truth_with_the_original(pool, monkeypatch):
    monkeypatch.setattr(shards_out, "SAMPLES_PER_SHARD", 16)
    out = made(
        pool, "shards", captioner="c", embeddings="none", steps=[RANDOM], captions={"kind": "concat"}, shards=True
    )
    assert sorted(path.name for path in (out / "shards").iterdir()) == ["00000.tar", "00001.tar"]
    samples = [sample for path in sorted((out / "shards").iterdir()) for sample in read_shard(path)]
    plan = read_plan(out, pool.raw, pool.root / "valid")
    assert [sample.key for sample in samples] == plan.kept.to_pylist()
    known = {facts: row for row, facts in enumerate(pool.keys)}
    originals = {
        sample.key: sample for path in sorted((pool.raw / "train").glob("*.tar")) for sample in read_shard(path)
    }
    for sample, caption in zip(samples, plan.captions.to_pylist(), strict=True):
        own = pool.captions[known[sample.key]]
        assert sample.caption == (own if caption is None else caption)
        assert sample.image == originals[sample.key].image
        assert sample.metadata == {**pool.truth[known[sample.key]], "original_caption": own}
    workers = pool.folders("shards-2")
    entry = policy(captioner="c", steps=[RANDOM], captions={"kind": "concat"}, shards=True)
    reduce("toy", entry, workers, MACHINE)
    assert bytes_of(workers.out) == bytes_of(out)


@pytest.mark.slow
def test_worker_processes_write_the_same_shards(pool):
    values = {"captioner": "c", "steps": [{**RANDOM, "keep": 0.5}], "captions": {"kind": "concat"}, "shards": True}
    one, two = pool.folders("w0"), pool.folders("w2")
    reduce("toy", policy(**values), one, MACHINE)
    reduce("toy", policy(**values), two, MACHINE.model_copy(update={"workers": 2}))
    assert bytes_of(one.out) == bytes_of(two.out)


KILLED = """
import json, os, signal, sys
from pathlib import Path
from assets.config import MachineConfig
from assets.reduction import run, shards_out, steps
from assets.reduction.config import PolicyConfig
from assets.section import parse

where, entry, *paths = sys.argv[1:]
shards_out.SAMPLES_PER_SHARD = 8

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def die_after(calls, module, name):
    real = getattr(module, name)
    def counted(*arguments):
        nonlocal calls
        calls -= 1
        return real(*arguments) if calls >= 0 else die()
    setattr(module, name, counted)

if where == "second step":
    die_after(0, steps, "_best_fit")
elif where == "third shard":
    die_after(19, shards_out, "parse_metadata")
else:
    die_after(1, run, "publish_folder")
machine = MachineConfig(workers=0, threads=1, device="cpu", tensorboard=False)
run.reduce("toy", parse(PolicyConfig, json.loads(entry), "toy"), run.Folders(*map(Path, paths)), machine)
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["second step", "third shard", "publishing"])
def test_a_stage_that_is_killed_goes_on_and_ends_in_the_same_bytes(pool, where, monkeypatch):
    monkeypatch.setattr(shards_out, "SAMPLES_PER_SHARD", 8)
    entry = {"dataset": "small", "concepts": "none", **CHAIN, "shards": True}
    whole = made(pool, "whole", **entry)
    name = where.replace(" ", "-")
    folders = pool.folders(f"killed-{name}", f"work-{name}")
    paths = [str(getattr(folders, field.name)) for field in fields(folders)]
    command = [sys.executable, "-c", KILLED, where, json.dumps(entry), *paths]
    ended = subprocess.run(command, cwd=Path(__file__).resolve().parents[3], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not folders.out.exists()
    left = [path for path in folders.work.rglob("*") if path.is_file()]
    tars = [path for path in left if path.suffix == ".tar"]
    assert (
        len(tars) == {"second step": 0, "third shard": 2, "publishing": len(list((whole / "shards").iterdir()))}[where]
    )
    times = {path: path.stat().st_mtime_ns for path in tars}
    reduce("toy", policy(**entry), folders, MACHINE)
    assert bytes_of(folders.out) == bytes_of(whole)
    page = folders.report / "index.html"
    assert [path.name for path in folders.report.iterdir()] == [page.name]  # seconds are elsewhere
    assert page.read_bytes() == (pool.folders("whole").report / "index.html").read_bytes()
    assert verify_manifest(folders.out) == []
    assert [(folders.out / "shards" / path.name).stat().st_mtime_ns for path in tars] == list(times.values())


def test_clusters_are_made_once_for_policies_that_share_them(pool, tmp_path, caplog):
    folders = replace(pool.folders(), work=tmp_path / "work", out=tmp_path / "a")
    reduce("a", policy(**BOTH, steps=[TLDR]), folders, MACHINE)
    first = sorted((tmp_path / "work/reduce/shared/clusters").iterdir())
    before = [path.stat().st_mtime_ns for path in first]
    other = policy(**BOTH, steps=[{**TLDR, "rule": "uniform"}])
    reduce(
        "b", other, replace(folders, out=tmp_path / "b", report=tmp_path / "report", logs=tmp_path / "logs"), MACHINE
    )
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "work/reduce/shared/clusters").iterdir())] == before
    assert np.array_equal(rows_of(tmp_path / "a")["cluster"], rows_of(tmp_path / "b")["cluster"])
    cost = json.loads((tmp_path / "logs/cost.json").read_text())
    assert cost["1 tldr"] >= json.loads((first[0] / "facts.json").read_text())["seconds"]


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ({**SCORE, "keep": 121}, "got 121, wanted at most 120 pairs"),
        ({**TLDR, "keep": 61}, "got 61, wanted at most 60 of 120 pairs"),
        ({**TLDR, "clusters": 121}, "got 121, wanted at most 120"),
        ({**DEDUP, "clusters": 500}, "got 500, wanted at most 120"),
    ],
)
def test_a_pool_that_is_too_small_is_refused_with_both_numbers_before_any_work(pool, step, told):
    for steps in ([step], [{**RANDOM, "keep": 1.0}, step]):
        with pytest.raises(ConfigError) as error:
            made(pool, "refused", **BOTH, steps=steps)
        assert told in str(error.value) and f"steps.{len(steps) - 1}" in str(error.value)
    assert not (pool.root / "refused").exists()


def test_a_later_step_is_measured_by_what_the_earlier_ones_leave(pool):
    with pytest.raises(ConfigError, match=r"steps\.1 \(clip_score\).* got 31, wanted at most 30"):
        made(pool, "refused", **BOTH, steps=[RANDOM, {**SCORE, "keep": 31}])


@pytest.fixture
def copied(pool, tmp_path) -> PoolFolders:
    """The same pool in folders that may be spoilt."""
    for name in ("valid", "embeddings", "captioned"):
        shutil.copytree(pool.root / name, tmp_path / name)
    return replace(pool, root=tmp_path)


def test_scores_that_are_missing_or_doubled_or_not_finite_are_refused_with_examples(copied):
    path = copied.root / "embeddings" / "scores.parquet"
    table = pq.read_table(path)
    whole = {**BOTH, "steps": [SCORE]}
    write_table(table.slice(2), path)
    with pytest.raises(DataError) as error:
        made(copied, "refused", **whole)
    assert f"no score for 2 of 120 accepted pairs ({copied.keys[0]}, {copied.keys[1]})" in str(error.value)
    write_table(pa.concat_tables([table, table.slice(5, 1)]), path)
    with pytest.raises(DataError, match="names keys twice"):
        made(copied, "refused", **whole)
    scores = table.column("score").to_numpy().copy()
    scores[7] = np.nan
    write_table(table.set_column(1, "score", pa.array(scores, pa.float32())), path)
    with pytest.raises(DataError, match=f"1 values of score are not finite .{copied.keys[7]}"):
        made(copied, "refused", **whole)


@pytest.mark.parametrize("part", ["embeddings", "captioned"])
def test_embeddings_and_captions_of_another_data_version_are_refused(copied, part):
    folder = copied.root / part
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["inputs"]["valid"] = "0123456789abcdef"
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=rf"{part} is made from another data version \(valid differs\)"):
        made(copied, "refused", **BOTH, steps=[RANDOM])


def test_a_plan_of_another_data_version_is_refused_by_training(copied):
    out = made(copied, "out", steps=[RANDOM])
    read_plan(out, copied.raw, copied.root / "valid")
    write_manifest(copied.root / "valid", "valid", "small", {"another": 1}, {"accepted": 120}, {}, "test")
    with pytest.raises(DataError, match=r"made from another data version \(valid differs\)"):
        read_plan(out, copied.raw, copied.root / "valid")


def test_a_key_that_validation_lists_twice_is_refused(copied):
    table = pq.read_table(copied.root / "valid" / "accepted.parquet")
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), copied.root / "valid" / "accepted.parquet")
    with pytest.raises(DataError, match="accepted keys of split train found in the index, got 120, wanted 121"):
        made(copied, "refused", steps=[RANDOM])


def test_a_step_that_leaves_nothing_is_refused(pool):
    with pytest.raises(ConfigError, match="mention a concept"):
        made(pool, "refused", steps=[{**BALANCE, "min_count": 1000}])
    with pytest.raises(DataError, match="keeps none of the pairs it saw"):
        made(pool, "refused", steps=[{**BALANCE, "keep": None, "threshold": 3, "min_count": 1000}])


def test_explaining_a_pair_names_step_score_threshold_and_cluster(pool):
    out = made(pool, "explained", **CHAIN)
    rows = rows_of(out)
    for prefix, wanted in {
        "1 semdedup": ["dropped in step 1 semdedup: too like", "cosine to the closest earlier", "stay"],
        "2 clip_score": ["step 1 semdedup: passed", "step 2 clip_score: dropped here", "threshold 0."],
        "3 tldr": ["step 3 tldr: dropped here; kept", "cluster", "place"],
        "": ["kept by policy toy", "caption:", "pairs of the pool is higher"],
    }.items():
        row = next(n for n, reason in enumerate(rows["reason"]) if reason.startswith(prefix) and (prefix or not reason))
        text = explain(out, rows["key"][row])
        for words in wanted:
            assert words in text, text
    with pytest.raises(DataError, match="has no pair 'nothing' in its pool"):
        explain(out, "nothing")
    with pytest.raises(DataError, match=f"did you mean '{pool.keys[3]}'"):
        explain(out, pool.keys[3] + "x")
