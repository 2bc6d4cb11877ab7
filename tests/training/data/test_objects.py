import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from assets.errors import DataError
from assets.index import index_row, rows_table, write_table
from assets.shards import ShardWriter
from assets.sources.base import Sample
from training.data.loader import StepDataset, ViewPlan
from training.data.metadata import MetadataReader, metadata_places
from training.data.objects import MOST_OBJECTS, object_boxes
from training.data.order import SampleOrder
from training.data.pairs import load_pairs
from training.data.tokens import CaptionTokenizer
from training.data.views import ContainingView, ViewsConfig
from training.models.score_map import object_coverage

CROPS = ViewsConfig(crop_area=(0.3, 0.8), flip=0.5)
VIEWS = {"image": CROPS, "image_2": CROPS, "ema_image": ContainingView(("image", "image_2"), shrink=2)}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Twelve black pictures of 64 x 48 pixels, each with one white box."""
    root = tmp_path_factory.mktemp("boxed")
    raw, valid = root / "raw", root / "valid"
    (raw / "train").mkdir(parents=True)
    valid.mkdir()
    random, rows = np.random.default_rng(0), []
    with (raw / "train/00000.tar").open("wb") as stream:
        writer = ShardWriter(stream)
        for number in range(12):
            x0, y0 = (int(value) for value in random.integers(0, 24, 2))
            box = [x0, y0, x0 + 20, y0 + 16]
            image = Image.new("RGB", (64, 48), "black")
            image.paste((255, 255, 255), tuple(box))
            data = io.BytesIO()
            image.save(data, "PNG")
            few = [{"box": [0, 0, 1, 1]}] * (number + 8)
            sample = Sample(f"boxed-{number:03d}", data.getvalue(), "png", "a box", {"objects": [*few, {"box": box}]})
            rows.append(index_row(sample, "train", "train/00000.tar", writer.write(sample)))
        writer.close()
    write_table(rows_table(rows), raw / "index.parquet")
    keys = [row["key"] for row in rows if row["key"] != "boxed-003"]
    pq.write_table(pa.table({"key": keys, "split": ["train"] * len(keys)}), valid / "accepted.parquet")
    return load_pairs(raw, valid)


def batch_of(pairs):
    plan = ViewPlan(VIEWS, CaptionTokenizer(16).encode, 32, 0, boxes=True, objects=True)
    return StepDataset(pairs, SampleOrder(len(pairs), len(pairs), 0), plan)[0]


def test_boxes_are_read_by_key_largest_first_in_a_fixed_number(pairs):
    reader = MetadataReader(pairs, metadata_places(pairs))
    boxes = [object_boxes(reader.read(position), reader.name(position)) for position in range(len(pairs))]
    assert all(box.shape == (MOST_OBJECTS, 4) for box in boxes)
    for position, box in enumerate(boxes):
        assert box[0, 2:].tolist() == [16, 20] and (box[0, :2] < 24).all()
        number = int(pairs.keys[position].as_py()[-3:])
        assert (box[:, 2:].min(axis=1) > 0).sum() == min(number + 9, MOST_OBJECTS)


def test_the_batch_tells_where_each_view_and_the_objects_are(pairs):
    batch = batch_of(pairs)
    assert {name: tuple(value.shape[1:]) for name, value in batch.items() if "image" in name} == {
        "image": (3, 32, 32),
        "image_2": (3, 32, 32),
        "ema_image": (3, 16, 16),
        "image_box": (5,),
        "image_2_box": (5,),
        "ema_image_box": (5,),
    }
    checked = 0
    for name, side in (("image", 32), ("image_2", 32), ("ema_image", 16)):
        covered = object_coverage(batch["objects"][:, :1], batch[f"{name}_box"], (8, 8))
        cells = batch[name].float().mean(dim=1).unflatten(1, (8, side // 8)).unflatten(3, (8, side // 8))
        white = cells.mean(dim=(2, 4)) / 255
        sure = (covered == 0) | (covered == 1)
        # bicubic edges reach a little further than the box
        assert (white - covered)[sure].abs().mean() < 0.04
        checked += int((covered == 1).sum())
    assert checked > 50
    assert (batch["image_box"][:, 4] == 1).any() and (batch["ema_image_box"][:, 4] == 0).all()


def test_the_first_view_and_the_seeds_are_those_of_a_plan_without_others(pairs):
    plan = ViewPlan({"image": CROPS}, CaptionTokenizer(16).encode, 32, 0)
    alone, together = StepDataset(pairs, SampleOrder(len(pairs), len(pairs), 0), plan)[0], batch_of(pairs)
    assert all(torch.equal(value, together[name]) for name, value in alone.items())


def test_a_source_without_boxes_is_named(toy_data):
    pairs = load_pairs(*toy_data)
    reader = MetadataReader(pairs, metadata_places(pairs))
    with pytest.raises(DataError, match=r"sample toy-000 in .*00000.tar has no object boxes.*another masking"):
        object_boxes(reader.read(0), reader.name(0))


def test_a_plan_that_wants_boxes_is_refused_when_the_data_set_is_opened(toy_data):
    plan = ViewPlan(VIEWS, CaptionTokenizer(16).encode, 32, 0, boxes=True, objects=True)
    pairs = load_pairs(*toy_data)
    with pytest.raises(DataError, match=r"has no object boxes.*masking.watch"):
        StepDataset(pairs, SampleOrder(len(pairs), 16, 0), plan, rank=1, world_size=2)
