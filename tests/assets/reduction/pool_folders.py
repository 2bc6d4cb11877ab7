"""Folders that the stage ``reduce`` reads, made by hand over a small set of emoji scenes whose truth is known."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from assets.config import MachineConfig
from assets.index import read_index, write_table
from assets.manifest import version_of, write_manifest
from assets.members import read_member
from assets.reduction.config import PolicyConfig
from assets.reduction.pool import Sources
from assets.reduction.run import Folders
from assets.section import parse
from assets.sidecar import SidecarWriter
from tests.toy_folders import accept

MACHINE = MachineConfig(workers=0, threads=1, device="cpu", tensorboard=False)
NAMES = ("key", "shard", "metadata_offset", "metadata_size", "caption")
WIDTH, CODES, LENGTH = 16, 12, 9


@dataclass(frozen=True)
class PoolFolders:
    """Folders below a root, and what is known of the pairs."""

    raw: Path
    root: Path
    keys: list[str]
    captions: list[str]
    truth: list[dict]

    @property
    def sources(self) -> Sources:
        return Sources(
            self.raw, self.root / "valid", self.root / "embeddings", self.root / "captioned", self.root / "concepts"
        )

    def folders(self, out: str = "out", work: str = "work") -> Folders:
        sources = self.sources
        inputs = (sources.raw, sources.valid, sources.embeddings, sources.captioned, sources.concepts)
        outputs = (self.root / out, self.root / "report" / out, self.root / work, self.root / "logs" / out)
        return Folders(*inputs, *outputs)

    @property
    def noisy(self) -> np.ndarray:
        return np.array([facts["noise"] is not None for facts in self.truth])

    @property
    def original(self) -> np.ndarray:
        """Key of the pair whose scene each one shows, which is its own where it shows none again."""
        return np.array([facts["duplicate_of"] or key for key, facts in zip(self.keys, self.truth, strict=True)])


def policy(**values) -> PolicyConfig:
    return parse(
        PolicyConfig,
        {"dataset": "small", "embeddings": "none", "captioner": "none", "concepts": "none", **values},
        "params.yaml: policies.toy",
    )


def make_pool(raw: Path, root: Path) -> PoolFolders:
    """Make validation, embeddings with scores, and a captioner's folder of all training pairs.

    Scores know the noise; pictures of one scene have nearly one embedding; captions say what the scene shows.
    """
    index = read_index(raw, list(NAMES), "train").to_pylist()
    truth = [json.loads(read_member(raw, row["shard"], row["metadata_offset"], row["metadata_size"])) for row in index]
    keys = [row["key"] for row in index]
    pool = PoolFolders(raw, root, keys, [row["caption"] for row in index], truth)
    accept(root / "valid", keys, "train")
    write_manifest(root / "valid", "valid", "small", {}, {"accepted": len(keys)}, {}, "test")
    make_embeddings(pool)
    make_captioned(pool)
    return pool


def inputs_of(pool: PoolFolders) -> dict[str, str]:
    return {"raw": version_of(pool.raw), "valid": version_of(pool.root / "valid")}


def of_scene(pool: PoolFolders, width: int) -> np.ndarray:
    """Return random rows that depend on keys alone, nearly the same for copies of one scene."""
    rows = []
    for key, facts in zip(pool.keys, pool.truth, strict=True):
        scene = np.random.default_rng(list((facts["duplicate_of"] or key).encode())).normal(size=width)
        rows.append(scene + 0.01 * np.random.default_rng(list(key.encode())).normal(size=width))
    return np.stack(rows)


def make_embeddings(pool: PoolFolders, scores: dict[str, float] | None = None) -> None:
    folder = pool.root / "embeddings"
    rows = of_scene(pool, WIDTH)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    folder.mkdir()
    draws = {key: np.random.default_rng(list(key.encode())).uniform() for key in pool.keys}
    known = {
        key: 0.3 * draws[key] + 0.4 * (facts["noise"] is None) for key, facts in zip(pool.keys, pool.truth, strict=True)
    }
    known = known if scores is None else scores
    table = {"key": list(known), "score": pa.array(list(known.values()), pa.float32())}
    write_table(pa.table(table), folder / "scores.parquet")
    writer = SidecarWriter(folder, "float16", (2, WIDTH))
    writer.write_shard("train/00000", pa.array(pool.keys), np.stack([rows, rows], axis=1).astype(np.float16))
    writer.finish(["train/00000"], "scorer", {"dataset": "small"}, {**inputs_of(pool), "model": "m"}, "test")


def make_captioned(pool: PoolFolders) -> None:
    folder = pool.root / "captioned"
    folder.mkdir()
    codebook = np.random.default_rng(0).normal(size=(CODES, 8)).astype(np.float32)
    np.save(folder / "codebook.npy", codebook)
    codes = (np.abs(of_scene(pool, LENGTH)) * 7).astype(np.int64) % CODES
    writer = SidecarWriter(folder / "codes", "uint16", (LENGTH,))
    writer.write_shard("train/00000", pa.array(pool.keys), codes.astype(np.uint16))
    writer.finish(["train/00000"], "captioner", {}, inputs_of(pool), "test")
    captions = [f"{facts['background']['colour']} scene of {facts['objects'][0]['name']}" for facts in pool.truth]
    likelihood = np.array([-1.0 - (facts["noise"] is not None) for facts in pool.truth], np.float32)
    columns = {
        "key": pool.keys,
        "caption": captions,
        "mean_log_probability": np.full(len(captions), -0.5, np.float32),
        "likelihood": likelihood,
    }
    write_table(pa.table(columns), folder / "captions.parquet")
    write_manifest(folder, "captioned", "captioner", {}, {"pairs": len(captions)}, inputs_of(pool), "test")
