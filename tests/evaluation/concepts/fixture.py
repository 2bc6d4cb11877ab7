from functools import cache
from pathlib import Path

import numpy as np

CASE = Path(__file__).parents[2] / "fixtures/concept_frequency/case_a.npz"


@cache
def case() -> dict[str, np.ndarray]:
    with np.load(CASE) as file:
        return dict(file)
