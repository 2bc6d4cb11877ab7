"""Reports of runs at several levels of noise, made up with known trends."""

import json
from pathlib import Path

import numpy as np

from assets.manifest import write_manifest
from tests.evaluation.squares import write_params

SHARES = (0.0, 0.05, 0.1, 0.3)
SEEDS = (0, 1, 2)
STUDY = {"kind": "noise", "title": "Noise & <co>", "dataset": "squares", "recipe": "clip"}


def policy(share: float, **values: object) -> dict:
    names = dict.fromkeys(("embeddings", "captioner", "concepts"), "none")
    return {"dataset": "squares", **names, "captions": {"kind": "exchanged", "share": share}, **values}


def run(policy_name: str, seed: int, **values: str) -> dict:
    names = dict.fromkeys(("features", "teacher", "start"), "none")
    return {"recipe": "clip", "dataset": "squares", "policy": policy_name, **names, "seed": seed, **values}


POLICIES = {f"noise{round(100 * share)}": policy(share) for share in SHARES if share}
RUNS = {
    f"clip-{round(100 * share)}-s{seed}": run(f"noise{round(100 * share)}" if share else "none", seed)
    for share in SHARES
    for seed in SEEDS
}


def metrics(share: float, seed: int) -> dict:
    """Zero-shot falls by 10 points per 10 points of noise, MLP stays; scatter over runs is small, over seeds large."""
    luck = 0.05 * seed + 0.002 * np.random.default_rng([seed, round(1000 * share)]).standard_normal(9)
    heads = {"lp_top1": 0.5 - 0.5 * share + luck[0], "mlp_top1": 0.4 + luck[1], "nmtune_top1": 0.43 + luck[2]}
    return {
        "zero_shot": {
            "in_domain": {"top1": 0.6 - share + luck[3], "chance_top1": 0.1},
            "held_out_style": {"top1": 0.5 - share + luck[4]},
        },
        "tuning": {
            "in_domain": {**heads, "num_cov_mlp": 4.0, "num_cov_nmtune": 1.0},
            "held_out_style": {f"transfer_{name}": 0.8 * value for name, value in heads.items()},
        },
        "spectra": {
            "in_domain": {"num_sve": 3 + share + luck[5], "num_sve_share": 0.5, "num_lsvr": 2 + 0.2 * luck[6]},
            "held_out_style": {"num_sve": 2 + share, "num_lsvr": 2.0},
        },
        "retrieval": {"in_domain": {"image_to_text_r1": 0.3 - 0.5 * share + luck[7]}},
    }


def write_report(folder: Path, share: float, seed: int, found: dict | None = None) -> None:
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics(share, seed) if found is None else found))
    inputs = {"model": folder.name, "raw": "r", "valid": "v"}
    write_manifest(folder, "report", folder.name, {"batch_size": 1}, {}, inputs, "c")


def write_reports(root: Path) -> None:
    for name, config in RUNS.items():
        share = 0.0 if config["policy"] == "none" else POLICIES[config["policy"]]["captions"]["share"]
        write_report(root / "reports/runs" / name, share, config["seed"])


def params(path: Path, **sections: dict) -> Path:
    runs = sections.pop("runs", RUNS)
    return write_params(path, runs, **{"policies": POLICIES, "studies": {"noise": STUDY}, **sections})
