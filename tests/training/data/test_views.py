import io

import numpy as np
import pytest
from PIL import Image

from assets.errors import ConfigError
from assets.picture import Picture
from assets.section import parse
from training.data.decode import decode, decode_view, decode_views
from training.data.transforms import SampleDraws, apply_crop, draw_containing, draw_views
from training.data.views import ColourConfig, ContainingView, ViewsConfig

CROPS = ViewsConfig(crop_area=(0.08, 1.0), flip=0.5)
VIEWS = {"image": CROPS, "image_2": CROPS, "ema_image": ContainingView(("image", "image_2"), shrink=2)}


def encoded(width, height):
    pixels = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def test_the_box_around_contains_the_views_in_10000_pictures_of_any_shape():
    random = np.random.default_rng(0)
    sides = np.exp(random.uniform(0, np.log(2000), (10_000, 2))).astype(int) + 1
    margins = []
    for number, (width, height) in enumerate(sides.tolist()):
        drawn = draw_views(VIEWS, width, height, SampleDraws(0, 0, str(number)))
        outer = drawn["ema_image"]
        assert 0 <= outer.left and outer.left + outer.width <= width
        assert 0 <= outer.top and outer.top + outer.height <= height and not outer.flip
        for inner in (drawn["image"], drawn["image_2"]):
            assert outer.left <= inner.left and inner.left + inner.width <= outer.left + outer.width
            assert outer.top <= inner.top and inner.top + inner.height <= outer.top + outer.height
        margins.append(outer.width * outer.height / (width * height))
    assert 0.5 < np.mean(margins) < 1 and min(margins) < 0.5


def test_every_edge_of_the_box_around_is_reached():
    inner = draw_views({"image": ViewsConfig(crop_area=(0.2, 0.3))}, 12, 12, SampleDraws(0, 0, "a"))["image"]
    drawn = [draw_containing([inner], 12, 12, SampleDraws(0, 0, str(number))) for number in range(300)]
    assert {crop.top for crop in drawn} == set(range(inner.top + 1))
    assert {crop.left + crop.width for crop in drawn} == set(range(inner.left + inner.width, 13))


def test_the_first_view_is_drawn_as_if_alone_and_the_seed_does_not_move():
    alone, together = SampleDraws(3, 1, "a"), SampleDraws(3, 1, "a")
    crops = draw_views(VIEWS, 300, 200, together)
    assert crops["image"] == draw_views({"image": CROPS}, 300, 200, alone)["image"] != crops["image_2"]
    assert alone.seed == together.seed


def test_several_views_share_one_decoding_as_fine_as_the_finest_needs(monkeypatch):
    shrinks, pixels = [], Picture.pixels

    def spied(self, *arguments, **named):
        shrinks.append(named["shrink"])
        return pixels(self, *arguments, **named)

    monkeypatch.setattr(Picture, "pixels", spied)
    data = encoded(640, 480)
    views = decode_views(data, SampleDraws(0, 0, "a"), VIEWS, 32)
    assert shrinks == [min(min(c.width, c.height) // (16 if n == "ema_image" else 32) for n, (_, c) in views.items())]
    assert {name: view.shape for name, (view, _) in views.items()} == {
        "image": (32, 32, 3),
        "image_2": (32, 32, 3),
        "ema_image": (16, 16, 3),
    }


def test_each_view_is_its_crop_of_the_picture():
    data = encoded(96, 80)
    for name, (view, crop) in decode_views(data, SampleDraws(0, 0, "a"), VIEWS, 64).items():
        assert np.array_equal(view, apply_crop(decode(data), crop, view.shape[0])), name
    one = {"image": CROPS}
    assert np.array_equal(
        decode_views(data, SampleDraws(0, 0, "b"), one, 64)["image"][0],
        decode_view(data, SampleDraws(0, 0, "b"), CROPS, 64),
    )


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"jitter": [0.4, 0.4, 0.4, 0.6]}, r"hue in \[0, 0.5\]"),
        ({"jitter": [-0.1, 0, 0, 0]}, r"jitter must be in \[0, 1\]"),
        ({"blur_sigma": [2.0, 0.1]}, "blur_sigma must be ordered"),
        ({"grey_probability": 1.1}, "grey_probability"),
    ],
)
def test_wrong_changes_of_colour_are_refused(changes, fault):
    with pytest.raises(ConfigError, match=fault):
        parse(ColourConfig, changes, "views.colour")
