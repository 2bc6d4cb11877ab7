"""Measure what tokens cost: training steps of a tower on all image patches and on some, on padded and on cut text.

Run ``python benchmarks/tokens.py`` in the repository root; it writes benchmarks/results/tokens.json. A round measures
every case once, so that what else the machine does hits all alike; figures are medians over rounds, and a speed-up is
the median of the rounds' own ratios. CPU time is the figure to compare on a busy machine. The towers are as wide as
ViT-S/16's, but have four of its twelve blocks: all blocks cost the same, and two minutes must do.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from record import record
from torch import Tensor, nn

from training.models.image_pass import encode_image, num_patches
from training.models.masking_config import num_kept
from training.models.text_pass import encode_text, trim_text
from training.models.token_select import random_keep

BATCH, ROUNDS = 32, 5
VISION = {"layers": 4, "width": 384, "head_width": 64, "patch_size": 16, "image_size": 224}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 384, "heads": 6, "layers": 4}
WORDS = "a the dog man woman in on street with red blue sky old tree beach city car table near young".split()


def captions(count: int) -> list[str]:
    """Captions as long as those of Conceptual Captions: 10.3 words on average, deviation 4.5 (Sharma et al. 2018)."""
    random = np.random.default_rng(0)
    spread = np.log(1 + (4.5 / 10.3) ** 2)  # of the log-normal with these moments
    lengths = random.lognormal(np.log(10.3) - spread / 2, np.sqrt(spread), count).round().clip(3, 50)
    return [" ".join(random.choice(WORDS, int(length))) for length in lengths]


def step(features: Tensor) -> None:
    features.square().mean().backward()


def measure(model: nn.Module, cases: dict[str, Callable[[], None]], baseline: str) -> dict[str, dict[str, float]]:
    for case in cases.values():  # the first call allocates
        case()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, case in cases.items():
            model.zero_grad()  # or adding to the token embedding's gradient would be half of a short text step
            wall, cpu = time.perf_counter(), time.process_time()
            case()
            seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    result: dict[str, dict[str, float]] = {}
    for name, taken in seconds.items():
        result[name] = {}
        for column, clock in enumerate(("wall", "cpu")):
            own, base = [row[column] for row in taken], [row[column] for row in seconds[baseline]]
            result[name][f"samples_per_{clock}_second"] = round(BATCH / statistics.median(own), 2)
            ratio = statistics.median(b / o for b, o in zip(base, own, strict=True))
            result[name][f"{clock}_speed_up"] = round(ratio, 2)
    return result


def image_tower(model: CLIP) -> dict[str, dict[str, float]]:
    image, seed, number = torch.randn(BATCH, 3, 224, 224), torch.arange(BATCH), num_patches(model.visual)

    def case(share: float) -> Callable[[], None]:
        def run() -> None:
            keep = random_keep(seed, number, num_kept(number, share)) if share < 1 else None
            step(encode_image(model.visual, image, keep).image_features)

        return run

    return measure(model, {f"keep_{share}": case(share) for share in (1.0, 0.5, 0.25)}, "keep_1.0")


def patch_embedding() -> dict[str, dict[str, float]]:
    """Of half of the patches: all embedded by the strided convolution, then gathered; or gathered as pixels first."""
    # with no blocks, embedding is nearly all that the pass does
    visual = CLIP(512, VISION | {"layers": 0}, TEXT | {"layers": 1}).visual
    image, number = torch.randn(BATCH, 3, 224, 224), num_patches(visual)
    keep = random_keep(torch.arange(BATCH), number, number // 2)

    def convolved() -> None:
        x = visual.conv1(image).flatten(2).transpose(1, 2) + visual.positional_embedding[1:]
        step(visual.ln_pre(x.gather(1, keep[:, :, None].expand(-1, -1, x.shape[-1]))))

    def kept() -> None:
        step(encode_image(visual, image, keep).image_token_features)

    return measure(visual, {"convolution_then_gather": convolved, "kept_patches_only": kept}, "convolution_then_gather")


def text_tower(model: CLIP) -> dict[str, dict[str, float]]:
    text = SimpleTokenizer()(captions(BATCH))
    short = trim_text(text)

    def case(tokens: Tensor) -> Callable[[], None]:
        return lambda: step(encode_text(model, tokens))

    return measure(model, {f"tokens_{t.shape[1]}": case(t) for t in (text, short)}, f"tokens_{text.shape[1]}")


def trimmed_lengths() -> dict[str, float]:
    text = SimpleTokenizer()(captions(4096))
    lengths = {f"batch_{size}": trim_text(text[:size]).shape[1] for size in (32, 256, 1024, 4096)}
    return {"mean_tokens": round(float((text != 0).sum(dim=1).float().mean()), 1), **lengths}


def main() -> None:
    torch.manual_seed(0)
    begin = time.perf_counter()
    model = CLIP(512, VISION, TEXT)
    result = {
        "setting": {
            "threads": torch.get_num_threads(),
            "batch": BATCH,
            "rounds": ROUNDS,
            "vision": VISION,
            "text": TEXT,
        },
        "image_tower": image_tower(model),
        "patch_embedding": patch_embedding(),
        "text_tower": text_tower(model),
        "trimmed_length": trimmed_lengths(),
    }
    result["seconds"] = round(time.perf_counter() - begin)
    record("tokens", result)


if __name__ == "__main__":
    main()
