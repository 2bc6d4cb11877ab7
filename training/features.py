"""The features of a run: embeddings of the training pairs, made before, as text of the towers or for a method's use."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from assets.errors import ConfigError, message
from assets.features.config import NO_FEATURES
from assets.text_rows import TextFacts, TextRows, refuse_other_data
from training.config import RecipeConfig, RunConfig
from training.models.build import resolve_method

FEATURES = "features"
TEXT_ROWS = "text_rows"


@dataclass(frozen=True, slots=True)
class RunFeatures:
    """Rows of the pairs under their names in the batch.

    Attributes:
        training: What training and held-out pairs come with: the frozen text.
        snapshot: What the pairs of an episode come with: that, and what the method asks for.
        text: Facts of the frozen text; None where a text tower is trained. Where its language model runs in training
            there are facts, and no rows.
    """

    training: Mapping[str, TextRows] = field(default_factory=dict[str, TextRows])
    snapshot: Mapping[str, TextRows] = field(default_factory=dict[str, TextRows])
    text: TextFacts | None = None


def check_features(name: str, run: RunConfig, recipe: RecipeConfig) -> None:
    """Refuse a recipe without the features it wants, and features that nothing wants.

    Args:
        name: Of the run, for the error.
        run: Names the features.
        recipe: How to train.

    Raises:
        ConfigError: With what to change.
    """
    method, config = resolve_method(recipe)
    users = [
        what
        for what, uses in (
            ("towers.text: {kind: frozen}", recipe.frozen_text is not None),
            ("method.teacher", method.uses_features(config)),
        )
        if uses
    ]
    if users and run.features == NO_FEATURES:
        fix = f"set runs.{name}.features to a name of the section features"
        raise ConfigError(message(f"{' and '.join(users)} of recipe {run.recipe} want features", NO_FEATURES, fix=fix))
    if not users and run.features != NO_FEATURES:
        what = f"nothing in recipe {run.recipe} uses the features of run {name}"
        raise ConfigError(message(what, run.features, fix=f"set runs.{name}.features to {NO_FEATURES}"))


def open_features(run: RunConfig, recipe: RecipeConfig, folder: Path | None, inputs: Mapping[str, str]) -> RunFeatures:
    """Open the features of a run that :func:`check_features` let pass; no row is read yet.

    Args:
        run: Names the features, or none.
        recipe: How to train.
        folder: Where they are.
        inputs: Versions of the data set's folders ``raw`` and ``valid``.

    Raises:
        ConfigError: The recipe wants slots that are not there.
        DataError: The folder is missing, unfinished, of another kind, or made from other data.
    """
    if run.features == NO_FEATURES:
        return RunFeatures()
    assert folder is not None
    method, config = resolve_method(recipe)
    training: dict[str, TextRows] = {}
    facts = None
    if (frozen := recipe.frozen_text) is not None:
        rows = TextRows(folder, frozen.slots, frozen.center)
        facts = rows.facts
        if frozen.lora is None:
            training[TEXT_ROWS] = rows
    further = {FEATURES: TextRows(folder)} if method.uses_features(config) else {}
    refuse_other_data(folder, inputs)
    return RunFeatures(training, training | further, facts)
