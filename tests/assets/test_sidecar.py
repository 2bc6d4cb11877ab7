import json
import os
import pickle
import subprocess
import sys

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.errors import DataError
from assets.index import write_table
from assets.manifest import verify_manifest, write_manifest
from assets.row_files import RowFiles, data_offset
from assets.sidecar import Sidecar, SidecarWriter

ROW = (2, 3)
LENGTHS = {"train/00000": 5, "train/00001": 3, "test/00000": 4}
FINISH = {"name": "toy", "config": {"layer": 7}, "inputs": {"raw": "abc"}, "code": "test"}


def keys_of(shard):
    return pa.array([f"{shard.replace('/', '-')}-{row}" for row in range(LENGTHS[shard])])


def array_of(shard, dtype=np.float16, row_shape=ROW):
    """Every row's values are a function of its key, so that a mix-up shows."""
    start = 100 * list(LENGTHS).index(shard)
    rows = np.arange(start, start + LENGTHS[shard]).reshape(-1, *[1] * len(row_shape))
    return (rows + np.zeros(row_shape)).astype(dtype)


def value_of(key):
    shard, _, row = key.rpartition("-")
    return 100 * list(LENGTHS).index(shard.replace("-", "/")) + int(row)


def write(folder, dtype=np.float16, row_shape=ROW, shards=tuple(LENGTHS)):
    writer = SidecarWriter(folder, dtype, row_shape)
    for shard in shards:
        writer.write_shard(shard, keys_of(shard), array_of(shard, dtype, row_shape))
    return writer


@pytest.fixture
def made(tmp_path):
    folder = tmp_path / "sidecar"
    write(folder).finish(list(LENGTHS), **FINISH)
    return folder


def every_key():
    return [key for shard in LENGTHS for key in keys_of(shard).to_pylist()]


def test_the_folder_holds_plain_arrays_a_key_list_and_a_manifest(made):
    files = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    assert files == {"train/00000.npy", "train/00001.npy", "test/00000.npy", "keys.parquet", "manifest.json"}
    assert np.array_equal(np.load(made / "train/00001.npy", mmap_mode="r"), array_of("train/00001"))
    table = pq.read_table(made / "keys.parquet")
    assert table.schema.names == ["key", "shard", "row"]
    assert table.slice(4, 2).to_pylist() == [
        {"key": "train-00000-0", "shard": "train/00000", "row": 0},
        {"key": "train-00000-1", "shard": "train/00000", "row": 1},
    ]
    manifest = json.loads((made / "manifest.json").read_text())
    assert manifest["kind"] == "sidecar"
    assert manifest["counts"] == {"rows": 12, "shards": 3}
    assert manifest["config"] == {"dtype": "float16", "row_shape": [2, 3], "stage": {"layer": 7}}
    assert verify_manifest(made) == []
    assert not made.with_name("sidecar.keys").exists()


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_keys_give_the_rows_of_those_keys(made, seed):
    keys = np.random.default_rng(seed).choice(every_key(), size=30)  # with repeats
    sidecar = Sidecar(made)
    rows = sidecar.rows(sidecar.join(pa.array(keys)))
    assert rows.dtype == np.float16
    assert rows.shape == (30, *ROW)
    assert rows[:, 0, 0].tolist() == [value_of(key) for key in keys]
    assert np.all(rows == rows[:, :1, :1])


@pytest.mark.parametrize(
    ("dtype", "row_shape"), [("float32", (4,)), ("int64", ()), ("uint8", (1, 2, 3)), ("float16", (64, 100))]
)
def test_other_types_and_row_shapes(tmp_path, dtype, row_shape):
    write(tmp_path / "s", dtype, row_shape).finish(list(LENGTHS), **FINISH)
    sidecar = Sidecar(tmp_path / "s")
    assert (sidecar.dtype, sidecar.row_shape, len(sidecar)) == (np.dtype(dtype), row_shape, 12)
    keys = every_key()[::-1]
    rows = sidecar.rows(sidecar.join(pa.array(keys)))
    assert rows.dtype == dtype
    assert rows.reshape(12, -1)[:, 0].tolist() == [value_of(key) % (256 if dtype == "uint8" else 1000) for key in keys]


def test_no_rows_of_no_keys(made):
    sidecar = Sidecar(made)
    assert sidecar.rows(sidecar.join(pa.array([], pa.string()))).shape == (0, *ROW)


def test_the_same_rows_give_the_same_bytes_in_any_order_of_writing(tmp_path, made):
    other = tmp_path / "other"
    write(other, shards=list(LENGTHS)[::-1]).finish(set(LENGTHS), **FINISH)
    for path in made.rglob("*.*"):
        assert path.read_bytes() == (other / path.relative_to(made)).read_bytes()


def test_arrays_that_are_not_contiguous_are_written_row_by_row(tmp_path):
    writer = SidecarWriter(tmp_path / "s", np.float16, ROW)
    writer.write_shard("train/00000", keys_of("train/00000"), np.asfortranarray(array_of("train/00000")))
    assert np.load(tmp_path / "s/train/00000.npy").flags.c_contiguous


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
import pyarrow as pa
from assets import sidecar
writer = sidecar.SidecarWriter(Path(sys.argv[1]), np.float16, (2, 3))
save = np.save
def half(stream, array, **options):
    save(stream, array[:1], **options)
    stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)
sidecar.np.save = half
writer.write_shard("train/00001", pa.array(["a", "b"]), np.zeros((2, 2, 3), np.float16))
"""


def test_a_killed_writer_goes_on_after_its_last_whole_shard(tmp_path, made):
    folder = tmp_path / "killed"
    write(folder, shards=["train/00000"])
    child = subprocess.run([sys.executable, "-c", KILLED, str(folder)])
    assert child.returncode == -9
    assert list((folder / "train").glob(".*.partial"))
    writer = SidecarWriter(folder, np.float16, ROW)
    assert writer.done_shards() == ["train/00000"]
    with pytest.raises(DataError, match=r"shard test/00000 of .* is not written"):
        writer.finish(list(LENGTHS), **FINISH)
    with pytest.raises(DataError, match="killed has no manifest"):
        Sidecar(folder)
    write(folder, shards=["train/00001", "test/00000"])
    writer.finish(list(LENGTHS), **FINISH)
    assert verify_manifest(folder) == []
    assert (folder / "manifest.json").read_bytes() == (made / "manifest.json").read_bytes()


def test_a_shard_is_not_done_when_its_array_does_not_fit_its_keys(tmp_path):
    writer = write(tmp_path / "s")
    assert writer.done_shards() == sorted(LENGTHS)
    path = tmp_path / "s/train/00000.npy"
    path.write_bytes(path.read_bytes()[:-1])
    np.save(tmp_path / "s/train/00001.npy", array_of("train/00000"))
    (tmp_path / "s/test/00000.npy").unlink()
    assert writer.done_shards() == []
    assert SidecarWriter(tmp_path / "s", np.float32, ROW).done_shards() == []


def test_new_keys_never_vouch_for_old_rows(tmp_path, monkeypatch):
    writer = write(tmp_path / "s")
    monkeypatch.setattr("assets.sidecar.np.save", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        writer.write_shard("train/00000", keys_of("train/00000"), array_of("train/00000"))
    assert writer.done_shards() == ["test/00000", "train/00001"]


def test_a_finished_folder_counts_as_done_and_takes_nothing_more(made):
    writer = SidecarWriter(made, np.float16, ROW)
    assert writer.done_shards() == sorted(LENGTHS)
    before = (made / "manifest.json").read_bytes()
    writer.finish(list(LENGTHS), **FINISH)
    assert (made / "manifest.json").read_bytes() == before
    with pytest.raises(DataError, match="is finished, so shard train/00002 cannot be added"):
        writer.write_shard("train/00002", pa.array(["a"]), np.zeros((1, *ROW), np.float16))


@pytest.mark.parametrize(
    ("name", "keys", "array", "fault"),
    [
        ("00000", ["a"], np.zeros((1, *ROW)), "not the name of a pair shard, got '00000', wanted SPLIT/NUMBER"),
        ("../x/00000", ["a"], np.zeros((1, *ROW)), "not the name of a pair shard"),
        ("train/00000.tar", ["a"], np.zeros((1, *ROW)), "not the name of a pair shard"),
        (
            "train/00000",
            ["a"],
            np.zeros((2, *ROW)),
            r"wrong array, got 'float16 \[2, 2, 3\]', wanted float16 \[1, 2, 3\]",
        ),
        ("train/00000", ["a"], np.zeros((1, *ROW), np.float32), "wrong array, got 'float32"),
        ("train/00000", ["a", "b", "a"], np.zeros((3, *ROW)), r"lists 1 keys more than once \(a\)"),
        ("train/00000", ["a", None], np.zeros((2, *ROW)), "rows without a key, got 1"),
        (
            "train/00000",
            ["a", "b"],
            np.full((2, *ROW), [[[1.0]], [[np.inf]]]),
            r"1 rows are not finite \(b\); .*float32",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_written(tmp_path, name, keys, array, fault):
    array = array.astype(np.float16) if array.dtype == np.float64 else array
    with pytest.raises(DataError, match=fault):
        SidecarWriter(tmp_path / "s", np.float16, ROW).write_shard(name, pa.array(keys, pa.string()), array)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("dtype", ["float64", "U3", "bool", "complex64"])
def test_a_type_that_no_reader_expects_is_refused(tmp_path, dtype):
    with pytest.raises(DataError, match="cannot hold this type"):
        SidecarWriter(tmp_path, dtype, ROW)


def test_a_key_in_two_shards_is_refused_at_the_end(tmp_path):
    writer = write(tmp_path / "s", shards=["train/00000"])
    writer.write_shard("train/00001", keys_of("train/00000"), array_of("train/00000"))
    with pytest.raises(DataError, match=r"lists 5 keys more than once \(train-00000-0, .*, \.\.\.\)"):
        writer.finish(["train/00000", "train/00001"], **FINISH)


def test_an_array_that_was_not_asked_for_is_refused_at_the_end(tmp_path):
    with pytest.raises(DataError, match=r"shards that were not asked for, got \['train/00001'\]"):
        write(tmp_path / "s").finish(["train/00000", "test/00000"], **FINISH)


def test_keys_without_a_row_are_counted_and_named(made):
    keys = pa.array([*every_key(), "x1", "x2", "x3", "x4"])
    with pytest.raises(DataError, match=r"no row for 4 of 16 samples \(x1, x2, x3, \.\.\.\); .*dvc repro"):
        Sidecar(made).join(keys)


def forge(folder, table, arrays):
    """A folder whose manifest is in order but whose content is not."""
    for shard, array in arrays.items():
        (folder / shard).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{shard}.npy", array)
    write_table(table, folder / "keys.parquet")
    write_manifest(folder, "sidecar", "toy", {"dtype": "float16", "row_shape": [2, 3]}, {}, {}, "test")
    return folder


def key_table(keys, rows, shard="train/00000"):
    return pa.table({"key": keys, "shard": [shard] * len(keys), "row": pa.array(rows, pa.int32())})


def test_a_list_with_a_key_twice_is_refused(tmp_path):
    folder = forge(tmp_path / "s", key_table(["a", "a"], [0, 1]), {"train/00000": np.zeros((2, *ROW), np.float16)})
    with pytest.raises(DataError, match=r"keys.parquet lists 1 keys more than once \(a\)"):
        Sidecar(folder)


def test_a_list_that_leaves_rows_out_is_refused(tmp_path):
    folder = forge(tmp_path / "s", key_table(["a", "b"], [0, 2]), {"train/00000": np.zeros((3, *ROW), np.float16)})
    with pytest.raises(DataError, match="leaves rows out"):
        Sidecar(folder)


@pytest.mark.parametrize("array", [np.zeros((3, *ROW), np.float16), np.zeros((2, 3, 2), np.float16)])
def test_an_array_that_disagrees_with_the_keys_is_refused_when_read(tmp_path, array):
    sidecar = Sidecar(forge(tmp_path / "s", key_table(["a", "b"], [0, 1]), {"train/00000": array}))
    with pytest.raises(DataError, match=r"holds another array than its keys say, got 'float16 .*\[2, 2, 3\]"):
        sidecar.rows(np.array([0]))


def test_a_partial_copy_is_refused_before_any_work(made):
    (made / "train/00001.npy").unlink()
    with pytest.raises(DataError, match=r"train/00001.npy is missing or cut off, wanted 164; copy"):
        Sidecar(made)
    (made / "train/00001.npy").write_bytes(b"half")
    with pytest.raises(DataError, match=r"train/00001.npy is missing or cut off, got 4, wanted 164; copy"):
        Sidecar(made)


def test_an_unfinished_folder_and_another_kind_are_refused(tmp_path):
    write(tmp_path / "s")
    with pytest.raises(DataError, match=r"s has no manifest\.json, so it is missing or unfinished"):
        Sidecar(tmp_path / "s")
    write_manifest(tmp_path / "s", "raw", "toy", {}, {}, {}, "test")
    with pytest.raises(DataError, match="of another kind, got 'raw', wanted sidecar"):
        Sidecar(tmp_path / "s")


@pytest.mark.parametrize("position", [-1, 12])
def test_a_position_outside_is_an_error_and_not_another_row(made, position):
    with pytest.raises(IndexError, match=r"position outside 0..11"):
        Sidecar(made).rows(np.array([0, position]))


def test_a_sidecar_travels_to_another_process_without_its_arrays(tmp_path):
    write(tmp_path / "s", row_shape=(100, 100)).finish(list(LENGTHS), **FINISH)
    sidecar = Sidecar(tmp_path / "s")
    positions = sidecar.join(pa.array(every_key()))
    rows = sidecar.rows(positions)
    packed = pickle.dumps(sidecar)
    assert len(packed) < 10_000
    assert np.array_equal(pickle.loads(packed).rows(positions), rows)


@pytest.fixture
def many_files(tmp_path):
    """200 files of 3 rows; row r of file f holds 10 f + r."""
    paths = [tmp_path / f"{number}.npy" for number in range(200)]
    for number, path in enumerate(paths):
        np.save(path, (10 * number + np.arange(3, dtype=np.int32)).reshape(3, 1) + np.zeros((1, 2), np.int32))
    return RowFiles(paths, [3] * 200, np.dtype("<i4"), (2,))


def test_few_files_stay_open_however_many_are_read(many_files):
    before = psutil.Process().num_fds()
    file, row = np.divmod(np.random.default_rng(0).integers(0, 600, 2000).astype(np.int32), 3)
    rows = many_files.gather(file, row)
    assert rows[:, 0].tolist() == rows[:, 1].tolist() == (10 * file + row).tolist()
    assert 0 < psutil.Process().num_fds() - before <= 128


def test_neighbouring_rows_are_read_in_one_go(many_files, monkeypatch):
    reads, preadv = [], os.preadv
    monkeypatch.setattr("assets.row_files.os.preadv", lambda *call: reads.append(call) or preadv(*call))
    file, row = np.divmod(np.arange(600, dtype=np.int32), 3)
    assert many_files.gather(file, row)[:, 0].tolist() == (10 * file + row).tolist()
    assert len(reads) == 200


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((100, 2), np.float16))
    files = RowFiles([tmp_path / "x.npy"], [100], np.dtype("<f2"), (2,))
    files.gather(np.zeros(1, np.int32), np.zeros(1, np.int32))
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:200])
    with pytest.raises(DataError, match=r"x.npy has become shorter"):
        files.gather(np.zeros(1, np.int32), np.full(1, 50, np.int32))


def test_a_file_that_is_no_npy_is_named(tmp_path):
    (tmp_path / "x.npy").write_bytes(b"not at all" * 20)
    with pytest.raises(DataError, match=r"x.npy is not readable as npy"):
        data_offset(tmp_path / "x.npy", np.dtype("<f2"), (1,))
    with pytest.raises(DataError, match=r"y.npy is not readable as npy \(.*No such file"):
        data_offset(tmp_path / "y.npy", np.dtype("<f2"), (1,))
