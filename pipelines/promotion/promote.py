"""Acting on the decision of the stage ``challenge``: the challenger becomes the champion, or nothing changes at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from assets.errors import DataError, message
from assets.folder_lock import folder_lock
from assets.manifest import version_of
from assets.store import Store
from evaluation.promotion.champions import CHAMPIONS, ChampionVersion, History, history_path, read_history
from pipelines.calls import say
from pipelines.promotion.carry_out import Promoted, carry_out, committed_paths, nothing
from pipelines.promotion.folder import MODELS, check_whole, holds
from pipelines.promotion.plan import PROMOTED, WORK, Plan, drop_plan, now, read_plan, write_plan
from pipelines.promotion.publish import Target, check_target, target_of
from pipelines.promotion.registry import check_free, check_name, next_stage_tag, version_tag
from pipelines.promotion.repository import check_git, head

_LOCKED = "promotion or rollback works in"


def promote(root: Path, name: str, store: Store | None, after: Callable[[str], None] = nothing) -> Promoted | None:
    """Make the challenger the champion if the decision says so; cut off anywhere, the same call completes it.

    Args:
        root: The project.
        name: The entry of ``promotions``.
        store: The connected store; None keeps the champion on this machine.
        after: Called with the name of every step that has ended.

    Returns:
        The new champion, or None where the old one stays; the reason is printed.

    Raises:
        ConfigError: Unknown name, or a repository that cannot be committed to.
        DataError: No decision, one that is out of date, uncommitted code or parameters, another promotion at work, or a
            step that failed.
        StoreError: The store does not answer; nothing was changed, or the next call completes it.
    """
    target = find_target(root, name, store)
    with folder_lock(root / WORK, _LOCKED):
        history = read_history(root / CHAMPIONS, name)
        plan = pending_promotion(root, name, history)
        if plan is not None:
            say(f"{name}: going on with version {plan.entry.version}, which was begun at {plan.when}")
        else:
            decision = read_decision(root, name)
            if (reason := reason_to_stay(history, decision)) is not None:
                say(f"{name}: no change: {reason}")
                return None
        check_git(root, committed_paths(name))
        if target is not None:
            check_target(target, history, plan)
        if plan is None:
            plan = _make_plan(root, history, read_decision(root, name))
            write_plan(root, plan)
            after("planned")
        return carry_out(root, plan, target, after)


def find_target(root: Path, name: str, store: Store | None) -> Target | None:
    """Return where the champion of params.yaml is published, or None for nowhere.

    Raises:
        ConfigError: params.yaml has no such promotion, or the name cannot be part of a tag.
    """
    from evaluation.promotion.config import NO_BUCKET, load_promotion

    check_name(name)
    bucket = load_promotion(root / "params.yaml", name).bucket
    return None if store is None or bucket == NO_BUCKET else target_of(store, bucket)


def read_decision(root: Path, name: str) -> dict[str, Any]:
    """Read ``reports/promotion/NAME/decision.json``.

    Raises:
        DataError: It is missing or damaged.
    """
    path = root / "reports/promotion" / name / "decision.json"
    again = f'run "dvc repro challenge@{name}" first'
    if not path.is_file():
        raise DataError(message(f"{path} does not exist, so nothing is decided", fix=again))
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(message(f"{path} is not readable as JSON ({error})", fix=again)) from error


def reason_to_stay(history: History, decision: dict[str, Any]) -> str | None:
    """Return why the challenger does not become champion, or None where it shall.

    A rolled-back model may stand in a decision that was made before the rollback, so it is looked for here once more.
    """
    model = decision["challenger"]["model"]
    champion = history.champion
    if champion is not None and champion.model == model:
        return f"{decision['run']} (model {model}) is the champion already, version {champion.version}"
    if model in history.barred:
        return f"model {model} of {decision['run']} was champion and was rolled back"
    return None if decision["verdict"] == "promote" else str(decision["reason"])


def check_decision(root: Path, history: History, decision: dict[str, Any]) -> None:
    """Refuse a decision about other files than the present ones.

    Raises:
        DataError: The challenger, its data or the champion changed since.
    """
    challenger, run = decision["challenger"], decision["run"]
    found = {
        "challenger": (version_of(root / MODELS / run), challenger["model"]),
        "champion": (history.champion and history.champion.model, (decision["champion"] or {}).get("model")),
    }
    data = root / "data/valid" / decision["dataset"]
    if data.is_dir():
        found["data"] = (version_of(data), challenger["data"])
    for what, (present, decided) in found.items():
        if present != decided:
            raise DataError(
                message(
                    f"the decision on {history.name} is out of date: it is about another {what}",
                    str(decided),
                    str(present),
                    f'run "dvc repro challenge@{history.name}", then promote',
                )
            )


def pending_promotion(root: Path, name: str, history: History) -> Plan | None:
    """Return the promotion that was cut off, if it can still be completed; forget it if not.

    Raises:
        DataError: It is a rollback that was cut off.
    """
    plan = read_plan(root, name)
    if plan is None:
        return None
    if plan.overtaken_by(history):
        why = "something newer happened to the champion"
    elif plan.is_rollback:
        raise DataError(
            message(
                f"a rollback of {name} to version {plan.entry.version} was cut off",
                fix=f'complete it with "clipfoundry rollback {name}"',
            )
        )
    elif plan.entry.md5 or any(holds(root / MODELS / folder, plan.entry.model) for folder in (name, plan.entry.run)):
        return plan
    else:
        why = f"models/{plan.entry.run} is another model now"
    say(f"{name}: giving up the promotion begun at {plan.when}: {why}")
    drop_plan(root, name)
    return None


def _make_plan(root: Path, history: History, decision: dict[str, Any]) -> Plan:
    name, run, challenger = history.name, decision["run"], decision["challenger"]
    check_decision(root, history, decision)
    check_whole(root / MODELS / run)
    version = len(history.versions) + 1
    tag = version_tag(name, version)
    check_free(root, tag, history_path(CHAMPIONS, name).as_posix())
    when = now()
    entry = ChampionVersion(
        version=version,
        run=run,
        model=challenger["model"],
        md5="",
        size=0,
        files=0,
        dataset=decision["dataset"],
        data=challenger["data"],
        evaluation=challenger["evaluation"],
        scores=challenger["scores"],
        reason=decision["reason"],
        commit=head(root),
        when=when,
        tag=tag,
        published=None,
    )
    return Plan(name, PROMOTED, entry, None, decision["reason"], when, next_stage_tag(root, name), decision)
