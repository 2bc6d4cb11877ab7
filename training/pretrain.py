"""Stage ``pretrain``: one run of params.yaml from validated pairs to an exported model."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from assets.code_stamp import code_digest
from assets.config import MachineConfig, load_machine
from assets.errors import ConfigError, message
from assets.manifest import read_manifest, version_of
from assets.progress import Stage
from assets.reduction.plan import PLAN, read_plan
from assets.reduction.plan import Plan as ReductionPlan
from assets.shard_cache import cache_for
from training.config import RecipeConfig, check_batch, load_recipe, load_run
from training.data.holdout import hold_out, whole_images
from training.data.loader import Batch, StepDataset, ViewPlan, batches
from training.data.order import SampleOrder
from training.data.pairs import Pairs, check_cache, load_pairs
from training.engine.distributed import World, rank, world
from training.engine.episode import SnapshotSource
from training.engine.loop import Fit, Trainer
from training.engine.metrics import LIVE
from training.engine.optim import count_parameters
from training.features import RunFeatures, check_features, open_features
from training.lineage import Lineage, check_lineage, check_new_captions, open_lineage
from training.methods import METHODS
from training.methods.base import Method
from training.models.build import build_method, build_tokenizer, image_size
from training.models.frozen_build import trained_captions
from training.plan import Plan
from training.publish import FinishedRun, publish_log, publish_machine, publish_model
from training.teachers.package import KIND as TEACHER_KIND

_SNAPSHOT_STREAM = 1
"""Sets the draws of snapshot views apart from those of training, which have the run's seed."""


@dataclass(frozen=True, slots=True)
class Paths:
    """Folders of the stage.

    Attributes:
        raw: Shards and index, from ``ingest``.
        valid: Accepted keys, from ``validate``.
        out: The exported model.
        log: Curves and cost of the run, the same on every machine.
        profile: Where a trace of a few steps goes; None traces nothing.
        features: Embeddings of the pairs, from the stage ``features``; None for runs that have none.
        reduced: Which pairs are used, from the stage ``reduce``; None for runs on all of them.
        teacher: Whom to learn from, from the stage ``teach``; None for runs that have none.
        start: The exported model to begin as; None for runs that name none.
        machine: What this machine alone can say: seconds, device, git commit; None keeps nothing of it.
    """

    raw: Path
    valid: Path
    out: Path
    log: Path
    profile: Path | None = None
    features: Path | None = None
    reduced: Path | None = None
    teacher: Path | None = None
    start: Path | None = None
    machine: Path | None = None


def pretrain(name: str, params: Path, paths: Paths) -> None:
    """Train, export and publish one run.

    Args:
        name: Key in ``runs``.
        params: The params.yaml to read.
        paths: Input and output folders.

    Raises:
        ConfigError: A wrong value in params.yaml, before any work.
        DataError: An input folder is missing, unfinished, of another kind, or holds too few pairs.
    """
    machine = load_machine(params)
    run = load_run(params, name)
    recipe = load_recipe(params, run.recipe)
    check_features(name, run, recipe)
    check_lineage(name, run, recipe)
    read_manifest(paths.raw, "raw")
    read_manifest(paths.valid, "valid")
    inputs = {"raw": version_of(paths.raw), "valid": version_of(paths.valid)}
    features = open_features(run, recipe, paths.features, inputs)
    if features.snapshot or features.text is not None:
        assert paths.features is not None
        inputs["features"] = version_of(paths.features)
    reduction: ReductionPlan | None = None
    if paths.reduced is not None:
        reduction = read_plan(paths.reduced, paths.raw, paths.valid)
        # the plan alone: the report beside it also says what making it took
        inputs["reduced"] = read_manifest(paths.reduced)["files"][PLAN]["sha256"][:16]
    if paths.teacher is not None:
        read_manifest(paths.teacher, TEACHER_KIND)
        inputs["teacher"] = version_of(paths.teacher)
    if paths.start is not None:
        read_manifest(paths.start, "model")
        inputs["start"] = version_of(paths.start)
    plan = Plan(
        name=name,
        run=run,
        recipe=recipe,
        code=code_digest("training.pretrain", METHODS[recipe.method["kind"]].partition(":")[0]),
        inputs=inputs,
    )
    with Stage(f"pretrain@{name}", quiet=rank() > 0) as stage, world(machine) as here:
        pairs = load_pairs(paths.raw, paths.valid, plan=reduction)
        pairs = replace(pairs, cache=cache_for(pairs.shards, params))
        check_cache(pairs, recipe.shuffle_window)
        lineage = open_lineage(run, recipe, (paths.teacher, paths.start), inputs)
        check_new_captions(run, lineage, reduction)
        _train_and_publish(plan, _Data(pairs, features, lineage), paths, machine, stage, here)


@dataclass(frozen=True, slots=True)
class _Data:
    """The accepted pairs, what was made of them before, and the models that the run has to do with."""

    pairs: Pairs
    features: RunFeatures
    lineage: Lineage


def _split(pairs: Pairs, recipe: RecipeConfig) -> tuple[Pairs, Pairs | None]:
    """Split off the held-out pairs, where the recipe has some."""
    if recipe.holdout is None:
        return pairs, None
    if len(pairs) <= recipe.holdout.pairs:
        raise ConfigError(
            message(
                "holdout.pairs leaves nothing to train on", recipe.holdout.pairs, f"fewer than the {len(pairs)} pairs"
            )
        )
    return hold_out(pairs, recipe.holdout.pairs)


def _train_and_publish(
    plan: Plan, data: _Data, paths: Paths, machine: MachineConfig, stage: Stage, here: World
) -> None:
    recipe, seed, budget = plan.recipe, plan.run.seed, plan.recipe.budget
    pairs, held_out = _split(data.pairs, recipe)
    check_batch(budget, len(pairs), here.size)
    lineage = data.lineage
    method, config = build_method(recipe, seed, data.features.text, lineage.start, lineage.teacher)
    _refuse_sharding(method, machine)
    for warning in () if method.began is None else method.began.warnings:
        stage.log.warning("%s: %s", stage.name, warning)
    millions = count_parameters(method) / 1e6
    stage.log.info(
        f"{stage.name}: {len(pairs)} pairs, {budget.steps} steps of {budget.batch_size}, {millions:.1f} M parameters, "
        f"{here.size} process(es) on {here.device}; curves grow in {plan.work / 'curves' / LIVE}"
    )
    needs = method.needs()
    views = ViewPlan(
        views=needs.views,
        tokenize=build_tokenizer(config) if method.lora is None else method.lora.tokens.encode,
        image_size=image_size(config),
        seed=seed,
        trim=method.accepts_short_text,
        text_rows=data.features.training,
        boxes=needs.boxes,
        objects=needs.objects,
        captions=recipe.captions if method.lora is None else trained_captions(config),
        replay=lineage.replay,
    )
    order = SampleOrder(len(pairs), budget.batch_size, seed, pairs.shard_sizes, recipe.shuffle_window)
    dataset = StepDataset(pairs, order, views, here.rank, here.size)
    fit = Fit(recipe, machine, seed, plan.work, paths.profile)
    shown = replace(views, text_rows=data.features.snapshot)
    snapshots = _snapshots(method, (pairs, order, shown), machine, here)
    trainer = Trainer(method, fit, here, whole_images(held_out, views) if held_out else [], snapshots)
    fitted = trainer.run(lambda first: batches(dataset, first, budget.steps, machine.workers, here.device), stage)
    tensors = trainer.exported_tensors()
    if here.is_main:
        finished = FinishedRun(
            plan=plan,
            num_pairs=len(pairs),
            trainable_params=count_parameters(method, trainable=True),
            inference_params=count_parameters(method.model),
            fitted=fitted,
            world=here,
        )
        began = None if method.began is None else method.began.facts
        version = publish_model(finished, tensors, (method.model_config, method.lexicon), paths.out, began)
        curves = plan.work / "curves"
        if paths.machine is not None:
            publish_machine(finished, version, stage.seconds - fitted.attempt_seconds, curves, paths.machine)
        publish_log(finished, version, curves, paths.log)
        shutil.rmtree(plan.work)


def _refuse_sharding(method: Method, machine: MachineConfig) -> None:
    if method.reshapes and machine.shard_parameters:
        what = "machine.shard_parameters is for models that keep their shape"
        raise ConfigError(message(what, True, False, "set it to false for runs that cut their towers"))


def _snapshots(
    method: Method, data: tuple[Pairs, SampleOrder, ViewPlan], machine: MachineConfig, here: World
) -> SnapshotSource | None:
    """Return what a method with episodes embeds: the same pairs in the same order, in other views."""
    if not method.episode_steps:
        return None
    pairs, order, views = data
    shown = replace(
        views,
        views=method.snapshot_views(),
        seed=int(np.random.SeedSequence([views.seed, _SNAPSHOT_STREAM]).generate_state(1)[0]),
        boxes=False,
        objects=False,
    )
    dataset = StepDataset(pairs, order, shown, here.rank, here.size)

    def source(first: int, last: int) -> Iterator[Batch]:
        return batches(dataset, first, last, machine.workers, here.device)

    return source
