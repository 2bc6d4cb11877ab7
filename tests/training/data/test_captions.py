"""Several captions per pair: which one a visit sees, whatever the batch, rank, worker or store; and what is refused."""

import json
import shutil
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from assets.errors import ConfigError, DataError
from assets.index import index_row, rows_table, write_table
from assets.manifest import write_manifest
from assets.shard_cache import ShardCache
from assets.shards import ShardWriter
from assets.sources.base import Sample
from tests.training.data.test_pairs import use_urls
from tests.training.episode_batches import PROTOCLIP
from tests.training.frozen_text import towers
from training import pretrain as stage
from training.config import load_recipe
from training.data.captions import draw_captions, further_caption, refuse_missing_captions
from training.data.holdout import whole_images
from training.data.loader import StepDataset, ViewPlan, batches
from training.data.order import SampleOrder
from training.data.pairs import PairReader, load_pairs
from training.data.tokens import CaptionTokenizer
from training.data.transforms import SampleDraws
from training.data.views import ViewsConfig
from training.models.text_draws import draw_rows
from training.pretrain import Paths, pretrain

CPU = torch.device("cpu")
TOKENIZER = CaptionTokenizer(16)
NAMES = ("caption", "long", "de")
LACKING = {"toy-007", "toy-031", "toy-040"}


def further(key: str) -> dict[str, str]:
    """Captions that tell the pair and their own name."""
    names = ("long",) if key in LACKING else ("long", "de")
    return {name: f"{name} text of number {int(key[-3:])}" for name in names}


@pytest.fixture(scope="module")
def captioned(toy_data, tmp_path_factory) -> tuple[Path, Path]:
    """The toy data with further captions in KEY.json; three pairs lack that in German."""
    raw = tmp_path_factory.mktemp("captioned") / "raw"
    (raw / "train").mkdir(parents=True)
    pairs, rows = load_pairs(*toy_data), []
    reader = PairReader(pairs)
    for shard, name in enumerate(pairs.shards):
        with (raw / name).open("wb") as stream:
            writer = ShardWriter(stream)
            for place in (pairs.shard == shard).nonzero()[0].tolist():
                key = pairs.keys[place].as_py()
                caption = pairs.captions[place].as_py()
                sample = Sample(key, reader.read(place), "jpg", caption, {"captions": further(key)})
                rows.append(index_row(sample, "train", name, writer.write(sample)))
            writer.close()
    write_table(rows_table(rows), raw / "index.parquet")
    write_manifest(raw, "raw", "toy", {}, {"samples": len(rows)}, {}, "test")
    return raw, toy_data[1]


def dataset(data, captions=NAMES, global_batch=16, rank=0, world_size=1, pairs=None):
    pairs = pairs or load_pairs(*data)
    views = {"image": ViewsConfig(crop_area=(0.5, 1.0))}
    plan = ViewPlan(views, TOKENIZER.encode, 32, 0, captions=captions)
    return StepDataset(pairs, SampleOrder(len(pairs), global_batch, 0), plan, rank, world_size)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def texts_by_sample(given):
    """Sample -> the tokens it has first in some batches."""
    found = {}
    for batch in given:
        for sample, text in zip(batch["sample_id"].tolist(), batch["text"].tolist(), strict=True):
            found.setdefault(sample, text)
    return found


def test_a_recipe_that_names_no_captions_has_the_batches_of_data_without_key_json(toy_data, captioned):
    pairs = load_pairs(*captioned)
    plan = ViewPlan({"image": ViewsConfig(crop_area=(0.5, 1.0))}, TOKENIZER.encode, 32, 0)
    for step in range(4):
        batch = StepDataset(pairs, SampleOrder(len(pairs), 16, 0), plan)[step]
        assert batch.keys() == {"image", "seed", "text", "text_cut", "sample_id"}
        assert torch.equal(batch["text"], TOKENIZER([pairs.captions[i].as_py() for i in batch["sample_id"].tolist()]))
        assert same(batch, dataset(toy_data, ("caption",))[step])


def test_naming_captions_changes_nothing_but_the_text(captioned):
    plain, several = dataset(captioned, ("caption",))[1], dataset(captioned)[1]
    assert several.keys() - plain.keys() == {"caption_missing"}
    assert all(torch.equal(plain[name], several[name]) for name in ("image", "seed", "sample_id"))
    assert not torch.equal(plain["text"], several["text"])


def test_every_caption_is_one_of_its_own_pair_and_a_pair_shows_all_in_time(captioned):
    pairs, seen, missing = load_pairs(*captioned), defaultdict(Counter), 0
    every = dataset(captioned)
    for step in range(63):  # 16 epochs
        batch = every[step]
        for row, place in enumerate(batch["sample_id"].tolist()):
            text, lacks = batch["text"][row], batch["caption_missing"][row]
            key, own = pairs.keys[place].as_py(), pairs.captions[place].as_py()
            choice = {tuple(TOKENIZER([said])[0].tolist()): name for name, said in further(key).items()}
            choice[tuple(TOKENIZER([own])[0].tolist())] = "caption"
            name = choice[tuple(text.tolist())]
            assert not lacks or (key in LACKING and name == "caption")
            seen[key][name] += 1
            missing += int(lacks)
    assert sum(counts.keys() == set(NAMES) for counts in seen.values()) >= 55
    assert all(counts.keys() == {"caption", "long"} for key, counts in seen.items() if key in LACKING)
    assert 3 * 16 / 3 - 12 < missing < 3 * 16 / 3 + 12
    total = sum(seen.values(), Counter())
    whole = total.total() - missing
    expected = whole / 3
    assert all(abs(count - expected) < 4.5 * (whole * 2 / 9) ** 0.5 + missing for count in total.values())


@pytest.mark.parametrize("names", [("caption", "long"), NAMES, ("long", "de", "caption", "fr", "es")])
def test_captions_are_drawn_uniformly_and_apart_from_the_crop(names):
    count, told = 6000, {"captions": {name: name for name in names}}
    draws = [SampleDraws(3, number % 5, f"key-{number}") for number in range(count)]
    seed = torch.tensor([draw.seed for draw in draws])
    texts, missing = draw_captions(names, ["caption"] * count, [told] * count, seed)
    assert not missing.any()
    found = Counter(texts)
    share = 1 / len(names)
    for name in names:
        assert abs(found[name] - count * share) < 4.5 * (count * share * (1 - share)) ** 0.5
    first = [draw.uniform(1)[0] for draw in draws]  # decides the crop's area
    for name in names:
        mean = sum(value for value, text in zip(first, texts, strict=True) if text == name) / found[name]
        assert abs(mean - 0.5) < 4.5 * (1 / 12 / found[name]) ** 0.5


def test_a_visit_sees_the_caption_whose_row_frozen_text_would_give_it():
    names, seed = ("raw", "short", "long", "de"), torch.arange(500) * 7919 + 11
    told = {"captions": {name: name for name in names}}
    texts, _ = draw_captions(names, ["own"] * len(seed), [told] * len(seed), seed)
    rows = draw_rows(torch.eye(len(names)).expand(len(seed), -1, -1), seed, 1)[:, 0]
    assert texts == [names[slot] for slot in rows.argmax(dim=1).tolist()]


def test_the_caption_of_a_visit_does_not_depend_on_its_batch(captioned):
    sixteen, seven = dataset(captioned), dataset(captioned, global_batch=7)
    found = texts_by_sample(sixteen[step] for step in range(4))
    assert len(found) == 63
    assert texts_by_sample(seven[step] for step in range(9)) == found


def test_another_epoch_draws_again(captioned):
    every = dataset(captioned, global_batch=63)
    one, two = (texts_by_sample([every[step]]) for step in range(2))
    assert 20 < sum(one[sample] != two[sample] for sample in one) < 60


def test_two_ranks_see_the_halves_of_the_global_batch(captioned):
    whole = dataset(captioned)[2]
    halves = [dataset(captioned, rank=rank, world_size=2)[2] for rank in range(2)]
    for name in ("text", "caption_missing", "sample_id"):
        assert torch.equal(torch.cat([half[name] for half in halves]), whole[name])


def test_a_loader_started_late_gives_the_same_captions(captioned):
    whole = list(batches(dataset(captioned), 0, 6, 0, CPU))
    rest = list(batches(dataset(captioned), 4, 6, 0, CPU))
    assert all(same(one, other) for one, other in zip(whole[4:], rest, strict=True))


@pytest.mark.slow
def test_captions_do_not_depend_on_the_number_of_workers(captioned):
    alone = list(batches(dataset(captioned), 0, 6, workers=0, device=CPU))
    helped = list(batches(dataset(captioned), 0, 6, workers=2, device=CPU))
    assert len(alone) == len(helped) == 6
    assert all(same(one, other) for one, other in zip(alone, helped, strict=True))


def test_captions_of_streamed_shards_are_those_of_local_ones(captioned, object_store, tmp_path):
    raw = tmp_path / "raw"
    shutil.copytree(captioned[0], raw)
    for shard in sorted((raw / "train").iterdir()):
        object_store.put(f"captioned/train/{shard.name}", shard.read_bytes())
    shutil.rmtree(raw / "train")
    use_urls(raw / "index.parquet", "s3://clipfoundry/captioned/")
    cache = ShardCache(tmp_path / "cache", 1 << 26, object_store.config, object_store.keys)
    stored = replace(load_pairs(raw, captioned[1]), cache=cache)
    far, near = dataset(captioned, pairs=stored), dataset(captioned)
    assert all(same(far[step], near[step]) for step in range(4))


def test_held_out_pairs_show_the_caption_of_the_index(captioned):
    pairs = load_pairs(*captioned)
    plan = ViewPlan({"image": ViewsConfig(crop_area=(0.5, 1.0))}, TOKENIZER.encode, 32, 0, captions=("long", "de"))
    (batch,) = whole_images(pairs, plan)
    captions = [pairs.captions[place].as_py() for place in batch["sample_id"].tolist()]
    assert torch.equal(batch["text"], TOKENIZER(captions))
    assert "caption_missing" not in batch


@pytest.mark.parametrize(
    "told", [{}, {"captions": ["long"]}, {"captions": {"long": " \n"}}, {"captions": {"long": 3}}, {"captions": None}]
)
def test_whatever_is_no_caption_counts_as_missing(told):
    assert further_caption(told, "long") is None
    texts, missing = draw_captions(("long",), ["own"], [told], torch.tensor([5]))
    assert texts == ["own"]
    assert missing.tolist() == [True]


def test_captions_that_a_data_set_lacks_are_refused_on_every_rank(toy_data, captioned):
    for rank in range(2):
        with pytest.raises(DataError, match=r"none of the 16 pairs of .*raw .*'fr' in KEY.json, got 'de, long'; drop"):
            dataset(captioned, ("caption", "long", "fr"), rank=rank, world_size=2)
    with pytest.raises(DataError, match=r"none of the 16 pairs of .*'long' in KEY.json, got 'no captions'; drop it"):
        dataset(toy_data, ("long",))


def test_one_pair_that_has_a_caption_is_enough_and_no_more_are_read():
    lacking, having = {"captions": {"de": "ein Bild"}}, {"captions": {"long": "a long text"}}
    given = iter([lacking, having, lacking, lacking])
    refuse_missing_captions(("caption", "de", "long"), given, "data")
    assert len(list(given)) == 2


@pytest.mark.parametrize(
    ("captions", "error"),
    [
        ([], "captions: .*at least 1 item"),
        (["long", "caption", "long"], "captions named twice, got 'long, caption, long', wanted each once"),
        ("long", "captions"),
    ],
)
def test_wrong_lists_of_captions_are_refused(params, captions, error):
    with pytest.raises(ConfigError, match=error):
        load_recipe(params(**{"recipes.clip.captions": captions}), "clip")


def test_captions_beside_frozen_text_are_refused(params):
    frozen = {"recipes.clip.towers": towers(), "recipes.clip.captions": ["caption", "long"]}
    with pytest.raises(ConfigError, match=r"no meaning with towers.text of kind frozen; .* with towers.text.slots"):
        load_recipe(params(**frozen), "clip")
    spelt_out = params(**{**frozen, "recipes.clip.captions": ["caption"]})
    assert load_recipe(spelt_out, "clip").captions == load_recipe(params(), "clip").captions == ("caption",)


def weights(data, file, folder) -> bytes:
    pretrain("toy-s0", file, Paths(*data, folder / "model", folder / "log"))
    return (folder / "model/open_clip_model.safetensors").read_bytes()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_run_learns_from_the_drawn_captions_and_counts_the_missing(captioned, toy_data, params, here):
    plain = weights(toy_data, params(), here / "plain")
    assert weights(captioned, params(**{"recipes.clip.captions": ["caption"]}), here / "spelt_out") == plain
    assert not (here / "spelt_out/log/plots/metrics/train/caption_missing_share.tsv").exists()
    assert weights(captioned, params(**{"recipes.clip.captions": list(NAMES)}), here / "several") != plain
    curve = (here / "several/log/plots/metrics/train/caption_missing_share.tsv").read_text().splitlines()[1:]
    shares = [float(line.split("\t")[1]) for line in curve]
    every = dataset(captioned)
    assert shares == pytest.approx([float(every[step]["caption_missing"].float().mean()) for step in range(12)])
    assert 0 < sum(shares) * 16 < 9
    assert json.loads((here / "several/model/config.json").read_text())["recipe"]["captions"] == list(NAMES)


@pytest.mark.slow
def test_snapshots_draw_as_training_does(captioned, params, here, monkeypatch):
    plans = []

    class Noted(StepDataset):
        def __init__(self, pairs, order, plan, *rest):
            plans.append(plan)
            super().__init__(pairs, order, plan, *rest)

    monkeypatch.setattr(stage, "StepDataset", Noted)
    weights(
        captioned, params(**{"recipes.clip.method": PROTOCLIP, "recipes.clip.captions": list(NAMES)}), here / "episodes"
    )
    training, snapshots = plans
    assert training.captions == snapshots.captions == NAMES
    assert training.seed != snapshots.seed


def test_a_run_on_data_without_its_captions_is_refused_before_any_work(toy_data, params, here):
    with pytest.raises(DataError, match=r"none of the 16 pairs of .* has a caption 'long'"):
        weights(toy_data, params(**{"recipes.clip.captions": list(NAMES)}), here)
    assert not (here / "work").exists()
