import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torchvision.transforms import Compose, ToTensor

from evaluation.preprocess import Preprocess


def pictures(*sizes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_both_parts_together_have_the_bits_of_the_whole(interpolation, resize_mode):
    whole = image_transform_v2(PreprocessCfg(48, interpolation=interpolation, resize_mode=resize_mode), is_train=False)
    parts = Preprocess(whole)
    shown = pictures((48, 48), (64, 48), (33, 90), (200, 31))
    made = [parts.picture(pixels) for pixels in shown]
    assert all(picture.dtype == torch.uint8 and picture.shape == (48, 48, 3) for picture in made)
    wanted = torch.stack([whole(Image.fromarray(pixels)) for pixels in shown])
    assert torch.equal(parts.batch(torch.stack(made)), wanted)


def test_another_transform_is_done_one_by_one():
    parts = Preprocess(Compose([ToTensor()]))
    (pixels,) = pictures((8, 8))
    made = parts.picture(pixels)
    assert torch.equal(made, ToTensor()(pixels))
    assert torch.equal(parts.batch(made[None]), made[None])


def test_pictures_of_the_model_s_size_are_taken_as_they_are(monkeypatch):
    whole = image_transform_v2(PreprocessCfg(48), is_train=False)
    parts = Preprocess(whole)
    (pixels,) = pictures((48, 48))
    made = parts.picture(pixels)
    assert np.array_equal(made.numpy(), pixels)
    pixels[:] = 0
    assert made.any()  # a copy
    assert torch.equal(parts.batch(made[None])[0], whole(Image.fromarray(made.numpy())))
    monkeypatch.setattr("PIL.Image.fromarray", lambda *_: pytest.fail("nothing has to be done to it"))
    parts.picture(pixels)
