"""A full disk, a bug, a restart at a bad moment: runs pause with a reason, never end wrongly, and go on afterwards."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lycia.core import closing as core_closing
from lycia.deployment.coordinator import server
from lycia.deployment.coordinator.runs import Runs
from lycia.deployment.operator import follow
from lycia.deployment.starting import start_run
from lycia.errors import AccessError, StorageError
from lycia.runtime.apps import load_app
from lycia.runtime.facts import Fact, RoundEnded, RunBegan, RunEnded
from lycia.storage.blobs import BlobFolder
from lycia.storage.database import Database
from lycia.storage.disk import disk_full
from tests.deployment.conftest import APP
from tests.deployment.in_process import Coordinator
from tests.deployment.raw_node import Draft, RawNode
from tests.postgres import Cluster


class Federation:
    """A coordinator in this process, with two honest nodes that work as long as the test lasts."""

    def __init__(self, coordinator: Coordinator, nodes: list[RawNode]) -> None:
        self.coordinator, self.nodes, self._over = coordinator, nodes, threading.Event()
        self._threads = [threading.Thread(target=self._play, args=(node,)) for node in nodes]

    def _play(self, node: RawNode) -> None:
        while not self._over.is_set():
            ask = node.poll(0.2)
            if ask is not None:
                node.answer(ask, Draft.file)

    def work(self) -> None:
        """Let the nodes begin."""
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Let the nodes end."""
        self._over.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def start(self) -> str:
        """A run of three rounds."""
        app = load_app(APP)
        return start_run(
            self.coordinator.client,
            replace(app, plan=replace(app.plan, rules=replace(app.plan.rules, deadline_s=60.0, least_nodes=2))),
        )

    def restart(self) -> None:
        """Another coordinator on the same folder and port; the nodes notice nothing but lost connections."""
        self.coordinator.stop()
        self.coordinator.start()

    def resume(self, run: str) -> None:
        """What an operator does when what made the run pause is mended."""
        self.coordinator.client.post(f"/v1/runs/{run}/resume")

    def facts(self, run: str) -> dict[str, Any]:
        """What is known of a run."""
        return self.coordinator.client.get(f"/v1/runs/{run}")

    def watched(self, run: str) -> list[Fact]:
        """All that somebody sees who watches the run to its end."""
        seen: list[Fact] = []
        follow(self.coordinator.client, run, [_Seen(seen)])
        return seen


class _Seen:
    def __init__(self, facts: list[Fact]) -> None:
        self._facts = facts

    def notice(self, fact: Fact) -> None:
        self._facts.append(fact)


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    """One for each test."""
    with Coordinator(tmp_path / "coordinator") as coordinator, ExitStack() as stack:
        names = ("north", "south")
        nodes = [stack.enter_context(closing(RawNode(coordinator.invite(name), tmp_path / name))) for name in names]
        for node in nodes:
            node.client._give_up_s = None  # as an agent, which outlives its coordinator's troubles
        running = Federation(coordinator, nodes)
        stack.callback(running.end)
        yield running


@pytest.fixture
def undisturbed(tmp_path: Path) -> Callable[[], list[str]]:
    """The models of the same run where nothing happens: nodes move by 0.01 each time, whatever they are sent."""

    def models() -> list[str]:
        with Coordinator(tmp_path / "undisturbed") as coordinator, ExitStack() as stack:
            names = ("north", "south")
            nodes = [
                stack.enter_context(closing(RawNode(coordinator.invite(name), tmp_path / f"other {name}")))
                for name in names
            ]
            running = Federation(coordinator, nodes)
            stack.callback(running.end)
            running.work()
            run = running.start()
            running.watched(run)
            return [record["model"] for record in running.facts(run)["records"]]

    return models


@contextmanager
def no_room_for_models(after: int) -> Iterator[None]:
    """A disk that takes so many more models, and then none."""
    real, left = BlobFolder.put, [after]

    def put(self: BlobFolder, pieces: Any) -> str:
        if self.root.name == "blobs":
            left[0] -= 1
            if left[0] < 0:
                raise disk_full(self.root)
        return real(self, pieces)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(BlobFolder, "put", put)
        yield


def test_a_disk_that_is_full_when_a_model_is_made_pauses_the_run_and_a_resume_goes_on_to_the_same_bits(
    federation: Federation, undisturbed: Callable[[], list[str]]
):
    federation.work()
    # When the disk is full from the third model on (the first one, of round 0, is kept when the run begins)
    with no_room_for_models(after=2):
        run = federation.start()
        seen = federation.watched(run)
        # Then the run pauses, and says why and what to do to whoever watches, lists or reports
        assert isinstance(seen[-1], RunEnded)
        assert seen[-1].state == "paused"
        for reason in (seen[-1].reason, federation.facts(run)["reason"]):
            assert "no room left" in reason
            assert f"goes on with `lycia resume {run}`" in reason
        # and what it has is what it wrote: no model of a round that did not close
        with pytest.raises(Exception, match="no model of round 3"):
            federation.coordinator.client.get(f"/v1/runs/{run}/model", round=3)
    # When there is room again, and the operator has it go on, then it does, and nothing shows in its models
    federation.restart()
    federation.resume(run)
    seen = federation.watched(run)
    assert isinstance(seen[-1], RunEnded)
    assert seen[-1].state == "finished"
    assert [record["model"] for record in federation.facts(run)["records"]] == undisturbed()


def test_a_disk_that_is_still_full_when_the_run_is_resumed_pauses_it_again_and_the_coordinator_serves(
    federation: Federation,
):
    federation.work()
    with no_room_for_models(after=1):
        run = federation.start()
        federation.watched(run)
        federation.restart()
        assert federation.facts(run)["state"] == "paused"
        federation.resume(run)
        federation.watched(run)
        assert federation.facts(run)["state"] == "paused"
        assert [node["name"] for node in federation.coordinator.client.get("/v1/nodes")["nodes"]] == [
            "north", "operator", "south",
        ]  # fmt: skip


def test_an_update_that_finds_no_room_is_sent_again_until_it_does(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
):
    real, refused = BlobFolder.incoming, []

    def incoming(self: BlobFolder, limit_bytes: int | None = None) -> Any:
        if limit_bytes is not None and len(refused) < 3:
            refused.append(1)
            raise disk_full(self.root)
        return real(self, limit_bytes)

    federation.work()
    run = federation.start()
    monkeypatch.setattr(BlobFolder, "incoming", incoming)
    federation.watched(run)
    records = federation.facts(run)["records"]
    assert [record["survivors"] for record in records] == [["north", "south"]] * 3
    assert not any(record["dropped"] for record in records)


def test_a_database_that_takes_nothing_any_more_pauses_the_run_in_words_and_nobody_watches_for_ever(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
):
    federation.work()
    run = federation.start()
    real = Database.write

    async def write(self: Database, change: Any) -> Any:
        raise disk_full("the database")

    with monkeypatch.context() as patched:
        patched.setattr(Database, "write", write)
        seen = federation.watched(run)
        assert isinstance(seen[-1], RunEnded)
        assert (seen[-1].state, federation.facts(run)["state"]) == ("paused", "paused")
        assert "no room left" in federation.coordinator.client.get("/v1/runs")["runs"][0]["reason"]
        with pytest.raises(StorageError, match="no room left"):
            federation.coordinator.invite("somebody")
    assert Database.write is real
    federation.restart()
    assert federation.watched(run)[-1] == RunEnded("finished", "all rounds done", 3)


def test_a_bug_in_one_run_pauses_it_and_the_next_run_is_held(federation: Federation, monkeypatch: pytest.MonkeyPatch):
    federation.work()

    def close(*_: object) -> None:
        raise ZeroDivisionError("a part divides by nothing")

    with monkeypatch.context() as patched:
        patched.setattr(core_closing, "close", close)
        run = federation.start()
        federation.watched(run)
    facts = federation.facts(run)
    assert facts["state"] == "paused"
    assert "ZeroDivisionError: a part divides by nothing" in facts["reason"]
    federation.watched(federation.start())
    assert federation.coordinator.client.get("/v1/runs")["runs"][0]["state"] == "finished"


def test_a_run_whose_files_are_gone_does_not_keep_the_coordinator_from_serving(federation: Federation):
    run = federation.start()  # nobody works: it waits
    federation.coordinator.stop()
    for path in (federation.coordinator.home / "blobs").rglob("*"):
        if path.is_file():
            path.unlink()
    federation.coordinator.start()
    facts = federation.facts(run)
    assert facts["state"] == "paused"
    assert "blob" in facts["reason"]


@pytest.mark.parametrize("harm", ["flip", "remove"])
def test_an_update_that_was_damaged_while_nobody_served_pauses_its_run_and_gets_into_no_model(
    federation: Federation, harm: str
):
    north, south = federation.nodes
    assert north.poll(0.0) is south.poll(0.0) is None
    run = federation.start()
    ask = north.poll(10.0)
    assert ask is not None
    assert north.answer(ask, Draft.file) == ""
    federation.coordinator.stop()
    (update,) = (federation.coordinator.home / "spool").iterdir()
    sound = update.read_bytes()
    if harm == "flip":
        update.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    else:
        update.unlink()
    federation.coordinator.start()
    facts = federation.facts(run)
    assert facts["state"] == "paused"
    assert "of 'north' has changed" in facts["reason"] or "of 'north' is gone" in facts["reason"]
    with pytest.raises(StorageError, match="of 'north'"):
        federation.resume(run)
    # When it is put back, the run goes on as if nothing had been
    update.write_bytes(sound)
    federation.work()
    federation.resume(run)
    assert federation.watched(run)[-1] == RunEnded("finished", "all rounds done", 3)


def test_a_first_model_that_was_damaged_pauses_its_run(federation: Federation):
    run = federation.start()
    federation.coordinator.stop()
    first = federation.coordinator.home / "blobs"
    (path,) = set(first.glob("??/*"))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    federation.coordinator.start()
    facts = federation.facts(run)
    assert facts["state"] == "paused"
    assert "is damaged" in facts["reason"]


def test_a_database_server_that_goes_away_pauses_the_run_and_it_goes_on_when_the_server_is_back(
    tmp_path: Path, postgres: Cluster, monkeypatch: pytest.MonkeyPatch, undisturbed: Callable[[], list[str]]
):
    real, paused = Runs._pause, threading.Event()

    async def pause(self: Runs, run: str, reason: str) -> None:
        await real(self, run, reason)
        paused.set()

    monkeypatch.setattr(Runs, "_pause", pause)
    monkeypatch.setattr(server, "Database", partial(Database, patience_s=0.2))
    with Coordinator(tmp_path / "coordinator", database=postgres.fresh()) as coordinator, ExitStack() as stack:
        names = ("north", "south")
        nodes = [stack.enter_context(closing(RawNode(coordinator.invite(name), tmp_path / name))) for name in names]
        for node in nodes:
            node.client._give_up_s = None
        federation = Federation(coordinator, nodes)
        stack.callback(federation.end)
        run = federation.start()
        while nodes[0].poll(0.1) is None:
            nodes[1].poll(0.0)
        postgres.stop("immediate")
        try:
            federation.work()
            assert paused.wait(30)
        finally:
            postgres.start()
        facts = federation.facts(run)
        assert facts["state"] == "paused"
        assert "cannot be reached" in facts["reason"]
        federation.resume(run)
        federation.watched(run)
        assert [record["model"] for record in federation.facts(run)["records"]] == undisturbed()


def test_a_stop_in_the_middle_of_a_round_loses_nothing_and_repeats_nothing(
    federation: Federation, undisturbed: Callable[[], list[str]]
):
    north, south = federation.nodes
    assert north.poll(0.0) is south.poll(0.0) is None
    run = federation.start()
    ask = north.poll(10.0)
    assert ask is not None
    assert north.answer(ask, Draft.file) == ""
    # When the coordinator stops while one node has answered, and the other one is at work
    late = south.poll(10.0)
    federation.restart()
    # Then only the other one is asked again, and its answer counts
    assert north.poll(0.0) is None
    assert south.poll(10.0) == late
    assert south.answer(late, Draft.file) == ""
    federation.work()
    federation.watched(run)
    records = federation.facts(run)["records"]
    assert [record["survivors"] for record in records] == [["north", "south"]] * 3
    assert not any(record["dropped"] or record["late"] for record in records)
    assert [record["model"] for record in records] == undisturbed()


def test_an_answer_that_is_on_its_way_when_the_coordinator_stops_is_sent_again_and_taken(federation: Federation):
    north, south = federation.nodes
    assert north.poll(0.0) is south.poll(0.0) is None
    run = federation.start()
    ask = north.poll(10.0)
    assert ask is not None
    outcome: list[str] = []
    # Nothing is written down any more, as if each write took for ever: the call of the node stays open
    stuck = threading.Event()
    real = Database.write

    async def write(self: Database, change: Any) -> Any:
        stuck.set()
        await asyncio.Event().wait()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Database, "write", write)
        sending = threading.Thread(target=lambda: outcome.append(north.answer(ask, Draft.file)))
        sending.start()
        assert stuck.wait(10)
        federation.coordinator.stop()
    assert Database.write is real
    federation.coordinator.start()
    sending.join(20)
    assert outcome == [""]
    federation.work()
    federation.watched(run)
    assert federation.facts(run)["records"][0]["survivors"] == ["north", "south"]


def test_who_watches_sees_every_round_once_and_the_latest_run_stays_the_one_it_was(federation: Federation):
    first = federation.start()
    seen: list[Fact] = []
    watching = threading.Thread(target=follow, args=(federation.coordinator.client, "latest", [_Seen(seen)]))
    watching.start()
    while not seen:
        watching.join(0.01)
    second = federation.start()
    federation.work()
    watching.join(30)
    assert isinstance(seen[0], RunBegan)
    assert seen[0].run == first != second
    assert [fact.record["round"] for fact in seen if isinstance(fact, RoundEnded)] == [0, 1, 2]
    assert isinstance(seen[-1], RunEnded)
    federation.watched(second)


def test_the_key_of_another_operator_does_not_open_a_coordinators_folder(tmp_path: Path):
    coordinator = Coordinator(tmp_path / "coordinator")
    with coordinator:
        pass
    (tmp_path / "coordinator" / "operator.pem").unlink()
    with pytest.raises(AccessError, match="is not the key of this coordinator's operator") as refused:
        coordinator.start()
    assert "backup" in refused.value.do
