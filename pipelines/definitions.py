"""What Dagster loads (``-m pipelines.definitions``): the project in the current folder.

Neither DVC nor PyTorch nor Great Expectations is imported here, so that it loads in a second or two.
"""

from pathlib import Path

from pipelines.dagster_project import build_definitions

defs = build_definitions(Path.cwd())
