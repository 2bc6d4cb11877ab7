"""A teacher's cache in the loader, and that learning from it is learning from the teacher itself."""

import itertools
from types import SimpleNamespace

import pyarrow as pa
import pytest
import torch

from assets.config import MachineConfig
from assets.section import parse
from tests.training.conftest import PARAMS
from tests.training.distillation import AFFINITY, CACHE, CROP, online, teach, write_model
from training.config import RecipeConfig
from training.data.holdout import whole_images
from training.data.loader import StepDataset, ViewPlan
from training.data.order import SampleOrder
from training.data.pairs import load_pairs
from training.data.transforms import SampleDraws
from training.data.views import ViewsConfig
from training.engine.clock import TrainClock
from training.engine.distributed import World
from training.engine.holdout import holdout_scores
from training.engine.step import Stepper
from training.models.build import build_method, build_tokenizer
from training.models.dense_export import load_dense
from training.teachers.package import read_package
from training.teachers.replay import Replay
from training.teachers.rows import TeacherRows
from training.teachers.source import TEACHER_FEATURES, TEACHER_IMAGE, TEACHER_TEXT, TeacherSource

HERE = World(0, 1, torch.device("cpu"))
MACHINE = parse(MachineConfig, PARAMS["machine"], "machine")
VIEWS, SEED = CACHE["views"], 5
STEPS = 5
RECIPE = PARAMS["recipes"]["clip"] | {"method": AFFINITY, "views": CROP}


@pytest.fixture(scope="module")
def package(toy_data, tmp_path_factory):
    """What a teacher of random weights has said of the toy pairs."""
    root = tmp_path_factory.mktemp("replay")
    write_model(root / "models/big")
    return read_package(teach(toy_data, root))


@pytest.fixture(scope="module")
def replay(package) -> Replay:
    return Replay(TeacherRows(package), package.cache.seed)


@pytest.fixture(scope="module")
def dataset_of(toy_data):
    """Return a function that makes the loader's data set of the toy pairs."""
    pairs = load_pairs(*toy_data)

    def make(replay: Replay | None, seed: int = SEED) -> tuple[StepDataset, ViewPlan]:
        tokenize = build_tokenizer({"text_cfg": {"context_length": 16}})
        plan = ViewPlan({"image": ViewsConfig.model_validate(CROP)}, tokenize, 32, seed, replay=replay)
        return StepDataset(pairs, SampleOrder(len(pairs), 16, seed), plan), plan

    return make


@pytest.fixture(scope="module")
def keys(toy_data) -> list[str]:
    return load_pairs(*toy_data).keys.to_pylist()


def stepper_of(teacher: TeacherSource) -> Stepper:
    recipe = parse(RecipeConfig, RECIPE, "recipe")
    return Stepper(build_method(recipe, 0, teacher=teacher)[0], recipe, MACHINE, HERE, 0)


def cached(package) -> TeacherSource:
    return TeacherSource(tuple(m.embed_dim for m in package.models), tuple(m.logit_scale for m in package.models))


def asked_anew(batch):
    """The batch of a cache as a loader would give it to a student whose teacher is run on every batch."""
    plain = {name: value for name, value in batch.items() if name not in (*TEACHER_FEATURES, "view_seed")}
    return plain | {"seed": batch["view_seed"]}


def losses_of(stepper: Stepper, batches) -> list[float]:
    return [stepper.step(batch, step, TrainClock({}, HERE.device)).values["loss"] for step, batch in enumerate(batches)]


@pytest.mark.parametrize("views", [1, 3, 8])
def test_each_k_epochs_show_every_view_once_in_turns_of_a_pairs_own(views):
    replay = Replay(SimpleNamespace(views=views), 0)
    turns = [
        tuple(replay.slot(run_seed, block * views + epoch, key) for epoch in range(views))
        for run_seed, block, key in itertools.product((0, 1), range(4), ("a", "b", "c", "d"))
    ]
    assert all(sorted(turn) == list(range(views)) for turn in turns)
    assert views == 1 or len(set(turns)) > 1


def test_whole_images_have_the_slot_behind_the_views():
    replay = Replay(SimpleNamespace(views=4), 0).of_whole_images()
    assert {replay.slot(seed, epoch, "a") for seed in range(3) for epoch in range(9)} == {4}


def test_a_visit_shows_the_crop_of_its_slot_and_brings_the_teachers_rows_of_it(replay, dataset_of, keys):
    dataset, _ = dataset_of(replay)
    plain, _ = dataset_of(None)
    of_cache, _ = dataset_of(None, CACHE["seed"])  # its epoch v is the cache's view v
    crops = [{int(b["sample_id"][i]): b["image"][i] for b in _epoch(of_cache, v) for i in range(16)} for v in range(3)]
    slots = set()
    for step in range(8):  # two epochs and more
        batch, other = dataset[step], plain[step]
        for name in ("seed", "sample_id", "text"):
            assert torch.equal(batch[name], other[name])
        for row, position in enumerate(batch["sample_id"].tolist()):
            seeds = [SampleDraws(CACHE["seed"], view, keys[position]).seed for view in range(VIEWS)]
            slot = seeds.index(int(batch["view_seed"][row]))
            slots.add(slot)
            if position in crops[slot]:
                assert torch.equal(batch["image"][row], crops[slot][position])
            place = replay.rows.join(load_keys(keys, position))
            image, text = replay.rows.rows(place, torch.tensor([slot]).numpy())
            assert torch.equal(batch[TEACHER_IMAGE][row], torch.from_numpy(image[0]))
            assert torch.equal(batch[TEACHER_TEXT][row], torch.from_numpy(text[0]))
    assert slots == set(range(VIEWS))


def test_learning_from_the_cache_is_learning_from_the_teacher(package, replay, dataset_of):
    dataset, _ = dataset_of(replay)
    batches = [dataset[step] for step in range(STEPS)]
    teacher = online(*(load_dense(model.folder) for model in package.models))
    learnt = losses_of(stepper_of(cached(package)), batches)
    anew = losses_of(stepper_of(teacher), [asked_anew(batch) for batch in batches])
    assert learnt == pytest.approx(anew, rel=1e-3)  # rows are of half precision, and Adam makes much of little
    assert learnt[-1] < learnt[0] - 0.5
    wrong = [{**batch, TEACHER_IMAGE: batch[TEACHER_IMAGE].roll(1, dims=0)} for batch in batches[:1]]
    assert abs(losses_of(stepper_of(cached(package)), wrong)[0] - anew[0]) > 1e-2


def test_rows_of_another_view_are_not_those_of_the_view_shown(package, replay, dataset_of, keys):
    dataset, _ = dataset_of(replay)
    batch = dataset[0]
    method = stepper_of(online(*(load_dense(model.folder) for model in package.models))).method
    told = method.enrich(asked_anew(batch))
    assert (told[TEACHER_IMAGE] - batch[TEACHER_IMAGE]).abs().max() < 2e-3
    assert (told[TEACHER_TEXT] - batch[TEACHER_TEXT]).abs().max() < 2e-3
    place = replay.rows.join(load_keys(keys, *batch["sample_id"].tolist()))
    slots = [
        next(v for v in range(VIEWS) if SampleDraws(CACHE["seed"], v, keys[position]).seed == seed)
        for position, seed in zip(batch["sample_id"].tolist(), batch["view_seed"].tolist(), strict=True)
    ]
    other, _ = replay.rows.rows(place, (torch.tensor(slots).numpy() + 1) % VIEWS)
    assert (told[TEACHER_IMAGE] - torch.from_numpy(other)).abs().max() > 2e-2
    seeds = asked_anew(batch) | {"seed": batch["seed"]}  # the colours of the run's own draws
    assert (method.enrich(seeds)[TEACHER_IMAGE] - batch[TEACHER_IMAGE]).abs().max() > 2e-2


def test_the_student_sees_the_colours_that_the_teacher_saw(package, dataset_of, replay):
    method = stepper_of(cached(package)).method
    batch = dataset_of(replay)[0][0]
    seen = method.encode(batch)["image_features"]
    assert torch.equal(method.encode({**batch, "seed": batch["seed"] + 1})["image_features"], seen)
    assert not torch.equal(method.encode({**batch, "view_seed": batch["view_seed"] + 1})["image_features"], seen)


def test_held_out_pairs_are_compared_with_what_the_teacher_said_of_whole_images(package, replay, dataset_of, toy_data):
    _, plan = dataset_of(replay)
    batches = whole_images(load_pairs(*toy_data), plan)
    taught = stepper_of(cached(package)).method
    anew = stepper_of(online(*(load_dense(model.folder) for model in package.models))).method
    scores = holdout_scores(taught, batches, HERE.device)
    wanted = holdout_scores(anew, [asked_anew(batch) for batch in batches], HERE.device)
    assert scores.keys() == wanted.keys() and "holdout/teacher_divergence" in scores
    assert scores == pytest.approx(wanted, abs=2e-3)


def _epoch(dataset: StepDataset, epoch: int):
    """The batches that lie wholly in an epoch of 63 pairs."""
    first = -(-epoch * 63 // 16)
    last = (epoch + 1) * 63 // 16
    return [dataset[step] for step in range(first, last)]


def load_keys(keys: list[str], *positions: int):
    return pa.array([keys[position] for position in positions])
