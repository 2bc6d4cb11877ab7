"""Steps of models under gates and of cut ones, alone or as one of two processes."""

import sys
from pathlib import Path

import torch
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from training.losses.sparsity import expected_sparsity
from training.models.compact import compact_model
from training.models.gated_tower import gated_image_features, gated_text_features, tower_sizes
from training.models.gates import GateValues, TowerGates

VISION = {"layers": 2, "width": 16, "head_width": 4, "mlp_ratio": 2.0, "patch_size": 4, "image_size": 12}
TEXT = {"layers": 2, "width": 16, "heads": 4, "mlp_ratio": 2.0, "context_length": 7, "vocab_size": 11}
CONFIG = {"embed_dim": 6, "vision_cfg": VISION, "text_cfg": TEXT}
ROWS = 8
STEPS = 2


def build():
    torch.manual_seed(0)
    return CLIP(**CONFIG)


def soft_gates():
    """Soft gates with some closed, a layer without heads and another without units."""
    gates = GateValues(torch.linspace(0.4, 1, 16), torch.full((2, 4), 0.8), torch.full((2, 32), 0.9))
    gates.hidden[::5] = 0
    gates.units[0, ::3] = 0
    gates.heads[0] = 0
    gates.units[1] = 0
    return gates


def batch(rows=slice(None)):
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(ROWS, 3, 12, 12, generator=generator)
    text = torch.randint(1, 10, (ROWS, 7), generator=generator)
    text[:, 5] = 10
    return image[rows], text[rows]


def agreement(model, image_features, text_features):
    """A loss that needs no other rows, so that halves of a batch average to the whole."""
    images, texts = (nn.functional.normalize(one, dim=-1) for one in (image_features, text_features))
    return -(images * texts).sum(dim=-1).mean() * model.logit_scale.exp()


class Gated(nn.Module):
    """A model with both its gates half open, and so some of them closed."""

    def __init__(self):
        super().__init__()
        self.model = build()
        self.image_gates, self.text_gates = (
            TowerGates(tower_sizes(tower)) for tower in (self.model.visual, self.model)
        )
        with torch.no_grad():
            for gates in (self.image_gates, self.text_gates):
                for log_alpha in gates.parameters():
                    log_alpha.fill_(1.0)

    def forward(self, image, text, step, rank):
        return self.loss(image, text, self.draw(step, rank))

    def draw(self, step, rank):
        both = self.image_gates, self.text_gates
        return [gates.draw_noise(0, step, rank, tower) for tower, gates in enumerate(both)]

    def loss(self, image, text, noise):
        both = self.image_gates, self.text_gates
        images = gated_image_features(self.model.visual, image, self.image_gates.sample(noise[0]))
        texts = gated_text_features(self.model, text, self.text_gates.sample(noise[1]))
        sparsity = expected_sparsity([one.sizes for one in both], [one.open_probabilities() for one in both])
        return agreement(self.model, images, texts) - sparsity


class Cut(nn.Module):
    """A cut model; some layers have lost all heads, and some all units."""

    def __init__(self):
        super().__init__()
        values = soft_gates()
        self.model = compact_model(build(), CONFIG, values, values)[0]

    def forward(self, image, text, step, rank):
        return self.loss(image, text, self.draw(step, rank))

    def draw(self, step, rank):
        return None

    def loss(self, image, text, noise):
        return agreement(self.model, self.model.encode_image(image), self.model.encode_text(text))


KINDS = {"gated": Gated, "cut": Cut}


def gradients(module):
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def main(folder: Path) -> None:
    """Take steps as one of two processes, each on its half of the batch; the first writes what both have."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    half = slice(rank * ROWS // 2, (rank + 1) * ROWS // 2)
    for kind, build_kind in KINDS.items():
        module = build_kind()
        spread = DistributedDataParallel(module)
        for step in range(STEPS):
            module.zero_grad()
            spread(*batch(half), step, rank).backward()
        if rank == 0:
            save_file(gradients(module), folder / f"{kind}.safetensors")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
