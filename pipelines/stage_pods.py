"""``python -m pipelines.stage_pods ..`` stands in for ``python ..``: it runs a stage's program in a pod of its own.

See pipelines/kubernetes.py for why. Neither Dagster nor DVC is imported here, because every stage pays for it.
"""

import hashlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from assets.command import INTERRUPTED, guarded
from assets.errors import ConfigError, message
from assets.section import read_yaml
from pipelines.dvc_project import load_project

if TYPE_CHECKING:
    from kubernetes.client import CoreV1Api

# what the cluster tells of a pod: a V1Pod, all of whose fields its annotations call optional
_Told: TypeAlias = Any
TEMPLATES = Path("deploy") / "pods"
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_PASSED_ON = ("DAGSTER_PIPES_", "DVC_", "GX_ANALYTICS_ENABLED", "PYTHONUNBUFFERED")
_SECONDS_BETWEEN_LOOKS = 2.0
_SECONDS_BETWEEN_TRIES = (1.0, 2.0, 4.0, 8.0, 16.0)
_NOT_FOUND, _SERVER_FAULT = 404, 500
_ENDED = ("Succeeded", "Failed")
_LOST = 1


def pod_template(root: Path, address: str) -> dict[str, Any] | None:
    """Read the pod that a stage runs in.

    Args:
        root: The project.
        address: The stage as DVC spells it; empty outside DVC.

    Returns:
        The manifest, or None where the stage's pool has no template and the stage runs in place.

    Raises:
        ConfigError: The template is no pod with one container.
    """
    stage = load_project(root).stages.get(address)
    pool = (stage.meta.get("dagster") or {}).get("pool") if stage else None
    path = root / TEMPLATES / f"{pool}.yaml"
    if pool is None or not path.is_file():
        return None
    pod = read_yaml(path)
    if pod.get("kind") != "Pod" or len((pod.get("spec") or {}).get("containers") or ()) != 1:
        raise ConfigError(message(f"{path}: wrong template", wanted="kind: Pod with one container", fix="mend it"))
    return pod


def stage_pod(
    template: Mapping[str, Any], address: str, command: Sequence[str], env: Mapping[str, str]
) -> dict[str, Any]:
    """Fill a template for one stage.

    The name follows from the stage alone: what an earlier try left behind is found, and stopped, before the next one.

    Args:
        template: The manifest of a pod with one container.
        address: The stage as DVC spells it.
        command: Program and arguments.
        env: Our environment, of which the pod gets what Dagster Pipes and DVC put there.

    Returns:
        The manifest of the pod.
    """
    pod = deepcopy(dict(template))
    slug = re.sub(r"[^a-z0-9]+", "-", address.lower()).strip("-")[:40].strip("-")
    name = f"stage-{slug}-{hashlib.sha256(address.encode()).hexdigest()[:8]}"
    metadata = pod.setdefault("metadata", {})
    metadata["name"] = name
    metadata.setdefault("annotations", {})["clipfoundry/stage"] = address
    container = pod["spec"]["containers"][0]
    container["command"] = list(command)
    passed_on = [{"name": key, "value": value} for key, value in sorted(env.items()) if key.startswith(_PASSED_ON)]
    container["env"] = [*(container.get("env") or ()), *passed_on]
    return pod


@dataclass(frozen=True, slots=True)
class PodRun:
    """One pod from its creation to its removal.

    Attributes:
        api: The cluster.
        namespace: Where the pod lives.
        pod: Its manifest.
        write: Takes its output.
        wait: Sleeps.
    """

    api: "CoreV1Api"
    namespace: str
    pod: Mapping[str, Any]
    write: Callable[[str], object]
    wait: Callable[[float], object] = time.sleep

    @property
    def name(self) -> str:
        """The pod's name."""
        return str(self.pod["metadata"]["name"])

    def run(self) -> int:
        """Run the pod to its end; Ctrl-C or SIGTERM gives it the time of its template to save its work.

        Returns:
            The exit code of its container, 130 after an interrupt, 1 when the pod was lost.
        """
        self.remove()
        try:
            self._call(self.api.create_namespaced_pod, self.namespace, self.pod)
            return self._follow()
        except KeyboardInterrupt:
            self._say("interrupted: stopping the pod")
            return INTERRUPTED
        finally:
            with _deaf_to_signals():
                self.remove()

    def remove(self) -> None:
        """Stop and delete the pod of this name, if there is one, and wait until it is gone."""
        if self._call(self.api.delete_namespaced_pod, self.name, self.namespace) is None:
            return
        while self._read() is not None:
            self.wait(_SECONDS_BETWEEN_LOOKS)

    def _follow(self) -> int:
        """Pass on what the pod prints until it ends; the connection that brings it may break on the way."""
        reason, started = "", False
        while (pod := self._read()) is not None:
            phase = str(pod.status.phase)
            if phase in _ENDED and started:
                return exit_code(pod)
            if phase == "Pending":
                if (now := why_pending(pod)) and now != reason:
                    reason = now
                    self._say(f"waiting: {now}")
            else:
                self._copy_output(only_new=started)
                started = True
                continue
            self.wait(_SECONDS_BETWEEN_LOOKS)
        self._say("the pod was deleted before it had ended")
        return _LOST

    def _copy_output(self, only_new: bool) -> None:
        recent = {"since_seconds": max(1, round(_SECONDS_BETWEEN_LOOKS))} if only_new else {}
        answer = self._call(
            self.api.read_namespaced_pod_log,
            self.name,
            self.namespace,
            follow=True,
            _preload_content=False,
            **recent,
        )
        if answer is None:
            return
        from urllib3.exceptions import HTTPError

        try:
            for piece in answer.stream():
                self.write(piece.decode("utf-8", errors="replace"))
        except HTTPError as error:
            self._say(f"the output broke off ({type(error).__name__}), looking again")
        self.wait(_SECONDS_BETWEEN_LOOKS)

    def _read(self) -> _Told | None:
        return self._call(self.api.read_namespaced_pod, self.name, self.namespace)

    def _call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Ask the cluster, again while it has a fault of its own; None when there is no such pod."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        for pause in (*_SECONDS_BETWEEN_TRIES, None):
            try:
                return function(*arguments, **options)
            except (ApiException, HTTPError) as error:
                status = getattr(error, "status", None) or _SERVER_FAULT
                if status == _NOT_FOUND:
                    return None
                if status < _SERVER_FAULT:
                    fix = "give the service account of this pod the role of Dagster's chart, or mend the template"
                    raise ConfigError(message(f"pod {self.name}: the cluster refuses: {error}", fix=fix)) from error
                if pause is None:
                    raise
                self._say(f"the cluster does not answer, trying again in {pause:g} s")
                self.wait(pause)
        return None

    def _say(self, text: str) -> None:
        self.write(f"pod {self.name}: {text}\n")


@contextmanager
def _deaf_to_signals() -> Generator[None]:
    """Let a second signal not end us before the pod: it would go on writing outputs that DVC thinks are free."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_code(pod: _Told) -> int:
    """Return how the container of an ended pod ended; 1 for a pod that the cluster failed, such as by eviction."""
    for container in pod.status.container_statuses or ():
        if container.state.terminated is not None:
            return int(container.state.terminated.exit_code)
    return 0 if pod.status.phase == "Succeeded" else _LOST


def why_pending(pod: _Told) -> str:
    """Return what keeps a pod from starting: no node with a free GPU, an image that cannot be had."""
    for container in pod.status.container_statuses or ():
        if container.state.waiting is not None and container.state.waiting.message:
            return f"{container.state.waiting.reason}: {container.state.waiting.message}"
    conditions = [one for one in pod.status.conditions or () if one.status == "False" and one.message]
    return f"{conditions[0].reason}: {conditions[0].message}" if conditions else ""


def main(arguments: list[str]) -> int:
    """Stand in for ``python ARGUMENTS``: in a pod for a stage whose pool has a template, else right here."""
    root, address = Path(os.environ.get("DVC_ROOT", ".")), os.environ.get("DVC_STAGE", "")
    template = pod_template(root, address)
    if template is None:
        os.execv(sys.executable, [sys.executable, *arguments])
    from kubernetes import client, config

    # inside a pod: its service account; elsewhere: the kubeconfig
    config.load_config()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    pod = stage_pod(template, address, ["python", *arguments], os.environ)

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    namespace = _NAMESPACE_FILE.read_text(encoding="utf-8").strip() if _NAMESPACE_FILE.is_file() else "default"
    return PodRun(client.CoreV1Api(), namespace, pod, write).run()


if __name__ == "__main__":
    codes: list[int] = []
    sys.exit(guarded(lambda: codes.append(main(sys.argv[1:]))) or codes[0])
