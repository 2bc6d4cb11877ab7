"""Two nodes, each a network namespace with an address of its own, train one model over the wire between them."""

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from tests.training.torchrun import assert_close_weights, end, start, tail, torchrun_command
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


def options(node: Node, first: Node) -> list[str]:
    return [
        *("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint={first.address}:{PORT}"),
        # host names mean nothing between the namespaces, so who hosts the rendezvous and who is where is said in full
        *(f"--rdzv-conf=is_host={node is first}", f"--local-addr={node.address}"),
    ]


@pytest.mark.slow
def test_two_nodes_train_as_one_process_with_the_same_global_batch(toy_data, params, nodes, tmp_path, monkeypatch):
    file, two = params(), tmp_path / "two"
    two.mkdir()
    agents = []
    try:
        for node in nodes:
            command = torchrun_command(options(node, nodes[0]), file, toy_data, two)
            inside = [str(shutil.which("ip", path=SBIN)), "netns", "exec", node.name, *command]
            agents.append(start(inside, two, tmp_path / f"{node.name}.log", GLOO_SOCKET_IFNAME=node.link))
        for agent, node in zip(agents, nodes, strict=True):
            assert agent.wait(timeout=300) == 0, tail(tmp_path / f"{node.name}.log")
        # a megabyte of weights' gradients twelve times: nothing but training together sends so much
        assert min(node.bytes_received() for node in nodes) > 12e6
    finally:
        for agent in agents:
            end(agent)
    assert json.loads((two / "log/summary.json").read_text())["processes"] == 2

    monkeypatch.chdir(tmp_path)
    pretrain("toy-s0", file, Paths(*toy_data, tmp_path / "one/model", tmp_path / "one/log"))
    assert_close_weights(tmp_path / "one", two)
    curves = [
        np.loadtxt(tmp_path / who / "log/plots/metrics/train/loss.tsv", skiprows=1)[:, 1] for who in ("one", "two")
    ]
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)
