"""What a run gets from other models: the weights that it begins with, and a teacher to learn from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from assets.errors import ConfigError, message
from assets.features.config import INDEX_CAPTION
from assets.manifest import read_manifest
from assets.reduction.plan import Plan as ReductionPlan
from training.config import NO_START, RecipeConfig, RunConfig
from training.models.build import resolve_method
from training.models.dense_export import DenseExport, load_dense
from training.teachers.config import NO_TEACHER
from training.teachers.package import KIND, TeacherPackage, check_data, read_package
from training.teachers.replay import Replay
from training.teachers.rows import TeacherRows
from training.teachers.source import OnlineModel, OnlineTeacher, TeacherSource, text_side


@dataclass(frozen=True, slots=True)
class Lineage:
    """The models behind a run.

    Attributes:
        start: The model whose weights it begins with; None for random ones.
        teacher: What it learns from; None without a teacher.
        replay: The teacher's cache, for the loader; None for one that is run on every batch.
    """

    start: DenseExport | None = None
    teacher: TeacherSource | None = None
    replay: Replay | None = None


def check_lineage(name: str, run: RunConfig, recipe: RecipeConfig) -> None:
    """Refuse a recipe without the models that it wants, and models that nothing wants.

    Args:
        name: Of the run, for the error.
        run: Names them.
        recipe: How to train.

    Raises:
        ConfigError: With what to change.
    """
    method, _ = resolve_method(recipe)
    origin = None if recipe.start is None else recipe.start.source
    reasons = [f"method {recipe.method['kind']}"] if method.learns_from_teacher else []
    reasons += ["start.source: teacher"] if origin == "teacher" else []
    if reasons and run.teacher == NO_TEACHER:
        what, fix = f"{' and '.join(reasons)} of recipe {run.recipe} want a teacher", "a name of the section teachers"
        raise ConfigError(message(what, run.teacher, fix=f"set runs.{name}.teacher to {fix}"))
    if run.teacher != NO_TEACHER and not reasons:
        what = f"nothing in recipe {run.recipe} learns from the teacher of run {name}"
        raise ConfigError(message(what, run.teacher, fix=f"set runs.{name}.teacher to {NO_TEACHER}"))
    if origin == "run" and run.start == NO_START:
        what = f"start.source: run of recipe {run.recipe} wants a run to start as"
        raise ConfigError(message(what, run.start, fix=f"set runs.{name}.start to a name of the section runs"))
    if run.start != NO_START and origin != "run":
        what = f"nothing in recipe {run.recipe} uses the start of run {name}"
        fix = f'set runs.{name}.start to {NO_START}, or add "start: {{source: run}}" to the recipe'
        raise ConfigError(message(what, run.start, fix=fix))


def open_lineage(
    run: RunConfig, recipe: RecipeConfig, folders: tuple[Path | None, Path | None], inputs: Mapping[str, str]
) -> Lineage:
    """Load the models behind a run that :func:`check_lineage` let pass; of a cached teacher only its rows are opened.

    Args:
        run: Names them.
        recipe: How to train.
        folders: Of the teacher and of the model to start as; None for those that the run has not.
        inputs: Versions of the data set's folders ``raw`` and ``valid``.

    Raises:
        ConfigError: The teacher's cache is of other views or captions than the recipe's, or the teacher reads other
            texts than the student.
        DataError: A folder is missing, unfinished, of another kind, or made from other data.
    """
    teacher_folder, start_folder = folders
    package = None if teacher_folder is None else read_package(teacher_folder)
    start: DenseExport | None = None
    if start_folder is not None:
        read_manifest(start_folder, "model")
        start = load_dense(start_folder)
    elif recipe.start is not None:
        assert package is not None
        start = load_dense(package.models[0].folder)
    method, _ = resolve_method(recipe)
    if package is None or not method.learns_from_teacher:
        return Lineage(start)
    source = teacher_source(package, online=package.cache is None)
    if package.cache is None:
        return Lineage(start, source)
    check_data(read_manifest(package.folder, KIND), {name: inputs[name] for name in ("raw", "valid")})
    _check_views(run, recipe, package)
    replay = Replay(TeacherRows(package), package.cache.seed)
    return Lineage(start, source, replay)


def check_new_captions(run: RunConfig, lineage: Lineage, plan: ReductionPlan | None) -> None:
    """Refuse a policy that gives pairs captions which the teacher's cache knows nothing of.

    Args:
        run: Names both.
        lineage: Of the run.
        plan: Of its policy; None without one.

    Raises:
        ConfigError: With what to change.
    """
    if lineage.replay is None or plan is None or plan.captions.null_count == len(plan.captions):
        return
    what = f"teacher {run.teacher} has read the captions of the index, and policy {run.policy} gives pairs new ones"
    fix = f"set teachers.{run.teacher}.cache to null, or take a policy without a captioner"
    raise ConfigError(message(what, fix=fix))


def teacher_source(package: TeacherPackage, online: bool) -> TeacherSource:
    """Tell a method of a teacher.

    Args:
        package: The teacher; its rows are left alone.
        online: Whether its models are loaded, to be run on every batch.

    Raises:
        DataError: A model does not load, or has no text tower.
    """
    models: list[OnlineModel] = []
    for model in package.models if online else ():
        export = load_dense(model.folder)
        mean, std = tuple(export.preprocess["mean"]), tuple(export.preprocess["std"])
        models.append(OnlineModel(export.model, model.image_size, mean, std, text_side(export.config)))
    widths = tuple(model.embed_dim for model in package.models)
    scales = tuple(model.logit_scale for model in package.models)
    return TeacherSource(widths, scales, OnlineTeacher(models) if online else None)


def _check_views(run: RunConfig, recipe: RecipeConfig, package: TeacherPackage) -> None:
    """Refuse a cache whose pictures and captions are not those that the student would see."""
    assert package.cache is not None
    if recipe.views != package.cache.crop:
        what = f"teacher {run.teacher} has been over other views than recipe {run.recipe} shows"
        shown, seen = (views.model_dump(mode="json") for views in (recipe.views, package.cache.crop))
        different = [name for name in shown if shown[name] != seen[name]]
        got = {name: shown[name] for name in different}
        wanted = {name: seen[name] for name in different}
        fix = f"set recipes.{run.recipe}.views to those of teachers.{run.teacher}.cache.crop, or make another teacher"
        raise ConfigError(message(what, got, wanted, fix))
    if recipe.captions != (INDEX_CAPTION,):
        what = f"teacher {run.teacher} has read the caption of the index only"
        fix = f"leave recipes.{run.recipe}.captions out, or set teachers.{run.teacher}.cache to null"
        raise ConfigError(message(what, ", ".join(recipe.captions), INDEX_CAPTION, fix))
