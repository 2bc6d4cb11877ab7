import numpy as np
import pytest
from open_clip.transform import image_transform
from PIL import Image

from evaluation.scene_objects import box_mask, inside, scene_objects, shown_boxes


@pytest.mark.parametrize("size", [(40, 40), (40, 64), (64, 40), (16, 24)])
def test_boxes_go_where_the_preprocessing_of_open_clip_puts_their_pixels(size):
    height, width = size
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    box = (width // 4, height // 2, width * 3 // 4, height - 4)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    preprocess = image_transform(32, is_train=False, mean=(0.0,) * 3, std=(1.0,) * 3)
    seen = preprocess(Image.fromarray(pixels))[0].numpy() > 0.5
    mask = box_mask(shown_boxes([box], size, (32, 32)), [0], (32, 32)) == 0
    assert (seen == mask).mean() > 0.97 and mask.any()
    # apart from pixels that the edge of the box runs through
    edge = np.zeros_like(mask)
    edge[:-1] |= mask[:-1] != mask[1:]
    edge[1:] |= mask[:-1] != mask[1:]
    edge[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    edge[:, 1:] |= mask[:, :-1] != mask[:, 1:]
    assert (seen == mask)[~edge].all()


def test_the_smaller_box_is_seen_where_boxes_overlap():
    boxes = np.array([[2.0, 2, 4, 4], [0, 0, 6, 6], [5, 5, 9, 9]])
    mask = box_mask(boxes, [7, 1, 2], (8, 8))
    assert mask[3, 3] == 7 and mask[0, 0] == 1 and mask[7, 7] == 2 and mask[5, 5] == 2
    assert mask[0, 7] == -1


def test_a_cell_is_inside_when_its_centre_is():
    cells = inside(np.array([[0.0, 0, 5.9, 8]]), 2, 2, (8, 8))
    assert cells.tolist() == [[[True, False], [True, False]]]
    assert inside(np.array([[0.0, 0, 6.1, 1]]), 2, 2, (8, 8)).sum() == 0


def test_what_is_no_object_with_a_box_is_left_out():
    good = {"name": "cup", "box": [1, 2, 3, 4], "colour": None}
    bad = [{"name": "cup"}, {"box": [1, 2, 3, 4]}, {"name": "cup", "box": [1, 2]}, "cup", {"name": 1, "box": [0] * 4}]
    assert [tuple(item) for item in scene_objects({"objects": [good, *bad]})] == [("cup", (1, 2, 3, 4), "")]
    assert scene_objects({"objects": 3}) == [] == scene_objects({})
