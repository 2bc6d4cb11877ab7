import gzip
import io
import json
import pickle
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from assets.dataset import DatasetConfig
from assets.errors import ConfigError, DataError
from assets.index import read_index
from assets.ingest import ingest
from assets.section import parse
from assets.shards import read_shard
from assets.sources.base import open_source
from assets.sources.webdataset.archive import expand, list_samples
from assets.sources.webdataset.config import WebDatasetConfig
from assets.sources.webdataset.source import tidy


def picture(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 32), (shade, 255 - shade, 7 * shade % 256)).save(stream, "JPEG")
    return stream.getvalue()


def make_tar(path: Path, members, form: int = tarfile.USTAR_FORMAT) -> Path:
    """Write (name, content) pairs with the standard library, in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            content = content.encode() if isinstance(content, str) else content
            info.size, info.mtime = len(content), 1.5 if form == tarfile.PAX_FORMAT else 1
            archive.addfile(info, io.BytesIO(content))
    return path


def pair(key: str, caption: str, shade: int = 10):
    return [(f"{key}.jpg", picture(shade)), (f"{key}.txt", caption)]


def make_config(train, *, in_place=False, **splits) -> WebDatasetConfig:
    every = {"train": {"shards": str(train), "role": "train"}, **splits}
    values = {"kind": "webdataset", "licence": "CC0", "in_place": in_place, "splits": every}
    return parse(WebDatasetConfig, values, "source")


def all_samples(source, split="train"):
    size = next(entry.size for entry in source.splits() if entry.name == split)
    return list(source.samples(split, 0, size))


@pytest.fixture
def four(tmp_path):
    """Two tars of three and one samples."""
    make_tar(tmp_path / "00000.tar", pair("0000", "a dog", 1) + pair("0001", "a cat", 2) + pair("0002", "two dogs", 3))
    make_tar(tmp_path / "00001.tar", pair("0003", "a hen", 4))
    return tmp_path


@pytest.mark.parametrize("pattern", ["{00000..00001}.tar", "*.tar", "0000{0..1}.tar"])
def test_pairs_come_in_shard_order_whatever_the_range(four, pattern):
    source = open_source(make_config(four / pattern))
    whole = all_samples(source)
    assert [(sample.key, sample.caption, sample.extension) for sample in whole] == [
        ("0000", "a dog", "jpg"),
        ("0001", "a cat", "jpg"),
        ("0002", "two dogs", "jpg"),
        ("0003", "a hen", "jpg"),
    ]
    assert [sample.image for sample in whole] == [picture(shade) for shade in (1, 2, 3, 4)]
    assert whole[0].metadata == {"captions": {"en": "a dog"}}
    assert [sample for i in (0, 1, 2, 3) for sample in source.samples("train", i, i + 1)] == whole
    assert list(source.samples("train", 1, 4)) == whole[1:]
    assert list(source.samples("train", 2, 9)) == whole[2:]


def test_a_pickled_source_does_not_list_the_tars_again(four, monkeypatch):
    source = open_source(make_config(four / "*.tar"))
    whole = all_samples(source)
    copy = pickle.loads(pickle.dumps(source))
    monkeypatch.setattr(type(copy), "_list", None)
    assert list(copy.samples("train", 0, 4)) == whole


def test_brace_ranges_keep_zeros_and_multiply():
    assert expand("a{08..10}.tar") == ["a08.tar", "a09.tar", "a10.tar"]
    assert expand("{8..10}") == ["8", "9", "10"]
    assert expand("{1..2}/{0..1}") == ["1/0", "1/1", "2/0", "2/1"]


def test_members_out_of_order_still_make_their_samples(tmp_path):
    first, second = pair("b", "second", 2), pair("a", "first", 1)
    path = make_tar(tmp_path / "0.tar", [second[1], first[0], ("a.json", '{"url": "x"}'), first[1], second[0]])
    samples = all_samples(open_source(make_config(path)))
    assert [(sample.key, sample.caption) for sample in samples] == [("a", "first"), ("b", "second")]
    assert samples[0].metadata == {"url": "x", "captions": {"en": "first"}}
    assert samples[0].image == picture(1)


def test_pairs_without_picture_or_caption_come_with_an_empty_one_and_are_counted(tmp_path):
    members = [*pair("good", "a dog"), ("bare.jpg", picture(3)), ("text.txt", "no picture"), ("film.gif", b"GIF89a")]
    members += [("._good.jpg", b"mac"), ("LICENSE", b"text"), ("up.JPEG", picture(9)), ("up.TXT", "upper")]
    source = open_source(make_config(make_tar(tmp_path / "0.tar", members)))
    assert [(sample.key, bool(sample.image), sample.caption) for sample in all_samples(source)] == [
        ("good", True, "a dog"),
        ("bare", True, ""),
        ("text", False, "no picture"),
        ("up", True, "upper"),
    ]
    faults = " ".join(source.about().faults)
    assert "1 samples of train left out: neither picture nor caption (txt)" in faults  # film
    assert "1 samples of train incomplete: no caption (txt)" in faults
    assert "1 samples of train incomplete: no picture (jpg, jpeg, png, webp)" in faults


@pytest.mark.parametrize(
    ("suffix", "content", "why"),
    [
        ("txt", "caf\xe9".encode("latin-1"), "txt is not UTF-8"),
        ("json", b"{'no': json}", "json is not readable"),
        ("json", b'{"title": "\\ud83d"}', "json is not readable"),
        ("json", b"[1]", "json holds no mapping"),
    ],
)
def test_a_sample_that_cannot_be_read_is_left_out_and_said(tmp_path, monkeypatch, suffix, content, why):
    said = []
    bad = {f"bad.{name}": value for name, value in (("jpg", picture(1)), ("txt", b"fine"), (suffix, content))}
    path = make_tar(tmp_path / "0.tar", [*bad.items(), *pair("good", "\ufeffa dog \n")])
    source = open_source(make_config(path))
    log = type("Log", (), {"warning": lambda self, form, *values: said.append(form % values)})()
    monkeypatch.setattr("assets.sources.webdataset.source.setup_logging", lambda: log)
    assert source.splits()[0].size == 2
    assert [(sample.key, sample.caption) for sample in source.samples("train", 0, 2)] == [("good", "a dog")]
    assert said == [f"train samples 0 to 2: 1 left out, {why}"]


def test_folders_and_dots_in_keys_become_names_that_stay_different(tmp_path):
    members = [*pair("./a/b.c", "one", 1), *pair("a/b/c", "two", 2), *pair("plain", "three", 3)]
    keys = [sample.key for sample in all_samples(open_source(make_config(make_tar(tmp_path / "0.tar", members))))]
    assert keys[2] == "plain"
    assert all(key.startswith("a-b-c-") and len(key) == 14 for key in keys[:2])
    assert len(set(keys)) == 3


@pytest.mark.parametrize("key", ["x" * 300, "\u00e9" * 50, "..", "\udce9t\u00e9", "a\nb", "my dog", "a\u3000b"])
def test_any_key_becomes_one_that_a_header_holds(key):
    clean = tidy(key)
    assert 8 <= len(clean.encode()) <= 64 and not set("./") & set(clean) and clean.split() == [clean]
    assert clean != tidy(key + "x") and clean == tidy(key)


def test_keys_that_repeat_in_two_tars_get_the_shard_in_front(tmp_path):
    for number in (0, 1):
        make_tar(tmp_path / f"{number}.tar", pair("0", f"caption {number}", number))
    source = open_source(make_config(tmp_path / "{0..1}.tar"))
    assert [sample.key for sample in all_samples(source)] == ["train-00000-0", "train-00001-0"]
    assert any("Keys of train begin with split and shard number" in fault for fault in source.about().faults)


def test_another_split_with_equal_keys_leaves_those_of_train_alone(four):
    test = {"test": {"shards": str(four / "00000.tar"), "role": "retrieval"}}
    source = open_source(make_config(four / "*.tar", **test))
    assert [sample.key for sample in all_samples(source)] == ["0000", "0001", "0002", "0003"]
    assert all_samples(source, "test")[0].key == "test-00000-0000"


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_every_tar_format_is_listed_as_the_standard_library_lists_it(tmp_path, form):
    folder = "/".join(["folder"] * 14)
    members = [*pair("short", "one"), *pair(f"{folder}/{'n' * 60}", "two"), ("empty.txt", "")]
    path = make_tar(tmp_path / "0.tar", members, form)
    with tarfile.open(path) as archive:
        wanted = {entry.name: (entry.offset_data, entry.size) for entry in archive}
    found = {f"{key}.{end}": place for key, files in list_samples(str(path)).items() for end, place in files.items()}
    assert found == wanted


def test_folders_and_links_in_a_tar_are_no_members(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, kind in (("d.jpg", tarfile.DIRTYPE), ("l.jpg", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "target"
            archive.addfile(info)
    assert list_samples(str(tmp_path / "0.tar")) == {}


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda whole: whole[:2000], "ends inside the member at byte"),
        (lambda whole: whole.rstrip(b"\0") + bytes(-len(whole.rstrip(b"\0")) % 512), "ends without an end mark"),
        (lambda whole: whole[:300] + b"x" + whole[301:], "has no tar header at byte 0"),
        (lambda whole: gzip.compress(whole, 0), "has no tar header at byte 0"),
        (lambda whole: b"", "is shorter than a header"),
        (lambda whole: whole[:4096] + b"?" * 512 + whole[4608:], "has no tar header at byte 4096"),
    ],
)
def test_a_damaged_tar_is_refused_before_any_work(tmp_path, spoil, why):
    path = make_tar(tmp_path / "0.tar", [(f"{i}.{end}", b"12345" * 100) for i in range(8) for end in ("jpg", "txt")])
    path.write_bytes(spoil(path.read_bytes()))
    config = make_config(path)
    with pytest.raises(DataError, match=rf"0.tar {why}.*whole, uncompressed tar; unpack it, or download"):
        ingest("mine", config, config.model_dump(mode="json"), 10, tmp_path / "raw", tmp_path / "work", 0)
    assert not list(tmp_path.rglob("work/**/*.tar"))


def test_missing_shards_are_counted_and_the_first_is_named(four):
    with pytest.raises(DataError, match=r"3 of 5 shards of split train are missing, the first is .*00002.tar; finish"):
        open_source(make_config(four / "{00000..00004}.tar")).splits()
    with pytest.raises(DataError, match=r"no shard of split train matches, got '.*none"):
        open_source(make_config(four / "none*.tar")).splits()


def test_tars_without_any_pair_say_what_was_there(tmp_path):
    path = make_tar(tmp_path / "0.tar", [("a.jpg", picture(1)), ("a.cls", "0")])
    with pytest.raises(DataError, match=r"hold no usable sample, got '1 with no caption \(txt\)', wanted pictures"):
        open_source(make_config(path)).splits()


def test_a_tar_that_shrinks_after_listing_is_noticed(four):
    source = open_source(make_config(four / "*.tar"))
    source.splits()
    make_tar(four / "00000.tar", pair("0000", "a dog", 1))
    with pytest.raises(DataError, match=r"00000.tar has changed since it was listed; run ingest again"):
        list(source.samples("train", 0, 2))


@pytest.fixture
def labelled(four):
    """Train captions, and pictures with labels of dog and hen as clip_benchmark lays them out."""
    make_tar(
        four / "zs" / "0.tar", [("s0.jpg", picture(5)), ("s0.cls", "1\n"), ("s1.jpg", picture(6)), ("s1.cls", "0")]
    )
    (four / "names.txt").write_text("dog\tanimals\nhen\n")
    classes = str(four / "names.txt")
    zero_shot = {"shards": str(four / "zs" / "*.tar"), "role": "zero_shot", "classes": classes}
    return make_config(four / "*.tar", zero_shot=zero_shot)


def test_labels_and_the_file_of_names_make_a_zero_shot_split(labelled):
    source = open_source(labelled)
    assert [(s.caption, s.metadata["class_id"]) for s in all_samples(source, "zero_shot")] == [("hen", 1), ("dog", 0)]
    counted = [concept for sample in all_samples(source) for concept in sample.concepts]
    assert counted == ["0", "0", "1"]
    dog, hen = source.classes({"0": 2, "1": 1})
    assert (dog.name, dog.plural, dog.group, dog.train_count, dog.frequency) == ("dog", "dogs", "animals", 2, "head")
    assert (hen.class_id, hen.plural, hen.group, hen.frequency) == (1, "hens", "class", "mid")


def test_a_label_beyond_the_file_of_names_is_refused(labelled, four):
    (four / "names.txt").write_text("dog\n")
    with pytest.raises(DataError, match=r"has a label that the file of classes does not name, got 1, wanted 0 to 0"):
        all_samples(open_source(labelled), "zero_shot")


def test_a_zero_shot_sample_without_label_or_picture_is_left_out_and_counted(labelled, four):
    members = [("s0.jpg", picture(5)), ("s0.cls", "1"), ("s1.jpg", picture(6)), ("s2.cls", "0")]
    make_tar(four / "zs" / "0.tar", members)
    source = open_source(labelled)
    assert [sample.key for sample in all_samples(source, "zero_shot")] == ["s0"]
    faults = " ".join(source.about().faults)
    assert "1 samples of zero_shot left out: no label (cls)" in faults
    assert "1 samples of zero_shot left out: no picture" in faults


def test_a_label_that_is_no_number_leaves_the_sample_out(labelled, four):
    make_tar(
        four / "zs" / "0.tar", [("s0.jpg", picture(5)), ("s0.cls", "dog"), ("s1.jpg", picture(6)), ("s1.cls", "0")]
    )
    assert [sample.key for sample in all_samples(open_source(labelled), "zero_shot")] == ["s1"]


@pytest.mark.parametrize(
    ("splits", "wanted"),
    [
        ({"test": {"shards": "a", "role": "retrieval"}}, "one split of role train"),
        ({"learn": {"shards": "a", "role": "train"}}, "its name must be 'train'"),
        (
            {
                "train": {"shards": "a", "role": "train"},
                "x": {"shards": "a", "role": "retrieval"},
                "y": {"shards": "b", "role": "retrieval"},
            },
            "different domains",
        ),
        ({"train": {"shards": "a", "role": "train"}, "z": {"shards": "b", "role": "zero_shot"}}, "which needs it"),
        ({"train": {"shards": "a", "role": "train", "classes": "c"}}, "no other has it"),
        ({"train": {"shrads": "a", "role": "train"}}, "did you mean 'shards'"),
        ({"Train/x": {"shards": "a", "role": "train"}}, "match pattern"),
    ],
)
def test_splits_that_make_no_sense_are_refused(splits, wanted):
    with pytest.raises(ConfigError, match=wanted):
        make = {"kind": "webdataset", "licence": "CC0", "splits": splits}
        parse(DatasetConfig, {"source": make, "samples_per_shard": 1, "validation": {}}, "datasets.mine")


def test_shards_that_ingest_wrote_come_back_the_same(emoji_raw, emoji_facts, tmp_path):
    """Emoji scenes through this source and ingest: the same pictures, captions, truth and labels."""
    (tmp_path / "names.txt").write_text("\n".join(entry["name"] for entry in emoji_facts["classes"]) + "\n")
    splits = {
        name: {"shards": str(emoji_raw / name / "*.tar"), "role": facts["role"], "domain": facts["domain"]}
        | ({"classes": str(tmp_path / "names.txt")} if facts["role"] == "zero_shot" else {})
        for name, facts in emoji_facts["splits"].items()
    }
    config = make_config(splits.pop("train")["shards"], **splits)
    out = tmp_path / "raw"
    ingest("again", config, config.model_dump(mode="json"), 33, out, tmp_path / "work", 0)
    columns = ["key", "split", "extension", "image_hash", "caption_hash"]
    assert sorted(map(tuple, (row.values() for row in read_index(out, columns).to_pylist()))) == sorted(
        map(tuple, (row.values() for row in read_index(emoji_raw, columns).to_pylist()))
    )
    ours = {s.key: s.metadata for path in out.rglob("*.tar") for s in read_shard(path)}
    assert ours == {s.key: s.metadata for path in emoji_raw.rglob("*.tar") for s in read_shard(path)}
    facts = json.loads((out / "dataset.json").read_text())
    assert [entry["name"] for entry in facts["classes"]] == [entry["name"] for entry in emoji_facts["classes"]]
    assert {name: split["samples"] for name, split in facts["splits"].items()} == {
        name: split["samples"] for name, split in emoji_facts["splits"].items()
    }


@pytest.mark.slow
def test_worker_processes_write_the_same_bytes(labelled, tmp_path):
    written = []
    for workers in (0, 2):
        out = tmp_path / f"raw{workers}"
        ingest("mine", labelled, labelled.model_dump(mode="json"), 2, out, tmp_path / "work", workers)
        written.append({path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()})
    assert written[0] == written[1]
