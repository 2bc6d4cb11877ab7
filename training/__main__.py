"""``python -m training pretrain|captioner --name NAME``: the training stages without DVC or Dagster."""

import argparse
import os
import sys
from pathlib import Path

from assets.command import guarded


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description="Training stages of clipfoundry.")
    stages = parser.add_subparsers(dest="stage", required=True, metavar="STAGE")
    stage = stages.add_parser(
        "pretrain",
        help="train one run of params.yaml and export it",
        description="Trains runs.NAME, resumes where an earlier attempt stopped, and publishes the model. "
        "machine.processes says how many processes it starts (one per GPU by default); for several machines start it "
        'under torchrun: "torchrun --nnodes 2 ... -m training pretrain --name NAME" (docs/distributed.md).',
    )
    stage.add_argument("--name", required=True, help="key in the section runs")
    stage.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: params.yaml")
    stage.add_argument("--raw", type=Path, help="raw data set (default: data/raw/DATASET of the run)")
    stage.add_argument("--valid", type=Path, help="validated keys (default: data/valid/DATASET of the run)")
    stage.add_argument(
        "--features", type=Path, help="embeddings (default: features/FEATURES of the run, if it names any)"
    )
    stage.add_argument("--reduced", type=Path, help="plan (default: data/reduced/POLICY of the run, if it names one)")
    stage.add_argument("--teacher", type=Path, help="teacher (default: data/teachers/TEACHER of the run, if any)")
    stage.add_argument("--start", type=Path, help="model to begin as (default: models/START of the run, if any)")
    stage.add_argument("--out", type=Path, help="model folder to write (default: models/NAME)")
    stage.add_argument("--curves", type=Path, help="run folder to write (default: runs/NAME)")
    stage.add_argument("--machine", type=Path, help="folder for seconds, device and commit (default: logs/NAME)")
    stage.add_argument("--profile", type=Path, help="trace a few steps into this JSON file, for ui.perfetto.dev")
    stage.set_defaults(action=_pretrain)
    described = stages.add_parser(
        "captioner",
        help="train a captioner on a data set and describe its accepted training pairs",
        description="Trains captioners.NAME, then describes every pair by codes and a caption; goes on where an "
        "earlier attempt stopped. machine.processes says how many processes it starts (one per GPU by default).",
    )
    described.add_argument("--name", required=True, help="key in the section captioners")
    described.add_argument("--params", type=Path, default=Path("params.yaml"), help="default: params.yaml")
    described.add_argument("--raw", type=Path, help="raw data set (default: data/raw/DATASET of the entry)")
    described.add_argument("--valid", type=Path, help="validated keys (default: data/valid/DATASET of the entry)")
    described.add_argument("--model", type=Path, help="start of its image tower (default: models/RUN, if it names any)")
    described.add_argument("--out", type=Path, help="folder to publish (default: data/captioned/NAME)")
    described.set_defaults(action=_captioner)
    return parser


def _pretrain(arguments: argparse.Namespace) -> None:
    from training.config import NO_START, load_run

    run = load_run(arguments.params, arguments.name)
    from assets.config import load_machine
    from assets.features.config import FEATURES, NO_FEATURES
    from assets.reduction.config import NONE, REDUCED
    from training.engine.distributed import processes_wanted

    if (processes := processes_wanted(load_machine(arguments.params))) > 1:
        _become_torchrun(processes)
    from training.machine_facts import LOGS
    from training.pretrain import Paths, pretrain
    from training.teachers.config import NO_TEACHER, TEACHERS

    paths = Paths(
        raw=arguments.raw or Path("data/raw") / run.dataset,
        valid=arguments.valid or Path("data/valid") / run.dataset,
        out=arguments.out or Path("models") / arguments.name,
        log=arguments.curves or Path("runs") / arguments.name,
        profile=arguments.profile,
        features=None if run.features == NO_FEATURES else arguments.features or FEATURES / run.features,
        reduced=None if run.policy == NONE else arguments.reduced or REDUCED / run.policy,
        teacher=None if run.teacher == NO_TEACHER else arguments.teacher or TEACHERS / run.teacher,
        start=None if run.start == NO_START else arguments.start or Path("models") / run.start,
        machine=arguments.machine or LOGS / arguments.name,
    )
    pretrain(arguments.name, arguments.params, paths)


def _captioner(arguments: argparse.Namespace) -> None:
    from training.captioner.config import NO_RUN, load_captioner

    config = load_captioner(arguments.params, arguments.name)
    from assets.config import load_machine
    from assets.shard_cache import load_shard_cache
    from training.engine.distributed import processes_wanted

    machine = load_machine(arguments.params)
    if (processes := processes_wanted(machine)) > 1:
        _become_torchrun(processes)
    from training.captioner.run import Folders, make_captioned

    folders = Folders(
        raw=arguments.raw or Path("data/raw") / config.dataset,
        valid=arguments.valid or Path("data/valid") / config.dataset,
        export=None if config.run == NO_RUN else arguments.model or Path("models") / config.run,
        out=arguments.out or Path("data/captioned") / arguments.name,
        work=Path("work"),
    )
    make_captioned(arguments.name, config, folders, machine, load_shard_cache(arguments.params))


def _become_torchrun(processes: int) -> None:
    """Replace this process by torchrun with the same command, so that signals reach it and not a parent of it."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    os.execv(sys.executable, [sys.executable, *launcher, "-m", "training", *sys.argv[1:]])


if __name__ == "__main__":
    arguments = _parser().parse_args()
    sys.exit(guarded(lambda: arguments.action(arguments)))
