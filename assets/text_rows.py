"""Text rows of training pairs: R embeddings of each pair's texts, made once by a frozen encoder, read beside the pairs.

A folder of the stage ``features`` is a sidecar with rows [R, D] (or [D], which is R = 1). Its config names the R slots:
a caption, and the question put to it (a facet). Beside the rows lies ``slot_means.npy``, float32 [R, D]: the mean m of
each slot's unit rows u over the training pairs. Two ways of storing: unit rows as they are (float), or centred ones,
u - m, each scaled so that int8 holds it and only its direction counts. Whichever it is, both can be read:

    plain:   r = u / |u|             of a centred direction c: r = m + a c with the one a > 0 that makes |r| = 1
    centred: c = (r - m) / |r - m|

Rows of small language models share most of their direction, which is what centring takes away.
"""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assets.errors import ConfigError, DataError, message
from assets.language.lexicon import Lexicon, has_lexicon, read_lexicon
from assets.manifest import read_manifest
from assets.section import unknown
from assets.sidecar import KIND, Sidecar

SLOT_MEANS = "slot_means.npy"
ALL: Literal["all"] = "all"
_MAKE = 'run "dvc repro features"'
_DROP = "leave it out of towers.text.slots and of the features, or make them of more than one distinct caption"
_CONSTANT = 1e-6
"""Room below 1 for the norm of a slot's mean; one of norm 1 is the mean of equal rows."""

Slots = Literal["all"] | Sequence[str]
"""All slots, or names CAPTION/FACET, in which ``*`` stands for anything."""


@dataclass(frozen=True, slots=True)
class TextFacts:
    """What is known of text rows without reading one.

    Attributes:
        slots: Caption and facet of each of the R slots.
        chosen: The slots that are read, ascending.
        width: D.
        center: Whether rows are read centred.
        slot_means: Mean of each slot, chosen or not, float32 [R, D]; None where the folder has none.
        features: The config of the stage that made the rows: the encoder, for whoever embeds further texts.
        lexicon: The words that rows are read over; None where they are of no lexical encoder.
    """

    slots: tuple[tuple[str, str], ...]
    chosen: tuple[int, ...]
    width: int
    center: bool = False
    slot_means: NDArray[np.float32] | None = None
    features: Mapping[str, Any] | None = None
    lexicon: Lexicon | None = None

    @property
    def names(self) -> list[str]:
        """The chosen slots as CAPTION/FACET."""
        return [slot_name(self.slots[place]) for place in self.chosen]


def slot_name(slot: tuple[str, str]) -> str:
    """Return CAPTION/FACET."""
    return "/".join(slot)


def choose_slots(slots: Sequence[tuple[str, str]], wanted: Slots, place: object) -> tuple[int, ...]:
    """Find slots by name.

    Args:
        slots: Those there are.
        wanted: Which of them.
        place: Where they are, for the error.

    Returns:
        Their places, ascending.

    Raises:
        ConfigError: A name fits none of them.
    """
    if wanted == ALL:
        return tuple(range(len(slots)))
    names = [slot_name(slot) for slot in slots]
    found = {pattern: fnmatch.filter(names, pattern) for pattern in wanted}
    for pattern, fitting in found.items():
        if not fitting:
            raise ConfigError(f"{place}: {unknown(pattern, names, 'slot')}")
    kept = {name for fitting in found.values() for name in fitting}
    return tuple(number for number, name in enumerate(names) if name in kept)


def constant_slots(slot_means: NDArray[np.float32]) -> list[int]:
    """Find the slots in which all pairs have the same row.

    Args:
        slot_means: Mean of each slot's unit rows, [R, D].

    Returns:
        Their places, ascending.
    """
    norms = np.linalg.norm(slot_means.astype(np.float64), axis=1)
    return np.flatnonzero(norms > 1 - _CONSTANT).tolist()


def refuse_other_data(folder: Path, inputs: Mapping[str, str]) -> None:
    """Refuse rows that were made from another version of the data set.

    Args:
        folder: Of the rows.
        inputs: Version of ``raw`` and of ``valid``.

    Raises:
        DataError: The folder names other versions.
    """
    made_of: dict[str, str] = read_manifest(folder, KIND)["inputs"]
    for name, version in inputs.items():
        if made_of.get(name) != version:
            what = f"{folder} is an external teacher cache of another data version ({name} differs)"
            raise DataError(message(what, made_of.get(name, "none"), version, _MAKE))


class TextRows:
    """Reads text rows: find pairs by key once with :meth:`join`, then fetch unit rows with :meth:`rows`.

    Attributes:
        folder: Where they lie.
        facts: Slots, width and means.
    """

    def __init__(self, folder: Path, slots: Slots = ALL, center: bool = False) -> None:
        """Check a folder; no row is read yet.

        Args:
            folder: Of the stage ``features``.
            slots: Which ones to read.
            center: Take the slots' means off.

        Raises:
            ConfigError: No such slot, or rows are read or stored centred and a slot has the same row for all pairs.
            DataError: The folder is missing, unfinished, of another kind, or lacks the means where they are needed;
                its vocabulary is damaged.
        """
        if not folder.is_dir():
            raise DataError(message(f"there are no features in {folder}", fix=_MAKE))
        config = read_manifest(folder, KIND)["config"]
        stage: dict[str, Any] = config.get("stage") or {}
        self.folder, self._sidecar = folder, Sidecar(folder)
        shape = self._sidecar.row_shape
        if not {"kind", "slots", "centred"} <= stage.keys() or len(shape) not in (1, 2):
            what = f"{folder} is a sidecar, but not one of features"
            raise DataError(message(what, f"rows {list(shape)} of {sorted(stage)}", "kind, slots and centred", _MAKE))
        named = tuple((str(caption), str(facet)) for caption, facet in stage["slots"])
        if len(named) != (shape[0] if len(shape) == 2 else 1):
            raise DataError(message(f"{folder} names {len(named)} slots, its rows are {list(shape)}", fix=_MAKE))
        self._centred = bool(stage["centred"])
        if self._sidecar.dtype.kind != "f" and not self._centred:
            raise DataError(message(f"{folder} has rows of integers that are not centred", fix=_MAKE))
        means = self._read_means((len(named), shape[-1]), needed=center or self._centred)
        chosen = choose_slots(named, slots, folder)
        lexicon = read_lexicon(folder) if has_lexicon(folder) else None
        self.facts = TextFacts(named, chosen, shape[-1], center, means, stage, lexicon)
        self._means = None if means is None else means[list(chosen)]
        if center or self._centred:
            self._refuse_constant_slots()

    def __len__(self) -> int:
        return len(self._sidecar)

    def _read_means(self, shape: tuple[int, int], needed: bool) -> NDArray[np.float32] | None:
        path = self.folder / SLOT_MEANS
        if not path.is_file():
            if needed:
                raise DataError(message(f"{path} is missing, which centring rows (or undoing it) needs", fix=_MAKE))
            return None
        try:
            means = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(message(f"{path} is not readable as npy ({error})", fix=_MAKE)) from error
        if means.shape != shape or means.dtype != np.float32:
            wanted = f"float32 {list(shape)}"
            raise DataError(message(f"{path}: wrong array", f"{means.dtype} {list(means.shape)}", wanted, _MAKE))
        if not np.isfinite(means).all():
            raise DataError(message(f"{path} is not finite", fix=_MAKE))
        return means

    def _refuse_constant_slots(self) -> None:
        assert self._means is not None
        if same := constant_slots(self._means):
            names = ", ".join(self.facts.names[place] for place in same)
            what = f"slot {names} of {self.folder} has the same row for all pairs, and centring leaves nothing of it"
            raise ConfigError(message(what, fix=_DROP))

    def join(self, keys: pa.StringArray) -> NDArray[np.int64]:
        """Find the rows of some pairs, see :meth:`Sidecar.join`."""
        return self._sidecar.join(keys)

    def rows(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Fetch rows at unit norm, centred if that was asked for.

        Args:
            positions: From :meth:`join`, [B].

        Returns:
            float32 [B, R, D], R the chosen slots in their order.

        Raises:
            DataError: A row is not finite or has no direction.
        """
        stored = self._sidecar.rows(positions).reshape(len(positions), -1, self.facts.width)
        rows = self._unit(stored[:, list(self.facts.chosen)].astype(np.float32), positions)
        if self._centred == self.facts.center:
            return rows
        assert self._means is not None
        if self.facts.center:
            return self._unit(rows - self._means, positions)
        along = (rows * self._means).sum(axis=-1, keepdims=True)  # [B, R, 1]
        room = 1 - np.square(self._means).sum(axis=-1, keepdims=True)
        return self._means + (np.sqrt(np.square(along) + np.maximum(room, 0)) - along) * rows

    def _unit(self, rows: NDArray[np.float32], positions: NDArray[np.int64]) -> NDArray[np.float32]:
        norms = np.linalg.norm(rows, axis=-1, keepdims=True)
        sound = np.isfinite(norms) & (norms > 0)
        if not sound.all():
            sample, slot = np.argwhere(~sound[..., 0])[0].tolist()
            key = self._sidecar.keys[int(positions[sample])].as_py()
            what = f"the row of sample {key}, slot {self.facts.names[slot]}, in {self.folder} has no direction"
            norm = float(norms[sample, slot, 0])
            # a centred row of zeros is the mean of its slot, which no new run would change
            fix = _DROP if norm == 0 and (self._centred or self.facts.center) else _MAKE
            raise DataError(message(what, f"norm {norm}", "a finite norm above 0", fix))
        return rows / norms
