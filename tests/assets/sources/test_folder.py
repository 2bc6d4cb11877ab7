"""The folder source by itself: keys, order, captions, labels, and what it refuses."""

import json
import os
import pickle
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from assets.dataset import DatasetConfig
from assets.errors import ConfigError, DataError
from assets.index import read_index
from assets.ingest import ingest
from assets.section import parse
from assets.shards import read_shard
from assets.sources.base import open_source
from assets.sources.folder.config import FolderConfig
from assets.sources.folder.keys import make_key


def write(path: Path, content: bytes | str = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def picture(path: Path, seed: int, kind: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.random.default_rng(seed).integers(40, 216, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(cells).resize((48, 32)).save(path, kind)
    return path


def make_config(root: Path, classes: Path | None = None, **changes) -> FolderConfig:
    """A config with the train split at ``root``; changes are further splits, or settings of train."""
    splits = {name: changes.pop(name) for name in list(changes) if name in ("test", "zero_shot")}
    languages = changes.pop("languages", ["en"])
    train = {"path": str(root), "role": "train", "captions": "sidecar", **changes}
    if classes is not None:
        splits["zero_shot"] = {"role": "zero_shot", "classes": str(classes), **splits["zero_shot"]}
    settings = {"kind": "folder", "licence": "CC0", "languages": languages, "splits": {"train": train, **splits}}
    return parse(FolderConfig, settings, "source")


def all_samples(source, split="train"):
    size = next(entry.size for entry in source.splits() if entry.name == split)
    return list(source.samples(split, 0, size))


def from_file(root: Path, name: str, content: bytes | str, **columns):
    captions_file = {"file": str(write(root.parent / name, content)), **columns}
    return make_config(root, captions="file", captions_file=captions_file)


@pytest.fixture
def pets(tmp_path):
    """Three pictures in two folders, with captions beside them."""
    root = tmp_path / "pets"
    for seed, (name, caption) in enumerate({"dogs/rex": "a dog", "dogs/bo": "two dogs", "cat": "a cat\n"}.items()):
        picture(root / f"{name}.jpg", seed)
        write(root / f"{name}.txt", caption)
    return root


def test_pictures_come_sorted_by_path_byte_for_byte_whatever_the_range(pets):
    source = open_source(make_config(pets))
    whole = all_samples(source)
    assert [(sample.metadata["file"], sample.caption) for sample in whole] == [
        ("cat.jpg", "a cat"),
        ("dogs/bo.jpg", "two dogs"),
        ("dogs/rex.jpg", "a dog"),
    ]
    assert [sample.image for sample in whole] == [(pets / sample.metadata["file"]).read_bytes() for sample in whole]
    assert whole[0].metadata == {"file": "cat.jpg", "captions": {"en": "a cat"}}
    assert [sample for i in range(3) for sample in source.samples("train", i, i + 1)] == whole
    assert list(source.samples("train", 1, 9)) == whole[1:]


def test_a_pickled_source_does_not_list_the_folder_again(pets, monkeypatch):
    source = open_source(make_config(pets))
    whole = all_samples(source)
    copy = pickle.loads(pickle.dumps(source))
    monkeypatch.setattr(type(copy), "_list", None)
    assert list(copy.samples("train", 0, 3)) == whole


@pytest.mark.parametrize("name", ["rex", "IMG_0001", "caf\u00e9", "\u72ac", "a-b,c"])
def test_a_plain_jpg_name_is_its_own_key(name):
    assert make_key(f"{name}.jpg", None) == name
    assert make_key(f"{name}.jpg", "test") == f"test+{name}"


@pytest.mark.parametrize(
    ("path", "readable"),
    [
        ("dogs/rex.jpg", "dogs-rex"),
        ("my dog.jpg", "my-dog"),
        ("rex.JPG", "rex"),
        ("rex.png", "rex"),
        ("a.b.jpg", "a-b"),
        ("cafe\u0301.jpg", "caf\u00e9"),
        ("caf\udce9.jpg", "caf"),
        ("-rex.jpg", "rex"),
        ("a~b.jpg", "a-b"),
        ("test+a.jpg", "test-a"),
        ("~~.jpg", "file"),
        ("suffixless", "suffixless"),
        ("folder.d/suffixless", "folder-d-suffixless"),
        ("f/" * 50 + "x" * 240 + ".jpg", "x" * 47),
        ("\u00e9" * 120 + ".jpg", "\u00e9" * 23),
    ],
)
def test_any_other_path_becomes_its_readable_end_and_a_hash(path, readable):
    key = make_key(path, None)
    assert key.rpartition("~")[0] == readable and len(key.rpartition("~")[2]) == 16
    assert len(key.encode()) <= 64 and not set("./") & set(key) and key.split() == [key]
    assert unicodedata.is_normalized("NFC", key)
    assert len({key, make_key(path, "test"), make_key(f"x{path}", None), make_key(f"{path}.jpg", None)}) == 4


def test_a_key_never_changes():
    """Keys are for life: these values may not be edited."""
    assert make_key("dogs/rex.jpg", None) == "dogs-rex~9181a7563bcce648"
    assert make_key("rex.png", "test") == "test+rex~2bf14c7da7e3df34"


def test_other_files_change_neither_keys_nor_order(pets):
    before = [sample.key for sample in all_samples(open_source(make_config(pets)))]
    for name in ("cat.png", "CAT.jpg", "dogs/rex.jpeg", "dogs-rex.jpg", "aaa/first.jpg"):
        picture(pets / name, 9)
    after = [sample.key for sample in all_samples(open_source(make_config(pets)))]
    assert [key for key in after if key in before] == before
    assert len(set(after)) == 8


def test_pictures_of_one_name_share_its_caption(pets):
    picture(pets / "cat.png", 9)
    captions = {
        sample.metadata["file"]: (sample.extension, sample.caption)
        for sample in all_samples(open_source(make_config(pets)))
    }
    assert captions["cat.jpg"] == ("jpg", "a cat") and captions["cat.png"] == ("png", "a cat")


def test_the_first_of_two_caption_files_counts_and_files_beyond_all_measure_do_not(pets):
    write(pets / "cat.TXT", "capital letters sort first")
    for name, size in (("dogs/bo.txt", 1 << 20), ("dogs/rex.jpg", 1 << 30)):
        os.truncate(pets / name, size + 1)  # sparse: takes no room on the disk
    source = open_source(make_config(pets))
    found = {sample.metadata["file"]: (bool(sample.image), sample.caption) for sample in all_samples(source)}
    assert found == {
        "cat.jpg": (True, "capital letters sort first"),
        "dogs/bo.jpg": (True, ""),
        "dogs/rex.txt": (False, "a dog"),
    }
    assert list(source.about().faults)[:3] == [
        "1 of train left out: a second caption file of one name.",
        "1 of train left out: caption files of over 1 MiB.",
        "1 of train left out: pictures of over 1 GiB.",
    ]


@pytest.mark.parametrize(("kind", "extension"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("GIF", "png")])
def test_the_content_names_the_picture_not_its_suffix(pets, kind, extension):
    picture(pets / "cat.jpg", 4, kind)
    assert all_samples(open_source(make_config(pets)))[0].extension == extension


def test_recursive_false_takes_the_upper_folder_alone(pets):
    source = open_source(make_config(pets, recursive=False))
    assert [sample.key for sample in all_samples(source)] == ["cat"]
    assert "1 of train left out: folders in it, because recursive is false." in source.about().faults


def test_accents_decomposed_by_a_mac_still_join(tmp_path):
    root = tmp_path / "p"
    picture(root / "cafe\u0301.jpg", 1)
    write(root / "caf\u00e9.txt", "decomposed picture")
    picture(root / "th\u00e9.jpg", 2)
    write(root / "the\u0301.txt", "decomposed caption")
    assert {sample.caption for sample in all_samples(open_source(make_config(root)))} == {
        "decomposed picture",
        "decomposed caption",
    }


CELLS = [
    {"path": "cat.jpg", "caption": "the, cat", "caption_de": "die Katze"},
    {"path": "./dogs//rex.jpg", "caption": 'the "dog"', "caption_de": None},
    {"path": "dogs/bo.jpg", "caption": "both dogs", "caption_de": "beide Hunde"},
]


def as_parquet(path: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(CELLS), path)
    return path


WRITERS = {
    "c.csv": '\ufeffpath,caption,caption_de\r\ncat.jpg,"the, cat",die Katze\r\n./dogs//rex.jpg,"the ""dog""",\r\n\r\n'
    "dogs/bo.jpg,both dogs,beide Hunde\r\n",
    "c.TSV": 'caption_de\tpath \tcaption\ndie Katze\tcat.jpg\tthe, cat\n\t./dogs//rex.jpg\tthe "dog"\n'
    "beide Hunde\tdogs/bo.jpg\tboth dogs\n",
    "c.jsonl": "\n".join(json.dumps({"n": [1], **row}) for row in CELLS),
    "c.parquet": None,
}


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_every_kind_of_captions_file_says_the_same(pets, name):
    content = WRITERS[name]
    file = as_parquet(pets.parent / name) if content is None else write(pets.parent / name, content)
    config = make_config(pets, captions="file", captions_file={"file": str(file)}, languages=["en", "de"])
    assert {sample.metadata["file"]: sample.metadata["captions"] for sample in all_samples(open_source(config))} == {
        "cat.jpg": {"en": "the, cat", "de": "die Katze"},
        "dogs/bo.jpg": {"en": "both dogs", "de": "beide Hunde"},
        "dogs/rex.jpg": {"en": 'the "dog"'},
    }


def test_columns_may_have_other_names_and_a_missing_language_is_said(pets):
    content = "file_name,text\ncat.jpg,a cat\n"
    source = open_source(from_file(pets, "c.csv", content, path="file_name", caption="text"))
    assert all_samples(source)[0].caption == "a cat"
    captions_file = {"file": str(write(pets.parent / "c.csv", "path,caption\ncat.jpg,x y\n"))}
    config = make_config(pets, captions="file", captions_file=captions_file, languages=["en", "fr"])
    assert "The captions file of train has no column of language fr." in open_source(config).about().faults


def test_rows_and_pictures_without_each_other_are_handed_out_and_faulty_rows_counted(pets):
    rows = [b"path,caption", b"cat.jpg,a cat", b"cat.jpg,again", b"gone.jpg,no picture", b",no path", b"one,two,three"]
    rows += [b"dogs/bo.jpg,caf\xe9", b"data.bin,a file of any suffix", b"../pets/cat.jpg,outside"]
    picture(pets / "data.bin", 8, "PNG")
    source = open_source(from_file(pets, "c.csv", b"\n".join(rows)))
    assert {s.metadata["file"]: (bool(s.image), s.caption) for s in all_samples(source)} == {
        "../pets/cat.jpg": (False, "outside"),
        "cat.jpg": (True, "a cat"),
        "data.bin": (True, "a file of any suffix"),
        "dogs/rex.jpg": (True, ""),
        "gone.jpg": (False, "no picture"),
    }
    assert list(source.about().faults) == [
        "3 of train left out: neither picture nor caption by their suffix.",
        "1 of train left out: rows of the captions file for a picture that has one.",
        "1 of train left out: rows of the captions file that cannot be read.",
        "1 of train left out: rows of the captions file without a path.",
        "1 of train left out: the caption is not UTF-8.",
        "1 samples of train incomplete: no caption.",
        "2 samples of train incomplete: no picture.",
    ]


@pytest.mark.parametrize("line", ["{broken", "[1]", '{"path": "x.jpg", "caption": ["a", "list"]}', "null"])
def test_a_json_line_of_another_form_is_counted(pets, line):
    source = open_source(from_file(pets, "c.jsonl", '{"path": "cat.jpg", "caption": "a cat"}\n' + line))
    assert "1 of train left out: rows of the captions file that cannot be read." in source.about().faults


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        (
            "c.csv",
            "path;caption\ncat.jpg;x\n",
            r"columns of .*c.csv lack 'path', 'caption', got \['path;caption'\]; correct",
        ),
        ("c.csv", "path,caption,caption\ncat.jpg,x,y\n", r"has 2 columns called 'caption'; rename all but one"),
        ("c.csv", "", r"columns of .*c.csv lack 'path', 'caption', got \[\]"),
        (
            "c.csv",
            'path,caption\ncat.jpg,"never closed\n',
            r"c.csv line \d+ is not in order \(unexpected end of data\)",
        ),
        ("c.csv", "path,caption\n", r"c.csv has no usable row"),
        ("c.csv", "path,caption\npets\\cat.jpg,x\n", r"no usable sample.*3 with no caption.*first caption is of 'pets"),
        ("c.jsonl", '{"file": "x"}', r"columns of .*c.jsonl lack 'path', 'caption', got \['file'\]"),
        ("c.parquet", "no parquet", r"the captions file .*c.parquet cannot be read \(.*; correct splits"),
    ],
)
def test_a_captions_file_that_cannot_be_meant_is_refused_before_any_work(pets, name, content, why):
    config = from_file(pets, name, content)
    with pytest.raises(DataError, match=why):
        ingest("mine", config, config.model_dump(mode="json"), 10, pets.parent / "raw", pets.parent / "work", 0)
    assert not (pets.parent / "raw").exists() and not (pets.parent / "work").exists()


def test_a_parquet_column_of_lists_is_refused(pets):
    pq.write_table(pa.table({"path": ["cat.jpg"], "caption": [["a", "b"]]}), pets.parent / "c.parquet")
    config = make_config(pets, captions="file", captions_file={"file": str(pets.parent / "c.parquet")})
    with pytest.raises(DataError, match=r"column 'caption' of .*c.parquet is no text, got 'list<"):
        open_source(config).splits()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"path": "nowhere"}, r"nowhere \(splits.train.path\) does not exist"),
        ({"path": "{pets}/cat.jpg"}, r"cat.jpg \(splits.train.path\) is not a folder"),
        ({"captions": "file", "captions_file": {"file": "no.csv"}}, r"no.csv \(splits.train.captions_file.file\) does"),
        ({"path": "{pets}/none"}, r"no picture in .*none \(split train\), got '1 with no picture'"),
        (
            {"path": "{pets}/bare"},
            r"bare \(split train\) has no usable sample, got '1 with no caption', wanted pictures",
        ),
    ],
)
def test_a_folder_without_pairs_is_refused(pets, changes, why):
    write(pets / "none" / "a.txt", "no picture here")
    picture(pets / "bare" / "a.jpg", 1)
    changes = {name: value.format(pets=pets) if name == "path" else value for name, value in changes.items()}
    with pytest.raises(DataError, match=why):
        open_source(make_config(pets, **changes)).splits()


def test_a_folder_that_may_not_be_listed_is_refused(pets, monkeypatch):
    scandir = os.scandir

    def forbidden(place):
        if str(place).endswith("dogs/"):
            raise PermissionError(13, "Permission denied")
        return scandir(place)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(DataError, match=r"dogs/ cannot be listed \(Permission denied\); mend its permissions"):
        open_source(make_config(pets)).splits()


def test_a_picture_that_changes_or_goes_after_listing_is_noticed(pets):
    source = open_source(make_config(pets))
    source.splits()
    write(pets / "cat.jpg", b"shorter")
    with pytest.raises(DataError, match=r"cat.jpg has changed since it was listed; run ingest again"):
        list(source.samples("train", 0, 1))
    (pets / "cat.txt").unlink()
    with pytest.raises(DataError, match=r"cat.txt could be read when it was listed, and cannot now \(No such file"):
        list(source.samples("train", 0, 1))


@pytest.fixture
def classes(tmp_path):
    return write(tmp_path / "names.txt", "cat\nhot dog\tfood\ncrane\ncrane\n")


@pytest.fixture
def labelled(tmp_path):
    root = tmp_path / "zs"
    for seed, name in enumerate(("Cat/a.jpg", "hot_dog/b.png", "deep/2/c.jpg", "stray.jpg"), 20):
        picture(root / name, seed)
    return root


def test_the_folder_a_picture_lies_in_names_its_class(pets, labelled, classes):
    write(labelled / "Cat" / "a.txt", "not asked for")
    source = open_source(make_config(pets, classes, zero_shot={"path": str(labelled), "labels": "folder"}))
    found = [(s.metadata["file"], s.metadata["class_id"], s.caption) for s in all_samples(source, "zero_shot")]
    assert found == [("Cat/a.jpg", 0, "cat"), ("deep/2/c.jpg", 2, "crane"), ("hot_dog/b.png", 1, "hot dog")]
    assert "1 of zero_shot left out: no label." in source.about().faults
    assert [sample.concepts for sample in all_samples(source)] == [("0",), (), ()]
    assert [entry.group for entry in source.classes({"0": 1})] == ["class", "food", "class", "class"]


def test_folders_in_order_number_the_classes(pets, tmp_path, labelled):
    names = write(tmp_path / "three.txt", "tabby\nsausage\nbird\n")
    config = make_config(pets, names, zero_shot={"path": str(labelled), "labels": "folder_order"})
    found = {s.metadata["file"]: s.caption for s in all_samples(open_source(config), "zero_shot")}
    assert found == {"deep/2/c.jpg": "tabby", "Cat/a.jpg": "sausage", "hot_dog/b.png": "bird"}
    write(tmp_path / "three.txt", "tabby\n")
    with pytest.raises(
        DataError, match="another number of folders with pictures than there are classes, got 3, wanted 1"
    ):
        open_source(config).splits()


def test_a_column_names_the_class(pets, labelled, classes):
    file = write(labelled.parent / "l.csv", "path,label,caption\nCat/a.jpg,1,my lunch\nstray.jpg,cat,\ngone.jpg,cat,\n")
    split = {"path": str(labelled), "labels": "column", "captions": "file", "captions_file": {"file": str(file)}}
    source = open_source(make_config(pets, classes, zero_shot=split))
    found = {s.metadata["file"]: (s.metadata["class_id"], s.caption) for s in all_samples(source, "zero_shot")}
    assert found == {"Cat/a.jpg": (1, "my lunch"), "stray.jpg": (0, "cat")}
    assert {"2 of zero_shot left out: no label.", "1 of zero_shot left out: no picture."} <= set(source.about().faults)


@pytest.mark.parametrize(
    ("folder", "why"),
    [
        (
            "hot dogs",
            r"names no class, got 'hot dogs', wanted a class's name \(perhaps 'hot dog'\) or number \(0 to 3\)",
        ),
        ("4", r"names no class, got '4'"),
        ("crane", r"is the name of two classes, got 'crane'; write the class's number instead"),
    ],
)
def test_a_label_that_names_no_class_is_refused(pets, labelled, classes, folder, why):
    picture(labelled / folder / "x.jpg", 1)
    with pytest.raises(DataError, match=why):
        open_source(make_config(pets, classes, zero_shot={"path": str(labelled), "labels": "folder"})).splits()


TRAIN = {"path": "a", "role": "train", "captions": "sidecar"}
ZERO_SHOT = {"path": "b", "role": "zero_shot", "classes": "c", "labels": "folder"}


@pytest.mark.parametrize(
    ("splits", "wanted"),
    [
        ({"test": {**TRAIN, "role": "retrieval"}}, "one split of role train"),
        ({"train": {"path": "a", "role": "train"}}, "captions must say where they are: sidecar or file"),
        ({"train": {**TRAIN, "captions": "file"}}, "captions: file needs captions_file"),
        ({"train": {**TRAIN, "captions_file": {"file": "a.csv"}}}, "captions: file needs captions_file"),
        ({"train": {**TRAIN, "captions": "file", "captions_file": {"file": "a.xlsx"}}}, "match pattern"),
        ({"train": {**TRAIN, "classes": "c"}}, "a zero_shot split needs classes and labels; no other has them"),
        ({"train": TRAIN, "z": {"path": "b", "role": "zero_shot", "classes": "c"}}, "needs classes and labels"),
        ({"train": TRAIN, "z": {**ZERO_SHOT, "labels": "column"}}, "labels: column needs captions: file"),
        ({"train": TRAIN, "y": ZERO_SHOT, "z": ZERO_SHOT}, "different domains"),
        (
            {"train": TRAIN, "y": ZERO_SHOT, "z": {**ZERO_SHOT, "domain": "held_out_style", "classes": "d"}},
            "the same file of classes",
        ),
        ({"train": {**TRAIN, "recursiv": True}}, "did you mean 'recursive'"),
    ],
)
def test_splits_that_make_no_sense_are_refused(splits, wanted):
    with pytest.raises(ConfigError, match=wanted):
        make = {"kind": "folder", "licence": "CC0", "splits": splits}
        parse(DatasetConfig, {"source": make, "samples_per_shard": 1, "validation": {}}, "datasets.mine")


def test_splits_of_one_folder_have_different_keys(pets):
    config = make_config(pets, test={"path": str(pets), "role": "retrieval", "captions": "sidecar"})
    out = pets.parent / "raw"
    ingest("mine", config, config.model_dump(mode="json"), 2, out, pets.parent / "work", 0)
    keys = read_index(out, ["key"])["key"].to_pylist()
    assert len(set(keys)) == 6 and keys[3:] == [f"test+{key}" for key in keys[:3]]
    written = {sample.key: sample for shard in out.rglob("*.tar") for sample in read_shard(shard)}
    assert written["cat"].image == (pets / "cat.jpg").read_bytes()


@pytest.mark.slow
def test_worker_processes_write_the_same_bytes(pets):
    config, written = make_config(pets), []
    for workers in (0, 2):
        out = pets.parent / f"raw{workers}"
        ingest("mine", config, config.model_dump(mode="json"), 2, out, pets.parent / "work", workers)
        written.append({path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()})
    assert written[0] == written[1]
