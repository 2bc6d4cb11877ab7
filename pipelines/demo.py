"""The one-command path: store, pipeline, push, leaderboard. A second run finds all of it done and only looks."""

import json
import time
from pathlib import Path

from assets.atomic import write_json
from assets.manifest import file_digest
from assets.store import STORE_FOLDER, Store, StoreConfig, open_store
from pipelines import store_server
from pipelines.calls import dvc, say
from pipelines.dvc_remote import REMOTE, configure_dvc_remote, remote_url
from pipelines.leaderboard import PAGE, print_leaderboard
from pipelines.params import PARAMS
from pipelines.preflight import check_repository, preflight
from pipelines.profiles import current_profile, select_profile

DEMO_PROFILE = "demo"
_PUSHED = STORE_FOLDER / "pushed.json"


def demo(profile: str | None = None) -> None:
    """Take the repository from nothing to a leaderboard, doing only what is not done yet.

    Args:
        profile: The profile to select; None keeps params.yaml, or selects ``demo`` when there is none.

    Raises:
        ConfigError: params.yaml is wrong, or this is no clone of clipfoundry.
        DataError: The disk is full, or a stage failed (its own message stands above).
        StoreError: The store cannot be started or reached.
    """
    started = time.monotonic()
    check_repository()
    if profile is not None or not PARAMS.is_file():
        selection = select_profile(profile or DEMO_PROFILE)
        say(f"profile {selection.name}" + ("" if selection.changed else " (already selected)"))
    else:
        say(f"params.yaml: {current_profile() or 'edited by you'}")
    params = preflight(PARAMS)
    store = connect(params.store)
    say(f"store: {params.store.server} at {params.store.endpoint}, bucket {params.store.bucket}")
    repro()
    say("pushed to the store" if push(store) else "the store has everything already")
    print()
    print_leaderboard()
    print(f"\nThe whole comparison: {PAGE}")
    print("Lineage, checks and runs:  make ui")
    for name in params.promotions:
        print(f"Let the model take over:   commit dvc.lock, then clipfoundry promote {name}")
    print(f"Another experiment:        edit {PARAMS}, then make demo")
    say(f"done in {time.monotonic() - started:.1f} s")


def connect(config: StoreConfig) -> Store:
    """Start the store if it is ours, make sure that bucket and DVC remote are set up, and return it."""
    if config.embedded:
        store_server.start(config)
    return configure(config)


def configure(config: StoreConfig) -> Store:
    """Create the bucket if it is missing and write DVC's remote from the section ``store``."""
    store = open_store(config)
    store.ensure_bucket()
    configure_dvc_remote(config, store.credentials)
    return store


def repro(*targets: str) -> None:
    """Run every stage whose code, parameters or inputs changed; the graph itself renews the code stamps first."""
    dvc(Path(), "repro", *targets)


def push(store: Store) -> bool:
    """Push every output to the store unless this dvc.lock was pushed there before.

    Args:
        store: The connected store.

    Returns:
        Whether anything had to be pushed.
    """
    lock = Path("dvc.lock")
    if not lock.is_file():
        return False
    config = store.config
    state = {"lock": file_digest(lock), "server": config.server, "endpoint": config.endpoint, "url": remote_url(config)}
    filled = next(store.list_objects("dvc/"), None) is not None
    if filled and _PUSHED.is_file() and json.loads(_PUSHED.read_text(encoding="utf-8")) == state:
        return False
    dvc(Path(), "push", "-r", REMOTE)
    write_json(_PUSHED, state)
    return True
