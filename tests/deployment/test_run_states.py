"""Pause, resume, stop: a run stands still in the middle of its round, and goes on as if nothing had been."""

import asyncio
import json
import math
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lycia import cli, simulate
from lycia.core import space
from lycia.core.messages import Late
from lycia.deployment.local import Federation
from lycia.deployment.operator import download_model, follow
from lycia.deployment.starting import start_run
from lycia.errors import LyciaError, NotFound
from lycia.runtime.apps import load_app
from lycia.runtime.facts import Fact, RoundMoved, RunEnded, fact_to_json
from lycia.storage.database import Database
from tests.deployment.conftest import APP
from tests.deployment.in_process import Coordinator
from tests.deployment.raw_node import Draft, RawNode
from tests.deployment.test_killed_nodes import trainer_of
from tests.deployment.test_mailbox import Desk, settled
from tests.waiting import wait_until

WATCHED = Path(__file__).with_name("watched_app.py")


class Pair:
    """A coordinator in this process, and two nodes that answer when they are told to."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self.coordinator = stack.enter_context(Coordinator(home / "coordinator"))
        names = ("north", "south")
        self.north, self.south = (
            stack.enter_context(closing(RawNode(self.coordinator.invite(name), home / name))) for name in names
        )
        for node in (self.north, self.south):
            node.client._give_up_s = None

    def start(self, deadline_s: float = 60.0) -> str:
        """A run of three rounds, of which both nodes know."""
        assert self.north.poll(0.0) is self.south.poll(0.0) is None
        app = load_app(APP)
        rules = replace(app.plan.rules, deadline_s=deadline_s, least_nodes=2)
        return start_run(self.coordinator.client, replace(app, plan=replace(app.plan, rules=rules)))

    def turn(self, run: str, how: str) -> dict[str, Any]:
        """What `lycia pause`, `resume` and `stop` call."""
        said: dict[str, Any] = self.coordinator.client.post(f"/v1/runs/{run}/{how}")
        return said

    def state(self, run: str) -> tuple[str, str]:
        """How the run stands, and why."""
        facts = self.facts(run)
        return facts["state"], facts["reason"]

    def facts(self, run: str) -> dict[str, Any]:
        """All that is known of the run."""
        return self.coordinator.client.get(f"/v1/runs/{run}")

    def finish(self, run: str) -> list[Fact]:
        """Have both nodes answer until the run is over; returns what a watcher sees."""
        over, seen = threading.Event(), Seen()

        def play(node: RawNode) -> None:
            while not over.is_set():
                ask = node.poll(0.1)
                if ask is not None:
                    node.answer(ask, Draft.file)

        threads = [threading.Thread(target=play, args=(node,)) for node in (self.north, self.south)]
        for thread in threads:
            thread.start()
        follow(self.coordinator.client, run, [seen])
        over.set()
        for thread in threads:
            thread.join()
        return seen.facts


class Seen:
    """A watcher."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []

    def notice(self, fact: Fact) -> None:
        self.facts.append(fact)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """One for each test."""
    with ExitStack() as stack:
        yield Pair(tmp_path, stack)


@pytest.fixture
def undisturbed(tmp_path: Path) -> Callable[[], list[str]]:
    """The models of the same run where nothing happens."""

    def models() -> list[str]:
        with ExitStack() as stack:
            other = Pair(tmp_path / "undisturbed", stack)
            run = other.start()
            other.finish(run)
            return [record["model"] for record in other.facts(run)["records"]]

    return models


# ---------------------------------------------------------------------------------------------------------------- pause


@pytest.mark.parametrize("restarted", [False, True])
def test_a_run_that_is_paused_goes_on_with_the_very_same_round_and_to_the_same_bits(
    pair: Pair, undisturbed: Callable[[], list[str]], restarted: bool
):
    # Given a round in which one node has answered, and the other one is at work
    run = pair.start()
    ask = pair.north.poll(10.0)
    assert ask is not None
    assert pair.north.answer(ask, Draft.file) == ""
    late = pair.south.poll(10.0)
    assert late is not None
    pair.south.layout(late)  # it has fetched all that it needs
    # When the run is paused
    said = pair.turn(run, "pause")
    assert (said["run"], said["state"]) == (run, "paused")
    assert said["reason"] == f"paused by operator; it goes on with `lycia resume {run}`"
    # Then nobody is asked anything, what comes now is refused, in words, and no restart wakes it
    if restarted:
        pair.coordinator.stop()
        pair.coordinator.start()
    assert pair.north.poll(0.0) is pair.south.poll(0.0) is None
    assert pair.south.answer(late, Draft.file) == "the run is paused"
    assert pair.state(run)[0] == "paused"
    # When it is resumed, then the same ask waits for the one node, and for nobody else
    assert pair.turn(run, "resume") == {"run": run, "state": "running", "reason": ""}
    assert pair.north.poll(0.0) is None
    assert pair.south.poll(10.0) == late
    pair.finish(run)
    records = pair.facts(run)["records"]
    assert [record["survivors"] for record in records] == [["north", "south"]] * 3
    assert not any(record["dropped"] or record["late"] for record in records)
    assert [record["model"] for record in records] == undisturbed()


@pytest.mark.parametrize("turns", range(6))
def test_a_run_is_let_go_of_even_in_the_very_moment_in_which_a_reply_comes(tmp_path: Path, turns: int):
    async def story() -> None:
        box = Desk(tmp_path).box
        waiting = asyncio.create_task(box.receive(math.inf))
        await settled()
        delivering = asyncio.create_task(box.deliver(Late(7, "north"), "north"))
        for _ in range(turns):
            await asyncio.sleep(0)
        is_told = waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled() == is_told
        reply = await box.receive(math.inf) if is_told else waiting.result()  # nor is the reply lost
        await box.acknowledge(reply, {"north": "too late"})
        assert await delivering == "too late"

    asyncio.run(asyncio.wait_for(story(), 20))


def test_a_round_does_not_run_out_of_time_while_its_run_stands_still(pair: Pair):
    run = pair.start(deadline_s=3.0)
    ask = pair.north.poll(10.0)
    assert ask is not None
    assert pair.north.answer(ask, Draft.file) == ""
    pair.turn(run, "pause")
    _wait_s(3.5)
    pair.turn(run, "resume")
    ask = pair.south.poll(10.0)
    assert ask is not None
    assert pair.south.answer(ask, Draft.file) == ""
    pair.finish(run)
    assert pair.facts(run)["records"][0]["survivors"] == ["north", "south"]


def test_what_was_written_down_and_not_yet_acknowledged_counts_and_its_node_is_told_so(pair: Pair):
    run = pair.start()
    ask = pair.north.poll(10.0)
    assert ask is not None
    outcome: list[str] = []
    written, go = threading.Event(), asyncio.Event()
    real = Database.write

    async def write(self: Database, change: Any) -> Any:
        done = await real(self, change)
        if "append" in change.__qualname__ and not written.is_set():
            written.set()
            await go.wait()
        return done

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Database, "write", write)
        sending = threading.Thread(target=lambda: outcome.append(pair.north.answer(ask, Draft.file)))
        sending.start()
        assert written.wait(10)
        pair.turn(run, "pause")
        sending.join(10)
    assert outcome == [""]
    assert pair.north.answer(ask, Draft.file) == ""  # as a node says it again whose answer was lost
    pair.turn(run, "resume")
    assert pair.north.poll(0.0) is None
    pair.finish(run)
    assert pair.facts(run)["records"][0]["survivors"] == ["north", "south"]


def test_who_watches_is_told_that_a_run_pauses_and_by_whom(pair: Pair):
    run, seen = pair.start(), Seen()
    states: list[str] = []
    watching = threading.Thread(target=lambda: states.append(follow(pair.coordinator.client, run, [seen])))
    watching.start()
    while not seen.facts:
        watching.join(0.01)
    pair.turn(run, "pause")
    watching.join(10)
    assert states == ["paused"]
    assert isinstance(seen.facts[-1], RunEnded)
    assert "paused by operator" in seen.facts[-1].reason
    assert pair.coordinator.client.get("/v1/runs")["runs"][0]["state"] == "paused"


def test_pausing_and_resuming_again_and_again_changes_nothing(pair: Pair, undisturbed: Callable[[], list[str]]):
    run = pair.start()
    for _ in range(3):
        for how, state in (("pause", "paused"), ("pause", "paused"), ("resume", "running"), ("resume", "running")):
            assert pair.turn(run, how)["state"] == state
    pair.finish(run)
    assert [record["model"] for record in pair.facts(run)["records"]] == undisturbed()


def test_a_run_that_waits_for_nodes_can_be_paused_before_its_first_round(pair: Pair):
    app = load_app(APP)
    rules = replace(app.plan.rules, least_nodes=2)
    run = start_run(pair.coordinator.client, replace(app, plan=replace(app.plan, rules=rules)))
    assert pair.turn(run, "pause")["state"] == "paused"
    assert pair.north.poll(0.0) is pair.south.poll(0.0) is pair.north.poll(0.0) is None
    pair.turn(run, "resume")
    assert pair.finish(run)[-1] == RunEnded("finished", "all rounds done", 3)


def test_a_run_that_missed_its_quorum_stays_paused_until_it_is_resumed(pair: Pair):
    app = load_app(APP)
    rules = replace(app.plan.rules, least_nodes=2, quorum=1.0, retries=0, deadline_s=0.5)
    assert pair.north.poll(0.0) is pair.south.poll(0.0) is None
    run = start_run(pair.coordinator.client, replace(app, plan=replace(app.plan, rounds=1, rules=rules)))
    assert follow(pair.coordinator.client, run, []) == "paused"
    assert f"it goes on with `lycia resume {run}`" in pair.state(run)[1]
    pair.coordinator.stop()
    pair.coordinator.start()
    assert pair.state(run)[0] == "paused"
    pair.turn(run, "resume")
    assert pair.finish(run)[-1] == RunEnded("finished", "all rounds done", 1)


# ----------------------------------------------------------------------------------------------------------------- stop


@pytest.mark.parametrize("before", ["running", "paused"])
def test_a_run_that_is_stopped_keeps_its_models_and_never_goes_on(pair: Pair, tmp_path: Path, before: str):
    run = pair.start()
    for node in (pair.north, pair.south, pair.north, pair.south):  # to train, and to measure: one round
        ask = node.poll(10.0)
        assert ask is not None
        assert node.answer(ask, Draft.file) == ""
    ask = pair.north.poll(10.0)
    assert ask is not None
    assert ask.round == 1
    assert pair.north.answer(ask, Draft.file) == ""
    spool = pair.coordinator.home / "spool"
    assert wait_until(lambda: len(list(spool.iterdir())) == 1)  # what the open round has heard
    if before == "paused":
        pair.turn(run, "pause")
    assert pair.turn(run, "stop") == {"run": run, "state": "stopped", "reason": "stopped by operator"}
    assert pair.turn(run, "stop")["state"] == "stopped"
    # Its models and its report are there; what was only of the open round is not
    assert [record["round"] for record in pair.facts(run)["records"]] == [0]
    assert download_model(pair.coordinator.client, run, tmp_path / "model").stat().st_size > 0
    assert wait_until(lambda: not list(spool.iterdir()))
    # Nobody works on it any more, and nobody can make them
    late = pair.south.poll(0.0)
    assert late is None
    assert pair.south.send(ask, b"") == "the run is stopped"
    for how in ("resume", "pause"):
        with pytest.raises(LyciaError, match=f"cannot be {how}d: it is stopped") as refused:
            pair.turn(run, how)
        assert "lycia start" in refused.value.do
    assert follow(pair.coordinator.client, run, []) == "stopped"
    pair.coordinator.stop()
    pair.coordinator.start()
    assert pair.state(run) == ("stopped", "stopped by operator")


def test_a_run_can_be_stopped_while_its_model_is_measured(pair: Pair):
    run = pair.start()
    for node in (pair.north, pair.south, pair.north):  # to train, and one of two to measure
        ask = node.poll(10.0)
        assert ask is not None
        assert node.answer(ask, Draft.file) == ""
    assert pair.turn(run, "stop")["state"] == "stopped"
    assert pair.coordinator.client.get(f"/v1/runs/{run}/events")["state"] == "stopped"


def test_a_run_that_has_finished_is_neither_paused_nor_resumed_nor_stopped(pair: Pair):
    run = pair.start()
    pair.finish(run)
    for how, turned in (("pause", "paused"), ("resume", "resumed"), ("stop", "stopped")):
        with pytest.raises(LyciaError, match=f"cannot be {turned}: it is finished"):
            pair.turn(run, how)
        with pytest.raises(NotFound):
            pair.turn("nosuch", how)
        with pytest.raises(LyciaError, match="may not do this"):
            pair.north.client.post(f"/v1/runs/{run}/{how}")
    assert pair.state(run) == ("finished", "all rounds done")


def test_a_run_whose_models_are_large_ends_with_the_same_models(
    pair: Pair, undisturbed: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
):
    expected = undisturbed()
    monkeypatch.setattr(space, "LARGE_BYTES", 1)
    run = pair.start()
    for node in (pair.north, pair.south, pair.north):  # a round, and one of two to measure
        ask = node.poll(10.0)
        assert ask is not None
        assert node.answer(ask, Draft.file) == ""
    pair.coordinator.stop()
    pair.coordinator.start()
    pair.finish(run)
    assert [record["model"] for record in pair.facts(run)["records"]] == expected


# --------------------------------------------------------------------------------------------------------- command line


def test_what_moved_last_is_not_told_after_the_end():
    # Given an answer that was put together while the run ended: its last move comes with its end
    moved, ended = fact_to_json(RoundMoved(2, 0, "evaluate", 1, 2)), fact_to_json(RunEnded("finished", "all done", 3))

    class Answering:
        def get(self, path: str, **asked: Any) -> dict[str, Any]:
            return {"run": "small-1", "events": [[5, ended]], "moved": moved, "state": "finished"}

    told: list[Any] = []

    class Watcher:
        def notice(self, fact: Any) -> None:
            told.append(type(fact).__name__)

    assert follow(Answering(), "small-1", [Watcher()]) == "finished"
    assert told == ["RunEnded"]


@pytest.fixture
def lycia(pair: Pair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command at that coordinator; returns its exit status and what it printed, after the coordinator's log."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["lycia", *arguments, "--home", str(pair.coordinator.home)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), capsys.readouterr().out

    return run


def test_the_commands_pause_resume_and_stop_and_a_watcher_ends_otherwise_than_after_success(
    pair: Pair, lycia: Callable[..., tuple[int, str]]
):
    run = pair.start()
    status, said = lycia("pause", "latest")
    assert status == 0
    assert said.endswith(f"{run} is paused: paused by operator; it goes on with `lycia resume {run}`\n")
    assert lycia("watch", run)[0] == 3
    status, said = lycia("resume", run, "--json")
    assert (status, json.loads(said.splitlines()[-1])) == (0, {"run": run, "state": "running", "reason": ""})
    status, said = lycia("stop", run)
    assert status == 0
    assert said.endswith(f"{run} is stopped: stopped by operator\n")
    assert lycia("watch", run)[0] == 4
    assert lycia("resume", run)[0] == 1
    other = pair.start()
    pair.finish(other)
    assert lycia("watch", other)[0] == 0


def test_the_dashboards_address_is_printed_where_no_browser_is_to_be_opened(
    pair: Pair, lycia: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
):
    status, said = lycia("dashboard", "--json")
    assert status == 0
    assert json.loads(said)["url"].startswith(f"{pair.coordinator.url}/dashboard/#code=")
    status, said = lycia("dashboard", "--no-browser")
    assert f"{pair.coordinator.url}/dashboard/#code=" in said
    assert "fingerprint" in said
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    status, said = lycia("dashboard")
    assert "opened in the browser" in said
    assert "#code=" not in said
    assert opened[0].startswith(pair.coordinator.url)


# ------------------------------------------------------------------------------------------------------- real processes


def test_a_pause_in_the_middle_of_training_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    meeting, app = tmp_path / "meeting", load_app(WATCHED)
    meeting.mkdir()
    monkeypatch.setenv("WATCHED_AT", str(meeting))
    with Federation(tmp_path / "home", WATCHED, ["--silence", "20"]) as federation:
        for name in app.population:
            federation.add_node(name, name)
        federation.wait_nodes(3)
        run = start_run(federation.client, app)
        # While a node is in the middle of its second training, the run is paused, and the node ends it for nothing
        trainer_of(meeting, 2)
        federation.client.post(f"/v1/runs/{run}/pause")
        (meeting / "go").touch()
        until_s = time.monotonic() + 30
        while "the run is paused" not in federation.last_words("watched") and time.monotonic() < until_s:
            time.sleep(0.02)
        federation.client.post(f"/v1/runs/{run}/resume")
        assert follow(federation.client, run, []) == "finished"
        facts = federation.client.get(f"/v1/runs/{run}")
    assert [len(record["survivors"]) for record in facts["records"]] == [3, 3, 3]
    assert len(list(meeting.glob("training-*"))) == 4  # three rounds, and the one that was done again
    monkeypatch.delenv("WATCHED_AT")
    alone = simulate(app).facts
    assert [record["model"] for record in facts["records"]] == [record["model"] for record in alone["records"]]


def _wait_s(seconds: float) -> None:
    """Let time pass: it is what the test is about."""
    threading.Event().wait(seconds)
