"""Rollback: a run stands as it stood after an earlier round, and what came after stays on record as undone."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lycia import cli
from lycia.deployment.identity import Identity
from lycia.deployment.local import Federation
from lycia.deployment.operator import OperatorAccess, follow
from lycia.deployment.starting import start_run
from lycia.deployment.wire import AskMessage, RollbackMessage
from lycia.errors import NotFound
from lycia.reports.facts import RunFacts
from lycia.reports.words import turnout_words
from lycia.runtime.apps import load_app
from lycia.runtime.facts import RoundEnded, RunBegan, RunEnded
from tests.deployment.by_hand import ByHand
from tests.deployment.raw_node import Draft, RawNode
from tests.deployment.test_run_states import Pair, Seen

WATCHED = Path(__file__).with_name("watched_app.py")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """A coordinator and two nodes that answer when they are told to."""
    with ExitStack() as stack:
        yield Pair(tmp_path, stack)


def roll_back(pair: Pair, run: str, number: int) -> dict[str, Any]:
    said: dict[str, Any] = pair.coordinator.client.post(f"/v1/runs/{run}/rollback", RollbackMessage(round=number))
    return said


def models(pair: Pair, run: str) -> list[str]:
    return [record["model"] for record in pair.facts(run)["records"]]


def asked(node: RawNode) -> AskMessage:
    ask = node.poll(10.0)
    assert ask is not None
    return ask


# ------------------------------------------------------------------------------------------------------- what it does


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_finished_run_goes_back_and_comes_to_the_same_bits_again(pair: Pair, number: int, restarted: bool):
    run = pair.start()
    pair.finish(run)
    before = models(pair, run)
    # When it is rolled back, then it is paused there, for good, and says by whom
    said = roll_back(pair, run, number)
    place = f"round {number}" if number else "its beginning"
    assert said == {
        "run": run, "state": "paused",
        "reason": f"rolled back to {place} by operator; it goes on with `lycia resume {run}`",
    }  # fmt: skip
    if restarted:
        pair.coordinator.stop()
        pair.coordinator.start()
    assert pair.state(run) == ("paused", said["reason"])
    # and what came after does not count any more, but is known still
    facts = pair.facts(run)
    assert models(pair, run) == before[:number]
    assert [record["model"] for record in facts["undone"]] == before[number:]
    assert {record["undone"]["by"] for record in facts["undone"]} == {"operator"}
    # When it goes on, then to the same models, since everything that they follow from is the same
    pair.turn(run, "resume")
    seen = pair.finish(run)
    assert models(pair, run) == before
    assert seen[-1] == RunEnded("finished", "all rounds done", 3)


def test_neither_a_task_nor_an_attempt_at_a_round_ever_comes_twice(pair: Pair):
    # Given an ask of a round that is undone while its node is at work
    run, places = pair.start(), set[tuple[int, int]]()
    late = asked(pair.south)
    pair.south.layout(late)
    for number, again in enumerate((0, 0, 0)):
        roll_back(pair, run, again)
        pair.turn(run, "resume")
        ask = asked(pair.north)
        # Then what is asked now has numbers of its own, and what comes for the other one is late
        assert ask.task > late.task + number - 1
        assert (ask.round, ask.attempt) not in places | {(late.round, late.attempt)}
        places.add((ask.round, ask.attempt))
        assert ask.undone == [(0, ask.task)]
    assert "was over before attempt" in pair.south.answer(late, Draft.file)
    pair.finish(run)
    records = [*pair.facts(run)["records"], *pair.facts(run)["undone"]]
    assert len({(record["round"], record["attempt"], record["purpose"]) for record in records}) == len(records)
    assert [record["survivors"] for record in pair.facts(run)["records"]] == [["north", "south"]] * 3


def test_every_try_that_the_plan_has_is_there_again_after_a_rollback(pair: Pair):
    app = load_app(WATCHED.with_name("small_app.py"))
    rules = replace(app.plan.rules, least_nodes=2, quorum=1.0, retries=1, deadline_s=0.3)
    assert pair.north.poll(0.0) is pair.south.poll(0.0) is None
    run = start_run(pair.coordinator.client, replace(app, plan=replace(app.plan, rules=rules)))
    assert follow(pair.coordinator.client, run, []) == "paused"
    roll_back(pair, run, 0)
    pair.turn(run, "resume")
    assert follow(pair.coordinator.client, run, []) == "paused"
    facts = pair.facts(run)
    assert [record["attempt"] for record in facts["undone"]] == [0, 1]
    assert [record["attempt"] for record in facts["records"]] == [2, 3]


def test_a_round_that_is_not_kept_is_refused_with_those_that_are_and_disturbs_nothing(pair: Pair):
    run = pair.start()
    ask = asked(pair.north)
    with pytest.raises(NotFound, match=r"cannot go back to what it was after 7 rounds") as refused:
        roll_back(pair, run, 7)
    assert refused.value.why == "kept is how it stood after so many rounds: 0."
    assert pair.state(run) == ("running", "")
    assert pair.north.poll(10.0) == ask
    pair.finish(run)
    with pytest.raises(NotFound) as refused:
        roll_back(pair, run, 4)
    assert refused.value.why == "kept is how it stood after so many rounds: 0-3."


def test_a_run_that_was_stopped_goes_on_after_a_rollback(pair: Pair):
    run = pair.start()
    for node in (pair.north, pair.south):
        ask = asked(node)
        if node is pair.north:
            assert node.answer(ask, Draft.file) == ""
    pair.turn(run, "stop")
    assert roll_back(pair, run, 0)["state"] == "paused"
    pair.turn(run, "resume")
    assert pair.finish(run)[-1] == RunEnded("finished", "all rounds done", 3)


def test_a_killed_rollback_has_happened_wholly_or_not_at_all(pair: Pair, monkeypatch: pytest.MonkeyPatch):
    from lycia.deployment.coordinator import runs
    from lycia.errors import StorageError

    run = pair.start()
    pair.finish(run)
    facts = pair.facts(run)
    real = runs.roll_back

    def broken(*place: Any, **more: Any) -> Any:
        real(*place, **more)
        raise StorageError("the disk is full.", why="it is.", do="free some space.")

    monkeypatch.setattr(runs, "roll_back", broken)
    with pytest.raises(StorageError):
        roll_back(pair, run, 1)
    assert pair.facts(run) == facts


# ------------------------------------------------------------------------------------------------------- what is kept


@pytest.mark.parametrize("keep", [1, 2])
def test_a_coordinator_that_keeps_few_rounds_keeps_the_first_and_the_newest(tmp_path: Path, keep: int):
    from lycia.deployment.coordinator.server import Settings
    from tests.deployment import in_process

    with pytest.MonkeyPatch.context() as patched, ExitStack() as stack:
        patched.setattr(in_process, "Settings", lambda *place, **more: Settings(*place, **more, keep_rounds=keep))
        pair = Pair(tmp_path, stack)
        run = pair.start()
        pair.finish(run)
        kept = {0, *range(4 - keep, 4)}
        for number in range(4):
            if number in kept:
                assert pair.coordinator.client.get(f"/v1/runs/{run}/model", round=number)["size_bytes"] > 0
            else:
                with pytest.raises(NotFound, match=f"no model of round {number}"):
                    pair.coordinator.client.get(f"/v1/runs/{run}/model", round=number)
                with pytest.raises(NotFound, match="cannot go back"):
                    roll_back(pair, run, number)
        # and another run, which begins with an equal model, misses nothing
        other = pair.start()
        pair.finish(other)
        assert models(pair, other) == models(pair, run)
        roll_back(pair, run, 0)
        pair.turn(run, "resume")
        pair.finish(run)
        assert models(pair, other) == models(pair, run)


# ------------------------------------------------------------------------------------------------------ who is told


def test_whoever_watches_is_told_each_round_that_counts_once_and_numbers_only_grow(pair: Pair):
    run = pair.start()
    pair.finish(run)
    client = pair.coordinator.client
    first = client.get(f"/v1/runs/{run}/events", after=0)["events"]
    assert [number for number, _ in first] == [1, 2, 3, 4, 4]
    roll_back(pair, run, 1)
    pair.turn(run, "resume")
    pair.finish(run)
    news = client.get(f"/v1/runs/{run}/events", after=4)["events"]
    assert [(number, json.loads(line)["fact"]) for number, line in news] == [
        (5, "RoundEnded"), (6, "RoundEnded"), (6, "RunEnded"),
    ]  # fmt: skip
    # and who comes now hears nothing of what was undone
    late = Seen()
    follow(client, run, [late])
    assert [type(fact) for fact in late.facts] == [RunBegan, RoundEnded, RoundEnded, RoundEnded, RunEnded]
    assert [client.get(f"/v1/runs/{run}/records/{number}").get("undone") is None for number in range(5)] == [
        True, False, False, True, True,
    ]  # fmt: skip


def test_a_stream_goes_on_after_a_rollback_and_a_restart_where_it_was(pair: Pair):
    run = pair.start()
    pair.finish(run)
    roll_back(pair, run, 1)
    pair.coordinator.stop()
    pair.coordinator.start()
    pair.turn(run, "resume")
    pair.finish(run)
    # Given a watcher who has seen all rounds up to the rollback
    events = stream_of(pair, run, {"last_event_id": "4"})
    # Then it is told of the rounds since, with numbers that nobody has had, and which of its own do not count
    assert [(event["id"], json.loads(event["data"])["record"]) for event in events if event["event"] == "round"] == [
        ("5", 3), ("6", 4),
    ]  # fmt: skip
    standing = json.loads(next(event["data"] for event in events if event["event"] == "run"))
    assert (standing["undone"], standing["state"], standing["round"]) == ([[1, 2]], "finished", 3)
    anew = [json.loads(event["data"]) for event in stream_of(pair, run, {}) if event["event"] == "round"]
    assert [bool(round["undone"]) for round in anew] == [False, True, True, False, False]


def stream_of(pair: Pair, run: str, headers: dict[str, str]) -> list[dict[str, str]]:
    """All events of a run that is over."""
    access = OperatorAccess.at(pair.coordinator.home)
    hand = ByHand(access.url, access.certificate, "operator", Identity.at(Path(access.key))).sign_in()
    return hand.stream(f"/v1/runs/{run}/stream", **headers)


def test_a_report_counts_only_what_stands(pair: Pair):
    run = pair.start()
    pair.finish(run)
    roll_back(pair, run, 2)
    facts = RunFacts.of(pair.facts(run))
    assert [(one.number, one.missed) for one in facts.rounds] == [(1, ""), (2, "")]
    assert [record["round"] for record in facts.undone] == [2]
    assert "Not shown: 1 attempt at rounds that operator undid with a rollback." in turnout_words(facts)


# ------------------------------------------------------------------------------------------------------ command line


def test_the_command_puts_a_run_back(pair: Pair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    run = pair.start()
    pair.finish(run)

    def lycia(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["lycia", *arguments, "--home", str(pair.coordinator.home)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out + said.err

    status, said = lycia("rollback", "latest", "1")
    assert status == 0
    assert f"{run} is paused: rolled back to round 1 by operator; it goes on with `lycia resume {run}`" in said
    status, said = lycia("rollback", "latest", "9")
    assert status == 1
    assert "kept is how it stood after so many rounds: 0-1." in said


# ------------------------------------------------------------------------------------------------- what nodes remember


def test_nodes_that_remember_go_back_too(tmp_path: Path):
    """Real processes, whose learning rate decays with what they remember: one step too many would be another model."""
    with Federation(tmp_path / "home", WATCHED, ["--silence", "20"]) as federation:
        for name in load_app(WATCHED).population:
            federation.add_node(name, name)
        federation.wait_nodes(3)
        run = start_run(federation.client, load_app(WATCHED))
        follow(federation.client, run, [])
        before = [record["model"] for record in federation.client.get(f"/v1/runs/{run}")["records"]]
        assert len(before) == 3
        for number in (1, 0):
            federation.client.post(f"/v1/runs/{run}/rollback", RollbackMessage(round=number))
            federation.client.post(f"/v1/runs/{run}/resume")
            assert follow(federation.client, run, []) == "finished"
            assert [record["model"] for record in federation.client.get(f"/v1/runs/{run}")["records"]] == before
