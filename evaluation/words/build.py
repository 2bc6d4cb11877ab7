"""Stage ``index``: the accepted pictures of a data set's splits as postings of the words that a model sees in them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from assets.atomic import atomic_folder, write_json
from assets.code_stamp import code_digest
from assets.config import MachineConfig, load_machine
from assets.errors import ConfigError, DataError, message
from assets.manifest import read_manifest, version_of, write_manifest
from assets.progress import Stage
from assets.section import unknown
from assets.shard_cache import cache_for
from evaluation.encoder import Encoder, load_encoder
from evaluation.features import Batches, Images
from evaluation.samples import read_dataset
from evaluation.words.cut import STEP, cut, fixed_point
from evaluation.words.index import KIND, InvertedIndex
from evaluation.words.index_config import IndexConfig
from evaluation.words.word_list import WordList, words_or_refuse
from training.data.pairs import Pairs, load_pairs

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

FACTS = "index.json"


@dataclass(frozen=True, slots=True)
class Folders:
    """Folders of the stage.

    Attributes:
        raw: From ``ingest``.
        valid: From ``validate``.
        model: The run's export.
        out: What is published.
    """

    raw: Path
    valid: Path
    model: Path
    out: Path


def build_index(name: str, config: IndexConfig, folders: Folders, params: Path) -> None:
    """Encode the pictures, cut their vectors and publish the index.

    Args:
        name: Of the entry in params.yaml.
        config: The entry.
        folders: Where things are and go.
        params: The params.yaml; section ``machine``, and ``store`` when shards are URLs.

    Raises:
        ConfigError: The data set has no such split, or the model of the run has no words.
        DataError: An input folder is missing, unfinished or holds no accepted picture; the model does not load, or its
            vectors are not over its words.
    """
    machine = load_machine(params)
    for folder, kind in ((folders.raw, "raw"), (folders.valid, "valid"), (folders.model, "model")):
        read_manifest(folder, kind)
    inputs = {"raw": version_of(folders.raw), "valid": version_of(folders.valid), "model": version_of(folders.model)}
    with Stage(f"index@{name}") as stage:
        splits = _read_splits(config, folders, params)
        encoder = load_encoder(folders.model, machine, config.batch_size, stage)
        words = words_or_refuse(encoder.text, config.run)
        matrix = _encode(encoder, splits, config, machine, len(words.words), stage)
        index = InvertedIndex.build(matrix, _pictures(splits))
        facts = _facts(index, words)
        with atomic_folder(folders.out) as folder:
            index.save(folder)
            words.save(folder)
            sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
            write_json(folder / FACTS, {**facts, "bytes": sizes})
            described = {"entry": config.model_dump(mode="json"), "vocabulary": words.version, "step": STEP}
            counts = {name: facts[name] for name in ("pictures", "pictures_without_words", "postings", "words_used")}
            counts["bytes"] = sum(sizes.values())
            code = code_digest("evaluation.words.build")
            write_manifest(folder, KIND, name, described, counts, inputs, code)
        told = f"{facts['mean_active_words']:.1f} of {len(words.words)} words each"
        stage.log.info("%s: %d pictures, %s, in %s", stage.name, len(index), told, folders.out)
        stage.send({"pictures": len(index), "mean_active_words": facts["mean_active_words"]}, force=True)


def _read_splits(config: IndexConfig, folders: Folders, params: Path) -> dict[str, Pairs]:
    known = list(read_dataset(folders.raw)["splits"])
    for split in config.splits:
        if split not in known:
            raise ConfigError(f"data set {config.dataset}: {unknown(split, known, 'split')}")
    found: dict[str, Pairs] = {}
    for split in config.splits:
        pairs = load_pairs(folders.raw, folders.valid, split)
        found[split] = replace(pairs, cache=cache_for(pairs.shards, params))
    return found


def _encode(
    encoder: Encoder,
    splits: dict[str, Pairs],
    config: IndexConfig,
    machine: MachineConfig,
    num_words: int,
    stage: Stage,
) -> "csr_matrix":
    """Return the cut and rounded vectors of all pictures, [n, V]; whole ones are held for a few batches only."""
    from scipy.sparse import vstack

    def parts() -> Iterator[Any]:
        batches = Batches(config.batch_size, machine.workers)
        with stage.progress("encode", sum(map(len, splits.values())), "image") as progress:
            for pairs in splits.values():
                for batch in encoder.encode_images(batches.of(Images(pairs, encoder.preprocess_array))):
                    vectors = batch.image_features  # [B, V]
                    if vectors.shape[1] != num_words:
                        what = f"the model of run {config.run} gives vectors that are not over its words"
                        raise DataError(message(what, vectors.shape[1], num_words, "train it anew"))
                    yield fixed_point(cut(vectors, config.cut))
                    progress.advance(len(vectors))

    found: Any = vstack(list(parts()), format="csr")
    return found


def _pictures(splits: dict[str, Pairs]) -> pa.Table:
    names = [name for name, pairs in splits.items() for _ in range(len(pairs))]
    keys = pa.chunked_array([pairs.keys for pairs in splits.values()])
    captions = pa.chunked_array([pairs.captions for pairs in splits.values()])
    return pa.table({"key": keys, "split": pa.array(names), "caption": captions})


def _facts(index: InvertedIndex, words: WordList) -> dict[str, Any]:
    """Say how full the index is."""
    active = np.bincount(index.images, minlength=len(index))
    return {
        "pictures": len(index),
        "pictures_without_words": int((active == 0).sum()),
        "postings": len(index.images),
        "words": index.num_words,
        "words_used": int((index.posting_lengths > 0).sum()),
        "mean_active_words": float(active.mean()),
        "sparsity": 1 - float(active.mean()) / index.num_words,
        "largest_weight": float(index.weights.max(initial=0)),
        "vocabulary": words.version,
    }
