"""img2dataset's command line: where it is, what it is told, and how it is run so that nothing of it stays behind."""

import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq

from assets.errors import ConfigError, message
from assets.sources.url_table import leash
from assets.sources.url_table.config import DownloadOptions, DownloadPolicy

ENVIRONMENT = {"NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled", "PYTHONWARNINGS": "ignore"}
"""albumentations would ask for a newer release of itself, wandb would look for an account."""
_LAST_CHARACTERS = 4000


def find_command(command: str) -> Path:
    """Return the program to run.

    Args:
        command: ``machine.download.command``: a path, or a name to look for in PATH.

    Raises:
        ConfigError: There is none.
    """
    found = shutil.which(command)
    if found is None:
        raise ConfigError(
            message(
                f"img2dataset is not installed: {command} is not there or not executable",
                fix='run "make img2dataset", or name another program in machine.download.command',
            )
        )
    return Path(found).absolute()


def arguments(
    table: Path,
    folder: Path,
    part_rows: int,
    options: DownloadOptions,
    policy: DownloadPolicy,
    processes: int,
    threads: int,
) -> list[str]:
    """Return what img2dataset is told.

    Args:
        table: A parquet file with the columns ``url`` and ``url_id``.
        folder: An empty folder for its tars and reports.
        part_rows: Addresses per tar.
        options: What becomes of a picture.
        policy: Timeout and retries.
        processes: Processes, each of which makes one tar at a time.
        threads: Connections per process.
    """
    values = {
        "url_list": str(table.absolute()),
        "input_format": "parquet",
        "url_col": "url",
        "save_additional_columns": ["url_id"],
        "output_format": "webdataset",
        "output_folder": str(folder.absolute()),
        "number_sample_per_shard": part_rows,
        "processes_count": min(processes, _num_parts(table, part_rows)),
        "thread_count": threads,
        "timeout": policy.timeout,
        "retries": policy.retries,
        # of no use here, and EXIF may tell where its owner lives
        "extract_exif": False,
        "compute_hash": "sha256",
        "enable_wandb": False,
        **options.model_dump(mode="json", exclude_none=True),
    }
    # the command line is read by Fire, which takes Python literals; a bare path may look like one
    return [f"--{name}={value!r}" for name, value in values.items()]


@contextmanager
def running(command: list[str], log: Path) -> Generator[subprocess.Popen[bytes]]:
    """Run a command until the block ends; whatever it has started is killed then, or when this process dies.

    Args:
        command: Program and arguments.
        log: Gets its output, behind what is there.

    Yields:
        The process; its exit code is that of the command.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            # isolated, so that no file beside the script or in the working folder hides a standard module
            [sys.executable, "-I", leash.__file__, *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **ENVIRONMENT},
            start_new_session=True,
        )
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


def last_line(log: Path) -> str:
    """Return the last line of a log that says something."""
    text = log.read_bytes()[-_LAST_CHARACTERS:].decode(errors="replace") if log.is_file() else ""
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"


def _num_parts(table: Path, part_rows: int) -> int:
    return max(1, -(-pq.read_metadata(table).num_rows // part_rows))
