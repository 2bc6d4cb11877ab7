"""Measure ingest from a table of addresses against img2dataset alone: pictures per second over the same local server.

Run ``python benchmarks/url_table.py`` in the repository root after ``make img2dataset``; it writes
benchmarks/results/url_table.json. Both get the same table, the same options and parts of equal length, and both are
timed as whole commands: ours from the table to published shards with index and data card, img2dataset from the table to
its tars. Rounds alternate, so that the load of the machine meets both; the bar is a ratio of medians of 0.9. The server
answers after 50 ms, as a near one would, and takes a share of the same cores, so this case is limited by computing;
downloads from the web wait more and compute less. CPU seconds, the server's left out, are what to compare on a busy
machine.
"""

import io
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from PIL import Image
from record import record
from ruamel.yaml import YAML

from assets.sources.url_table.config import DownloadOptions, DownloadPolicy
from assets.sources.url_table.img2dataset import ENVIRONMENT, find_command

REPOSITORY = Path(__file__).resolve().parent.parent
COMMAND = REPOSITORY / ".img2dataset" / "bin" / "img2dataset"
PICTURES, PROCESSES, THREADS, ROUNDS = 10_000, 2, 32, 3
PART_ROWS = PICTURES // (4 * PROCESSES)
"""What the source chooses for this many addresses and processes."""
DELAY = 0.05
VARIANTS = 32


def make_pictures() -> list[bytes]:
    """Pictures with the structure and size of photographs: 640 x 480, about 60 kB."""
    pictures: list[bytes] = []
    for number in range(VARIANTS):
        coarse = np.random.default_rng(number).integers(0, 256, (24, 32, 3), np.uint8)
        noise = np.random.default_rng(number).normal(0, 9, (480, 640, 3))
        smooth = np.asarray(Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC), np.float32)
        stream = io.BytesIO()
        Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=75)
        pictures.append(stream.getvalue())
    return pictures


def serve(port: Connection) -> None:
    pictures = make_pictures()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(DELAY)
            # the number in front makes each file another one
            content = pictures[int(self.path.strip("/").partition(".")[0]) % VARIANTS]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 256
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    port.send(server.server_address[1])
    server.serve_forever()


def run_ours(root: Path) -> None:
    params = YAML(typ="safe").load((REPOSITORY / "profiles" / "smoke.yaml").read_text())
    dataset = params["datasets"].pop("emoji")
    split = {"table": str(root.parent / "table.tsv"), "role": "train"}
    dataset |= {
        "source": {"kind": "url_table", "licence": "none", "splits": {"train": split}},
        "samples_per_shard": 1000,
    }
    params["datasets"]["web"] = dataset
    params["machine"]["workers"] = PROCESSES
    params["machine"]["download"] = {"processes": PROCESSES, "threads": THREADS, "command": str(COMMAND)}
    (root / "params.yaml").write_text(json.dumps(params))
    subprocess.run(
        [sys.executable, "-m", "assets", "ingest", "--name", "web"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        check=True,
        capture_output=True,
    )
    manifest = json.loads((root / "data/raw/web/manifest.json").read_text())
    assert manifest["counts"]["samples"] == PICTURES


def run_img2dataset(root: Path) -> None:
    values = {
        "url_list": str(root.parent / "table.tsv"),
        "input_format": "tsv",
        "url_col": "url",
        "caption_col": "caption",
        "output_format": "webdataset",
        "output_folder": str(root / "out"),
        "number_sample_per_shard": PART_ROWS,
        "processes_count": PROCESSES,
        "thread_count": THREADS,
        "timeout": DownloadPolicy().timeout,
        "extract_exif": False,
        "compute_hash": "sha256",
        **DownloadOptions().model_dump(mode="json", exclude_none=True),
    }
    command = [str(COMMAND), *(f"--{name}={value!r}" for name, value in values.items())]
    subprocess.run(command, env={**os.environ, **ENVIRONMENT}, check=True, capture_output=True)
    counts = [json.loads(path.read_text())["successes"] for path in (root / "out").glob("*_stats.json")]
    assert sum(counts) == PICTURES


def cpu_of_children() -> float:
    """CPU seconds of all processes that were started and have ended, with their own children."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    find_command(str(COMMAND))
    receiver, sender = multiprocessing.Pipe(duplex=False)
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(sender,), daemon=True)
    server.start()
    address = f"http://127.0.0.1:{receiver.recv()}"
    seconds: dict[str, list[float]] = {"img2dataset": [], "url_table": []}
    cpu_seconds: dict[str, list[float]] = {"img2dataset": [], "url_table": []}
    with tempfile.TemporaryDirectory() as folder:
        lines = [f"{address}/{i}.jpg\tcaption number {i}\n" for i in range(PICTURES)]
        (Path(folder) / "table.tsv").write_text("url\tcaption\n" + "".join(lines))
        for number in range(ROUNDS):
            for name, run in (("img2dataset", run_img2dataset), ("url_table", run_ours)):
                root = Path(folder) / f"{name}-{number}"
                root.mkdir()
                begin, begin_cpu = time.perf_counter(), cpu_of_children()
                run(root)
                seconds[name].append(round(time.perf_counter() - begin, 2))
                cpu_seconds[name].append(round(cpu_of_children() - begin_cpu, 2))
                print(name, seconds[name], cpu_seconds[name], flush=True)
    server.terminate()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    cpu = {name: statistics.median(values) for name, values in cpu_seconds.items()}
    ratio = medians["img2dataset"] / medians["url_table"]
    record(
        "url_table",
        {
            "pictures": PICTURES,
            "processes": PROCESSES,
            "threads": THREADS,
            "server_delay_ms": round(1000 * DELAY),
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "pictures_per_second": {name: round(PICTURES / value, 1) for name, value in medians.items()},
            "share_of_img2dataset": round(ratio, 3),
            "share_of_img2dataset_by_cpu": round(cpu["img2dataset"] / cpu["url_table"], 3),
            "bar": 0.9,
            "passed": ratio >= 0.9,
        },
    )


if __name__ == "__main__":
    main()
