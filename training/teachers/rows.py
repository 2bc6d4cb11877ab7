"""What a teacher said of the training pairs, read back by key: features of K views, of the whole image, of the caption.

The folder ``rows`` of a package is a sidecar of float16 rows [K + 2, sum D], D by model in the package's order: slots
0 .. K-1 are the views, K the whole image, K+1 the caption. At half precision a logit at scale 50 is off by 0.003.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assets.errors import DataError, message
from assets.sidecar import Sidecar
from training.teachers.package import MAKE, ROWS, TeacherPackage


class TeacherRows:
    """Reads rows: find pairs by key once with :meth:`join`, then fetch unit rows with :meth:`rows`.

    Attributes:
        widths: D of each model.
        views: Random views per image, K.
    """

    def __init__(self, package: TeacherPackage) -> None:
        """Check the rows of a package; none is read yet.

        Args:
            package: With a cache.

        Raises:
            DataError: There is no cache, or its rows are missing or not what the package says.
        """
        folder = package.folder / ROWS
        if package.cache is None:
            fix = "give the teacher a cache, or let students run it themselves"
            raise DataError(message(f"the teacher in {package.folder} has no cache", fix=fix))
        self.widths = tuple(model.embed_dim for model in package.models)
        self.views = package.cache.views
        self._sidecar, self._folder = Sidecar(folder), folder
        wanted = (self.views + 2, sum(self.widths))
        if self._sidecar.row_shape != wanted or self._sidecar.dtype != np.float16:
            got = f"{self._sidecar.dtype} {list(self._sidecar.row_shape)}"
            raise DataError(
                message(f"{folder} has other rows than its teacher says", got, f"float16 {list(wanted)}", MAKE)
            )

    def __len__(self) -> int:
        return len(self._sidecar)

    def join(self, keys: pa.StringArray) -> NDArray[np.int64]:
        """Find the rows of some pairs, see :meth:`assets.sidecar.Sidecar.join`."""
        return self._sidecar.join(keys)

    def stored(self, positions: NDArray[np.int64]) -> NDArray[np.float16]:
        """Fetch rows as they lie on disk.

        Args:
            positions: From :meth:`join`, [B].

        Returns:
            float16 [B, K + 2, sum D].
        """
        return self._sidecar.rows(positions)

    def rows(
        self, positions: NDArray[np.int64], slots: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Fetch what the teacher said of one image, and of the caption, of some pairs.

        Args:
            positions: From :meth:`join`, [B].
            slots: Which view of each pair, 0 .. K-1, or K for the whole image, [B].

        Returns:
            Image features and text features, float32 [B, sum D], each model's part at unit norm.

        Raises:
            IndexError: No such slot.
            DataError: A row is not finite or has no direction.
        """
        if len(slots) and not 0 <= slots.min() <= slots.max() <= self.views:
            raise IndexError(f"a slot of {self._folder} outside 0..{self.views}")
        stored = self.stored(positions)  # [B, K + 2, sum D]
        image, text = stored[np.arange(len(slots)), slots], stored[:, self.views + 1]
        return self._unit(image, positions, slots), self._unit(text, positions, np.full_like(slots, self.views + 1))

    def _unit(
        self, stored: NDArray[np.float16], positions: NDArray[np.int64], slots: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        rows = stored.astype(np.float32)
        stop = 0
        for width in self.widths:
            start, stop = stop, stop + width
            norms: NDArray[np.float32] = np.linalg.norm(rows[:, start:stop], axis=1, keepdims=True)
            sound = np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)
            if not sound.all():
                bad = int(np.argmin(sound))
                key = self._sidecar.keys[int(positions[bad])].as_py()
                what = f"the row of sample {key}, slot {int(slots[bad])}, in {self._folder} has no direction"
                raise DataError(message(what, f"norm {float(norms[bad, 0])}", "a finite norm above 0", MAKE))
            rows[:, start:stop] /= norms
        return rows
