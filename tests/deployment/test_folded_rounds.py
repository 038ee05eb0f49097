"""Rounds whose updates come all at once: they are kept as one sum, and nothing but the disk knows the difference."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lycia import Evaluation, Uniform
from lycia.core.events import Event, Heard
from lycia.core.messages import Reply
from lycia.deployment.coordinator import mailbox
from lycia.deployment.coordinator.mailbox import Mailbox
from lycia.deployment.node import client as client_module
from lycia.deployment.starting import start_run
from lycia.errors import ConnectionFailed
from lycia.runtime.apps import load_app
from lycia.storage.run_store import RunStore
from tests.deployment.conftest import APP
from tests.deployment.in_process import Coordinator
from tests.deployment.raw_node import RawNode
from tests.deployment.transferring import facts, spooled
from tests.waiting import wait_until

NAMES = [f"node-{number}" for number in range(6)]


@pytest.fixture
def secured(monkeypatch: pytest.MonkeyPatch) -> list[Heard]:
    """What is written down of updates; each exchange is heard when the answers of all who were asked have come."""
    found: list[Heard] = []
    receive, secure = Mailbox.receive, Mailbox.secure

    async def together(self: Mailbox, until_s: float) -> Reply | None:
        self._listening.set()
        while until_s > 0 and self._replies.qsize() < sum(map(bool, self._open.values())):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        return await receive(self, until_s)

    async def noted(self: Mailbox, reply: Reply, events: Sequence[Event]) -> Sequence[Event]:
        kept = await secure(self, reply, events)
        found.extend(event for event in kept if isinstance(event, Heard))
        return kept

    monkeypatch.setattr(Mailbox, "receive", together)
    monkeypatch.setattr(Mailbox, "secure", noted)
    monkeypatch.setattr(client_module, "_PATIENCE_S", (0.01, 0.05))
    return found


class Federation:
    """A coordinator and six nodes, of which each moves every parameter by as much as it always does."""

    def __init__(self, coordinator: Coordinator, nodes: list[RawNode]) -> None:
        self.coordinator, self.nodes, self._over = coordinator, nodes, threading.Event()
        self.refusals: list[str] = []
        self._threads = [threading.Thread(target=self._play, args=one) for one in enumerate(nodes)]
        for node in nodes:
            assert node.poll(0.0) is None
        for thread in self._threads:
            thread.start()

    def _play(self, number: int, node: RawNode) -> None:
        while not self._over.is_set():
            with suppress(ConnectionFailed):
                self._work(number, node)

    def _work(self, number: int, node: RawNode) -> None:
        ask = node.poll(0.1)
        if ask is not None:
            said = node.answer(ask, lambda draft: draft.file(scale=1 + number / 7, weight=1.0 + number))
            self.refusals += [said] if said else []

    def hold(self, **changes: Any) -> dict[str, Any]:
        """What is known of a run of three rounds when it is over."""
        run = self.start(**changes)
        assert wait_until(lambda: facts(self.coordinator, run)["state"] != "running", 60)
        return facts(self.coordinator, run)

    def start(self, **changes: Any) -> str:
        """Begin such a run."""
        app = load_app(APP)
        rules = replace(app.plan.rules, deadline_s=600.0, least_nodes=6, **changes.pop("rules", {}))
        plan = replace(app.plan, **{"rounds": 3, "evaluation": Evaluation(), **changes}, rules=rules)
        return start_run(self.coordinator.client, replace(app, plan=plan))

    def end(self) -> None:
        """Let the nodes end."""
        self._over.set()
        for node in self.nodes:
            node.client.close()  # whoever still tries gives up
        for thread in self._threads:
            thread.join()


@pytest.fixture
def federation(tmp_path: Path, secured: list[Heard]) -> Iterator[Federation]:
    """One for each test."""
    with Coordinator(tmp_path / "coordinator", 60.0) as coordinator, ExitStack() as stack:
        nodes = [stack.enter_context(closing(RawNode(coordinator.invite(name), tmp_path / name))) for name in NAMES]
        for node in nodes:
            node.client._give_up_s = None
        running = Federation(coordinator, nodes)
        stack.callback(running.end)
        yield running


def folded(secured: list[Heard]) -> list[Heard]:
    """The events of sums, which name the sum for each of their nodes."""
    return [event for event in secured if len(event.nodes) > 1 and len(set(event.handles)) == 1 and event.handles[0]]


def models(found: dict[str, Any]) -> list[str]:
    """The digests of a run's models, round by round."""
    return [record["model"] for record in found["records"] if record["purpose"] == "train"]


def test_rounds_that_are_folded_make_the_models_of_rounds_that_are_not(
    federation: Federation, secured: list[Heard], monkeypatch: pytest.MonkeyPatch
):
    found = federation.hold()
    sums = folded(secured)
    # In the first round nobody knows yet how fine the grid may be; in the others all six are in one sum.
    assert [sorted(event.nodes) for event in sums] == [NAMES, NAMES]
    assert [len(event.handles) for event in sums] == [6, 6]
    assert sums[0].handles != sums[1].handles
    monkeypatch.setattr(mailbox, "_MOST_FOLDED", 1)
    del secured[:]
    alone = federation.hold()
    assert folded(secured) == []
    assert len(models(found)) == 3
    assert models(found) == models(alone)
    for one, other in zip(found["records"], alone["records"], strict=True):
        assert one["survivors"] == other["survivors"]
    assert wait_until(lambda: spooled(federation.coordinator) == set())


def test_a_coordinator_that_stops_when_a_sum_is_written_down_goes_on_to_the_same_model(
    federation: Federation, secured: list[Heard], monkeypatch: pytest.MonkeyPatch
):
    undisturbed = models(federation.hold())
    committed, real, files = threading.Event(), RunStore.append, []

    async def append(self: RunStore, events: Sequence[Event]) -> None:
        await real(self, events)
        sums = folded([event for event in events if isinstance(event, Heard)])
        if sums and not committed.is_set():
            files.append(sums[0].handles[0])
            committed.set()
            await asyncio.Event().wait()  # nobody was told yet when the coordinator stops

    monkeypatch.setattr(RunStore, "append", append)
    del secured[:]
    run = federation.start()
    assert committed.wait(20)
    federation.coordinator.stop()
    assert spooled(federation.coordinator) == set(files)
    federation.coordinator.start()
    assert wait_until(lambda: facts(federation.coordinator, run)["state"] == "finished", 60)
    found = facts(federation.coordinator, run)
    assert models(found) == undisturbed
    assert [record["survivors"] for record in found["records"] if record["purpose"] == "train"] == [NAMES] * 3
    assert wait_until(lambda: spooled(federation.coordinator) == set())


def test_of_more_updates_than_are_needed_a_sum_has_no_more_than_the_goal(federation: Federation, secured: list[Heard]):
    found = federation.hold(selector=Uniform(4), rules={"over_selection": 1.5})
    assert found["state"] == "finished"
    records = [record for record in found["records"] if record["purpose"] == "train"]
    assert [len(record["survivors"]) for record in records] == [4, 4, 4]
    assert [len(event.nodes) for event in folded(secured)] == [4, 4]
    assert [sorted(event.nodes) for event in folded(secured)] == [sorted(record["survivors"]) for record in records[1:]]
    assert len(federation.refusals) == 6
    assert all("had gone on" in refusal for refusal in federation.refusals)
    assert wait_until(lambda: spooled(federation.coordinator) == set())
