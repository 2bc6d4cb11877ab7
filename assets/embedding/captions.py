"""Stage ``embed_captions``: a sentence encoder's embeddings of the accepted training captions, as a sidecar.

A killed run goes on with the shards that are not there yet. The result can teach ProtoCLIP (docs/methods/protoclip.md).
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from assets.atomic import publish_folder
from assets.code_stamp import code_digest
from assets.config import MachineConfig
from assets.embedding.sentences import PACKAGE, WIDTH, SentenceEncoder
from assets.index import accepted_rows
from assets.manifest import MANIFEST, read_manifest, value_digest, version_of
from assets.progress import Stage
from assets.sidecar import KIND, SidecarWriter

_SPLIT = "train"


def embed_captions(name: str, raw: Path, valid: Path, out: Path, work: Path, machine: MachineConfig) -> None:
    """Embed the captions of a data set's accepted training pairs.

    Args:
        name: Of the data set.
        raw: Folder of ``ingest``.
        valid: Folder of ``validate``.
        out: Folder to publish.
        work: Where unfinished work waits.
        machine: Threads and device.

    Raises:
        ConfigError: The encoder's package is not installed.
        DataError: An input folder is missing, unfinished or holds no accepted pair.
    """
    read_manifest(raw, "raw")
    read_manifest(valid, "valid")
    config, code = {"encoder": PACKAGE, "split": _SPLIT}, code_digest("assets.embedding.captions")
    inputs = {"raw": version_of(raw), "valid": version_of(valid)}
    digest = value_digest({"config": config, "code": code, "inputs": inputs})
    folder = work / "embed_captions" / name / digest
    if machine.threads:
        torch.set_num_threads(machine.threads)
    with Stage(f"embed_captions@{name}") as stage:
        shards = _shards(raw, valid)
        writer = SidecarWriter(folder, "float16", (WIDTH,))
        done = [] if (folder / MANIFEST).exists() else writer.done_shards()
        encoder = SentenceEncoder(_device(machine))
        with stage.progress("embed", len(shards), "shard", len(done)) as progress:
            for shard, rows in shards.items():
                if shard not in done and not (folder / MANIFEST).exists():
                    keys: pa.StringArray = rows.column("key").combine_chunks()
                    writer.write_shard(shard, keys, encoder.embed(rows.column("caption").to_pylist()))
                    progress.advance()
        writer.finish(list(shards), name, config, inputs, code)
        publish_folder(folder, out)
        stage.log.info("%s: %d captions in %s", stage.name, read_manifest(out, KIND)["counts"]["rows"], out)


def _device(machine: MachineConfig) -> torch.device:
    return torch.device("cuda" if machine.device != "cpu" and torch.cuda.is_available() else "cpu")


def _shards(raw: Path, valid: Path) -> dict[str, pa.Table]:
    """Return the accepted keys and captions of each shard, which is numbered in index order."""
    index = accepted_rows(raw, valid, ["key", "shard", "caption"], _SPLIT)
    codes = index.column("shard").combine_chunks().dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.diff(codes, prepend=-1))  # the index is in shard order
    bounds = pairwise([*starts.tolist(), len(codes)])
    # a shard may be a path or an address; the sidecar joins by key, so a number will do
    return {f"{_SPLIT}/{n:05d}": index.slice(start, stop - start) for n, (start, stop) in enumerate(bounds)}
