"""What a source of text embeddings can do."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class TextEncoder(Protocol):
    """Turns texts into vectors; equal texts get equal vectors, whatever stands beside them."""

    def embed(self, sentences: list[str], /) -> NDArray[np.floating[Any]]:
        """Embed texts.

        Args:
            sentences: Any number, [n].

        Returns:
            Unit-norm vectors, [n, width], in the order given.
        """
        ...
