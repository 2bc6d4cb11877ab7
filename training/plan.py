"""One run of params.yaml, resolved: what is trained, on what, with which code, and where it lives until published."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assets.manifest import value_digest
from training.config import RecipeConfig, RunConfig


@dataclass(frozen=True, slots=True)
class Plan:
    """One run, resolved.

    Attributes:
        name: Its key in ``runs``.
        run: Recipe, data set, policy, seed.
        recipe: How to train.
        code: Digest of the code in use.
        inputs: Versions of the input folders.
    """

    name: str
    run: RunConfig
    recipe: RecipeConfig
    code: str
    inputs: dict[str, str]

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config, JSON-serialisable."""
        return {"run": self.run.model_dump(mode="json"), "recipe": self.recipe.model_dump(mode="json")}

    @property
    def work(self) -> Path:
        """The folder where this very run lives until it is published."""
        digest = value_digest({"config": self.config, "code": self.code, "inputs": self.inputs})
        return Path("work") / "pretrain" / self.name / digest
