"""The huggingface source on data sets made here: forms of pictures and captions, keys, labels, parts, the stages."""

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Array2D, Array3D, ClassLabel, Dataset, DatasetDict, Features, Image, LargeList, List, Value
from PIL import Image as PillowImage

from assets.errors import DataError
from assets.index import read_index
from assets.ingest import ingest
from assets.section import parse
from assets.sources.base import open_source
from assets.sources.huggingface.config import HuggingFaceConfig

ROOT = Path(__file__).resolve().parents[3]


def jpeg(seed: int) -> bytes:
    cells = np.random.default_rng(seed).integers(40, 216, (4, 6, 3), dtype=np.uint8)
    stream = io.BytesIO()
    PillowImage.fromarray(cells).resize((48, 32)).save(stream, "JPEG")
    return stream.getvalue()


JPEGS = [jpeg(seed) for seed in range(4)]
TEXTS = ["a dog", "two dogs", "a hen", "a cat"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A cache of the test's own, and no network."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


def make_config(train, languages=("en",), **splits) -> HuggingFaceConfig:
    """A config whose train split has these settings; columns.caption is ``caption`` unless given."""
    train = {"role": "train", "columns": {"caption": "caption"}, **train}
    settings = {"kind": "huggingface", "licence": "CC0", "languages": list(languages)}
    return parse(HuggingFaceConfig, {**settings, "splits": {"train": train, **splits}}, "source")


def all_samples(source, split="train"):
    size = next(entry.size for entry in source.splits() if entry.name == split)
    return list(source.samples(split, 0, size))


def pairs(images=JPEGS, texts=TEXTS, image=None, caption=None, **more) -> Dataset:
    features = {"image": image or Image(), "caption": caption or Value("string")}
    columns = {"image": images, "caption": texts}
    for name, (feature, cells) in more.items():
        features[name], columns[name] = feature, cells
    return Dataset.from_dict(columns, features=Features(features))


def saved(rows, folder: Path) -> str:
    rows.save_to_disk(str(folder))
    return str(folder)


def from_rows(rows, folder: Path, **settings):
    return open_source(make_config({"data": saved(rows, folder), **settings}))


@pytest.mark.parametrize("how", ["saved", "dict", "parquet", "glob", "arrow", "folder"])
def test_pairs_come_in_order_byte_for_byte_whatever_holds_them(tmp_path, how):
    rows, path = pairs(), tmp_path / "set"
    settings: dict = {"data": str(path)}
    if how == "saved":
        saved(rows, path)
    elif how == "dict":
        saved(DatasetDict({"train": rows, "test": rows.select([3])}), path)
        settings["split"] = "train"
    elif how == "arrow":
        settings["data"] = saved(rows, path) + "/data-00000-of-00001.arrow"
    else:
        path.mkdir()
        rows.select([0, 1]).to_parquet(path / "train-00000.parquet")
        rows.select([2, 3]).to_parquet(path / "train-00001.parquet")
        if how == "parquet":
            rows.to_parquet(path / "all.parquet")
        settings["data"] += {"folder": "", "glob": "/*.parquet", "parquet": "/all.parquet"}[how]
    source = open_source(make_config(settings))
    whole = all_samples(source)
    assert [(sample.key, sample.caption, sample.extension) for sample in whole] == [
        (f"{row:09d}", text, "jpg") for row, text in enumerate(TEXTS)
    ]
    assert [sample.image for sample in whole] == JPEGS
    assert whole[1].metadata == {"row": 1, "captions": {"en": "two dogs"}}
    assert [sample for i in range(4) for sample in source.samples("train", i, i + 1)] == whole
    assert list(source.samples("train", 1, 9)) == whole[1:]
    assert list(source.samples("train", 4, 9)) == []


def test_pictures_in_folders_come_with_the_captions_of_their_metadata_file(tmp_path):
    for number, image in enumerate(JPEGS):
        path = tmp_path / f"set/train/{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    lines = [json.dumps({"file_name": f"{number}.jpg", "caption": text}) for number, text in enumerate(TEXTS)]
    (tmp_path / "set/train/metadata.jsonl").write_text("\n".join(lines))
    samples = all_samples(open_source(make_config({"data": str(tmp_path / "set")})))
    assert [(sample.caption, sample.image) for sample in samples] == list(zip(TEXTS, JPEGS, strict=True))


@pytest.mark.parametrize("kind", ["contents", "large", "struct", "relative", "absolute", "mixed"])
def test_encoded_pictures_are_found_in_every_form_of_column_and_left_as_they_are(tmp_path, kind):
    files = tmp_path / "files"
    files.mkdir()
    for number, image in enumerate(JPEGS):
        (files / f"{number}.jpg").write_bytes(image)
    paths = [str(files / f"{number}.jpg") for number in range(4)]
    struct = {"bytes": Value("binary"), "path": Value("string")}
    form, cells = {
        "contents": (Value("binary"), JPEGS),
        "large": (Value("large_binary"), JPEGS),
        "struct": (
            struct,
            [{"bytes": image, "path": "elsewhere.jpg"} for image in JPEGS],
        ),
        "relative": (Value("string"), [f"{number}.jpg" for number in range(4)]),
        "absolute": (Value("large_string"), paths),
        "mixed": (
            struct,
            [{"bytes": image if row % 2 else None, "path": paths[row]} for row, image in enumerate(JPEGS)],
        ),
    }[kind]
    source = from_rows(pairs(cells, image=form), tmp_path / "set", image_folder=str(files))
    assert [sample.image for sample in all_samples(source)] == JPEGS


@pytest.mark.parametrize("kind", ["array3", "grey", "one channel", "lists"])
def test_arrays_become_png_without_loss(tmp_path, kind):
    shape = {"array3": (5, 7, 3), "lists": (5, 7, 4), "grey": (5, 7), "one channel": (5, 7, 1)}[kind]
    numbers = [np.random.default_rng(i).integers(0, 256, shape, dtype=np.uint8) for i in range(4)]
    form = {
        "array3": Array3D(shape, "uint8"),
        "one channel": Array3D(shape, "uint8"),
        "grey": Array2D(shape, "uint8"),
        "lists": List(List(List(Value("uint8")))),
    }[kind]
    source = from_rows(pairs(numbers, image=form), tmp_path / "set")
    samples = all_samples(source)
    assert {sample.extension for sample in samples} == {"png"}
    for sample, wanted in zip(samples, numbers, strict=True):
        assert np.array_equal(np.asarray(PillowImage.open(io.BytesIO(sample.image))), wanted.squeeze())
    assert "pillow" in source.about().inputs
    assert "pillow" not in from_rows(pairs(), tmp_path / "other").about().inputs


def test_arrays_of_one_size_still_tell_two_data_sets_apart(tmp_path):
    tables = []
    for number, shade in enumerate((3, 4)):
        rows = pairs([np.full((2, 2), shade, np.uint8)] * 4, image=Array2D((2, 2), "uint8"))
        rows.to_parquet(tmp_path / f"{number}.parquet")
        tables.append(open_source(make_config({"data": str(tmp_path / f"{number}.parquet")})).about().inputs)
    assert tables[0] != tables[1]


def test_a_picture_of_pillow_is_what_datasets_made_of_it(tmp_path):
    whole = PillowImage.open(io.BytesIO(JPEGS[0]))
    whole.load()
    source = from_rows(pairs([whole.copy()] * 4), tmp_path / "set")
    found = all_samples(source)[0]
    assert found.extension == "png"
    assert np.array_equal(np.asarray(PillowImage.open(io.BytesIO(found.image))), np.asarray(whole))


@pytest.mark.parametrize("form", [List(Value("string")), LargeList(Value("string")), List(Value("string"), length=3)])
def test_of_several_captions_the_first_is_the_caption_and_the_others_are_kept(tmp_path, form):
    texts = [[" one ", "two", ""], ["", "  ", "only"], [None, "a", "b"], ["", "", ""]]
    source = from_rows(pairs(texts=texts, caption=form), tmp_path / "set")
    assert [sample.metadata["captions"] for sample in all_samples(source)] == [
        {"en": "one", "en_2": "two"},
        {"en": "only"},
        {"en": "a", "en_2": "b"},
        {"en": ""},
    ]
    assert [sample.caption for sample in all_samples(source)] == ["one", "only", "a", ""]
    alone = from_rows(pairs(texts=texts, caption=form), tmp_path / "again", further_captions="drop")
    assert [sample.metadata["captions"]["en"] for sample in all_samples(alone)] == ["one", "only", "a", ""]
    assert all(len(sample.metadata["captions"]) == 1 for sample in all_samples(alone))


def test_each_language_has_its_column(tmp_path):
    german = (Value("string"), ["ein Hund", None, "", "eine Katze"])
    columns = {"caption": "caption", "captions": {"de": "german"}}
    data = saved(pairs(german=german), tmp_path / "set")
    source = open_source(make_config({"data": data, "columns": columns}, languages=("en", "de")))
    assert [sample.metadata["captions"] for sample in all_samples(source)] == [
        {"en": "a dog", "de": "ein Hund"},
        {"en": "two dogs"},
        {"en": "a hen"},
        {"en": "a cat", "de": "eine Katze"},
    ]


def test_rows_that_lack_something_are_handed_out_or_counted(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    images = [JPEGS[0], None, JPEGS[2], None, b"", "gone.jpg", str(tmp_path / "empty.jpg"), JPEGS[3], ".", "a\0b"]
    cells = [{"bytes": cell if isinstance(cell, bytes) else None, "path": cell if isinstance(cell, str) else None}
             for cell in images]  # fmt: skip
    texts = ["good", "lonely", None, " ", "x", "y", "z", "last", "folder", "zero byte"]
    source = from_rows(pairs(cells, texts, {"bytes": Value("binary"), "path": Value("string")}), tmp_path / "set")
    assert [(sample.key[-1], bool(sample.image), sample.caption) for sample in all_samples(source)] == [
        ("0", True, "good"),
        ("1", False, "lonely"),
        ("2", True, ""),
        ("4", False, "x"),
        ("5", False, "y"),
        ("6", False, "z"),
        ("7", True, "last"),
        ("8", False, "folder"),
        ("9", False, "zero byte"),
    ]
    assert [sample for i in range(9) for sample in source.samples("train", i, i + 1)] == all_samples(source)
    assert source.about().faults == (
        "1 samples of train left out: neither picture nor caption.",
        "1 samples of train incomplete: no caption.",
        "6 samples of train incomplete: no picture.",
    )


def test_captions_that_are_no_utf8_are_left_out_and_counted(tmp_path):
    texts = pa.array([b"good", b"caf\xe9", b"fine"]).view(pa.string())
    pq.write_table(pa.table({"image": pa.array(JPEGS[:3]), "caption": texts}), tmp_path / "a.parquet")
    source = open_source(make_config({"data": str(tmp_path / "a.parquet")}))
    assert [(sample.key[-1], sample.caption) for sample in all_samples(source)] == [("0", "good"), ("2", "fine")]
    assert source.about().faults == ("1 samples of train left out: the caption is not UTF-8.",)


def test_paths_that_are_no_utf8_lead_to_their_files(tmp_path):
    name = b"caf\xe9.jpg"
    (tmp_path / os.fsdecode(name)).write_bytes(JPEGS[0])
    paths = pa.array([name]).view(pa.string())
    pq.write_table(pa.table({"image": paths, "caption": pa.array(["coffee"])}), tmp_path / "a.parquet")
    assert all_samples(open_source(make_config({"data": str(tmp_path / "a.parquet")})))[0].image == JPEGS[0]


def test_a_saved_part_of_a_data_set_goes_by_the_name_of_the_whole(tmp_path):
    pairs().to_parquet(tmp_path / "a.parquet")
    part = datasets.load_dataset("parquet", data_files=str(tmp_path / "a.parquet"), split="train[1:]")
    source = from_rows(part.with_format("numpy", columns=["caption"]), tmp_path / "set", split="train[:2]")
    assert [sample.caption for sample in all_samples(source)] == TEXTS[1:3]


@pytest.mark.parametrize(
    ("split", "wanted"),
    [
        ("train", TEXTS),
        ("train[1:3]", TEXTS[1:3]),
        ("train[:50%]", TEXTS[:2]),
        ("train[-1:]", TEXTS[3:]),
        ("test+train[:1]", ["of test", "a dog"]),
    ],
)
def test_a_part_of_a_data_set_is_named_as_its_library_names_it(tmp_path, split, wanted):
    rows = DatasetDict({"train": pairs(), "test": pairs([JPEGS[3]], ["of test"])})
    source = from_rows(rows, tmp_path / "set", split=split)
    assert [sample.caption for sample in all_samples(source)] == wanted
    assert [sample.key for sample in all_samples(source)] == [f"{row:09d}" for row in range(len(wanted))]


def test_the_column_of_keys_names_samples_and_other_splits_stand_in_front(tmp_path):
    ids = (Value("string"), ["a", "b/c.jpg", "test+d", "e\u0301"])
    rows = DatasetDict({"train": pairs(ids=ids), "test": pairs(ids=ids)})
    columns = {"caption": "caption", "key": "ids"}
    data = saved(rows, tmp_path / "set")
    test = {"data": data, "split": "test", "role": "retrieval", "columns": columns}
    source = open_source(make_config({"data": data, "split": "train", "columns": columns}, test=test))
    train, tested = all_samples(source), all_samples(source, "test")
    assert [sample.key.partition("~")[0] for sample in train] == ["a", "b-c-jpg", "test-d", "\xe9"]
    assert [len(sample.key.partition("~")[2]) for sample in train] == [0, 16, 16, 16]
    assert [sample.key for sample in tested] == [f"test+{sample.key}" for sample in train]
    assert [sample.metadata["id"] for sample in train] == ids[1]


def test_whole_numbers_are_keys_and_rows_without_one_are_left_out(tmp_path):
    ids = (Value("int64"), [7, None, -3, 12])
    source = from_rows(pairs(ids=ids), tmp_path / "set", columns={"caption": "caption", "key": "ids"})
    assert [sample.key for sample in all_samples(source)][::2] == ["7", "12"]
    assert all_samples(source)[1].key.startswith("3~")
    assert source.about().faults == ("1 samples of train left out: no value in the column of keys.",)


def test_keys_that_repeat_are_refused_with_their_rows(tmp_path):
    ids = (Value("int32"), [5, 6, 7, 6])
    with pytest.raises(
        DataError, match=r"column 'ids' .* has 1 cells that repeat, the first in rows 1 and 3, wanted a key of its own"
    ):
        from_rows(pairs(ids=ids), tmp_path / "set", columns={"caption": "caption", "key": "ids"}).splits()


def labelled(folder: Path, feature, cells, caption=None, classes=None, train=None):
    columns = {"label": "label"} | ({"caption": "caption"} if caption else {})
    zero_shot = {"data": saved(pairs(label=(feature, cells)), folder / "zs"), "role": "zero_shot", "columns": columns}
    zero_shot |= {"classes": str(classes)} if classes else {}
    return open_source(make_config({"data": saved(train or pairs(), folder / "train")}, zs=zero_shot))


def test_a_class_label_names_the_classes_by_itself(tmp_path):
    source = labelled(tmp_path, ClassLabel(names=["dog", "guinea_hen", "1"]), [1, 0, -1, 2])
    samples = all_samples(source, "zs")
    assert [(s.metadata["row"], s.metadata["class_id"], s.caption) for s in samples] == [
        (0, 1, "guinea hen"),
        (1, 0, "dog"),
        (3, 2, "1"),
    ]
    assert [entry.name for entry in source.classes({})] == ["dog", "guinea hen", "1"]
    assert [sample.concepts for sample in all_samples(source)] == [("0",), ("0",), (), ()]
    assert "1 samples of zs left out: no label." in source.about().faults


def test_numbers_and_names_need_a_file_of_classes(tmp_path):
    (tmp_path / "names.txt").write_text("1\ndog\nhen\n")
    numbers = labelled(tmp_path / "a", Value("int8"), [1, 0, 2, None], classes=tmp_path / "names.txt", caption=True)
    found = [(s.metadata["class_id"], s.caption) for s in all_samples(numbers, "zs")]
    assert found == [(1, "a dog"), (0, "two dogs"), (2, "a hen")]
    names = labelled(tmp_path / "b", Value("string"), ["Hen", "dog", "", "1"], classes=tmp_path / "names.txt")
    assert [s.metadata["class_id"] for s in all_samples(names, "zs")] == [2, 1, 0]
    with pytest.raises(DataError, match=r"labels of split zs are no ClassLabel.*set splits\.\*\.classes"):
        labelled(tmp_path / "c", Value("int8"), [1, 0, 2, 0]).splits()
    with pytest.raises(DataError, match=r"label of split zs names no class, got 3, wanted 0 to 2"):
        labelled(tmp_path / "d", Value("int8"), [1, 0, 2, 3], classes=tmp_path / "names.txt").splits()
    with pytest.raises(DataError, match=r"ClassLabel of split zs.*got 3, wanted 2"):
        label = ClassLabel(names=["x", "y"])
        labelled(tmp_path / "e", label, [1, 0, 1, 0], classes=tmp_path / "names.txt").splits()


def test_class_labels_of_two_splits_must_agree(tmp_path):
    splits = {}
    for name, names in (("zs", ["dog", "hen"]), ("ood", ["hen", "dog"])):
        data = saved(pairs(label=(ClassLabel(names=names), [0, 1, 0, 1])), tmp_path / name)
        splits[name] = {"data": data, "role": "zero_shot", "columns": {"label": "label"}}
    splits["ood"]["domain"] = "held_out_style"
    with pytest.raises(DataError, match="ClassLabels of the splits zs and ood differ"):
        open_source(make_config({"data": saved(pairs(), tmp_path / "train")}, **splits)).splits()


def test_a_pickled_source_is_small_and_does_not_list_again(tmp_path, monkeypatch):
    big = pairs([os.urandom(100_000) for _ in range(4)], image=Value("binary"))
    source = from_rows(big, tmp_path / "set", split="train[1:]")
    whole = all_samples(source)
    content = pickle.dumps(source)
    assert len(content) < 20_000
    copy = pickle.loads(content)
    monkeypatch.setattr(type(copy), "_list", None)
    monkeypatch.setattr("assets.sources.huggingface.source.open_rows", None)
    assert list(copy.samples("train", 0, 3)) == whole


def test_other_data_are_another_version_and_the_same_elsewhere_are_not(tmp_path):
    def inputs(name, rows, how="parquet"):
        if how == "saved":
            return from_rows(rows, tmp_path / name).about().inputs
        rows.to_parquet(tmp_path / f"{name}.parquet")
        return open_source(make_config({"data": str(tmp_path / f"{name}.parquet")})).about().inputs

    first = inputs("a", pairs())
    assert inputs("b", pairs()) == first and list(first) == ["rows of train"]
    assert inputs("c", pairs(texts=[*TEXTS[:3], "a cow"])) != first
    assert inputs("d", pairs([*JPEGS[:3], JPEGS[3] + b"\0"])) != first
    assert set(inputs("e", pairs(), "saved")) == {"rows of train", "fingerprint of train"}


def test_a_file_that_changes_after_listing_is_noticed(tmp_path):
    (tmp_path / "0.jpg").write_bytes(JPEGS[0])
    source = from_rows(pairs(["0.jpg"] * 4, image=Value("string")), tmp_path / "set", image_folder=str(tmp_path))
    source.splits()
    (tmp_path / "0.jpg").write_bytes(JPEGS[0] + b"x")
    with pytest.raises(DataError, match="row 0 of split train has changed since it was listed"):
        list(source.samples("train", 0, 1))
    (tmp_path / "0.jpg").unlink()
    with pytest.raises(DataError, match=r"0\.jpg cannot be read \(No such file"):
        list(source.samples("train", 0, 1))


@pytest.mark.slow
def test_worker_processes_write_the_same_bytes(tmp_path):
    rows = pairs(JPEGS * 5, [f"{text} {n}" for n in range(5) for text in TEXTS])
    config = make_config({"data": saved(rows, tmp_path / "set")})
    written = []
    for workers in (0, 2):
        out = tmp_path / f"raw{workers}"
        ingest("mine", config, config.model_dump(mode="json"), 3, out, tmp_path / "work", workers)
        written.append({path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()})
    assert written[0] == written[1]


def stage(name: str, root: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(root / "hf"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "assets", name, "--name", "mine"]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_the_stages_ingest_and_validate_a_saved_data_set(tmp_path):
    images = [*(jpeg(seed) for seed in range(12)), b"no picture", None]
    texts = [*(f"a picture of thing number {number}" for number in range(12)), "broken thing here", "lost thing here"]
    rows = pairs([{"bytes": image, "path": None} if image else None for image in images], texts)
    label = (ClassLabel(names=["dog", "hen"]), [0, 1, 0, 1])
    zero = pairs([jpeg(seed) for seed in range(90, 94)], label=label)
    saved(DatasetDict({"train": rows}), tmp_path / "set")
    zero.to_parquet(tmp_path / "zs.parquet")
    splits = {"zs": {"data": "zs.parquet", "role": "zero_shot", "columns": {"label": "label"}}}
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    validation = params["datasets"]["emoji"]["validation"]
    validation["limits"]["max_rejected_train"] = validation["limits"]["warn_rejected_train"] = 0.5
    source = make_config({"data": "set"}, **splits).model_dump(mode="json")
    params["datasets"] = {"mine": {"samples_per_shard": 5, "source": source, "validation": validation}}
    params["machine"]["workers"] = 2
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    for name in ("ingest", "validate"):
        ended = stage(name, tmp_path)
        assert ended.returncode == 0, ended.stderr
    index = read_index(tmp_path / "data/raw/mine", ["key", "split", "caption"]).to_pylist()
    assert [row["caption"] for row in index] == [*texts, "dog", "hen", "dog", "hen"]
    assert [row["key"] for row in index[-2:]] == ["zs+000000002", "zs+000000003"]
    metrics = json.loads((tmp_path / "data/valid/mine/metrics.json").read_text())
    rejected = {why: count for why, count in metrics["rejected_by_reason"].items() if count}
    assert metrics["ingested"] == 18 and rejected == {"no_image": 1, "undecodable": 1}
    facts = json.loads((tmp_path / "data/raw/mine/dataset.json").read_text())
    assert [entry["name"] for entry in facts["classes"]] == ["dog", "hen"]
    source["splits"]["train"]["data"] = "nobody/nothing"
    source["splits"]["train"]["revision"] = "0" * 40
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    refused = stage("ingest", tmp_path)
    assert refused.returncode != 0 and "HF_HUB_OFFLINE forbids one" in refused.stderr
    assert "Traceback" not in refused.stderr
