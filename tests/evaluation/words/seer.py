"""A stand-in for a lexical model that sees the squares' colours: patches say how near they are to each."""

from types import SimpleNamespace

import numpy as np
import torch
from PIL import ImageColor
from torch.nn import functional

from evaluation.encoder import Encoder
from evaluation.sides import ImageFeatures
from tests.evaluation.squares import COLOURS

GRID = (4, 4)
SIDE = 32
MEAN, STD = 0.5, 0.25
_SHADES = torch.tensor([ImageColor.getrgb(colour)[:3] for colour in COLOURS]) / 255  # [V, 3]


class Normalise:
    """The last step of preprocessing, which has a mean and a deviation as torchvision's has."""

    mean, std = (MEAN,) * 3, (STD,) * 3

    def __call__(self, image):
        return (image - MEAN) / STD


class Preprocess:
    def __init__(self):
        self.transforms = (self._tensor, Normalise())

    @staticmethod
    def _tensor(picture):
        small = picture.convert("RGB").resize((SIDE, SIDE))
        return torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255

    def __call__(self, picture):
        for step in self.transforms:
            picture = step(picture)
        return picture


class SeeingModel:
    """Activations of six colour words for each of 16 patches."""

    visual = SimpleNamespace(grid_size=GRID)

    def encode_patches(self, image):
        cells = functional.adaptive_avg_pool2d(image * STD + MEAN, GRID)  # [1, 3, 4, 4]
        shades = cells.flatten(2).transpose(1, 2)  # [1, 16, 3]
        return torch.exp(-4 * torch.cdist(shades, _SHADES[None]))  # [1, 16, V]


class SeeingImages:
    preprocess = Preprocess()

    def encode(self, images):
        rows = [SeeingModel().encode_patches(image[None]).amax(dim=1) for image in images]
        vectors = functional.normalize(torch.cat(rows), dim=-1).numpy()
        return ImageFeatures(vectors, vectors)


class ReadingTexts:
    """A sentence's vector is over the colours that it names."""

    def __init__(self, lexicon):
        self.lexicon = lexicon

    def encode(self, captions, query="caption"):
        rows = [[float(colour in caption.split()) for colour in COLOURS] for caption in captions]
        return functional.normalize(torch.tensor(rows), dim=-1).numpy()

    def count_cut(self, captions, query="caption"):
        return 0


def seer(version="v1", words=COLOURS):
    """Return an encoder over the colours; without words if there are none."""
    lexicon = SimpleNamespace(words=tuple(words), version=version) if words else None
    return Encoder(SeeingImages(), ReadingTexts(lexicon), 1)
