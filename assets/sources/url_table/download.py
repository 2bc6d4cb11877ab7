"""The download of one table: passes of img2dataset over what is still missing, watched until nothing is left to try.

What is missing follows from the finished parts alone, so a run that was killed, a table that has grown and an address
that deserves another try are one case. Nothing that is there is fetched again.
"""

import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from assets.config import DownloadMachine
from assets.errors import DataError, message
from assets.folder_lock import folder_lock
from assets.progress import Progress, Stage
from assets.sources.url_table.config import DownloadOptions, DownloadPolicy
from assets.sources.url_table.img2dataset import arguments, find_command, last_line, running
from assets.sources.url_table.ledger import Ledger, matching, read_ledger, wanted_ids
from assets.sources.url_table.parts import clear_leftovers, finished_parts, give_up, index_new_parts, start_pass
from assets.sources.url_table.reasons import HINTS
from assets.sources.url_table.rows import Rows

_SMALLEST_PART, _LARGEST_PART = 20, 5000
_PARTS_PER_PROCESS = 4
_SECONDS_BETWEEN_LOOKS = 0.5
_SPARE_BYTES = 1 << 30
_SHOWN_REASONS = 3
_PATIENCE = 3
"""A pass is given up after this many times the longest that its parts should take."""


@dataclass(slots=True)
class Download:
    """One table on its way.

    Attributes:
        name: What messages call it, e.g. ``"train"``.
        rows: The table.
        folder: Where its passes are.
        options: What becomes of a picture.
        policy: How hard to try.
        machine: Processes, threads and the program.
        stage: Whose progress it is.
        passes: Folders of the passes that this process has made.
    """

    name: str
    rows: Rows
    folder: Path
    options: DownloadOptions
    policy: DownloadPolicy
    machine: DownloadMachine
    stage: Stage
    passes: list[Path] = field(default_factory=list)

    def finish(self) -> Ledger:
        """Fetch what is missing and return the fate of every address.

        Raises:
            ConfigError: img2dataset is not installed.
            DataError: Too much fails, img2dataset does not work, or the disk is nearly full.
        """
        wanted = wanted_ids(self.rows.url_ids, self.rows.faults)
        if not len(wanted):
            raise DataError(message(f"no row of the table of {self.name} has both an address and a caption"))
        with folder_lock(self.folder, "ingest downloads to"):
            clear_leftovers(self.folder)
            while True:
                ledger = read_ledger(finished_parts(self.folder))
                todo, first = ledger.to_try(wanted, 1 + self.policy.retry_passes)
                if not len(todo):
                    break
                self._run_pass(todo, first, len(wanted))
            counts = ledger.counts(wanted)
            if 1 - counts[""] / len(wanted) > self.policy.max_failed:
                for folder in self.passes:
                    give_up(folder)
                raise self._too_much_failed(counts)
        return ledger

    def _run_pass(self, todo: NDArray[np.uint64], first: bool, wanted: int) -> None:
        command = find_command(self.machine.command)
        processes = self.machine.processes or os.cpu_count() or 1
        parts = _PARTS_PER_PROCESS * processes
        part_rows = min(max(-(-len(todo) // parts), _SMALLEST_PART), _LARGEST_PART)
        folder = start_pass(self.folder, self._fetch_table(todo), part_rows)
        self.passes.append(folder)
        values = arguments(
            folder / "fetch.parquet", folder, part_rows, self.options, self.policy, processes, self.machine.threads
        )
        log = self.folder / "img2dataset.log"
        what, done = ("download", wanted - len(todo)) if first else ("retry", 0)
        with (
            self.stage.progress(f"{what} {self.name}", done + len(todo), "url", initial=done) as progress,
            running([str(command), *values], log) as process,
        ):
            watch = _Watch(self, folder, progress, first, self._longest(part_rows))
            while not watch.ended(process):
                watch.look()
        if not watch.parts:
            what = f"img2dataset finished no part of {self.name}, its last words: {last_line(log)}"
            fix = "try again with more memory or fewer machine.download.processes"
            if process.returncode:
                what, fix = f"img2dataset failed with exit code {process.returncode}: {last_line(log)}", "see the log"
            raise DataError(message(what, fix=f"{fix} ({log})"))

    def _fetch_table(self, todo: NDArray[np.uint64]) -> pa.Table:
        """Return address and hash of the wanted addresses, each once, in the order of the table."""
        ids = np.sort(todo)
        left = np.ones(len(ids), bool)
        batches: list[pa.RecordBatch] = []
        for begin, batch in self.rows.batches():
            column = batch.column("url_id").to_numpy(zero_copy_only=False)
            fine = self.rows.faults[begin : begin + len(column)] == 0
            chosen = np.flatnonzero(fine & matching(batch.column("url_id"), ids))
            _, once = np.unique(column[chosen], return_index=True)
            chosen = chosen[np.sort(once)]
            places = np.searchsorted(ids, column[chosen])
            chosen = chosen[left[places]]
            left[places] = False
            texts = [f"{value:016x}" for value in column[chosen].tolist()]
            urls = batch.column("url").take(pa.array(chosen))
            batches.append(pa.record_batch({"url": urls, "url_id": pa.array(texts, pa.string())}))
        return pa.Table.from_batches(batches)

    def _longest(self, part_rows: int) -> float:
        """Return the seconds that a part may take when every server is silent until it is given up."""
        waits = -(-part_rows // self.machine.threads)
        return _PATIENCE * (60 + waits * self.policy.timeout * (1 + self.policy.retries))

    def _too_much_failed(self, counts: Mapping[str, int]) -> DataError:
        tried = sum(counts.values())
        failed = Counter({reason: number for reason, number in counts.items() if reason})
        top = failed.most_common(_SHOWN_REASONS)
        shares = ", ".join(f"{100 * number / tried:.0f} % {reason}" for reason, number in top)
        hint = HINTS.get(top[0][0], "look at the addresses, and at the reasons in docs/data/url_table.md.")
        return DataError(
            message(
                f"{failed.total():,} of {tried:,} addresses of {self.name} failed ({shares})",
                wanted=f"at most {100 * self.policy.max_failed:.0f} % failures (download.max_failed)",
                fix=f"{hint} Run the same command again once that is mended, what is downloaded stays",
            )
        )

    def check(self, counts: Counter[str], folder: Path) -> None:
        """Give a first pass up when too much of it fails.

        Args:
            counts: Addresses tried by this pass, by reason.
            folder: The pass.

        Raises:
            DataError: It does.
        """
        tried = counts.total()
        if tried >= self.policy.min_attempts and tried - counts[""] > self.policy.max_failed * tried:
            give_up(folder)
            raise self._too_much_failed(counts)


class _Watch:
    """Looks after a pass: counts what is finished, and ends it when it makes no sense to go on."""

    def __init__(self, download: Download, folder: Path, progress: Progress, first: bool, longest: float) -> None:
        self._download, self._folder, self._progress, self._first = download, folder, progress, first
        self._longest = longest
        self._counts: Counter[str] = Counter()
        self._last = time.monotonic()
        self.parts = 0

    def ended(self, process: "subprocess.Popen[bytes]") -> bool:
        """Wait a moment; say whether the command has ended, or has been silent for too long."""
        try:
            process.wait(_SECONDS_BETWEEN_LOOKS)
        except subprocess.TimeoutExpired:
            silent = time.monotonic() - self._last
            if silent < self._longest:
                return False
            self._download.stage.log.warning("img2dataset is stuck: nothing finished for %.0f s", silent)
        self.look()
        return True

    def look(self) -> None:
        """Index and count what is new."""
        for part, counts in index_new_parts(self._folder):
            self.parts += 1
            self._last = time.monotonic()
            self._counts.update(counts)
            share = self._counts.total() - self._counts[""]
            self._progress.advance(sum(counts.values()), failed=share / self._counts.total(), part=part.tar.name)
        if self._first:
            self._download.check(self._counts, self._folder)
        free = shutil.disk_usage(self._folder).free
        if free < _SPARE_BYTES:
            raise DataError(
                message(
                    f"the disk of {self._folder} is nearly full",
                    f"{free / 1e6:.0f} MB free",
                    f"{_SPARE_BYTES / 1e6:.0f} MB to go on",
                    "free some space and run the same command again",
                )
            )
