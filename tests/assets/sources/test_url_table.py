import hashlib
import io
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable

import pyarrow.parquet as pq
import pytest
from PIL import Image

from assets.index import read_index
from assets.manifest import file_digest
from assets.shards import read_shard
from tests.assets.sources.picture_server import PictureServer, picture
from tests.assets.sources.url_project import COMMAND, UrlProject

pytestmark = pytest.mark.slow

FAULTY = {
    "gone": "http_404",
    "broken": "http_500",
    "tiny": "too_small",
    "wide": "aspect_ratio",
    "slow": "timeout",
    "page": "not_an_image",
    "cut": "truncated",
    "circle": "redirect_loop",
    "private": "disallowed",
    "hangup": "connection",
}
TRANSIENT = {"broken", "slow", "cut", "hangup"}
NUM_PICTURES = 60


@pytest.fixture(scope="module")
def server():
    if not COMMAND.is_file():
        reason = 'img2dataset is not installed; run "make img2dataset"'
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    server = PictureServer()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def open_gate(request):
    yield
    if "server" in request.fixturenames:
        request.getfixturevalue("server").gate.set()


def source(**changes) -> dict:
    split = {"table": "table.tsv", "role": "train", "preset": "cc3m"}
    return {"splits": {"train": split}, "download": {"timeout": 1}, **changes}


def good_rows(server: PictureServer, start: int, stop: int) -> list[tuple[str, str]]:
    return [(f"picture number {i}", server.url(f"picture/{i}.jpg")) for i in range(start, stop)]


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)


def contents(project: UrlProject) -> dict[str, object]:
    """What was published, file by file; of the manifest all but the digest of the code, which may change meanwhile."""
    manifest = json.loads((project.raw / "manifest.json").read_text())
    del manifest["code"]
    files = [path for path in project.raw.rglob("*") if path.is_file() and path.name != "manifest.json"]
    return {"manifest": manifest} | {path.relative_to(project.raw).as_posix(): file_digest(path) for path in files}


@pytest.fixture(scope="module")
def web(server, tmp_path_factory):
    """A data set out of a table with every fault there is, ingested and validated once."""
    picture_options = {"image_size": 64, "min_image_size": 16, "max_aspect_ratio": 10}
    project = UrlProject(tmp_path_factory.mktemp("web") / "p", source(picture=picture_options))
    rows = good_rows(server, 0, NUM_PICTURES)
    rows += [(f"a {kind} one", server.url(f"{kind}/7.jpg")) for kind in FAULTY]
    rows += [
        ("a large one", server.url("large/8.jpg")),
        ("one that moved", server.url("moved/9.jpg")),
        ("works the second time", server.url("flaky/10.jpg")),
        ("nobody knows the host", "http://no-such-host.invalid/x.jpg"),
        ("nobody listens", "http://127.0.0.1:1/x.jpg"),
        ("another caption of picture 1", server.url("picture/1.jpg")),
        rows[0],
        ("", server.url("picture/2.jpg")),
        ("not an address", "picture.jpg"),
        ("caf\u00e9 in its name", server.url("picture/11.jpg?name=caf\u00e9 au lait")),
    ]
    project.write_table(rows)
    with (project.root / "table.tsv").open("a") as table:
        table.write("a line without tab\n")
    server.requests.clear()
    project.log = project.run()
    project.requests = Counter(server.requests)
    project.rows = rows
    project.run("validate")
    return project


def test_every_row_is_a_sample_or_stands_among_the_failed_with_its_reason(web):
    failed = pq.read_table(web.raw / "failed_downloads.parquet").to_pylist()
    index = read_index(web.raw)
    assert index.num_rows + len(failed) == len(web.rows) + 1
    reasons = {row["row"]: row["reason"] for row in failed}
    expected = {NUM_PICTURES + i: reason for i, reason in enumerate(FAULTY.values())}
    after = NUM_PICTURES + len(FAULTY)
    expected |= {after + 3: "dns", after + 4: "connection", after + 6: "duplicate_row", after + 7: "no_caption"}
    expected |= {after + 8: "not_a_url", after + 10: "malformed_row"}
    assert reasons == expected
    assert all(row["key"] for row in failed if row["reason"] != "malformed_row")
    tabled = {i: url for i, (_, url) in enumerate(web.rows)}
    assert {row["row"]: row["url"] for row in failed if row["row"] in tabled} == {
        row: tabled[row] for row in reasons if row in tabled
    }
    captions = [caption for i, (caption, _) in enumerate(web.rows) if i not in reasons]
    assert index["caption"].to_pylist() == captions


def test_the_counts_of_the_card_are_those_of_the_files(web):
    card = (web.raw / "README.md").read_text()
    failed = pq.read_table(web.raw / "failed_downloads.parquet")["reason"].to_pylist()
    for reason, count in Counter(failed).items():
        assert f"{count} rows of train have no picture: {reason}." in card
    rows = len(web.rows) + 1
    assert f"{rows - len(failed)} of {rows} rows of train have a picture" in card


def test_pictures_are_resized_to_the_shorter_side_and_are_the_right_ones(web):
    found = {s.caption: s for shard in sorted(web.raw.glob("train/*.tar")) for s in read_shard(shard)}
    large = Image.open(io.BytesIO(found["a large one"].image))
    assert large.size == (90, 64)  # 700 x 500 with the shorter side at 64
    for number in (0, 17, 59):
        got = Image.open(io.BytesIO(found[f"picture number {number}"].image)).convert("RGB")
        wanted = Image.open(io.BytesIO(picture(number))).resize(got.size, Image.Resampling.BOX)
        difference = [abs(a - b) for a, b in zip(got.tobytes(), wanted.tobytes(), strict=True)]
        assert sum(difference) / len(difference) < 6
    facts = found["a large one"].metadata
    assert (facts["original_width"], facts["original_height"]) == (700, 500)
    assert facts["captions"] == {"en": "a large one"}


def test_transient_failures_are_tried_again_and_permanent_ones_are_not(web):
    tries = {kind: web.requests[f"/{kind}/7.jpg"] for kind in FAULTY if kind != "circle"}
    assert tries == {kind: 2 if kind in TRANSIENT else 1 for kind in tries}
    assert web.requests["/flaky/10.jpg"] == 2
    assert "works the second time" in read_index(web.raw)["caption"].to_pylist()


def test_an_address_with_two_captions_is_fetched_once_and_makes_two_pairs(web):
    assert web.requests["/picture/1.jpg"] == 1
    index = read_index(web.raw)
    of_both = [i for i, text in enumerate(index["caption"].to_pylist()) if text.endswith(("number 1", "picture 1"))]
    assert len({index["key"][i].as_py() for i in of_both}) == 2
    assert len({index["image_hash"][i].as_py() for i in of_both}) == 1


def test_addresses_with_blanks_and_accents_are_sent_encoded(web):
    assert web.requests["/picture/11.jpg?name=caf%C3%A9%20au%20lait"] == 1


def test_validation_accepts_what_was_downloaded(web):
    metrics = json.loads((web.root / "data/valid/web/metrics.json").read_text())
    assert metrics["ingested"] == read_index(web.raw).num_rows
    # the server has pictures 1, 9, 10 and 11 under two addresses or captions
    assert {why: count for why, count in metrics["rejected_by_reason"].items() if count} == {"duplicate_image": 4}


def test_progress_is_told_with_rate_and_time_left(web):
    assert "download train 76/76 url (100 %)" in web.log
    assert "retry train 7/7 url (100 %)" in web.log
    assert "ETA" in web.log


def test_a_new_run_fetches_nothing_and_makes_the_same_bytes(web, server):
    before = contents(web)
    server.requests.clear()
    params = json.loads((web.root / "params.yaml").read_text())
    params["machine"]["download"]["command"] = "not-needed-any-more"
    web.write(params)
    web.run()
    assert server.requests == {}
    assert contents(web) == before


def test_a_killed_download_takes_no_process_along_and_resumes_to_the_same_bytes(server, tmp_path):
    rows = good_rows(server, 100, 200)
    straight = UrlProject(tmp_path / "straight", source())
    straight.write_table(rows)
    straight.run()

    killed = UrlProject(tmp_path / "killed", source(), processes=1, threads=4)
    killed.write_table(rows)
    server.requests.clear()
    held = iter(range(60))
    server.before_answer = lambda: next(held, None) is not None or server.gate.clear()
    process = killed.start()
    try:
        wait_for(lambda: len(killed.finished_parts()) >= 2)
        assert killed.downloaders()
        process.kill()
        process.wait()
        wait_for(lambda: not killed.downloaders(), 20)
    finally:
        process.kill()
        server.before_answer = lambda: True
        server.gate.set()
    finished = {url_id for part in killed.finished_parts() for url_id in pq.read_table(part)["url_id"].to_pylist()}
    assert 40 <= len(finished) < 100
    unfinished = [path for path in killed.downloads.glob("*/pass-*/*.tar") if not _index_of(path).is_file()]
    assert unfinished, "a half-written tar is what this test is about"
    half_written = killed.finished_parts()[0].with_name("00003_stats.json")
    half_written.write_text('{"count": 25, ')

    output = killed.run()
    assert "100/100 url" in output
    once = {number for number in range(100, 200) if server.requests[f"/picture/{number}.jpg"] == 1}
    kept = {number for number in range(100, 200) if _hash(server.url(f"picture/{number}.jpg")) in finished}
    assert len(kept) == len(finished)
    assert kept <= once, "what was finished has been fetched again"
    assert contents(killed) == contents(straight)


def _hash(url):
    return int.from_bytes(hashlib.blake2b(url.encode(), digest_size=8).digest(), "big")


def _index_of(tar):
    return tar.with_name(f"{tar.stem}.index.parquet")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_img2dataset_and_all_its_children(server, tmp_path, number):
    project = UrlProject(tmp_path / "p", source())
    project.write_table(good_rows(server, 300, 400))
    server.requests.clear()
    server.gate.clear()
    process = project.start()
    wait_for(lambda: len(server.requests) > 4)
    # the leash, img2dataset, its logger, its workers, and their resource tracker
    assert len(project.downloaders()) >= 4
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGTERM), output
    wait_for(lambda: not project.downloaders(), 20)
    assert not project.raw.exists()


def test_a_machine_without_network_stops_early_and_goes_on_when_it_is_mended(server, tmp_path):
    project = UrlProject(tmp_path / "p", source(download={"timeout": 1, "min_attempts": 30, "retry_passes": 0}))
    good = good_rows(server, 500, 520)
    lost = [(f"lost {i}", f"http://host-{i}.invalid/{i}.jpg") for i in range(180)]
    project.write_table(good + lost)
    output = project.run(code=2)
    assert "% dns" in output
    assert "is the machine online" in output
    assert "at most 60 % failures (download.max_failed)" in output
    tried = sum(pq.read_metadata(part).num_rows for part in project.finished_parts())
    assert 30 <= tried < 200, "it went on to the end"
    assert not project.downloaders()
    project.write_table([*good, *good_rows(server, 520, 600)])
    project.run()
    assert read_index(project.raw).num_rows == 100
    assert {server.requests[f"/picture/{i}.jpg"] for i in range(500, 600)} == {1}


def test_rows_that_are_added_leave_the_keys_alone_and_are_all_that_is_fetched(server, tmp_path):
    project = UrlProject(tmp_path / "p", source())
    project.write_table(good_rows(server, 600, 640))
    project.run()
    before = read_index(project.raw)
    server.requests.clear()
    project.write_table([("one in front", server.url("picture/599.jpg")), *good_rows(server, 600, 650)])
    project.run()
    after = read_index(project.raw)
    assert set(server.requests) == {f"/picture/{i}.jpg" for i in (599, *range(640, 650))}
    assert after["key"].to_pylist()[1:41] == before["key"].to_pylist()
    assert len(after) == 51


def test_a_second_split_has_keys_and_a_download_of_its_own(server, tmp_path):
    splits = {
        "train": {"table": "table.tsv", "role": "train", "preset": "cc3m"},
        "test": {"table": "test.tsv", "role": "retrieval", "preset": "cc3m"},
    }
    project = UrlProject(tmp_path / "p", source(splits=splits))
    project.write_table(good_rows(server, 700, 720))
    project.write_table(good_rows(server, 700, 703), "test.tsv")
    project.run()
    index = read_index(project.raw)
    assert Counter(index["split"].to_pylist()) == {"train": 20, "test": 3}
    keys = index["key"].to_pylist()
    assert len(set(keys)) == 23
    assert [key.removeprefix("test+") for key in keys[20:]] == keys[:3]
