"""Runs the stages of some pools in Kubernetes pods of their own, so that a GPU is taken only while a stage needs one.

DVC itself stays in the pod of the Dagster run. Its locks name processes by number and take one whose number it cannot
see for dead, so two DVC processes in two pods would both write the same outputs. What moves is only the command of the
stage: ``deploy/pods/bin/python`` stands first in its PATH and calls this module, which starts a pod made from
``deploy/pods/<pool>.yaml``, passes on its output, and ends with its exit code. The working tree is one volume in all
pods, and so are the files of Dagster Pipes (TMPDIR lies in it): progress arrives as it does on one machine.
"""

import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from assets.errors import ConfigError, message
from pipelines.dvc_command import Context, DvcCommand, Outcome, stage_environment
from pipelines.stage_pods import TEMPLATES

SELECTOR, PYTHON = "CLIPFOUNDRY_STAGE_PODS", "CLIPFOUNDRY_PYTHON"


@dataclass(frozen=True, slots=True)
class KubernetesCommand(DvcCommand):
    """Calls ``dvc`` here, whose stages run in pods of their own where their pool has a template."""

    def run(self, context: Context, arguments: list[str], env: Mapping[str, str] | None = None) -> Outcome:
        """Run DVC as :meth:`DvcCommand.run` does, with our ``python`` first in the PATH of its stages.

        Raises:
            ConfigError: Temporary files lie outside the shared volume, so that a pod could not report its progress.
        """
        root = self.root.resolve()
        place = Path(tempfile.gettempdir()).resolve()
        if not place.is_relative_to(root):
            fix = f"set TMPDIR to a folder that exists in {root}, e.g. {root / '.dagster' / 'tmp'}"
            raise ConfigError(message("temporary files are not on the volume of the pods", str(place), fix=fix))
        path = f"{root / TEMPLATES / 'bin'}{os.pathsep}{stage_environment()['PATH']}"
        ours = {"PATH": path, PYTHON: sys.executable, SELECTOR: "yes"}
        # a class with slots is made twice, which super() without arguments does not survive
        return DvcCommand.run(self, context, arguments, {**(env or {}), **ours})


def choose_command(root: Path) -> DvcCommand:
    """Return the way to run DVC here: with pods where the environment says ``CLIPFOUNDRY_STAGE_PODS``."""
    return KubernetesCommand(root) if os.environ.get(SELECTOR) else DvcCommand(root)
