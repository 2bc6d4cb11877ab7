"""The copy of a champion for those who have neither git nor DVC: plain files in a bucket, and one object that names it.

``N/v2.0.0/...`` holds the export byte by byte and ``promotion.json``, which says why and lists every checksum.
``N/champion.json`` names the version in production. It is written last, so what it names is always whole.
"""

import io
import json
import mimetypes
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from minio.error import S3Error

from assets.errors import DataError, message
from assets.manifest import FileFacts, file_facts
from assets.store import Store
from evaluation.promotion.champions import ChampionVersion, History
from pipelines.promotion.plan import Plan
from pipelines.promotion.registry import version_label

PROMOTION = "promotion.json"
POINTER = "champion.json"
_DIGEST = "sha256"
_NOT_SHOWN = ("md5", "size", "files", "published")
_ABSENT = ("NoSuchKey", "NoSuchBucket", "NoSuchObject", "ResourceNotFound")


@dataclass(frozen=True, slots=True)
class Target:
    """Where champions are published.

    Attributes:
        store: A connection whose bucket is the one for champions.
        dvc: The connection that DVC pushes to.
    """

    store: Store
    dvc: Store

    @property
    def bucket(self) -> str:
        """The bucket."""
        return self.store.config.bucket


def target_of(store: Store, bucket: str) -> Target:
    """Return the place for champions in a store."""
    return Target(Store(store.config.model_copy(update={"bucket": bucket}), store.credentials), store)


def address(bucket: str, entry: ChampionVersion, name: str) -> str:
    """Return the address of a published version, e.g. ``s3://clipfoundry-models/champion/v2.0.0``."""
    return f"s3://{bucket}/{name}/{version_label(entry.version)}"


def check_target(target: Target, history: History, plan: Plan | None) -> None:
    """Refuse to publish where the store does not answer, or another clone has published what we do not know.

    Args:
        target: The place.
        history: What this clone knows of the champion.
        plan: What was begun before, and may be published already.

    Raises:
        StoreError: No answer.
        DataError: The pointer names an unknown version.
    """
    target.dvc.health()
    target.store.ensure_bucket()
    pointer = read_pointer(target.store, history.name)
    if pointer is None:
        return
    known = [*history.versions, *([plan.entry] if plan is not None else [])]
    if (pointer.get("tag"), pointer.get("model")) not in [(entry.tag, entry.model) for entry in known]:
        raise DataError(
            message(
                f"s3://{target.bucket}/{history.name}/{POINTER} names {pointer.get('tag')} of model "
                f"{pointer.get('model')}, which champions/{history.name}.json does not know",
                fix='"git pull" the branch that has it, or name another bucket in promotions',
            )
        )


def read_pointer(store: Store, name: str) -> dict[str, Any] | None:
    """Return what ``N/champion.json`` says, or None where nothing was published."""
    with store.explained():
        try:
            answer = store.client.get_object(store.config.bucket, f"{name}/{POINTER}")
        except S3Error as error:
            if error.code in _ABSENT:
                return None
            raise
        try:
            return cast("dict[str, Any]", json.loads(answer.data))
        except ValueError as error:
            what = f"s3://{store.config.bucket}/{name}/{POINTER} is not readable as JSON"
            raise DataError(message(what, fix="remove it and rerun")) from error
        finally:
            answer.close()
            answer.release_conn()


def publish(target: Target, plan: Plan, folder: Path, after: Callable[[str], None]) -> str:
    """Upload a version, or what of it is missing, then let the pointer name it.

    Args:
        target: The place.
        plan: What is promoted.
        folder: The model.
        after: Called with ``object NAME`` and ``pointed`` after each.

    Returns:
        The address of the version.
    """
    store, name, entry = target.store, plan.name, plan.entry
    prefix = f"{name}/{version_label(entry.version)}/"
    store.ensure_bucket()
    facts = {path.relative_to(folder).as_posix(): file_facts(path) for path in _files(folder)}
    for file, fact in facts.items():
        if not _is_there(store, prefix + file, fact):
            _upload(store, prefix + file, folder / file, fact)
        after(f"object {file}")
    strange = {item.name for item in store.list_objects(prefix)} - {prefix + file for file in facts}
    if plan.decision is not None or prefix + PROMOTION not in strange:
        _put_json(store, prefix + PROMOTION, _promotion(plan, facts))
        after(f"object {PROMOTION}")
    for other in sorted(strange - {prefix + PROMOTION}):
        # left by an attempt that was given up before the pointer named it
        with store.explained():
            store.client.remove_object(store.config.bucket, other)
    pointer = {"version": entry.version, "tag": entry.tag, "prefix": prefix, "model": entry.model, "when": plan.when}
    _put_json(store, f"{name}/{POINTER}", pointer)
    after("pointed")
    return address(target.bucket, entry, name)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _promotion(plan: Plan, facts: Mapping[str, FileFacts]) -> dict[str, Any]:
    return {
        "name": plan.name,
        **{field: value for field, value in asdict(plan.entry).items() if field not in _NOT_SHOWN},
        "decision": plan.decision,
        "files": dict(facts),
    }


def _is_there(store: Store, name: str, fact: FileFacts) -> bool:
    with store.explained():
        try:
            found = store.client.stat_object(store.config.bucket, name)
        except S3Error as error:
            if error.code in _ABSENT:
                return False
            raise
    metadata = {key.lower(): value for key, value in (found.metadata or {}).items()}
    return found.size == fact["bytes"] and metadata.get(f"x-amz-meta-{_DIGEST}") == fact["sha256"]


def _upload(store: Store, name: str, path: Path, fact: FileFacts) -> None:
    with store.explained():
        store.client.fput_object(
            store.config.bucket, name, str(path), content_type=_type(name), metadata={_DIGEST: fact["sha256"]}
        )


def _put_json(store: Store, name: str, value: Mapping[str, Any]) -> None:
    data = (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
    with store.explained():
        store.client.put_object(store.config.bucket, name, io.BytesIO(data), len(data), content_type=_type(name))


def _type(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"
