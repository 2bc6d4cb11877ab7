"""The steps of a promotion or rollback, each of which finds its own work done when it is repeated.

Their order makes a kill between any two harmless: the bucket's pointer moves only when the files it names are there,
the history says only what is published, the tags name only a commit that holds the history. Between the first step and
the record of the history ``models/N`` may be newer than ``champions/N.json``; the plan on disk says so.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from assets.errors import DataError, message
from evaluation.promotion.champions import CHAMPIONS, ChampionEvent, History, history_path, read_history, write_history
from pipelines.calls import dvc, say
from pipelines.promotion.folder import MODELS, add_to_dvc, copy_model, dvc_file, restore
from pipelines.promotion.plan import Plan, drop_plan, write_plan
from pipelines.promotion.publish import Target, publish
from pipelines.promotion.registry import commit_of, ensure_tag, push_line
from pipelines.promotion.repository import commit_only


@dataclass(frozen=True, slots=True)
class Promoted:
    """A model that is the champion now.

    Attributes:
        name: The champion.
        version: Its version.
        tag: Its git tag.
        md5: DVC's hash of the folder.
        published: Its address in the store, or None.
        reason: Why, in one sentence.
    """

    name: str
    version: int
    tag: str
    md5: str
    published: str | None
    reason: str


def nothing(_step: str) -> None:
    """Do nothing after a step."""


def committed_paths(name: str) -> list[str]:
    """Return what the commit of a promotion holds, and nothing besides."""
    return ["dvc.lock", "batches", history_path(CHAMPIONS, name).as_posix(), dvc_file(name)]


def carry_out(root: Path, plan: Plan, target: Target | None, after: Callable[[str], None] = nothing) -> Promoted:
    """Do all of a plan that is not done yet.

    Args:
        root: The project.
        plan: The plan, which is on disk.
        target: Where to publish; None for this machine only.
        after: Called with the name of every step that has ended.

    Returns:
        The new champion.

    Raises:
        DataError: A step failed; the same command goes on from there.
        StoreError: The store does not answer.
    """
    name = plan.name
    if plan.entry.md5:
        restore(root, name, plan.entry, remote=target is not None)
    else:
        copy_model(root, plan.entry.run, name, plan.entry.model)
        after("placed")
        plan = plan.with_entry(**add_to_dvc(root, name))
        write_plan(root, plan)
    after("added")
    if target is not None:
        dvc(root, "push", dvc_file(name))
        after("pushed")
        plan = plan.with_entry(published=publish(target, plan, root / MODELS / name, after))
    history = read_history(root / CHAMPIONS, name)
    write_history(root / CHAMPIONS, recorded(history, plan))
    after("recorded")
    entry = plan.entry
    what = "back to version" if plan.is_rollback else "version"
    text = f"{name}: {what} {entry.version}, model {entry.model} of {entry.run}\n\n{plan.reason}"
    record = history_path(CHAMPIONS, name).as_posix()
    commit = commit_only(root, text, committed_paths(name), record)
    after("committed")
    if not plan.is_rollback:
        ensure_tag(root, entry.tag, commit, text)
        after("registered")
    # GTO puts a version into production by a tag on the commit that registered it
    registered = commit_of(root, entry.tag)
    if registered is None:
        raise DataError(message(f"there is no tag {entry.tag}", fix='"git fetch --tags", then rerun'))
    ensure_tag(root, plan.stage_tag, registered, plan.reason)
    after("tagged")
    drop_plan(root, name)
    say(f"{name}: version {entry.version} is the champion: {plan.reason}")
    say(f"published as {entry.published}" if target is not None else "on this machine only: nothing was published")
    say(f"commit {commit[:12]}; to share it: {push_line(root, [entry.tag, plan.stage_tag])}")
    return Promoted(name, entry.version, entry.tag, entry.md5, entry.published, plan.reason)


def recorded(history: History, plan: Plan) -> History:
    """Return the history with the plan in it, once however often it is recorded."""
    entry = plan.entry
    event = ChampionEvent(plan.when, plan.what, entry.version, plan.reason)
    others = tuple(version for version in history.versions if version.version != entry.version)
    barred = [model for model in history.barred if model != entry.model]
    if plan.bar is not None and plan.bar not in barred:
        barred.append(plan.bar)
    return replace(
        history,
        current=entry.version,
        barred=tuple(barred),
        versions=tuple(sorted((*others, entry), key=lambda version: version.version)),
        events=history.events if event in history.events else (*history.events, event),
    )
