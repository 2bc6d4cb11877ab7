"""The command ``clipfoundry``: a thin door to what the modules do; nothing heavy is imported before it is needed."""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from assets.command import guarded
from assets.errors import ConfigError, message

_PACKAGE_OF_STAGE = {
    "ingest": "assets",
    "validate": "assets",
    "pretrain": "training",
    "evaluate": "evaluation",
    "compare": "evaluation",
}
_NAMELESS_STAGES = ("compare",)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words after ``clipfoundry``; those of the process when None.

    Returns:
        The exit code: 0 when all went well, 1 when ``doctor`` found a fault, 2 for a mistake that you can mend, 4
        when the object store fails.
    """
    options = _parser().parse_args(arguments)
    action: Callable[[argparse.Namespace], int | None] = options.action
    code = 0

    def run() -> None:
        nonlocal code
        code = action(options) or 0

    return guarded(run) or code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clipfoundry", description="Data-efficient CLIP pretraining, from raw pairs to a leaderboard."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, action: Callable[[argparse.Namespace], int | None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(action=action)
        return sub

    demo = command("demo", _demo, "from nothing to trained models, a leaderboard and a browsable UI")
    demo.add_argument("--profile", help="select this profile first")
    profile = command("profile", _profile, "list the profiles, or copy one to params.yaml")
    profile.add_argument("name", nargs="?", help="the profile to select")
    profile.add_argument("--force", action="store_true", help="replace an edited params.yaml, keeping params.yaml.bak")
    repro = command("repro", _repro, "run every stage whose code, parameters or inputs changed")
    repro.add_argument("target", nargs="*", help="stages as DVC spells them, e.g. pretrain@clip-s0; all when left out")
    stage = command("stage", _stage, "run one stage without DVC and Dagster")
    stage.add_argument("stage", help=", ".join(_PACKAGE_OF_STAGE))
    stage.add_argument("name", nargs="?", help="data set or run")
    baseline = command("baseline", _baseline, "make validated data the reference that later versions are compared with")
    baseline.add_argument("name", help="data set")
    ui = command("ui", _ui, "serve the Dagster UI of this project until Ctrl-C")
    ui.add_argument("--port", type=int, default=3000, help="default: 3000")
    command("leaderboard", _leaderboard, "print reports/leaderboard.json as a table")
    diff = command("diff", _diff, "what changed between two git revisions: parameters, data sets, scores")
    diff.add_argument("before", nargs="?", default="HEAD", help="a git revision; default: HEAD")
    diff.add_argument("after", nargs="?", default="workspace", help="another one; default: workspace")
    doctor = command("doctor", _doctor, "check this machine and this clone; each fault comes with its fix")
    doctor.add_argument("--json", action="store_true", help="print machine-readable results")
    store = command("store", _store, "the object store on this machine")
    store.add_argument("operation", help=", ".join(_STORE_OPERATIONS))
    store.add_argument("server", nargs="?", help="for use: seaweedfs or minio")
    batches = command("batches", _batches, "deliveries of new shards to a data set")
    batches.add_argument("operation", help="deliver, list, accept, reject")
    batches.add_argument("dataset", help="data set")
    batches.add_argument("what", nargs="?", help="for deliver: a folder with .tar files; for reject: the batch")
    batches.add_argument("--batch", help="for deliver: name of the batch; default: that of the folder")
    batches.add_argument("--split", help="for deliver: the split, where several take deliveries")
    batches.add_argument("--reason", help="for reject: why")
    promote = command("promote", _promote, "make a run the champion if the decision of its challenge says so")
    promote.add_argument("name", help="entry of promotions")
    rollback = command("rollback", _rollback, "make an earlier champion the champion again")
    rollback.add_argument("name", help="entry of promotions")
    rollback.add_argument("--to", type=int, metavar="VERSION", help="default: the one before")
    champions = command("champions", _champions, "who is champion, and who was")
    champions.add_argument("name", nargs="?", help="entry of promotions: its whole history")
    return parser


def _demo(options: argparse.Namespace) -> None:
    from pipelines.demo import demo

    demo(options.profile)


def _profile(options: argparse.Namespace) -> None:
    from pipelines.profiles import current_profile, list_profiles, select_profile

    if options.name is None:
        current = current_profile()
        for name, text in list_profiles().items():
            print(f"{'*' if name == current else ' '} {name:12s} {text}")
        if current is None and Path("params.yaml").is_file():
            print("  params.yaml was edited: it equals none of these")
        return
    selection = select_profile(options.name, force=options.force)
    if selection.backup is not None:
        print(f"kept your params.yaml as {selection.backup}")
    print(f"params.yaml {'is now' if selection.changed else 'already was'} profiles/{selection.name}.yaml")
    print('next: "clipfoundry repro" runs the pipeline, "clipfoundry doctor" checks this machine for it')


def _repro(options: argparse.Namespace) -> None:
    from pipelines.demo import repro
    from pipelines.params import PARAMS
    from pipelines.preflight import preflight

    preflight(PARAMS)
    repro(*options.target)


def _stage(options: argparse.Namespace) -> int:
    from assets.section import unknown

    stage: str = options.stage
    if stage not in _PACKAGE_OF_STAGE:
        raise ConfigError(unknown(stage, list(_PACKAGE_OF_STAGE), "stage"))
    if (options.name is None) != (stage in _NAMELESS_STAGES):
        wanted = "no name" if stage in _NAMELESS_STAGES else "the name of a data set or run"
        raise ConfigError(message(f"stage {stage}: wrong number of arguments", options.name, wanted))
    names = [] if options.name is None else ["--name", options.name]
    return subprocess.run([sys.executable, "-m", _PACKAGE_OF_STAGE[stage], stage, *names], check=False).returncode


def _baseline(options: argparse.Namespace) -> int:
    command = [sys.executable, "-m", "assets", "baseline", "--name", options.name]
    return subprocess.run(command, check=False).returncode


def _ui(options: argparse.Namespace) -> int:
    from pipelines.preflight import check_repository

    check_repository()
    command = [sys.executable, "-m", "pipelines", "ui", "--port", str(options.port)]
    return subprocess.run(command, check=False).returncode


def _leaderboard(options: argparse.Namespace) -> None:
    from pipelines.leaderboard import print_leaderboard

    print_leaderboard()


def _diff(options: argparse.Namespace) -> None:
    from pipelines.preflight import check_repository
    from pipelines.revision_diff import print_diff

    check_repository()
    print_diff(options.before, options.after)


def _doctor(options: argparse.Namespace) -> int:
    from pipelines.doctor import print_findings

    return print_findings(as_json=options.json)


def _batches(options: argparse.Namespace) -> int:
    command = [sys.executable, "-m", "assets.deliveries", options.operation, options.dataset]
    command += [] if options.what is None else [options.what]
    for name in ("batch", "split", "reason"):
        value = getattr(options, name)
        command += [] if value is None else [f"--{name}", value]
    return subprocess.run(command, check=False).returncode


def _promote(options: argparse.Namespace) -> None:
    from pipelines.preflight import check_repository
    from pipelines.promotion.command import promote_command

    check_repository()
    promote_command(options.name)


def _rollback(options: argparse.Namespace) -> None:
    from pipelines.preflight import check_repository
    from pipelines.promotion.command import rollback_command

    check_repository()
    rollback_command(options.name, options.to)


def _champions(options: argparse.Namespace) -> None:
    from pipelines.promotion.command import champions_command

    champions_command(options.name)


def _store(options: argparse.Namespace) -> int | None:
    from assets.section import unknown

    if options.operation not in _STORE_OPERATIONS:
        raise ConfigError(unknown(options.operation, list(_STORE_OPERATIONS), "store operation"))
    if (options.server is None) != (options.operation != "use"):
        raise ConfigError(message("store: wrong number of arguments", options.server, "store use seaweedfs|minio"))
    return _STORE_OPERATIONS[options.operation](options)


def _store_start(options: argparse.Namespace) -> None:
    from pipelines.demo import connect
    from pipelines.params import load_store
    from pipelines.preflight import check_disk

    config = load_store()
    check_disk()
    store = connect(config)
    print(f"{config.server} at {config.endpoint} is up, bucket {config.bucket}, keys from {store.credentials.source}")


def _store_stop(options: argparse.Namespace) -> None:
    from pipelines import store_server
    from pipelines.params import load_store

    config = load_store()
    print(f"{config.server} {'stopped' if store_server.stop(config) else 'was not running'}")


def _store_status(options: argparse.Namespace) -> int:
    from assets.errors import StoreError
    from pipelines import store_server
    from pipelines.params import load_store
    from pipelines.preflight import check_store

    config = load_store()
    if config.embedded:
        status = store_server.status(config)
        print(f"{config.server}: {f'process {status.pid}' if status.running else 'not running'}, log {status.log}")
    try:
        check_store(config)
    except StoreError as error:
        print(f"not healthy: {error}")
        return 1
    print(f"healthy at {config.endpoint}, bucket {config.bucket}")
    return 0


def _store_configure(options: argparse.Namespace) -> None:
    from pipelines.demo import configure
    from pipelines.params import load_store

    config = load_store()
    store = configure(config)
    print(f"DVC remote points at bucket {config.bucket} of {config.endpoint}, keys from {store.credentials.source}")


def _store_use(options: argparse.Namespace) -> None:
    from pipelines.store_choice import use_server

    use_server(options.server)
    _store_start(options)


_STORE_OPERATIONS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "start": _store_start,
    "stop": _store_stop,
    "status": _store_status,
    "configure": _store_configure,
    "use": _store_use,
}

if __name__ == "__main__":
    sys.exit(main())
