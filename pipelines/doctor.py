"""``clipfoundry doctor``: what this machine and this clone need, checked one by one, each fault with its fix."""

import importlib
import importlib.metadata
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from assets.errors import ConfigError, DataError, StoreError
from assets.store import CREDENTIALS, STORE_FOLDER

State = Literal["OK", "WARN", "FAIL"]
_COMFORTABLE_GIB = 10.0
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: What was looked at.
        state: ``WARN`` works but deserves a look; ``FAIL`` stops a run.
        text: What was found.
        fix: What to do about it; empty when all is well.
    """

    check: str
    state: State
    text: str
    fix: str = ""


def examine(root: Path = Path()) -> Iterator[Finding]:
    """Run every check, cheap ones first; a fault in one does not keep the others from running.

    Args:
        root: The repository.

    Yields:
        One finding per check as soon as it is known.
    """
    for name, check in CHECKS.items():
        try:
            state, text, fix = check(root)
            yield Finding(name, state, text, fix)
        except (ConfigError, DataError, StoreError) as error:
            text, _, fix = str(error).rpartition("; ")
            yield Finding(name, "FAIL", text or fix, fix if text else "")


def print_findings(root: Path = Path(), as_json: bool = False) -> int:
    """Print every finding.

    Args:
        root: The repository.
        as_json: Print one JSON document instead of lines.

    Returns:
        1 when a check failed, else 0.
    """
    findings: list[Finding] = []
    for finding in examine(root):
        findings.append(finding)
        if not as_json:
            print(f"{finding.state:5s}{finding.check:13s}{finding.text}")
            if finding.fix:
                print(f"{'':18s}-> {finding.fix}")
    failed = sum(finding.state == "FAIL" for finding in findings)
    if as_json:
        print(json.dumps({"ok": failed == 0, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        print(f"{failed} of {len(findings)} checks failed" if failed else f"all {len(findings)} checks passed")
    return 1 if failed else 0


Outcome = tuple[State, str, str]


def _repository(root: Path) -> Outcome:
    from pipelines.preflight import check_repository

    check_repository(root)
    return "OK", f"clone at {root.resolve()}", ""


def _params(root: Path) -> Outcome:
    from pipelines.params import PARAMS, load_params
    from pipelines.preflight import METHODS_PASSED
    from pipelines.profiles import current_profile

    params = load_params(root / PARAMS, root / METHODS_PASSED)
    runs = f"{len(params.runs)} runs of {len(params.recipes)} recipes on {len(params.datasets)} data sets"
    return "OK", f"{current_profile(root) or params.profile + ', edited'}: {runs}", ""


def _disk(root: Path) -> Outcome:
    from pipelines.preflight import check_disk, free_gib

    check_disk(root)
    free = free_gib(root)
    if free < _COMFORTABLE_GIB:
        return "WARN", f"{free:.1f} GiB free", 'free some with "dvc gc --all-commits --skip-failed --not-in-remote"'
    return "OK", f"{free:.0f} GiB free", ""


def _store(root: Path) -> Outcome:
    from pipelines.params import PARAMS, load_store
    from pipelines.preflight import check_store

    config = load_store(root / PARAMS)
    store = check_store(config, root)
    mode = (root / STORE_FOLDER / CREDENTIALS).stat().st_mode if (root / STORE_FOLDER / CREDENTIALS).is_file() else 0
    if mode & 0o077:
        path = root / STORE_FOLDER / CREDENTIALS
        return "WARN", f"{path} can be read by other users", f"chmod 600 {path}"
    return (
        "OK",
        f"{config.server} at {config.endpoint}, bucket {config.bucket}, keys from {store.credentials.source}",
        "",
    )


def _remote(root: Path) -> Outcome:
    from pipelines.dvc_remote import configured_url, remote_url
    from pipelines.params import PARAMS, load_store

    config = load_store(root / PARAMS)
    url, wanted = configured_url(root), remote_url(config)
    if url is None or url != wanted:
        text = f"DVC's remote is {url}, params.yaml says {wanted}" if url else "DVC has no remote configured"
        return "FAIL", text, 'run "clipfoundry store configure"'
    return "OK", url, ""


def _packages(root: Path) -> Outcome:
    constraints = root / "constraints.txt"
    if not constraints.is_file():
        return "WARN", f"{constraints} is missing", "git checkout constraints.txt"
    pins: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", constraints.read_text(encoding="utf-8"), re.MULTILINE):
        pins.setdefault(re.sub(r"[-_.]+", "-", name.lower()), set()).add(version)
    other: list[str] = []
    for name, wanted in pins.items():
        try:
            # "2.15.0+cpu" is the same release as "2.15.0", built elsewhere
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if version.partition("+")[0] not in wanted:
            other.append(f"{name} {version} (pinned {'/'.join(sorted(wanted))})")
    if other:
        more = f" and {len(other) - 5} more" if len(other) > 5 else ""
        return "WARN", f"other versions than tested: {', '.join(other[:5])}{more}", 'run "make setup"'
    return "OK", f"all installed versions are those of {constraints.name}", ""


def _selection(root: Path) -> Outcome:
    """Parse an asset selection: hydra 1.3, which dvc pulls in, brings an ANTLR runtime that breaks Dagster's parser."""
    try:
        dagster: Any = importlib.import_module("dagster")
        dagster.AssetSelection.from_string('key:"pretrain/a"+')
    except Exception as error:  # whatever a mismatched parser or a broken install raises is the finding
        fix = "pip install 'hydra-core>=1.4.0rc3' 'omegaconf>=2.4.1rc1' 'antlr4-python3-runtime>=4.13'"
        return "FAIL", f"Dagster cannot parse asset selections ({type(error).__name__})", fix
    return "OK", "Dagster parses asset selections beside DVC", ""


def _torch(root: Path) -> Outcome:
    """Import torch and torchvision together: wheels from different places fail only when an operator is looked up."""
    try:
        torch: Any = importlib.import_module("torch")
        vision: Any = importlib.import_module("torchvision")
        vision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:  # a mismatched pair raises RuntimeError, OSError or ImportError
        text = f"torch and torchvision do not fit together ({type(error).__name__}: {str(error).splitlines()[0]})"
        return "FAIL", text, "install both from the same place: make setup"
    return "OK", f"torch {torch.__version__} with torchvision {vision.__version__}", ""


def _gpu(root: Path) -> Outcome:
    from assets.config import load_machine
    from pipelines.params import PARAMS

    device = load_machine(root / PARAMS).device
    torch: Any = importlib.import_module("torch")
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return ("OK", f"{names}, CUDA {torch.version.cuda}", "") if device != "cpu" else ("OK", f"{names}, unused", "")
    if device == "cuda":
        return (
            "FAIL",
            "machine.device is cuda, but PyTorch sees no GPU",
            "set machine.device to auto, or mend the driver",
        )
    if shutil.which("nvidia-smi"):
        return (
            "WARN",
            "there is an NVIDIA driver, but PyTorch sees no GPU",
            'compare "nvidia-smi" with torch.version.cuda',
        )
    return "OK", "none, models run on the CPU", ""


def _shards(root: Path) -> Outcome:
    from assets.config import load_machine
    from assets.index import read_index
    from pipelines.params import PARAMS

    workers = load_machine(root / PARAMS).workers
    folders = sorted(path.parent for path in (root / "data" / "raw").glob("*/manifest.json"))
    if not folders:
        return "OK", "no data set ingested yet", ""
    # by the index, because tars that are indexed in place lie elsewhere
    counts = {folder.name: len(read_index(folder, ["shard"], "train")["shard"].unique()) for folder in folders}
    if few := [name for name, count in counts.items() if count < workers]:
        text = f"fewer train shards than the {workers} workers: {', '.join(f'{n} has {counts[n]}' for n in few)}"
        return "WARN", text, "lower machine.workers, or datasets.NAME.samples_per_shard and ingest again"
    return "OK", ", ".join(f"{name}: {count} train shards" for name, count in counts.items()), ""


def _ui_port(root: Path) -> Outcome:
    from pipelines.store_server import port_holder, port_is_free

    if port_is_free(UI_PORT):
        return "OK", f"port {UI_PORT} is free for the Dagster UI", ""
    return "WARN", f"port {UI_PORT} is taken by {port_holder(UI_PORT) or 'another program'}", "stop it before make ui"


def _browser(root: Path) -> Outcome:
    found = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        return "WARN", "no Chromium; only the browser tests need it", "apt-get install chromium"
    return "OK", found, ""


UI_PORT = 3000
CHECKS: dict[str, Callable[[Path], Outcome]] = {
    "repository": _repository,
    "params": _params,
    "disk": _disk,
    "store": _store,
    "dvc remote": _remote,
    "packages": _packages,
    "selections": _selection,
    "torch": _torch,
    "gpu": _gpu,
    "shards": _shards,
    "ui port": _ui_port,
    "browser": _browser,
}
