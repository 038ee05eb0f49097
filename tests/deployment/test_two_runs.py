"""Several runs at once on one fleet: each gets its turn, and nothing that is done to one disturbs another."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from lycia.deployment.starting import start_run
from lycia.runtime.apps import load_app
from tests.deployment.conftest import APP
from tests.deployment.in_process import Coordinator
from tests.deployment.raw_node import Draft, RawNode

NAMES = ("east", "north", "south")


class Fleet:
    """Three nodes that answer in turn, and remember for which runs they were asked."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self.coordinator = stack.enter_context(Coordinator(home / "coordinator"))
        self.nodes = [
            stack.enter_context(closing(RawNode(self.coordinator.invite(name), home / name))) for name in NAMES
        ]
        self.turns: dict[str, list[str]] = {name: [] for name in NAMES}
        for node in self.nodes:
            assert node.poll(0.0) is None

    def start(self, rounds: int) -> str:
        """A run over all three."""
        app = load_app(APP)
        rules = replace(app.plan.rules, least_nodes=3, deadline_s=60.0, quorum=1.0)
        return start_run(self.coordinator.client, replace(app, plan=replace(app.plan, rounds=rounds, rules=rules)))

    def play(self, until: str) -> None:
        """Have every node answer what it is asked, one ask at a time, until a run is over."""
        while self.state(until) == "running":
            for node in self.nodes:
                ask = node.poll(0.2)
                if ask is not None:
                    self.turns[node.name].append(ask.run)
                    assert node.answer(ask, Draft.file) == ""

    def state(self, run: str) -> str:
        """How a run stands."""
        return str(self.coordinator.client.get(f"/v1/runs/{run}")["state"])

    def models(self, run: str) -> list[str]:
        """What came of it."""
        return [record["model"] for record in self.coordinator.client.get(f"/v1/runs/{run}")["records"]]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """One for each test."""
    with ExitStack() as stack:
        yield Fleet(tmp_path, stack)


def test_a_node_is_asked_by_the_run_that_has_waited_longest(fleet: Fleet):
    # Given two runs over the same nodes, of which the first has an ask for each node at any time
    one, other = fleet.start(6), fleet.start(6)
    while fleet.nodes[0].poll(0.0) is None:
        pass
    # When the nodes answer
    fleet.play(other)
    fleet.play(one)
    # Then each was asked by both in turn: none gets two asks in before the other one that waits
    for turns in fleet.turns.values():
        behind = [turns[: place + 1].count(one) - turns[: place + 1].count(other) for place in range(len(turns))]
        assert max(map(abs, behind)) <= 2, turns
        assert sorted(set(turns)) == sorted({one, other})


def test_what_is_done_to_one_run_does_not_disturb_the_other(fleet: Fleet):
    one, other, third = fleet.start(4), fleet.start(4), fleet.start(4)
    ask = fleet.nodes[0].poll(10.0)
    assert ask is not None
    fleet.coordinator.client.post(f"/v1/runs/{one}/pause")
    fleet.coordinator.client.post(f"/v1/runs/{third}/stop")
    fleet.play(other)
    assert (fleet.state(one), fleet.state(other), fleet.state(third)) == ("paused", "finished", "stopped")
    # and what is equal in them, as their first models are, is lost to nobody when one of them is over
    fleet.coordinator.client.post(f"/v1/runs/{one}/resume")
    fleet.play(one)
    assert fleet.models(one) == fleet.models(other)
    assert len(fleet.models(one)) == 4
