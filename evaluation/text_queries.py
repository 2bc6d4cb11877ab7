"""Rows of evaluation texts by the frozen encoder that made a model's training rows, kept on disk.

A language model is slow and its answers never change, so they wait in ``work/text_queries``: any number of models
trained on one encoder's rows embed the class prompts and test captions once. What a row depends on names its file. Rows
are rounded to float16 as those of training are, so a text of training gets the row that training saw.
"""

import os
import zipfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from assets.atomic import atomic_file
from assets.code_stamp import code_digest
from assets.errors import ConfigError, DataError, message
from assets.features.config import FeaturesConfig, SentenceFeatures, parse_features
from assets.features.encoders import RowEncoder, TextGroup, groups_of, make_encoder
from assets.language.model_files import fast_dtype
from assets.manifest import value_digest
from assets.progress import Stage
from assets.unit import unit

TEXT_QUERIES = Path("work") / "text_queries"
CHUNK = 256
"""Distinct texts per file; what a kill can cost."""
# facts of an encoder that differ between machines or folders and move rows by rounding at most
_MAY_DIFFER = ("model", "dtype", "transformers")


@dataclass(frozen=True, slots=True)
class Computing:
    """How the frozen encoder runs.

    Attributes:
        device: Where.
        threads: Threads of PyTorch's CPU kernels; 0 for one per core.
        stage: For progress.
    """

    device: torch.device
    threads: int
    stage: Stage


class TextQueries:
    """Unit rows of texts; the encoder is loaded when the first text is not on disk.

    Attributes:
        config: The entry of params.yaml that made the training rows.
        groups: Its groups of slots.
    """

    def __init__(self, made_by: Mapping[str, Any], place: Path, computing: Computing) -> None:
        """Read how training rows were made.

        Args:
            made_by: Config of the stage ``features`` as an export keeps it.
            place: The model folder, for errors.
            computing: How the encoder runs.

        Raises:
            DataError: The config is not one of the stage.
        """
        self._place, self._computing = place, computing
        self._expected: dict[str, Any] = made_by.get("encoder") or {}
        try:
            self.config: FeaturesConfig = parse_features(made_by.get("entry"), f"{place}: features")
        except ConfigError as error:
            raise DataError(f"{error}; {place} does not say how its text was made: train it anew") from error
        if not self._expected:
            raise DataError(message(f"{place} does not say which encoder made its text", fix="train it anew"))
        self.groups = groups_of(self.config)
        self._encoder: RowEncoder | None = None
        self._folder = TEXT_QUERIES / value_digest(self._facts())

    def rows(self, captions: Sequence[str], group: int, facets: Sequence[str]) -> NDArray[np.float32]:
        """Return the rows of texts.

        Args:
            captions: Any number; equal ones are embedded once.
            group: Place in ``groups``, which says how texts are asked.
            facets: Which of the group's facets.

        Returns:
            Unit norm, not centred, [len(captions), len(facets), D].

        Raises:
            ConfigError: The encoder is needed and not there.
            DataError: It is not the one that made the training rows.
        """
        distinct = sorted(set(captions))
        parts = [rows for rows, _ in self._chunks(distinct, self._group(group, facets))]
        place = {caption: row for row, caption in enumerate(distinct)}
        found = np.concatenate(parts)[[place[caption] for caption in captions]]
        return unit(found.astype(np.float32))

    def count_cut(self, captions: Sequence[str], group: int, facets: Sequence[str]) -> int:
        """Return how many distinct texts were cut; arguments as for :meth:`rows`, which it embeds if need be."""
        return sum(cut for _, cut in self._chunks(sorted(set(captions)), self._group(group, facets)))

    def _group(self, group: int, facets: Sequence[str]) -> TextGroup:
        chosen = self.groups[group]
        texts = chosen.texts and chosen.texts.model_copy(update={"facets": tuple(facets)})
        return replace(chosen, facets=tuple(facets), texts=texts)

    def _facts(self) -> dict[str, Any]:
        """Say what rows depend on, beside the texts and the question put to them."""
        compute = "float32" if isinstance(self.config, SentenceFeatures) else self.config.compute
        device = self._computing.device
        return {
            "encoder": _fixed(self._expected),
            "kind": self.config.model_dump(mode="json", include={"kind", "encoder"}),
            "compute": str(fast_dtype(device)).removeprefix("torch.") if compute == "auto" else compute,
            "device": device.type,
            "transformers": transformers.__version__,
            "code": code_digest("assets.features.encoders"),
        }

    def _chunks(self, texts: list[str], group: TextGroup) -> list[tuple[NDArray[np.float16], int]]:
        """Return rows and number of cut texts of every chunk; those that are not on disk are embedded first."""
        asked = [group.texts.wrapper if group.texts else None, list(group.facets)]
        chunks = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
        paths = [self._folder / f"{value_digest({'asked': asked, 'texts': chunk})}.npz" for chunk in chunks]
        todo = [(path, chunk) for path, chunk in zip(paths, chunks, strict=True) if not path.is_file()]
        if todo:
            self._embed(todo, group)
        return [_read(path) for path in paths]

    def _embed(self, todo: Sequence[tuple[Path, list[str]]], group: TextGroup) -> None:
        encoder = self._load()
        stage, total = self._computing.stage, sum(len(chunk) for _, chunk in todo)
        with _threads(self._computing.threads), stage.progress("embed texts", total, "text") as progress:
            for path, chunk in todo:
                before = encoder.cut()
                rows = encoder.encode(chunk, group).astype(np.float16)
                with atomic_file(path) as temporary, temporary.open("wb") as stream:
                    np.savez(stream, rows=rows, num_cut=np.array(encoder.cut() - before))
                progress.advance(len(chunk))

    def _load(self) -> RowEncoder:
        """Load the encoder and refuse another one than made the training rows."""
        if self._encoder is None:
            try:
                encoder = make_encoder(self.config, self._computing.device)
            except ConfigError as error:
                raise ConfigError(f"the frozen text of {self._place} needs its encoder: {error}") from error
            wanted, found = _fixed(self._expected), _fixed(encoder.facts)
            for name in sorted(wanted.keys() | found.keys()):
                if wanted.get(name) != found.get(name):
                    what = f"{self._place} was trained on text of another encoder ({name} differs)"
                    fix = "put that encoder back, or make the features and the model anew"
                    raise DataError(message(what, found.get(name), wanted.get(name), fix))
            self._encoder = encoder
        return self._encoder


def _fixed(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name not in _MAY_DIFFER}


def _read(path: Path) -> tuple[NDArray[np.float16], int]:
    try:
        with np.load(path, allow_pickle=False) as found:
            return found["rows"], int(found["num_cut"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(message(f"{path} is damaged ({error})", fix="remove it")) from error


@contextmanager
def _threads(number: int) -> Generator[None]:
    """Use that many threads for a while; evaluation computes towers with one."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or os.cpu_count() or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
