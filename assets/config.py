"""The sections of params.yaml that the data stages read, and the list of all sections there are."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from assets.downloads import DownloadMachine
from assets.errors import ConfigError, message
from assets.section import Section, parse, read_yaml, unknown

SECTIONS = (
    "profile",
    "machine",
    "store",
    "datasets",
    "features",
    "embeddings",
    "captioners",
    "concepts",
    "policies",
    "teachers",
    "recipes",
    "runs",
    "exports",
    "indexes",
    "studies",
    "promotions",
    "evaluation",
    "report",
    "automation",
)
MAY_BE_EMPTY = (
    *("features", "embeddings", "captioners", "concepts", "policies"),
    *("teachers", "exports", "indexes", "studies", "promotions"),
)
"""Sections that hold what runs may use or what becomes of them; they must be there, because dvc.yaml makes stages of
their entries."""


class MachineConfig(Section):
    """How this machine is used. Never hashed: no value here changes a result beyond the rounding of sums."""

    workers: int = Field(ge=0, le=256)
    """Processes that make or load data beside the main one; 0 works in the main process."""
    processes: int = Field(default=0, ge=0, le=1024)
    """Training processes of the stage on this machine; 0 takes one per GPU, or one without a GPU."""
    threads: int = Field(ge=0, le=1024)
    """Threads of PyTorch's CPU kernels; 0 leaves its default, the number of cores."""
    device: Literal["auto", "cpu", "cuda"]
    """Where models run; auto takes a GPU when there is one."""
    tensorboard: bool
    """Write TensorBoard event files beside the curves (needs the extra ``tensorboard``)."""
    micro_batch: int = Field(default=0, ge=0)
    """Pairs a process encodes at a time; the loss is over the whole batch all the same. 0 encodes it in one piece."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    shard_parameters: bool = False
    """Spread the towers' blocks and their optimiser state over the processes (FSDP2) instead of copying them."""
    compile: Literal["auto", "always", "never"] = "auto"
    """Compile the towers with torch.compile; auto does on a GPU, where it pays for the minute it takes."""
    shard_cache: str = "work/shards"
    """Folder of the local copies of shards streamed from an object store; several machines should not share it."""
    shard_cache_gib: float = Field(default=64.0, gt=0)
    """Disk that shards streamed from an object store may take."""
    download: DownloadMachine = DownloadMachine()
    """How pictures are fetched for data sets that are tables of addresses."""


def read_sections(params: Path) -> dict[str, Any]:
    """Read params.yaml and refuse unknown or missing top-level sections.

    Args:
        params: The file.

    Returns:
        Section name -> plain data.

    Raises:
        ConfigError: The file is unreadable, or a section is unknown or missing.
    """
    data = read_yaml(params)
    for key in data:
        if key not in SECTIONS:
            raise ConfigError(f"{params}: {unknown(str(key), list(SECTIONS), 'section')}")
    if missing := [section for section in SECTIONS if section not in data]:
        empty = [f'"{section}: {{}}"' for section in missing if section in MAY_BE_EMPTY]
        fixes = [f"add {' and '.join(empty)}"] if empty else []
        if len(empty) < len(missing):
            fixes.append(f"copy {'the others' if empty else 'them'} from profiles/")
        raise ConfigError(message(f"{params} lacks the sections {', '.join(missing)}", fix=", ".join(fixes)))
    return data


_NOUNS = {
    "captioners": "captioner",
    "concepts": "concept count",
    "datasets": "data set",
    "exports": "export",
    "indexes": "index",
    "policies": "policy",
    "promotions": "promotion",
    "recipes": "recipe",
    "runs": "run",
    "studies": "study",
    "teachers": "teacher",
}


def noun(section: str) -> str:
    """Return what an entry of a section is called in messages."""
    return _NOUNS.get(section, section)


def entry(data: dict[str, Any], section: str, name: str, params: Path) -> Any:
    """Return ``data[section][name]``, or say which names there are.

    Args:
        data: All sections.
        section: A section that maps names to configs, e.g. ``"datasets"``.
        name: The wanted key.
        params: The file's name, for the error.
    """
    entries = data[section]
    if not isinstance(entries, dict) or name not in entries:
        names = [str(key) for key in entries] if isinstance(entries, dict) else []
        raise ConfigError(f"{params}: {section}: {unknown(name, names, noun(section))}")
    return entries[name]


def load_machine(params: Path) -> MachineConfig:
    """Read the section ``machine``."""
    return parse(MachineConfig, read_sections(params)["machine"], f"{params}: machine")
