"""The fleet behind a network: boxes, open calls, and blobs that belong to one run."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from lycia import SGD, Everyone, ExampleWeightedMean, FedAvg, Plan
from lycia.core.layout import Layout, Leaf, Model
from lycia.core.messages import Ask, Declined, Late, Updates, Vanished
from lycia.core.round import Run
from lycia.deployment import wire
from lycia.deployment.coordinator.mailbox import Mailbox, Stopping
from lycia.deployment.coordinator.presence import Presence
from lycia.deployment.coordinator.transfers import Transfers
from lycia.storage.blobs import BlobFolder
from lycia.storage.database import Database, sqlite_url
from lycia.storage.spool import Spool, upload_id

LARGE = Layout((Leaf("weight", (40_000,)),))  # too large to travel inside an ask
SMALL = Layout((Leaf("weight", (3,)),))
PLAN = Plan(rounds=2, selector=Everyone(), client=FedAvg(), aggregator=ExampleWeightedMean(), server=SGD())


class Desk:
    """A mailbox, with the clock and the presence that it looks at."""

    def __init__(self, folder: Path, layout: Layout = SMALL, run: str = "a-run") -> None:
        self.now_s, self.woken = 100.0, 0
        self.blobs = BlobFolder(folder / "blobs", fsync=False)
        self.outgoing = BlobFolder(folder / "outgoing", fsync=False)
        self.spool = Spool(folder / "spool", fsync=False)
        self.database = Database(sqlite_url(folder / f"{run}.db"))
        self.presence = Presence(10.0, lambda: self.now_s)
        self.run = Run(run, PLAN, layout)
        self.transfers = Transfers(self.database, self.spool, lambda: self.now_s, self.presence.heard)
        self.box = Mailbox(
            self.run, self.presence, self.transfers, self.blobs, self.outgoing, lambda: self.now_s, self._wake
        )

    def _wake(self) -> None:
        self.woken += 1

    def close(self) -> None:
        """Let go of the database."""
        self.database.close()

    def ask(self, task: int, *nodes: str, number: int = 0, value: float = 0.0) -> Ask:
        """An ask to train, from a model of that value everywhere."""
        model = Model(np.full(self.run.layout.size("trained"), value, np.float32))
        return Ask(
            self.run.id, PLAN.digest, number, 0, task, "train", nodes, model, weight_cap=1e7, deadline_s=60.0
        )  # fmt: skip

    def update(self, node: str, task: int) -> Updates:
        """An update as the door hands it on: its file is kept."""
        size = self.run.layout.size("trained")
        block = Updates(task, (node,), np.ones((1, size), np.float32), np.array([4.0]), {}, {}, ("",))
        handle = upload_id(self.run.id, task, node, "digest")
        self.spool.put(handle, wire.update_file(self.run.layout, block, self.run.id))
        found = wire.decode_update(self.run.layout, self.spool.open(handle), self.run.id, task, node, handle)
        assert isinstance(found, Updates)
        return found


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """One of a small model."""
    with closing(Desk(tmp_path)) as one:
        yield one


def play(story: Callable[[], Awaitable[None]]) -> None:
    """Hold it in a loop of its own; it must not hang."""

    async def timed() -> None:
        await asyncio.wait_for(story(), 20)

    asyncio.run(timed())


async def settled() -> None:
    """Let whoever can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_node_finds_its_oldest_ask_again_and_again_until_its_answer_is_written_down(desk: Desk):
    async def story() -> None:
        await desk.box.send(desk.ask(8, "north"))
        await desk.box.send(desk.ask(7, "north", "south"))
        assert desk.woken == 2
        assert [desk.box.task_for(name) and desk.box.task_for(name).task for name in ("north", "south", "west")] == [
            7,
            7,
            None,
        ]
        delivery = asyncio.ensure_future(desk.box.deliver(desk.update("north", 7), "north"))
        reply = await desk.box.receive(200.0)
        assert isinstance(reply, Updates)
        await settled()
        assert not delivery.done()  # nobody lets go of an update before it is written down
        await desk.box.acknowledge(reply, {})
        assert await delivery is None
        assert desk.box.task_for("north").task == 8

    play(story)


def test_replies_come_in_the_order_in_which_they_arrived_and_each_caller_hears_of_its_own(desk: Desk):
    async def story() -> None:
        await desk.box.send(desk.ask(7, "south", "north", "west"))
        calls = {}
        for name in ("west", "north", "south"):
            calls[name] = asyncio.ensure_future(desk.box.deliver(Declined(7, name, f"{name} says no"), name))
            await settled()
        heard = [await desk.box.receive(200.0) for _ in range(3)]
        assert [reply.node for reply in heard] == ["west", "north", "south"]
        await desk.box.acknowledge(heard[1], {"north": "not wanted"})
        await settled()
        assert {name: call.done() for name, call in calls.items()} == {"west": False, "north": True, "south": False}
        assert await calls["north"] == "not wanted"
        desk.box.dismiss()
        assert await calls["west"] == "the run is over"
        assert await calls["south"] == "the run is over"

    play(story)


def test_a_refused_update_is_removed_and_a_taken_one_is_kept_until_it_is_part_of_a_model(desk: Desk):
    async def story() -> None:
        taken, refused = desk.update("north", 7), desk.update("south", 7)
        await desk.box.acknowledge(taken, {})
        await desk.box.acknowledge(refused, {"south": "its norm is too large"})
        assert desk.box.kept(taken.handles[0]).delta.tolist() == [[1.0, 1.0, 1.0]]
        await desk.transfers.end()
        assert list(desk.spool.handles()) == list(taken.handles)
        desk.box.forget(taken.handles)
        desk.box.forget(taken.handles)
        await desk.transfers.end()
        assert list(desk.spool.handles()) == []

    play(story)


def test_nothing_comes_when_the_moment_has_passed_but_what_is_there_is_not_lost(desk: Desk):
    async def story() -> None:
        assert await desk.box.receive(desk.now_s) is None
        delivery = asyncio.ensure_future(desk.box.deliver(Declined(7, "north", "no"), "north"))
        await settled()
        assert await desk.box.receive(-np.inf) == Declined(7, "north", "no")
        assert await desk.box.receive(-np.inf) is None
        desk.box.dismiss()
        await delivery

    play(story)


def test_a_silent_node_vanishes_once_and_may_come_back_to_the_same_ask(desk: Desk):
    async def story() -> None:
        await desk.presence.saw("north", "node")
        await desk.box.send(desk.ask(7, "north"))
        desk.now_s += 11
        gone = await desk.box.receive(desk.now_s + 5)
        assert isinstance(gone, Vanished)
        assert gone.node == "north"
        assert "10 s" in gone.reason
        await desk.box.acknowledge(gone, {})
        assert await desk.box.receive(desk.now_s) is None
        # It comes back, and is offered what is still open; if it goes silent again, that is said again.
        await desk.presence.saw("north", "node")
        assert desk.box.task_for("north").task == 7
        desk.now_s += 11
        assert isinstance(await desk.box.receive(desk.now_s + 5), Vanished)

    play(story)


def test_a_withdrawn_ask_is_in_no_box_and_its_answer_is_not_expected(desk: Desk):
    async def story() -> None:
        await desk.box.send(desk.ask(7, "north", "south"))
        await desk.box.receive(desk.now_s)
        assert await desk.box.expects(7, "north")
        assert not await desk.box.expects(7, "west")
        assert not await desk.box.expects(8, "north")
        await desk.box.withdraw([7, 99])
        assert not await desk.box.expects(7, "north")
        assert desk.box.task_for("south") is None

    play(story)


def test_a_late_update_leaves_an_ask_that_is_still_open_where_it_is(desk: Desk):
    async def story() -> None:
        await desk.box.send(desk.ask(7, "north"))
        await desk.box.acknowledge(Late(7, "north"), {"north": "too early, for once"})
        assert desk.box.task_for("north").task == 7

    play(story)


def test_after_a_restart_an_upload_waits_until_the_open_asks_are_back(desk: Desk):
    async def story() -> None:
        upload = asyncio.ensure_future(desk.box.expects(7, "north"))
        await settled()
        assert not upload.done()
        await desk.box.send(desk.ask(7, "north"))
        await desk.box.receive(desk.now_s)
        assert await upload

    play(story)


@pytest.mark.parametrize("end", [Mailbox.dismiss, Mailbox.interrupt], ids=["over", "stopping"])
def test_nobody_hangs_when_a_run_ends_before_it_ever_listened(desk: Desk, end: Callable[[Mailbox], None]):
    async def story() -> None:
        upload = asyncio.ensure_future(desk.box.expects(7, "north"))
        await settled()
        end(desk.box)
        assert not await upload

    play(story)


def test_who_waits_when_the_coordinator_stops_is_told_to_call_again_and_not_that_it_was_refused(desk: Desk):
    async def story() -> None:
        delivery = asyncio.ensure_future(desk.box.deliver(desk.update("north", 7), "north"))
        await settled()
        desk.box.interrupt()
        with pytest.raises(Stopping):
            await delivery

    play(story)


def test_a_small_model_comes_with_the_ask_and_a_large_one_is_fetched_by_those_who_are_asked(tmp_path: Path):
    async def story() -> None:
        with closing(Desk(tmp_path / "small")) as small, closing(Desk(tmp_path / "large", LARGE)) as large:
            await told(small, True)
            await told(large, False)

    async def told(desk: Desk, is_inline: bool) -> None:
        await desk.box.send(desk.ask(7, "north", value=2.0))
        message = desk.box.task_for("north")
        assert (message.model in message.inline) == is_inline
        file = bytes(desk.outgoing.open(message.model))
        assert wire.decode_model(desk.run.layout, file, None).trained[0] == 2.0
        assert desk.box.names("north", message.model)
        assert desk.box.names("north", PLAN.digest)
        assert desk.box.names("north", desk.run.layout.digest)
        assert not desk.box.names("south", message.model)
        assert not desk.box.names("north", "0" * 64)
        await desk.box.withdraw([7])
        assert not desk.box.names("north", message.model)

    play(story)


def test_models_of_rounds_that_are_over_take_no_room(tmp_path: Path):
    async def story() -> None:
        desk = large
        for number in range(6):
            await desk.box.send(desk.ask(number, "north", number=number, value=float(number)))
        assert len(blobs_in(desk.outgoing)) == 2
        desk.box.dismiss()
        assert blobs_in(desk.outgoing) == []

    with closing(Desk(tmp_path, LARGE)) as large:
        play(story)


def test_two_runs_with_equal_models_do_not_take_each_others_files_away(tmp_path: Path):
    async def story() -> None:
        await slow.box.send(slow.ask(0, "north"))
        for number in range(4):
            await fast.box.send(fast.ask(number, "north", number=number, value=float(number)))
        fast.box.dismiss()
        assert slow.outgoing.has(slow.box.task_for("north").model)

    with closing(Desk(tmp_path, LARGE, "slow")) as slow, closing(Desk(tmp_path, LARGE, "fast")) as fast:
        play(story)


def blobs_in(folder: BlobFolder) -> list[Path]:
    """Every file of a folder."""
    return [path for path in folder.root.rglob("*") if path.is_file()]
