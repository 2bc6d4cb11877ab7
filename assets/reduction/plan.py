"""plan.parquet: what a policy decided about every pair of its pool, and the reader that training uses.

One row per accepted training pair in index order. ``order`` is the pair's place in its cluster, by the order in which
the step that clustered it last looked at its members; ``similarity`` is what SemDeDup compared with its limit;
``caption_of`` is the key of the pair whose caption it was given as noise (``exchange.py``), null for all others.
"""

# pyright: reportAttributeAccessIssue=false
# pyarrow.compute makes its functions when it is imported, out of a type checker's sight

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from assets.errors import DataError, message
from assets.manifest import read_manifest, version_of

KIND = "reduced"
PLAN = "plan.parquet"
SUMMARY = "summary.json"
REPORT = "index.html"
COST = "cost.json"
SHARDS = "shards"
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("likelihood", pa.float32(), nullable=False),
        pa.field("caption", pa.string()),
        pa.field("order", pa.int32(), nullable=False),
        pa.field("similarity", pa.float32(), nullable=False),
        pa.field("caption_of", pa.string()),
    ]
)
_AGAIN = 'rerun its stage ("dvc repro"), or "python -m assets reduce --name NAME"'


@dataclass(frozen=True, slots=True)
class Plan:
    """What training needs of a plan.

    Attributes:
        kept: Keys of the kept pairs in index order, [n].
        captions: The caption of each, null where the original stands, [n].
    """

    kept: pa.StringArray
    captions: pa.StringArray


def read_plan(folder: Path, raw: Path, valid: Path) -> Plan:
    """Read the plan of a policy.

    Args:
        folder: Folder ``data/reduced/P``.
        raw: Folder of ``ingest`` that training reads.
        valid: Folder of ``validate`` that training reads.

    Returns:
        The kept keys and their captions.

    Raises:
        DataError: The plan is missing, unfinished, or of another version of the data set.
    """
    made_of: dict[str, str] = read_manifest(folder, KIND)["inputs"]
    refuse_other_versions(folder, made_of, {"raw": version_of(raw), "valid": version_of(valid)})
    rows = read_rows(folder, ["key", "kept", "caption"])
    rows = rows.filter(pc.field("kept"))
    return Plan(rows.column("key").combine_chunks(), rows.column("caption").combine_chunks())


def read_rows(folder: Path, columns: list[str] | None = None) -> pa.Table:
    """Read plan.parquet.

    Args:
        folder: Folder ``data/reduced/P``.
        columns: The columns wanted; all when None.

    Raises:
        DataError: It is not readable.
    """
    try:
        table: pa.Table = pq.read_table(folder / PLAN, columns=columns)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(message(f"{folder / PLAN} is not readable as parquet ({error})", fix=_AGAIN)) from error
    return table


def refuse_other_versions(folder: Path, made_of: dict[str, str], inputs: dict[str, str]) -> None:
    """Refuse a folder that was made from another version of the data set.

    Args:
        folder: The folder.
        made_of: The inputs that its manifest names.
        inputs: Name of an input -> the version it has now.

    Raises:
        DataError: A version differs, or the folder names none.
    """
    for name, version in inputs.items():
        if made_of.get(name) != version:
            what = f"{folder} is made from another data version ({name} differs)"
            raise DataError(message(what, made_of.get(name, "none"), version, _AGAIN))
