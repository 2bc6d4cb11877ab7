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


def test_the_columns_of_the_main_table_are_shown(tmp_path):
    folder = tmp_path / "data/reduced/p"
    folder.mkdir(parents=True)
    parquet.write_table(pa.table({"key": ["a"], "score": pa.array([0.5], pa.float32())}), folder / "plan.parquet")
    stage = StageRecord("reduce@p", (), "", (), (), (Out("data/reduced/p", "out", True),), {})

    schema = describe(tmp_path, stage, stage.outs[0], None)["dagster/column_schema"].value

    assert [(column.name, column.type) for column in schema.columns] == [("key", "string"), ("score", "float")]


def test_a_table_that_is_none_is_passed_over(tmp_path):
    (tmp_path / "plan.parquet").write_text("no table")
    stage = StageRecord("x", (), "", (), (), (Out(".", "out", True),), {})
    assert "dagster/column_schema" not in describe(tmp_path, stage, stage.outs[0], None)


def test_curves_of_speed_come_from_the_log_of_this_machine(tmp_path):
    for path in ("runs/clip-s0/plots/metrics/train/loss.tsv", "logs/clip-s0/perf/samples_per_second.tsv"):
        file = tmp_path / path
        file.parent.mkdir(parents=True)
        file.write_text(f"step\t{file.stem}\n1\t2.0\n2\t1.0\n")
    outs = (Out("models/clip-s0", "out", True), Out("runs/clip-s0/plots/metrics", "plot", True))
    stage = StageRecord("pretrain@clip-s0", (), "", (), (), outs, {})

    curves = describe(tmp_path, stage, outs[0], None)["curves"].value

    assert curves.startswith("![train/loss]")
    assert "![perf/samples_per_second]" in curves


def test_a_page_is_linked_where_the_web_server_serves_it(tmp_path):
    page = tmp_path / "reports/a b/index.html"
    page.parent.mkdir(parents=True)
    page.write_text("<p>")
    stage = StageRecord("x", (), "", (), (), (Out("reports/a b", "out", True),), {})
    assert describe(tmp_path, stage, stage.outs[0], None)["page"].value == "/pages/reports/a%20b/index.html"
