"""What a scorer and a captioner know about planted noise: ``python benchmarks/planted_noise.py``.

Run it after ``dvc repro`` of the profile tldr, in the same clone. For each kind of planted noise it says how well the
score (cosine of the embeddings) and the likelihood (of the caption, by the captioner) tell such pairs from clean ones:
the probability that a clean pair has the higher value (area under the ROC curve, 0.5 by chance). It also says how often
a generated caption names a thing of its picture, and what each policy left of noise, copies and rare concepts. It
writes benchmarks/results/planted_noise.json.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from record import record

from assets.index import read_index
from assets.members import read_member
from assets.reduction.captions import common_captions
from assets.reduction.config import CaptionFilter
from assets.section import read_yaml
from assets.sidecar import Sidecar

PLACES = ["key", "shard", "metadata_offset", "metadata_size"]
CLEAN = "clean"


def truth_of(raw: Path, keys: list[str]) -> list[dict[str, Any]]:
    """Read KEY.json of training pairs."""
    places = {row["key"]: row for row in read_index(raw, PLACES, "train").to_pylist()}
    rows = (places[key] for key in keys)
    return [json.loads(read_member(raw, row["shard"], row["metadata_offset"], row["metadata_size"])) for row in rows]


def area(clean: NDArray[np.float64], noisy: NDArray[np.float64]) -> float:
    """Return the probability that a clean value is above a noisy one, ties counted half."""
    ordered = np.sort(noisy)
    below, upto = (np.searchsorted(ordered, clean, side) for side in ("left", "right"))
    return float((below + upto).mean() / 2 / len(noisy))


def told_apart(values: NDArray[np.float64], kinds: NDArray[np.str_]) -> dict[str, float]:
    """Return the area of each kind of noise against clean pairs."""
    clean = values[kinds == CLEAN]
    return {str(kind): area(clean, values[kinds == kind]) for kind in np.unique(kinds) if kind != CLEAN}


def likeness(pictures: NDArray[np.float32], original: NDArray[np.str_], limits: tuple[float, ...]) -> dict[str, Any]:
    """Return, for limits as SemDeDup has them, which share of copies and of unique pictures has a likeness above."""
    nearest = np.empty(len(pictures), dtype=np.float32)
    for start in range(0, len(pictures), 512):
        cosines = pictures[start : start + 512] @ pictures.T
        cosines[np.arange(len(cosines)), start + np.arange(len(cosines))] = -1
        nearest[start : start + 512] = cosines.max(axis=1)
    _, first, inverse, counts = np.unique(original, return_index=True, return_inverse=True, return_counts=True)
    copies = np.setdiff1d(np.arange(len(original)), first)
    to_first = (pictures[copies] * pictures[first[inverse[copies]]]).sum(axis=1)
    unique = nearest[counts[inverse] == 1]
    return {
        str(eps): {"copies": float((to_first > 1 - eps).mean()), "unique": float((unique > 1 - eps).mean())}
        for eps in limits
    }


def dropped_by_looks(policy: Path, original: dict[str, str]) -> dict[str, int]:
    """Return how many copies, and how many other pictures, the step near_duplicates of a policy drops."""
    plan = pq.read_table(policy / "plan.parquet", columns=["key", "reason"]).to_pydict()
    seen: set[str] = set()
    counts = {"copies": 0, "dropped_copies": 0, "dropped_others": 0}
    for key, reason in zip(plan["key"], plan["reason"], strict=True):
        copy, gone = original[key] in seen, "near_duplicates" in reason
        seen.add(original[key])
        counts["copies"] += copy
        counts["dropped_copies"] += copy and gone
        counts["dropped_others"] += gone and not copy
    return counts


def left(policy: Path) -> dict[str, Any]:
    """Return what a policy left, out of its summary."""
    summary = json.loads((policy / "summary.json").read_text(encoding="utf-8"))
    truth = summary["truth"]
    return {
        "kept": summary["kept"],
        "noise_share": truth["noise"]["kept_share"],
        "noise_by_kind": {kind: counts["kept"] for kind, counts in truth["noise"]["by_kind"].items()},
        "copies_share": truth["copies"]["kept_share"],
        "mentions": {third: shares["kept"] for third, shares in summary["concepts"]["mentions"].items()},
        "seconds": json.loads((Path("logs") / f"reduce@{policy.name}" / "cost.json").read_text(encoding="utf-8"))[
            "total"
        ],
    }


def main() -> None:
    """Measure and write the result file."""
    params = read_yaml(Path("params.yaml"))
    (scorer, embedded), (captioner, _) = (next(iter(params[name].items())) for name in ("embeddings", "captioners"))
    captions = pq.read_table(Path("data/captioned") / captioner / "captions.parquet")
    keys: list[str] = captions.column("key").to_pylist()
    truth = truth_of(Path("data/raw") / embedded["dataset"], keys)
    kinds = np.array([facts["noise"] or CLEAN for facts in truth])
    scores = pq.read_table(Path("data/embeddings") / scorer / "scores.parquet").to_pydict()
    by_key = dict(zip(scores["key"], scores["score"], strict=True))
    original = {key: facts["duplicate_of"] or key for key, facts in zip(keys, truth, strict=True)}
    sidecar = Sidecar(Path("data/embeddings") / scorer)
    pictures = sidecar.rows(sidecar.join(captions.column("key").combine_chunks()))[:, 0].astype(np.float32)
    pictures /= np.linalg.norm(pictures, axis=1, keepdims=True)
    generated = captions.column("caption").combine_chunks()
    common = common_captions(generated, CaptionFilter())
    named = [
        any(thing["name"] in caption for thing in facts["objects"])
        for facts, caption in zip(truth, generated.to_pylist(), strict=True)
    ]
    manifest = json.loads((Path("data/captioned") / captioner / "manifest.json").read_text(encoding="utf-8"))
    result = {
        "pairs": len(keys),
        "kinds": {str(kind): int((kinds == kind).sum()) for kind in np.unique(kinds)},
        "score": told_apart(np.array([by_key[key] for key in keys]), kinds),
        "likelihood": told_apart(captions.column("likelihood").to_numpy().astype(np.float64), kinds),
        "generated_captions_that_name_a_thing_of_the_picture": float(np.mean(named)),
        "distinct_generated_captions": len(set(generated.to_pylist())),
        "generated_captions_too_common_by_default": float(np.mean([text in common for text in generated.to_pylist()])),
        "captioner_on_held_out_pairs": manifest["config"]["stage"]["holdout"],
        "likeness_by_embeddings": likeness(pictures, np.array(list(original.values())), (0.01, 0.02, 0.05, 0.08)),
        "near_duplicates_by_looks": dropped_by_looks(Path("data/reduced/tldr"), original),
        "policies": {name: left(Path("data/reduced") / name) for name in params["policies"]},
    }
    record("planted_noise", result)


if __name__ == "__main__":
    main()
