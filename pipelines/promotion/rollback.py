"""The way back: an earlier champion takes its place again, and the one that is left may not come back by itself."""

from collections.abc import Callable
from pathlib import Path

from assets.errors import DataError, message
from assets.folder_lock import folder_lock
from assets.store import Store
from evaluation.promotion.champions import CHAMPIONS, ChampionVersion, History, read_history
from pipelines.calls import say
from pipelines.promotion.carry_out import Promoted, carry_out, committed_paths, nothing
from pipelines.promotion.folder import check_restorable
from pipelines.promotion.plan import ROLLED_BACK, WORK, Plan, drop_plan, now, read_plan, write_plan
from pipelines.promotion.promote import find_target
from pipelines.promotion.publish import check_target
from pipelines.promotion.registry import next_stage_tag
from pipelines.promotion.repository import check_git


def rollback(
    root: Path, name: str, to: int | None, store: Store | None, after: Callable[[str], None] = nothing
) -> Promoted:
    """Make an earlier version the champion; cut off anywhere, the same call completes it.

    Args:
        root: The project.
        name: The entry of ``promotions``.
        to: The version; None for the last one before the champion that was not rolled back itself. A later one takes
            an earlier rollback back.
        store: The connected store; None works with this clone's cache and publishes nothing.
        after: Called with the name of every step that has ended.

    Returns:
        The new champion.

    Raises:
        ConfigError: Unknown name, or a repository that cannot be committed to.
        DataError: No such version, nothing to go back to, uncommitted code or parameters, another promotion at work, or
            a step that failed.
        StoreError: The store does not answer; nothing was changed, or the next call completes it.
    """
    target = find_target(root, name, store)
    with folder_lock(root / WORK, "promotion or rollback works in"):
        history = read_history(root / CHAMPIONS, name)
        plan = _pending(root, name, to, history)
        entry = plan.entry if plan is not None else _earlier(history, to)
        check_git(root, committed_paths(name))
        if target is not None:
            check_target(target, history, plan)
        elif plan is None:
            check_restorable(root, name, entry)
        if plan is None:
            plan = _make_plan(root, history, entry)
            write_plan(root, plan)
            after("planned")
        else:
            say(f"{name}: going on with the rollback to version {entry.version}, which was begun at {plan.when}")
        return carry_out(root, plan, target, after)


def _pending(root: Path, name: str, to: int | None, history: History) -> Plan | None:
    plan = read_plan(root, name)
    if plan is None:
        return None
    why = "something newer happened to the champion" if plan.overtaken_by(history) else None
    if plan.is_rollback and to not in (None, plan.entry.version) and not plan.recorded_in(history):
        why = f"it was to version {plan.entry.version}"
    if why is not None:
        say(f"{name}: giving up what was begun at {plan.when}: {why}")
        drop_plan(root, name)
        return None
    if not plan.is_rollback:
        raise DataError(
            message(
                f"the promotion of version {plan.entry.version} of {name} was cut off",
                fix=f'complete it with "clipfoundry promote {name}", then roll back',
            )
        )
    if to not in (None, plan.entry.version):
        raise DataError(
            message(
                f"a rollback of {name} to version {plan.entry.version} was cut off",
                fix=f'complete it with "clipfoundry rollback {name}" first',
            )
        )
    return plan


def _earlier(history: History, to: int | None) -> ChampionVersion:
    name, champion = history.name, history.champion
    if champion is None:
        raise DataError(message(f"there is no champion {name} yet, so nothing to roll back", fix="promote one first"))
    if to is None:
        allowed = [v for v in history.versions if v.version < champion.version and v.model not in history.barred]
        if not allowed:
            raise DataError(
                message(f"no champion to roll back to: version {champion.version} of {name} has no earlier one")
            )
        return allowed[-1]
    found = next((version for version in history.versions if version.version == to), None)
    if found is None:
        wanted = ", ".join(str(version.version) for version in history.versions)
        raise DataError(message(f"{name} has no such version", to, wanted, f'see "clipfoundry champions {name}"'))
    if to == champion.version:
        raise DataError(message(f"version {to} of {name} is the champion already"))
    return found


def _make_plan(root: Path, history: History, entry: ChampionVersion) -> Plan:
    champion = history.champion
    assert champion is not None
    # going forward again takes a rollback back and says nothing against the version that is left
    bar = champion.model if entry.version < champion.version else None
    reason = f"rolled back from version {champion.version} to version {entry.version} by hand"
    if bar is None:
        reason = f"version {entry.version} restored after version {champion.version} by hand"
    return Plan(history.name, ROLLED_BACK, entry, bar, reason, now(), next_stage_tag(root, history.name), None)
