"""The download's book-keeping, with a program that stands in for img2dataset."""

import fcntl
import json
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from assets.downloads import DownloadMachine
from assets.errors import ConfigError, DataError
from assets.progress import Stage
from assets.sources.url_table import download as download_module
from assets.sources.url_table import leash
from assets.sources.url_table.catalogue import write_catalogue
from assets.sources.url_table.config import Columns, DownloadOptions, DownloadPolicy
from assets.sources.url_table.download import Download
from assets.sources.url_table.img2dataset import arguments, running
from assets.sources.url_table.parts import finished_parts
from assets.sources.url_table.rows import read_rows
from assets.sources.url_table.table import Table

pytestmark = pytest.mark.slow

FAKE = Path(__file__).with_name("fake_img2dataset.py")


@pytest.fixture
def command(tmp_path):
    """The stand-in as a program."""
    program = tmp_path / "bin" / "img2dataset"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE}" "$@"\n')
    program.chmod(0o755)
    return str(program)


@pytest.fixture
def fetch(tmp_path, command):
    """Return a function that downloads: (last parts of addresses, faults of the calls, policy) -> Download, Ledger."""

    def fetch(fates, faults=(), **policy):
        folder = tmp_path / "download"
        folder.mkdir(exist_ok=True)
        lines = "".join(f"https://a.example/{i}/{fate}\tcaption {i}\n" for i, fate in enumerate(fates))
        table = tmp_path / "t.tsv"
        table.write_text("url\tcaption\n" + lines)
        rows = read_rows(Table(table, Columns(), ("en",)), Columns(), ("en",), folder / "rows.parquet")
        (folder / "plan.json").write_text(json.dumps(list(faults)))
        machine = DownloadMachine(processes=1, threads=4, command=command)
        options, limits = DownloadOptions(), DownloadPolicy(**{"timeout": 1, **policy})
        with Stage("ingest@test", quiet=True) as stage:
            work = Download("train", rows, folder, options, limits, machine, stage)
            return work, work.finish()

    return fetch


def calls(work_or_folder) -> list[list[str]]:
    """The last parts of the addresses that each call of the program was given."""
    folder = getattr(work_or_folder, "folder", work_or_folder)
    lines = (folder / "calls.jsonl").read_text().splitlines()
    return [[url.rpartition("/")[2] for url in json.loads(line)] for line in lines]


def reasons(work, ledger) -> list[str]:
    return [ledger.reasons[code] for code in ledger.reason[ledger.find(work.rows.url_ids)]]


def test_each_row_gets_its_own_picture_whatever_the_order_in_the_tars(fetch, tmp_path):
    fates = ["ok", "404", "ok", "410", *["ok"] * 100]
    work, ledger = fetch(fates)
    catalogue = write_catalogue("train", work.rows, ledger, tmp_path)
    assert len(finished_parts(work.folder)) == 4
    assert (catalogue.size, dict(catalogue.reasons)) == (102, {"http_404": 1, "http_410": 1})
    entries = list(catalogue.read(0, 200))
    for entry in entries:
        with Path(entry["tar"]).open("rb") as tar:
            tar.seek(entry["offset"])
            assert tar.read(entry["size"]).decode() == entry["url"]
    assert [entry["caption"] for entry in entries] == [f"caption {i}" for i, fate in enumerate(fates) if fate == "ok"]
    assert list(catalogue.read(40, 43)) == entries[40:43]


def test_only_what_may_go_away_is_tried_again_and_only_so_often(fetch):
    work, ledger = fetch(["ok", "404", "503", "lost", "429"] * 10, retry_passes=2, max_failed=1)
    assert [sorted(set(call)) for call in calls(work)] == [
        ["404", "429", "503", "lost", "ok"],
        ["429", "503", "lost"],
        ["429", "503", "lost"],
    ]
    assert set(reasons(work, ledger)) == {"", "http_404", "http_503", "not_reported", "http_429"}
    work, _ = fetch(["ok", "404", "503", "lost", "429"] * 10, retry_passes=2, max_failed=1)
    assert len(calls(work)) == 3
    work, _ = fetch(["ok", "404", "503", "lost", "429"] * 10, retry_passes=3, max_failed=1)
    assert len(calls(work)) == 4


def test_a_reported_success_without_a_picture_is_not_taken_for_one(fetch):
    work, ledger = fetch(["ok"] * 20 + ["missing"], retry_passes=0)
    assert reasons(work, ledger) == [""] * 20 + ["not_reported"]


def test_a_damaged_tar_is_downloaded_again(fetch):
    work, ledger = fetch(["ok"] * 100, ["cut"])
    assert reasons(work, ledger) == [""] * 100
    assert [len(call) for call in calls(work)] == [100, 25]


def test_a_program_that_is_stuck_is_ended_and_its_rest_done_by_another(fetch, monkeypatch, tmp_path):
    monkeypatch.setattr(download_module, "_PATIENCE", 0.05)
    work, ledger = fetch(["ok"] * 100, ["stuck"])
    assert reasons(work, ledger) == [""] * 100
    assert [len(call) for call in calls(work)] == [100, 75]
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]


def test_a_program_that_fails_is_told_with_its_last_words(fetch, tmp_path):
    with pytest.raises(DataError, match=r"exit code 3: the last words; see the log \(.*img2dataset\.log\)"):
        fetch(["ok"] * 100, ["exit"])
    work, ledger = fetch(["ok"] * 100)
    assert reasons(work, ledger) == [""] * 100


def test_a_table_that_fails_altogether_is_refused_and_then_tried_again(fetch, tmp_path):
    with pytest.raises(DataError) as refusal:
        fetch(["503"] * 30 + ["ok"] * 10, retry_passes=1, max_failed=0.5)
    assert "30 of 40 addresses of train failed (75 % http_503), wanted at most 50 % failures" in str(refusal.value)
    with pytest.raises(DataError):
        fetch(["503"] * 30 + ["ok"] * 10, retry_passes=1, max_failed=0.5)
    # two passes, then again two over what had failed: the failures of a run that was refused are no tries
    assert [len(call) for call in calls(tmp_path / "download")] == [40, 30, 30, 30]


def test_permanent_failures_alone_are_refused_without_another_request(fetch, tmp_path):
    for _ in range(2):
        with pytest.raises(DataError, match=r"100 % http_404.*; look at the addresses"):
            fetch(["404"] * 40)
    assert len(calls(tmp_path / "download")) == 1


def test_a_table_without_one_usable_row_is_refused(fetch, tmp_path):
    rows = read_rows(_captionless(tmp_path), Columns(), ("en",), tmp_path / "rows.parquet")
    work, _ = fetch(["ok"])
    work.rows = rows
    with pytest.raises(DataError, match="no row of the table of train has both an address and a caption"):
        work.finish()


def _captionless(folder) -> Table:
    (folder / "c.tsv").write_text("url\tcaption\nhttps://a.example/1.jpg\t\n")
    return Table(folder / "c.tsv", Columns(), ("en",))


def test_addresses_that_left_the_table_neither_count_nor_disturb(fetch, tmp_path):
    fetch(["404"] * 30 + ["ok"] * 30)
    with pytest.raises(DataError, match="30 of 40 addresses"):
        fetch(["404"] * 30 + ["ok"] * 10)
    work, ledger = fetch(["ok"] * 30)
    assert reasons(work, ledger) == [""] * 30


def test_two_runs_do_not_share_a_folder(fetch, tmp_path):
    folder = tmp_path / "download"
    folder.mkdir()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another ingest downloads to"):
            fetch(["ok"])


def test_without_the_program_the_error_tells_how_to_get_it(fetch, command):
    Path(command).unlink()
    with pytest.raises(ConfigError, match='not there or not executable; run "make img2dataset"'):
        fetch(["ok"])


def test_a_full_disk_ends_the_download(fetch, monkeypatch):
    monkeypatch.setattr(download_module, "_SPARE_BYTES", 1 << 60)
    with pytest.raises(DataError, match=r"nearly full.*free some space and run the same command again"):
        fetch(["ok"] * 100)


def test_every_option_reaches_the_command_line_as_a_literal(tmp_path, fetch):
    work, _ = fetch(["ok"])
    table = next(work.folder.glob("pass-*/fetch.parquet"))
    options = DownloadOptions(encode_format="webp", max_aspect_ratio=3, disallowed_header_directives=())
    words = arguments(table, tmp_path, 10, options, DownloadPolicy(retries=2), 8, 16)
    assert {
        "--image_size=256",
        "--resize_mode='keep_ratio'",
        "--resize_only_if_bigger=True",
        "--encode_format='webp'",
        "--max_aspect_ratio=3.0",
        "--disallowed_header_directives=[]",
        "--timeout=10",
        "--retries=2",
        "--processes_count=1",
        "--thread_count=16",
    } <= set(words)


def test_what_is_run_on_a_leash_ends_with_the_block_and_its_exit_code_comes_through(tmp_path):
    log = tmp_path / "log"
    with running([sys.executable, "-c", "print('hello'); raise SystemExit(7)"], log) as process:
        assert process.wait() == 7
    assert log.read_text() == "hello\n"
    child = "import subprocess, sys, time; subprocess.Popen(['sleep', '997']); print('up', flush=True); time.sleep(997)"
    with running([sys.executable, "-c", child], log) as process:
        until = time.monotonic() + 30
        while "up" not in log.read_text():
            assert time.monotonic() < until
            time.sleep(0.05)
        family = [process.pid, *(p.pid for p in psutil.Process(process.pid).children(recursive=True))]
    assert len(family) == 3
    gone, alive = psutil.wait_procs([psutil.Process(pid) for pid in family if psutil.pid_exists(pid)], 10)
    assert alive == [], gone
    assert leash.main.__module__ == "assets.sources.url_table.leash"


def test_hashes_are_found_again(fetch):
    work, ledger = fetch(["ok"] * 50)
    assert np.array_equal(ledger.url_ids[ledger.find(work.rows.url_ids)], work.rows.url_ids)
    assert ledger.find(np.array([1, 2], np.uint64)).tolist() == [-1, -1]
