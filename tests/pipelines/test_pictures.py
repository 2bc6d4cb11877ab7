import io

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from pipelines.dvc_project import Out, StageRecord
from pipelines.metadata import describe
from pipelines.pictures import curve_svg, read_curve, reject_sheet, sample_sheet


@pytest.fixture
def raw(tmp_path):
    """A raw data set of 20 plain images; shards are bare concatenations, offsets are what counts."""
    folder = tmp_path / "data/raw/emoji"
    (folder / "train").mkdir(parents=True)
    rows, shard = [], b""
    for number in range(20):
        stream = io.BytesIO()
        Image.new("RGB", (32, 24), (10 * number, 0, 0)).save(stream, "PNG")
        data = stream.getvalue() if number else b"broken"
        rows.append(
            {
                "key": f"k{number}",
                "split": "train",
                "shard": "train/00000.tar",
                "image_offset": len(shard),
                "image_size": len(data),
                "caption": f"a rather long caption, number {number}, that has to be cut",
            }
        )
        shard += data
    (folder / "train/00000.tar").write_bytes(shard)
    parquet.write_table(pa.Table.from_pylist(rows), folder / "index.parquet")
    return folder


def size(jpeg):
    return Image.open(io.BytesIO(jpeg)).size


def test_a_sheet_shows_evenly_spaced_samples_and_survives_a_broken_one(raw):
    assert size(sample_sheet(raw)) == (6 * 104, 2 * 130)


def test_rejects_are_shown_a_few_per_reason(raw, tmp_path):
    valid = tmp_path / "data/valid/emoji"
    valid.mkdir(parents=True)
    rows = [{"key": f"k{number}", "reason": "blank" if number < 9 else "duplicate"} for number in range(1, 11)]
    parquet.write_table(pa.Table.from_pylist(rows), valid / "rejects.parquet")
    assert size(reject_sheet(valid, raw)) == (6 * 104, 130)

    stage = StageRecord("validate@emoji", (), "", ("data/raw/emoji",), (), (Out("data/valid/emoji", "out", True),), {})
    metadata = describe(tmp_path, stage, stage.outs[0], None)
    assert metadata["rejects_shown"].value.startswith("![rejects_shown](data:image/jpeg;base64,")


def test_no_rejects_no_sheet(raw, tmp_path):
    nothing = pa.array([], pa.string())
    parquet.write_table(pa.table({"key": nothing, "reason": nothing}), tmp_path / "rejects.parquet")
    assert reject_sheet(tmp_path, raw) is None


def test_a_curve_is_thinned_and_keeps_its_last_point(tmp_path):
    file = tmp_path / "loss.tsv"
    file.write_text("step\tloss\n" + "".join(f"{step}\t{1 / step}\n" for step in range(1, 5001)))
    name, points = read_curve(file)
    picture = curve_svg(name, points).decode()
    assert len(points) == 5000
    assert len(picture) < 6000
    assert ">step 5000<" in picture


@pytest.mark.parametrize("text", ["", "step\tloss\n1\tnan?\n", "a\tb\n1\t2\n"])
def test_a_file_that_is_no_curve_gives_no_points(tmp_path, text):
    (tmp_path / "x.tsv").write_text(text)
    assert read_curve(tmp_path / "x.tsv")[1] == []
