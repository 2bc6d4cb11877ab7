"""The sections of params.yaml that training reads: recipes (how) and runs (which recipe on which data, which seed)."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from assets.config import entry, read_sections
from assets.errors import ConfigError, message
from assets.features.config import INDEX_CAPTION, NO_FEATURES, load_features
from assets.reduction.config import NONE as NO_POLICY
from assets.reduction.config import PolicyConfig, load_policy
from assets.section import Section, parse, unknown
from training.data.views import ViewsConfig
from training.methods import METHODS
from training.models.masking_config import EmaTowerConfig, Masking, NoMasking
from training.models.towers_config import CustomTowers, FrozenText, StartTowers, Towers
from training.teachers.config import NO_TEACHER, load_teacher


class StartConfig(Section):
    """Weights to begin with, in place of random ones: those of a model, or a smaller model cut out of it."""

    source: Literal["run", "teacher"]
    """The run's ``start``; or its teacher, of several models the first."""
    towers: Literal["both", "image", "text"] = "both"
    """Which tower takes them; the other one begins at random."""
    depth: Literal["stride", "even"] = "stride"
    """Which layers a shallower tower takes: every r-th from the first, as published, or equally spaced ones."""
    width: Literal["front", "magnitude"] = "front"
    """Which channels, heads and units a narrower tower takes: the leading ones, as published, or the largest."""


class BudgetConfig(Section):
    """How much training: the unit in which recipes are compared."""

    samples_seen: int = Field(ge=1)
    """Pairs shown in all, repeats counted."""
    batch_size: int = Field(ge=2)
    """Global contrastive batch, over all processes."""

    @property
    def steps(self) -> int:
        """Optimiser steps; the last one completes the budget."""
        return -(-self.samples_seen // self.batch_size)


class OptimConfig(Section):
    """AdamW with a linear warm-up."""

    lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    beta1: float = Field(ge=0, lt=1)
    beta2: float = Field(ge=0, lt=1)
    eps: float = Field(gt=0)
    warmup_steps: int = Field(ge=0)
    lr_start: float = Field(default=0.0, ge=0)
    """Rate the warm-up starts from."""
    lr_end: float = Field(default=0.0, ge=0)
    """Rate at the end of the budget."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate goes from lr after the warm-up to lr_end; constant stays at lr."""
    gradient_clip: float | None = Field(gt=0)
    """Largest global gradient norm; null for none."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Export the moving average of the weights with this decay per step; null exports the weights themselves."""


class HoldoutConfig(Section):
    """Training pairs that are kept out of training to watch it: a held-out loss needs no test data."""

    pairs: int = Field(ge=2, le=16384)
    """How many; the same ones in every epoch and seed, chosen by a hash of the key."""
    every: int = Field(ge=1)
    """Steps between two looks at them; another one follows the last step."""
    export: Literal["last", "best"] = "last"
    """Which weights are exported: those at the end of the budget, or those with the least held-out loss."""


class RecipeConfig(Section):
    """One way to train; the section ``recipes.NAME``."""

    method: dict[str, Any]
    """``kind`` names the method, the rest is that method's own Config."""
    towers: Towers
    views: ViewsConfig
    captions: tuple[str, ...] = Field(default=(INDEX_CAPTION,), min_length=1)
    """Which captions of a pair a text tower learns from; each visit draws one of them, all equally likely. ``caption``
    is that of the index, other names are those in ``captions`` of KEY.json, such as a language or ``long``."""
    budget: BudgetConfig
    optim: OptimConfig
    precision: Literal["fp32", "bf16"]
    masking: Annotated[Masking, Field(discriminator="kind")] = NoMasking(kind="none")
    """Which image tokens the towers see in training."""
    ema_tower: EmaTowerConfig | None = None
    """The averaged image tower that attentive masking and some methods go by; null for none."""
    start: StartConfig | None = None
    """What the towers begin as; null for random weights."""
    freeze_patch_embedding: bool = False
    """Leave the patch embedding of a ViT at its random start, which steadies self-supervised training."""
    holdout: HoldoutConfig | None = None
    """Pairs kept out of training to watch it; null trains on all."""
    shuffle_window: int = Field(default=0, ge=0)
    """Shards that are shuffled together; 0 shuffles the whole data set, a few let it stream in order from a store."""
    log_every: int = Field(ge=1)
    """Steps between two rows of the training curves."""
    checkpoint_every: int = Field(ge=1)
    """Steps between two checkpoints."""
    checkpoint_keep: int = Field(default=2, ge=1)
    """How many of the newest checkpoints stay until the run is published."""

    @model_validator(mode="after")
    def _known_method(self) -> "RecipeConfig":
        kind = self.method.get("kind")
        if kind not in METHODS:
            raise ValueError("method.kind: " + unknown(str(kind), list(METHODS), "method"))
        return self

    @model_validator(mode="after")
    def _fitting_captions(self) -> "RecipeConfig":
        if len(set(self.captions)) < len(self.captions):
            raise ValueError(message("captions named twice", ", ".join(self.captions), "each once"))
        if self.frozen_text is not None and self.captions != (INDEX_CAPTION,):
            fix = "leave captions out, and choose among the slots of its features with towers.text.slots"
            raise ValueError(message("captions have no meaning with towers.text of kind frozen", fix=fix))
        return self

    @model_validator(mode="after")
    def _fitting_start(self) -> "RecipeConfig":
        if isinstance(self.towers, StartTowers):
            if self.start is None:
                raise ValueError("towers of kind start are those of the model in start; add start, or spell towers out")
            if self.start.towers != "both":
                raise ValueError("towers of kind start begin with all weights; leave start.towers out")
        return self

    @property
    def frozen_text(self) -> FrozenText | None:
        """The frozen text side; None where a text tower is trained."""
        text = self.towers.text if isinstance(self.towers, CustomTowers) else None
        return text if isinstance(text, FrozenText) else None


NO_START = "none"
"""What a run names that begins as no other run."""


class RunConfig(Section):
    """One row of the experiment; the section ``runs.NAME``."""

    recipe: str
    dataset: str
    policy: str
    """Which pairs are used, with which captions: a name of the section ``policies``; none takes all accepted ones."""
    features: str
    """Embeddings of the data set's pairs, a name of the section ``features``; none for recipes that want none."""
    teacher: str
    """Whom it learns from, a name of the section ``teachers``; none for recipes that learn from pairs alone."""
    start: str
    """The run whose weights it begins with, as the recipe's ``start`` says; none for others."""
    seed: int = Field(ge=0, lt=2**32)


def load_recipe(params: Path, name: str) -> RecipeConfig:
    """Read and check ``recipes.NAME``.

    Args:
        params: The params.yaml to read.
        name: The recipe.

    Raises:
        ConfigError: Unknown recipe or key, wrong type or value.
    """
    data = entry(read_sections(params), "recipes", name, params)
    return parse(RecipeConfig, data, f"{params}: recipes.{name}")


def load_run(params: Path, name: str) -> RunConfig:
    """Read and check ``runs.NAME`` and that all that it names exists.

    Args:
        params: The params.yaml to read.
        name: The run.

    Raises:
        ConfigError: Unknown run, recipe, data set, policy, features, teacher or start; a policy, features or a teacher
            of another data set, or a policy that does not fit the recipe; or a wrong value.
    """
    sections = read_sections(params)
    where = f"{params}: runs.{name}"
    run = parse(RunConfig, entry(sections, "runs", name, params), where)
    entry(sections, "datasets", run.dataset, params)
    entry(sections, "recipes", run.recipe, params)
    if run.features != NO_FEATURES and (found := load_features(params, run.features).dataset) != run.dataset:
        raise ConfigError(
            message(f"{where} is of another data set than its features {run.features}", run.dataset, found)
        )
    if run.teacher != NO_TEACHER and (found := load_teacher(params, run.teacher).dataset) != run.dataset:
        raise ConfigError(message(f"{where} is of another data set than its teacher {run.teacher}", run.dataset, found))
    if run.start != NO_START:
        entry(sections, "runs", run.start, params)
    if run.policy != NO_POLICY:
        policy = load_policy(params, run.policy)
        if policy.dataset != run.dataset:
            what = f"{where} is of another data set than its policy {run.policy}"
            raise ConfigError(message(what, run.dataset, policy.dataset))
        check_captions(where, run, load_recipe(params, run.recipe), policy)
    return run


def check_captions(where: str, run: RunConfig, recipe: RecipeConfig, policy: PolicyConfig) -> None:
    """Refuse a policy whose captions the recipe would not see.

    Args:
        where: The run's place in params.yaml, for the error.
        run: Names recipe, policy and features.
        recipe: How to train.
        policy: Which pairs, with which captions.

    Raises:
        ConfigError: With the reason.
    """
    if recipe.frozen_text is not None and policy.changes_captions:
        what = (
            f"{where}: policy {run.policy} changes captions, but the text of recipe {run.recipe} is frozen: rows that"
        )
        what += f" features {run.features} made of the captions as they were"
        fix = f"set policies.{run.policy}.captions to {{kind: original}}, or train a recipe with a text tower"
        raise ConfigError(message(what, fix=fix))


def check_batch(budget: BudgetConfig, num_samples: int, world_size: int) -> None:
    """Refuse a batch that the processes or the data cannot fill.

    Args:
        budget: The recipe's budget.
        num_samples: Accepted training pairs.
        world_size: Number of processes.

    Raises:
        ConfigError: With the numbers.
    """
    if budget.batch_size % world_size:
        raise ConfigError(
            message(
                "budget.batch_size does not divide by the processes", budget.batch_size, f"a multiple of {world_size}"
            )
        )
    if num_samples < budget.batch_size:
        raise ConfigError(
            message(
                "the training split has fewer pairs than one batch",
                num_samples,
                f"at least {budget.batch_size}",
                "lower recipes.*.budget.batch_size, add data, or let the policy keep more",
            )
        )
