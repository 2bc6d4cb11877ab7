"""Stands in for img2dataset: the last part of an address says what becomes of it, a plan beside the output what fails.

Run as a program: it reads the options that matter and writes tars, reports and statistics as img2dataset does.
"""

import ast
import io
import json
import sys
import tarfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def write_part(folder: Path, number: int, rows: list[dict], cut: bool = False) -> None:
    report = []
    with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
        for place, row in enumerate(reversed(rows)):
            key, fate = f"{number:05d}{place:04d}", row["url"].rpartition("/")[2]
            entry = {**row, "key": key, "status": "success", "error_message": None}
            entry |= {"original_width": 9, "original_height": 8, "sha256": "0" * 64}
            if fate.startswith("ok"):
                add(tar, f"{key}.jpg", row["url"].encode())
            elif fate.startswith("missing"):
                pass
            elif fate.startswith("lost"):
                continue
            else:
                entry |= {"status": "failed_to_download", "error_message": f"HTTP Error {fate}: no", "sha256": None}
            report.append(entry)
    if cut:
        path = folder / f"{number:05d}.tar"
        path.write_bytes(path.read_bytes()[:700])
    schema = pa.schema(
        {name: pa.string() for name in ("url", "url_id", "key", "status", "error_message", "sha256")}
        | {"original_width": pa.int32(), "original_height": pa.int32()}
    )
    pq.write_table(pa.Table.from_pylist(report, schema), folder / f"{number:05d}.parquet")
    (folder / f"{number:05d}_stats.json").write_text(json.dumps({"count": len(rows)}))


def main() -> int:
    options = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
    folder = Path(ast.literal_eval(options["output_folder"]))
    rows = pq.read_table(ast.literal_eval(options["url_list"])).to_pylist()
    size = int(options["number_sample_per_shard"])
    plan = folder.parent / "plan.json"
    faults = json.loads(plan.read_text()) if plan.is_file() else []
    fault = faults.pop(0) if faults else ""
    plan.write_text(json.dumps(faults))
    with (folder.parent / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps([row["url"] for row in rows]) + "\n")
    for number, start in enumerate(range(0, len(rows), size)):
        if fault == "exit":
            print("the last words")
            return 3
        if fault == "stuck" and number == 1:
            time.sleep(3600)
        write_part(folder, number, rows[start : start + size], fault == "cut" and number == 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
