import io
import tarfile

import pytest

from assets.errors import DataError
from assets.members import read_member
from assets.shards import ShardWriter, read_shard
from assets.sources.base import Sample

SAMPLES = [
    Sample("a-1", b"first picture", "jpg", "a red apple", {"captions": {"en": "a red apple"}}),
    Sample("a-2", b"x" * 512, "png", "zwei \u00c4pfel", {"captions": {"de": "zwei \u00c4pfel"}}),
    Sample("a-3", b"", "webp", "", {}),
]


def write(path, samples=SAMPLES):
    with path.open("wb") as stream:
        writer = ShardWriter(stream)
        places = [writer.write(sample) for sample in samples]
        writer.close()
    return places


def test_python_tarfile_reads_what_the_hand_written_header_says(tmp_path):
    write(tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as archive:
        members = archive.getmembers()
    assert [member.name for member in members[:3]] == ["a-1.jpg", "a-1.txt", "a-1.json"]
    assert {(member.mtime, member.uid, member.gid, member.mode, member.type) for member in members} == {
        (0, 0, 0, 0o644, tarfile.REGTYPE)
    }


def test_a_header_is_the_one_python_tarfile_would_write(tmp_path):
    write(tmp_path / "a.tar", SAMPLES[:1])
    header = tarfile.TarInfo("a-1.jpg")
    header.size = len(SAMPLES[0].image)
    theirs = header.tobuf(tarfile.USTAR_FORMAT)
    ours = (tmp_path / "a.tar").read_bytes()[:512]
    # name to time; then come the checksum and device numbers, which tarfile writes for plain files too
    assert ours[:148] == theirs[:148]
    assert ours[156:265] == theirs[156:265]
    assert tarfile.TarInfo.frombuf(ours, "utf-8", "strict").chksum == sum(ours) - sum(ours[148:156]) + 8 * ord(" ")


def test_every_offset_points_at_its_content(tmp_path):
    places = write(tmp_path / "a.tar")
    for sample, place in zip(SAMPLES, places, strict=True):
        assert read_member(tmp_path, "a.tar", place.image_offset, place.image_size) == sample.image
        metadata = read_member(tmp_path, "a.tar", place.metadata_offset, place.metadata_size)
        assert (b"captions" in metadata) == bool(sample.metadata)
    assert [place.offset for place in places[1:]] == [place.offset + place.size for place in places[:-1]]


def test_a_sample_cut_out_by_offset_and_size_is_a_tar_of_its_own(tmp_path):
    place = write(tmp_path / "a.tar")[1]
    content = (tmp_path / "a.tar").read_bytes()[place.offset : place.offset + place.size]
    with tarfile.open(fileobj=io.BytesIO(content + bytes(1024))) as archive:
        assert archive.getnames() == ["a-2.png", "a-2.txt", "a-2.json"]


def test_reading_in_order_gives_the_samples_back(tmp_path):
    write(tmp_path / "a.tar")
    assert list(read_shard(tmp_path / "a.tar")) == SAMPLES


@pytest.mark.parametrize("key", ["a.b", "a/b", ""])
def test_a_key_that_would_break_the_format_is_refused(tmp_path, key):
    with pytest.raises(DataError, match="sample key"):
        write(tmp_path / "a.tar", [Sample(key, b"", "jpg", "", {})])


def test_a_key_that_fits_no_header_is_refused(tmp_path):
    with pytest.raises(DataError, match="too long"):
        write(tmp_path / "a.tar", [Sample("k" * 100, b"", "jpg", "", {})])


def test_a_cut_off_shard_is_named(tmp_path):
    places = write(tmp_path / "a.tar")
    path = tmp_path / "a.tar"
    path.write_bytes(path.read_bytes()[: places[1].image_offset + 5])
    with pytest.raises(DataError, match="ends inside a sample"):
        read_member(tmp_path, "a.tar", places[1].image_offset, places[1].image_size)
    with pytest.raises(DataError, match="not readable as tar"):
        list(read_shard(path))


def test_a_missing_shard_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.tar is missing"):
        read_member(tmp_path, "gone.tar", 0, 1)


def test_a_sample_without_a_picture_is_an_error(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        entry = tarfile.TarInfo("k.txt")
        entry.size = 2
        archive.addfile(entry, io.BytesIO(b"hi"))
    with pytest.raises(DataError, match="no picture"):
        list(read_shard(tmp_path / "a.tar"))
