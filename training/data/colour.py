"""Random changes of colour for a batch of views at once, on the device: the pipeline of MoCo v3, SLIP and A-CLIP.

Every sample has draws of its own, hashed from its seed, so neither batch nor rank enters. Each change is computed for
all samples and takes effect where it was drawn: no shape depends on a draw, so the whole compiles into few kernels.
Brightness, contrast, saturation and hue follow each other in this order; torchvision shuffles the four.
"""

from contextlib import nullcontext

import torch
from torch import Tensor

from training.data.views import ColourConfig
from training.models.token_select import uniform_from_seeds

_STREAM = 1 << 10
"""Apart from the streams of the masks, which are numbers of views."""
_GREY = (0.2989, 0.587, 0.114)
_SOLARISE_FROM = 128 / 255


def change_colours(image: Tensor, seed: Tensor, view: int, config: ColourConfig) -> Tensor:
    """Change brightness, contrast, saturation, hue, then perhaps lose colour, blur and solarise.

    Args:
        image: In [0, 1], float [B, 3, S, S].
        seed: One number per sample that its draws depend on, int64 [B].
        view: Number of the view; another view of a sample draws other changes.
        config: Strengths and probabilities.

    Returns:
        In [0, 1], of the same shape.
    """
    draws = uniform_from_seeds(seed, 9, _STREAM + view).to(image.dtype)[:, :, None, None, None]  # [B, 9, 1, 1, 1]
    strengths = torch.tensor(config.jitter, device=image.device, dtype=image.dtype)[:, None, None, None]
    changes = (draws[:, 1:5] * 2 - 1) * strengths * (draws[:, :1] < config.jitter_probability)  # [B, 4, 1, 1, 1]
    brightness, contrast, saturation, turns = changes.unbind(dim=1)
    image = (image * (1 + brightness)).clamp(0, 1)
    image = _blend(image, grey(image).mean(dim=(2, 3), keepdim=True), 1 + contrast)
    image = _blend(image, grey(image), 1 + saturation)
    image = turn_hue(image, turns)
    image = torch.where(draws[:, 5] < config.grey_probability, grey(image), image)
    low, high = config.blur_sigma
    blurred = draws[:, 6] < config.blur_probability
    # a kernel this narrow is exactly the identity
    image = gaussian_blur(image, torch.where(blurred, low + (high - low) * draws[:, 7], 1e-3).flatten())
    solarised = (draws[:, 8] < config.solarise_probability) & (image >= _SOLARISE_FROM)
    return torch.where(solarised, 1 - image, image)


def grey(image: Tensor) -> Tensor:
    """Return the brightness, [B, 1, S, S]."""
    red, green, blue = image.split(1, dim=1)
    return red * _GREY[0] + green * _GREY[1] + blue * _GREY[2]


def _blend(image: Tensor, other: Tensor, share: Tensor) -> Tensor:
    return torch.lerp(other, image, share).clamp(0, 1)  # which gives the image itself for a share of 1


def turn_hue(image: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue, leaving saturation and value (of HSV) alone.

    Args:
        image: In [0, 1], [B, 3, S, S].
        turns: 1 is once around, [B, 1, 1, 1].

    Returns:
        [B, 3, S, S].
    """
    red, green, blue = image.split(1, dim=1)
    value, least = image.amax(dim=1, keepdim=True), image.amin(dim=1, keepdim=True)
    chroma = value - least
    scale = torch.where(chroma > 0, chroma, 1)  # of a grey any hue will do
    sixths = torch.where(
        value == red,
        (green - blue) / scale,
        torch.where(value == green, 2 + (blue - red) / scale, 4 + (red - green) / scale),
    )
    # each channel rises and falls along the circle of hues, a third of it after the one before
    phase = (torch.tensor([5, 3, 1], device=image.device)[:, None, None] + sixths + 6 * turns) % 6
    turned = value - chroma * torch.minimum(phase, 4 - phase).clamp(0, 1)
    return torch.where(turns == 0, image, turned)


def gaussian_blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Blur each picture by a deviation of its own; at the edges the kernel is cut and normalised.

    Args:
        image: [B, 3, S, S].
        sigma: Deviation in pixels, above 0, [B].

    Returns:
        [B, 3, S, S].
    """
    places = torch.arange(image.shape[-1], device=image.device)
    distance = (places[:, None] - places) / sigma[:, None, None]  # [B, S, S]
    kernel = torch.softmax(-(distance**2) / 2, dim=-1)[:, None]  # rows sum to 1
    # a product of matrices, which autocast would round to 8 bits of mantissa
    device = image.device.type
    with nullcontext() if device == "meta" else torch.autocast(device, enabled=False):
        return kernel @ image @ kernel.transpose(2, 3)
