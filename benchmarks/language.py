"""Measure how often the language of short captions is misjudged: emoji scenes, whose captions exist in 14 languages.

Run ``python benchmarks/language.py`` in the repository root; it writes benchmarks/results/language.json. Captions that
are the same in English and German are planted noise (file names and the like) and left out.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from record import record

from assets.dataset import load_dataset
from assets.sources.base import open_source
from assets.validation.language import identify

SCENES = 1500
PROBABILITIES = (0.3, 0.5, 0.7)


def main() -> None:
    source = open_source(load_dataset(Path("profiles/demo.yaml"), "emoji").source)
    every = [sample.metadata["captions"] for sample in source.samples("train", 0, SCENES)]
    captions = [entry for entry in every if entry["en"] != entry["de"]]
    identify(["a first one loads the table"])
    languages: dict[str, dict[str, float]] = {}
    cpu = time.process_time()
    for language in source.about().languages:
        texts = [entry[language] for entry in captions]
        answers, probabilities = identify(texts)
        wrong = np.array([answer != language for answer in answers])
        languages[language] = {
            "mean_chars": round(float(np.mean([len(text) for text in texts])), 1),
            "wrong_share": round(float(wrong.mean()), 4),
            **{
                f"wrong_share_at_{least}": round(float((wrong & (np.array(probabilities) >= least)).mean()), 4)
                for least in PROBABILITIES
            },
        }
    cpu = time.process_time() - cpu
    rate = round(len(captions) * len(languages) / cpu)
    record("language", {"captions": len(captions), "captions_per_cpu_second": rate, "languages": languages})


if __name__ == "__main__":
    main()
