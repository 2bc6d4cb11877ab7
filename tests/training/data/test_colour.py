import math

import pytest
import torch
from torchvision.transforms.v2 import functional as vision

from training.data.colour import change_colours, gaussian_blur, grey, turn_hue
from training.data.views import ColourConfig
from training.models.token_select import uniform_from_seeds

SEEDS = torch.arange(300)
NEVER = {"jitter_probability": 0.0, "grey_probability": 0.0, "blur_probability": 0.0, "solarise_probability": 0.0}


def pictures(count=6, side=12):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_hue_brightness_of_greys_and_identity_agree_with_torchvision():
    image = pictures()
    image[0] = image[0].mean(dim=0)  # grey: any hue
    for turns in (-0.5, -0.1, 0.05, 0.4):
        turned = turn_hue(image, torch.full((6, 1, 1, 1), turns))
        torch.testing.assert_close(turned, vision.adjust_hue(image, turns), atol=2e-6, rtol=0)
    assert torch.equal(turn_hue(image, torch.zeros(6, 1, 1, 1)), image)
    torch.testing.assert_close(grey(image), vision.rgb_to_grayscale(image), atol=1e-6, rtol=0)


def test_each_sample_goes_through_torchvisions_functions_with_its_own_draws():
    config = ColourConfig(jitter=(0.4, 0.3, 0.2, 0.1), jitter_probability=0.6, solarise_probability=0.5)
    image, seeds = pictures(12), torch.arange(12)
    changed = change_colours(image, seeds, 1, config)
    draws = uniform_from_seeds(seeds, 9, 1024 + 1).tolist()
    kinds = set()
    for row, drawn in enumerate(draws):
        expected = image[row : row + 1]
        if jittered := drawn[0] < 0.6:
            strengths = [s * (2 * d - 1) for s, d in zip(config.jitter, drawn[1:5], strict=True)]
            expected = vision.adjust_brightness(expected, 1 + strengths[0])
            expected = vision.adjust_contrast(expected, 1 + strengths[1])
            expected = vision.adjust_saturation(expected, 1 + strengths[2])
            expected = vision.adjust_hue(expected, strengths[3])
        if drawn[5] < 0.2:
            expected = vision.rgb_to_grayscale(expected, 3)
        if blurred := drawn[6] < 0.1:
            expected = slow_blur(expected, 0.1 + 1.9 * drawn[7])
        if solarised := drawn[8] < 0.5:
            expected = vision.solarize(expected, 128 / 255)
        near = (expected - 0.5).abs() > 1e-2  # a rounding decides what becomes a negative
        torch.testing.assert_close(changed[row : row + 1][near], expected[near], atol=3e-6, rtol=0)
        kinds |= {("jittered", jittered), ("blurred", blurred), ("solarised", solarised)}
    assert len(kinds) >= 5


def slow_blur(image, sigma):
    weight = lambda i, j: math.exp(-((i - j) ** 2) / (2 * sigma**2))  # noqa: E731
    side = image.shape[-1]
    rows = torch.tensor([[weight(i, j) for j in range(side)] for i in range(side)])
    rows = rows / rows.sum(dim=1, keepdim=True)
    return torch.einsum("ij,bcjk,lk->bcil", rows, image, rows)


def test_blur_has_a_deviation_per_picture_keeps_constants_and_can_do_nothing():
    image, sigma = pictures(3), torch.tensor([0.5, 2.0, 1e-3])
    blurred = gaussian_blur(image, sigma)
    for row in range(2):
        torch.testing.assert_close(blurred[row : row + 1], slow_blur(image[row : row + 1], float(sigma[row])))
    assert torch.equal(blurred[2], image[2])
    flat = torch.full((1, 3, 9, 9), 0.3)
    torch.testing.assert_close(gaussian_blur(flat, torch.tensor([2.0])), flat)


def test_blur_is_not_rounded_by_autocast():
    image, sigma = pictures(2), torch.tensor([0.5, 2.0])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gaussian_blur(image, sigma), gaussian_blur(image, sigma).float())
        inside = gaussian_blur(image, sigma)
    assert torch.equal(inside, gaussian_blur(image, sigma))


def test_a_sample_changes_the_same_way_in_any_batch_and_differently_in_another_view():
    image = pictures(1).expand(40, -1, -1, -1)
    together = change_colours(image, SEEDS[:40], 0, ColourConfig())
    alone = change_colours(image[:1], SEEDS[7:8], 0, ColourConfig())
    torch.testing.assert_close(alone[0], together[7], atol=1e-6, rtol=0)
    assert not torch.allclose(change_colours(image, SEEDS[:40], 1, ColourConfig()), together, atol=1e-3)
    assert together.min() >= 0 and together.max() <= 1


def test_probability_0_changes_nothing():
    image = pictures()
    assert torch.equal(change_colours(image, SEEDS[:6], 0, ColourConfig(**NEVER)), image)


@pytest.mark.parametrize("kind", ["jitter", "grey", "blur", "solarise"])
def test_each_change_happens_as_often_as_asked(kind):
    image = pictures(1, 4).expand(300, -1, -1, -1)
    changed = change_colours(image, SEEDS, 0, ColourConfig(**(NEVER | {f"{kind}_probability": 0.3})))
    share = float((changed != image).flatten(1).any(dim=1).float().mean())
    assert share == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 300))
