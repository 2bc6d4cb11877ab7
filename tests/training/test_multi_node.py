"""Two nodes, each a network namespace with an address of its own, train one model over the wire between them."""

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.training.torchrun import RESTARTABLE, assert_close_weights, end, start, tail, torchrun_command, wait_for
from training.pretrain import Paths, pretrain

SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
PORT = 29500  # free: the namespaces are new


@dataclass(frozen=True)
class Node:
    """A network namespace.

    Attributes:
        name: Of the namespace.
        link: Its end of the wire.
        address: Its address on the wire.
    """

    name: str
    link: str
    address: str

    def bytes_received(self) -> int:
        return int(ip("netns", "exec", self.name, "cat", f"/sys/class/net/{self.link}/statistics/rx_bytes"))


def ip(*arguments: str) -> str:
    return subprocess.run(
        [str(shutil.which("ip", path=SBIN)), *arguments], check=True, capture_output=True, text=True
    ).stdout


def wire(nodes: list[Node]) -> None:
    """Make both namespaces and join them by a virtual cable."""
    for node in nodes:
        ip("netns", "add", node.name)
        ip("-n", node.name, "link", "set", "lo", "up")
    one, two = nodes
    ip("-n", one.name, "link", "add", one.link, "type", "veth", "peer", "name", two.link, "netns", two.name)
    for node in nodes:
        ip("-n", node.name, "address", "add", f"{node.address}/24", "dev", node.link)
        ip("-n", node.name, "link", "set", node.link, "up")


@pytest.fixture
def nodes() -> Iterator[list[Node]]:
    if shutil.which("ip", path=SBIN) is None:
        refuse("no command ip; install the package iproute2 to run this test")
    tag = secrets.token_hex(3)
    subnet = f"10.{secrets.randbelow(256)}.{secrets.randbelow(256)}"
    both = [Node(f"clipfoundry-{tag}-{n}", f"cf{tag}{n}", f"{subnet}.{n}") for n in (1, 2)]
    try:
        try:
            wire(both)
        except subprocess.CalledProcessError as error:
            refuse(f"network namespaces are not permitted here: {error.stderr.strip()}")
        yield both
    finally:
        for node in both:  # the cable goes with them
            subprocess.run([str(shutil.which("ip", path=SBIN)), "netns", "delete", node.name], capture_output=True)


def refuse(reason: str) -> None:
    pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)


@dataclass(frozen=True)
class Cluster:
    """Where a test's nodes train together; they see one file system.

    Attributes:
        nodes: The first one hosts the rendezvous.
        params: The params.yaml.
        toy_data: Folders raw and valid.
        here: The folder of all of them.
    """

    nodes: list[Node]
    params: Path
    toy_data: tuple[Path, Path]
    here: Path

    def log(self, node: Node) -> Path:
        return self.here / f"{node.link}.log"

    def start(self, node: Node) -> subprocess.Popen[bytes]:
        """Start torchrun on a node."""
        first = self.nodes[0]
        options = [
            *("--nnodes=2", "--nproc-per-node=1", "--max-restarts=3"),
            *("--rdzv-backend=c10d", f"--rdzv-endpoint={first.address}:{PORT}"),
            # host names mean nothing between the namespaces, so who hosts the rendezvous and who is where is said
            *(f"--rdzv-conf=is_host={node is first}", f"--local-addr={node.address}"),
        ]
        command = torchrun_command(options, self.params, self.toy_data, self.here)
        inside = [str(shutil.which("ip", path=SBIN)), "netns", "exec", node.name, *command]
        return start(inside, self.here, self.log(node), GLOO_SOCKET_IFNAME=node.link, **RESTARTABLE)

    def finish(self, agents: list[subprocess.Popen[bytes]]) -> None:
        """Wait for the end on all nodes."""
        for agent, node in zip(agents, self.nodes, strict=True):
            assert agent.wait(timeout=240) == 0, tail(self.log(node))
        assert json.loads((self.here / "machine/machine.json").read_text())["processes"] == 2


def assert_as_one_process(cluster: Cluster, alone: Path, rounding: float) -> None:
    """Train once more in this process alone and compare."""
    pretrain("toy-s0", cluster.params, Paths(*cluster.toy_data, alone / "model", alone / "log"))
    assert_close_weights(alone, cluster.here, rounding)
    curves = [np.loadtxt(who / "log/plots/metrics/train/loss.tsv", skiprows=1)[:, 1] for who in (alone, cluster.here)]
    assert curves[0] == pytest.approx(curves[1], abs=rounding)


@pytest.mark.slow
def test_two_nodes_train_as_one_process_with_the_same_global_batch(toy_data, params, nodes, tmp_path, monkeypatch):
    cluster = Cluster(nodes, params(), toy_data, tmp_path / "two")
    cluster.here.mkdir()
    agents = []
    try:
        for node in nodes:
            agents.append(cluster.start(node))
        cluster.finish(agents)
    finally:
        for agent in agents:
            end(agent)
    # three megabytes of gradients twelve times: nothing but training together sends so much
    assert min(node.bytes_received() for node in nodes) > 30e6
    monkeypatch.chdir(tmp_path)
    assert_as_one_process(cluster, tmp_path / "one", rounding=1e-5)


@pytest.mark.slow
def test_a_node_that_is_lost_and_comes_back_changes_nothing(toy_data, params, nodes, tmp_path, monkeypatch):
    longer = {"recipes.clip.budget": {"samples_seen": 960, "batch_size": 16}, "recipes.clip.checkpoint_every": 10}
    cluster = Cluster(nodes, params(**longer), toy_data, tmp_path / "two")
    cluster.here.mkdir()
    agents = []
    try:
        for node in nodes:
            agents.append(cluster.start(node))
        checkpoints = "work/pretrain/toy-s0/*/checkpoints/step-*[0-9]"
        wait_for(lambda: list(cluster.here.glob(checkpoints)), agents[0], cluster.log(nodes[0]))
        end(agents.pop())
        agents.append(cluster.start(nodes[1]))
        cluster.finish(agents)
    finally:
        for agent in agents:
            end(agent)
    assert any("goes on from step" in cluster.log(node).read_text() for node in nodes)  # the main process says so
    monkeypatch.chdir(tmp_path)
    assert_as_one_process(cluster, tmp_path / "one", rounding=1e-4)  # five times as many steps
