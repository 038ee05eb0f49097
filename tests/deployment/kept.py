"""What a coordinator leaves when it ends in the middle of things: for tests of what looks after it."""

from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lycia.deployment.starting import start_run
from lycia.runtime.apps import load_app
from tests.deployment.conftest import APP
from tests.deployment.in_process import Coordinator
from tests.deployment.raw_node import Draft, RawNode

NAMES = ("north", "south")


@dataclass(frozen=True)
class Left:
    """The run that was under way, the coordinator's port, and what the node that had not answered was asked."""

    run: str
    port: int
    asked: Any


def leave(home: Path, nodes: Path, database: str = "") -> Left:
    """Serve a run until its second round is open and one of its two nodes has been heard."""
    with Coordinator(home, database=database) as coordinator, ExitStack() as stack:
        north, south = (stack.enter_context(closing(RawNode(coordinator.invite(name), nodes / name))) for name in NAMES)
        run = begin(coordinator, north, south)
        while True:
            for node in (north, south):
                ask = node.poll(0.1)
                if ask is None or (ask.round == 1 and ask.exchange == "train" and node is south):
                    continue
                assert node.answer(ask, Draft.file) == ""
                if ask.round == 1 and ask.exchange == "train":
                    asked = south.poll(10.0)
                    assert asked is not None
                    return Left(run, coordinator._port, asked)


def begin(coordinator: Coordinator, *nodes: RawNode) -> str:
    """Start a run of three rounds, with all nodes there."""
    app = load_app(APP)
    rules = replace(app.plan.rules, deadline_s=60.0, least_nodes=len(nodes))
    for node in nodes:
        node.poll(0.0)
    return start_run(coordinator.client, replace(app, plan=replace(app.plan, rules=rules)))


def again(home: Path, name: str, nodes: Path, port: int) -> RawNode:
    """A node that has enrolled before, as it comes back."""
    from lycia.deployment.identity import Identity
    from lycia.deployment.node.client import Client
    from lycia.deployment.operator import OperatorAccess

    access, node = OperatorAccess.at(home), object.__new__(RawNode)
    assert access.url.endswith(f":{port}")
    node.name, node._home = name, nodes / name
    node.client = Client(access.url, access.certificate, name, Identity.at(nodes / name / "key.pem"), give_up_s=5.0)
    return node


def play(coordinator: Coordinator, run: str, *nodes: RawNode) -> dict[str, Any]:
    """Let the nodes work until the run ends; returns what is known of it."""
    while (facts := coordinator.client.get(f"/v1/runs/{run}"))["state"] == "running":
        for node in nodes:
            ask = node.poll(0.1)
            if ask is not None:
                node.answer(ask, Draft.file)
    return dict(facts)
