import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from assets.errors import DataError
from assets.manifest import read_manifest, write_manifest
from assets.sidecar import SidecarWriter
from training.teachers.config import CacheConfig
from training.teachers.package import TeacherModel, TeacherPackage, check_data, read_package, write_package
from training.teachers.rows import TeacherRows

CACHE = CacheConfig.model_validate({"views": 3, "seed": 0, "crop": {"crop_area": (0.9, 1.0)}})
KEYS = pa.array([f"key-{number}" for number in range(6)])
WIDTHS = (4, 2)
INPUTS = {"raw": "1" * 16, "valid": "2" * 16}


def unit_rows() -> np.ndarray:
    """Rows [6, K + 2, 6] whose two parts have unit norm."""
    drawn = np.random.default_rng(0).normal(size=(len(KEYS), CACHE.views + 2, sum(WIDTHS)))
    parts = np.split(drawn, [WIDTHS[0]], axis=2)
    return np.concatenate([part / np.linalg.norm(part, axis=2, keepdims=True) for part in parts], axis=2)


def write(folder: Path, rows: np.ndarray, cache: CacheConfig | None = CACHE) -> Path:
    models = []
    for number, width in enumerate(WIDTHS):
        place = folder / f"models/{number}"
        place.mkdir(parents=True)
        (place / "open_clip_config.json").write_text("{}")
        models.append(TeacherModel(place, width, 50.0, 32, {"kind": "run", "name": f"clip-s{number}"}))
    if cache is not None:
        writer = SidecarWriter(folder / "rows", "float16", rows.shape[1:])
        writer.write_shard("train/00000", KEYS, rows.astype(np.float16))
        writer.finish(["train/00000"], "toy", {}, {}, "0")
    write_package(folder, models, cache)
    write_manifest(folder, "teacher", "toy", {}, {}, INPUTS, "0")
    return folder


def test_a_package_is_read_as_it_was_written(tmp_path):
    package = read_package(write(tmp_path / "toy", unit_rows()))
    assert package.cache == CACHE
    assert [(model.embed_dim, model.logit_scale, model.image_size) for model in package.models] == [
        (4, 50.0, 32),
        (2, 50.0, 32),
    ]
    assert package.models[1].folder == tmp_path / "toy/models/1"
    assert package.models[1].facts == {"kind": "run", "name": "clip-s1"}
    (tmp_path / "toy").rename(tmp_path / "moved")
    assert read_package(tmp_path / "moved").models[0].folder == tmp_path / "moved/models/0"


def test_rows_are_joined_by_key_and_each_part_has_unit_norm(tmp_path):
    stored = unit_rows()
    rows = TeacherRows(read_package(write(tmp_path / "toy", stored)))
    assert (rows.widths, rows.views, len(rows)) == (WIDTHS, 3, 6)
    slots = np.array([3, 0, 2])
    image, text = rows.rows(rows.join(pa.array(["key-4", "key-0", "key-4"])), slots)
    assert image.dtype == text.dtype == np.float32
    np.testing.assert_allclose(image, stored[[4, 0, 4], slots], atol=1e-3)
    np.testing.assert_allclose(text, stored[[4, 0, 4], 4], atol=1e-3)
    for features in (image, text):
        for part in np.split(features, [WIDTHS[0]], axis=1):
            np.testing.assert_allclose(np.linalg.norm(part, axis=1), 1, atol=1e-6)
    with pytest.raises(IndexError, match=r"outside 0\.\.3"):
        rows.rows(np.array([0]), np.array([4]))  # the caption is no view
    with pytest.raises(DataError, match="no row for 1 of 1 samples"):
        rows.join(pa.array(["key-9"]))


@pytest.mark.parametrize(("slot", "asked"), [(1, 1), (4, 0)])
def test_a_row_without_direction_is_refused_by_key(tmp_path, slot, asked):
    stored = unit_rows()
    stored[5, slot, 4:] = 0  # the second model's part alone
    rows = TeacherRows(read_package(write(tmp_path / "toy", stored)))
    fine = rows.rows(np.array([4]), np.array([asked]))[0]
    assert fine.shape == (1, 6)
    with pytest.raises(DataError, match=f"sample key-5, slot {slot}, in .*has no direction"):
        rows.rows(np.array([4, 5]), np.array([asked, asked]))


def test_a_row_that_is_not_finite_is_refused_by_key(tmp_path):
    folder = write(tmp_path / "toy", unit_rows())
    array = np.load(folder / "rows/train/00000.npy")
    array[2, 0, 0] = np.nan  # the writer would refuse it
    np.save(folder / "rows/train/00000.npy", array)
    rows = TeacherRows(read_package(folder))
    with pytest.raises(DataError, match=r"sample key-2, slot 0, in .*got 'norm nan'"):
        rows.rows(np.arange(6), np.zeros(6, dtype=np.int64))


def test_rows_that_the_package_does_not_promise_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"float16 \[5, 5\]', wanted float16 \[5, 6\]"):
        TeacherRows(read_package(write(tmp_path / "narrow", unit_rows()[:, :, :5])))
    with pytest.raises(DataError, match=r"float16 \[4, 6\]', wanted float16 \[5, 6\]"):
        TeacherRows(read_package(write(tmp_path / "few", unit_rows()[:, :4])))
    with pytest.raises(DataError, match="has no cache; give the teacher a cache"):
        TeacherRows(read_package(write(tmp_path / "none", unit_rows(), cache=None)))


def test_a_missing_unfinished_or_other_folder_is_no_teacher(tmp_path):
    make = r'run "dvc repro teach"'
    with pytest.raises(DataError, match=f"holds no finished teacher; {make}"):
        read_package(tmp_path / "nowhere")
    folder = write(tmp_path / "toy", unit_rows())
    facts = json.loads((folder / "teacher.json").read_text())
    (folder / "teacher.json").write_text(json.dumps(facts | {"cache": {"views": 0}}))
    with pytest.raises(DataError, match=f"teacher.json is not readable .*{make}"):
        read_package(folder)
    (folder / "teacher.json").write_text(json.dumps(facts | {"models": []}))
    with pytest.raises(DataError, match="lists no model"):
        read_package(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match="holds no finished teacher"):
        read_package(folder)
    write_manifest(folder, "model", "toy", {}, {}, {}, "0")
    with pytest.raises(DataError, match="another kind, got 'model', wanted teacher"):
        read_package(folder)


def test_a_teacher_of_other_data_is_refused(tmp_path):
    manifest = read_manifest(write(tmp_path / "toy", unit_rows()), "teacher")
    check_data(manifest, INPUTS)
    with pytest.raises(DataError, match=r"teacher toy was made from another version .*\(valid differs\)"):
        check_data(manifest, INPUTS | {"valid": "3" * 16})


def test_a_package_can_lack_a_model_folder_only_with_an_error(tmp_path):
    folder = write(tmp_path / "toy", unit_rows())
    package = read_package(folder)
    assert isinstance(package, TeacherPackage)
    (folder / "models/1/open_clip_config.json").unlink()
    (folder / "models/1").rmdir()
    with pytest.raises(DataError, match="models/1 is missing"):
        read_package(folder)
