"""The stage under torchrun, for tests of several processes: how it is started, watched, killed and compared."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file

WEIGHTS = "model/open_clip_model.safetensors"
# without it the workers of a restart read the addresses of the dead ones (docs/distributed.md)
RESTARTABLE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def torchrun_command(options: Sequence[str], params: Path, toy_data: tuple[Path, Path], folder: Path) -> list[str]:
    """The command line that trains ``toy-s0`` into ``folder``."""
    raw, valid = toy_data
    return [
        *(sys.executable, "-m", "torch.distributed.run", *options),
        *("-m", "training", "pretrain", "--name", "toy-s0", "--params", str(params)),
        *("--raw", str(raw), "--valid", str(valid), "--out", str(folder / "model"), "--curves", str(folder / "log")),
        *("--machine", str(folder / "machine")),
    ]


def start(command: Sequence[str], here: Path, log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, its output in a file that no full pipe can stop."""
    with log.open("wb") as stream:
        return subprocess.Popen(
            command,
            cwd=here,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing of a torchrun behind; its workers have sessions of their own."""
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()


def worker_of(agent: subprocess.Popen[bytes], rank: int) -> psutil.Process | None:
    """The process that torchrun started as this rank, or None when there is none yet."""
    try:
        for child in psutil.Process(agent.pid).children():
            if child.environ().get("RANK") == str(rank):
                return child
    except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
        return None  # it came or went while we looked
    return None


def wait_for(
    condition: Callable[[], object], process: subprocess.Popen[bytes], log: Path, seconds: float = 180
) -> None:
    """Wait until something is true while a process runs; show the end of its log when that does not happen."""
    limit = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"ended before it happened:\n{tail(log)}"
        assert time.monotonic() < limit, f"did not happen in {seconds:.0f} s:\n{tail(log)}"
        time.sleep(0.02)


def tail(log: Path) -> str:
    """The last lines of a log; torchrun's own account of a failure is long and comes after the worker's."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-100:])


def assert_close_weights(one: Path, other: Path, rounding: float = 1e-5) -> None:
    """Compare two exported models within the rounding of sums."""
    weights, others = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        assert torch.allclose(value, others[name], atol=rounding, rtol=1e-4), name
