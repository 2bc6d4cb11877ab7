"""A project whose data set is a table of addresses, and the commands that make it, as processes of their own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
from ruamel.yaml import YAML

REPOSITORY = Path(__file__).resolve().parents[3]
COMMAND = REPOSITORY / ".img2dataset" / "bin" / "img2dataset"


def _answer_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class UrlProject:
    """A folder with params.yaml and the data set ``web``.

    Attributes:
        root: The folder.
    """

    def __init__(self, root: Path, source: dict, processes: int = 2, threads: int = 16) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        params = YAML(typ="safe").load((REPOSITORY / "profiles" / "smoke.yaml").read_text())
        dataset = params["datasets"].pop("emoji")
        dataset["source"] = {"kind": "url_table", "licence": "made for a test", **source}
        dataset["samples_per_shard"] = 40
        dataset["validation"]["duplicates"]["near"] = False
        dataset["validation"]["limits"]["max_rejected_train"] = 0.9
        params["datasets"]["web"] = dataset
        params["machine"]["workers"] = 0
        params["machine"]["download"] = {"processes": processes, "threads": threads, "command": str(COMMAND)}
        self.write(params)

    def write(self, params: dict) -> None:
        (self.root / "params.yaml").write_text(json.dumps(params))

    def set_download(self, **values) -> None:
        params = json.loads((self.root / "params.yaml").read_text())
        params["datasets"]["web"]["source"].setdefault("download", {}).update(values)
        self.write(params)

    def write_table(self, rows: list[tuple[str, str]], name: str = "table.tsv") -> None:
        (self.root / name).write_text("".join(f"{caption}\t{url}\n" for caption, url in rows))

    def start(self, stage: str = "ingest") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "assets", stage, "--name", "web"],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # a shell that starts the tests in the background has them, and all they start, ignore Ctrl-C
            preexec_fn=_answer_ctrl_c,
        )

    def run(self, stage: str = "ingest", code: int = 0) -> str:
        process = self.start(stage)
        output, _ = process.communicate()
        assert process.returncode == code, output
        return output

    @property
    def raw(self) -> Path:
        return self.root / "data" / "raw" / "web"

    @property
    def downloads(self) -> Path:
        return self.root / "work" / "download" / "web"

    def finished_parts(self) -> list[Path]:
        return sorted(self.downloads.glob("*/pass-*/*.index.parquet"))

    def downloaders(self) -> list[psutil.Process]:
        """Every live process of img2dataset that works for this project."""
        found = []
        for process in psutil.process_iter():
            try:
                works_here = process.cwd() == str(self.root)
                if works_here and any("img2dataset" in word for word in (*process.cmdline(), process.exe())):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found
