"""Measure what a sample costs the processor before it reaches a model, beside open_clip's own training pipeline.

Run ``python benchmarks/input_path.py`` in the repository root; it writes benchmarks/results/input_path.json. Figures
are milliseconds of CPU time per sample in one thread, least over rounds in which every case has its turn. The picture
is the photograph that matplotlib ships, as a JPEG of quality 90; ``floor`` is full decoding and resizing, no more.
"""

import hashlib
import io
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import matplotlib
import numpy as np
import simplejpeg
import torch
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from record import record
from torch.nn.functional import interpolate
from torchvision import transforms

from training.data.decode import decode, decode_view
from training.data.tokens import CaptionTokenizer
from training.data.transforms import SampleDraws, apply_crop, draw_crop
from training.data.views import ViewsConfig

SIZE, BATCH, ROUNDS = 224, 8, 60
VIEWS = ViewsConfig(crop_area=(0.9, 1.0))
CAPTION = "A brown dog with a red collar is running across the wet grass near a small wooden house."
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def photograph(side: int) -> bytes:
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    stream = io.BytesIO()
    with Image.open(path) as image:
        square = image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS, box=(0, 0, 512, 512))
    square.save(stream, "JPEG", quality=90)
    return stream.getvalue()


def least(cases: dict[str, Callable[[], object]], calls: int) -> dict[str, float]:
    """Return the milliseconds of CPU time of one call of each case."""
    for case in cases.values():  # the first call allocates and learns
        case()
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(ROUNDS):
        for name, case in cases.items():
            began = time.process_time()
            for _ in range(calls):
                case()
            best[name] = min(best[name], (time.process_time() - began) / calls * 1e3)
    return {name: round(value, 4) for name, value in best.items()}


def whole_samples(side: int, calls: int) -> dict[str, float]:
    """Return the milliseconds of a sample, images one by one and captions as a batch."""
    data = photograph(side)
    cut = transforms.RandomResizedCrop(SIZE, scale=VIEWS.crop_area, interpolation=transforms.InterpolationMode.BICUBIC)
    theirs = transforms.Compose([cut, transforms.ToTensor(), transforms.Normalize(MEAN, DEVIATION)])
    their_tokens, our_tokens = SimpleTokenizer(), CaptionTokenizer(77)
    images, numbers = np.empty((BATCH, SIZE, SIZE, 3), dtype=np.uint8), itertools.count()

    def open_clip() -> None:
        for _ in range(BATCH):
            theirs(Image.open(io.BytesIO(data)).convert("RGB"))
        their_tokens([CAPTION] * BATCH)

    def ours() -> None:
        for row in range(BATCH):
            images[row] = decode_view(data, SampleDraws(0, 0, str(next(numbers))), VIEWS, SIZE)
        our_tokens([CAPTION] * BATCH)

    def floor() -> None:
        for _ in range(BATCH):
            pixels = torch.from_numpy(simplejpeg.decode_jpeg(data, "RGB"))[None].permute(0, 3, 1, 2)
            interpolate(pixels, (SIZE, SIZE), mode="bicubic", antialias=True)

    measured = least({"open_clip": open_clip, "ours": ours, "floor": floor}, calls)
    return {name: round(value / BATCH, 3) for name, value in measured.items()}


def parts() -> dict[str, float]:
    data, numbers = photograph(256), itertools.count()
    pixels = decode(data)
    crop = draw_crop(VIEWS, 256, 256, SampleDraws(0, 0, "a"))
    box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    their_tokens, our_tokens = SimpleTokenizer(), CaptionTokenizer(77)

    def philox() -> None:
        digest = hashlib.blake2b(str(next(numbers)).encode(), digest_size=16).digest()
        np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little"))).random(5)

    def resized() -> object:
        return np.asarray(Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box))

    captions = [CAPTION] * 64
    images = least(
        {
            "decode_pillow": lambda: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")),
            "decode": lambda: decode(data),
            "decode_fast_modes": lambda: simplejpeg.decode_jpeg(data, "RGB", fastdct=True, fastupsample=True),
            "resize_pillow": resized,
            "resize": lambda: apply_crop(pixels, crop, SIZE),
            "draws_philox": philox,
            "draws": lambda: SampleDraws(0, 0, str(next(numbers))).uniform(5),
        },
        40,
    )
    words = least({"tokenise_open_clip": lambda: their_tokens(captions), "tokenise": lambda: our_tokens(captions)}, 1)
    return images | {name: round(value / len(captions), 4) for name, value in words.items()}


def differences() -> dict[str, float]:
    """Return mean absolute differences in grey levels from decoding in full with the exact modes."""
    data = photograph(256)
    exact = decode(data).astype(int)
    fast = simplejpeg.decode_jpeg(data, "RGB", fastdct=True, fastupsample=True)
    found = {"fast_modes_256": float(np.abs(fast - exact).mean())}
    whole = ViewsConfig(crop_area=(1.0, 1.0))
    for side in (512, 1024):
        data, draws = photograph(side), SampleDraws(0, 0, "a")
        full = apply_crop(decode(data), draw_crop(whole, side, side, draws), SIZE).astype(int)
        found[f"reduced_decoding_{side}"] = float(np.abs(decode_view(data, draws, whole, SIZE) - full).mean())
    return {name: round(value, 2) for name, value in found.items()}


def main() -> None:
    torch.set_num_threads(1)
    samples = {str(side): whole_samples(side, calls) for side, calls in ((256, 1), (512, 1), (1024, 1))}
    record("input_path", {"milliseconds_per_sample": samples, "parts_256": parts(), "differences": differences()})


if __name__ == "__main__":
    main()
