"""Releases that are neighbours speak with each other; what was said in an earlier one keeps its meaning."""

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from lycia.core.grid import Grid
from lycia.core.layout import Layout
from lycia.core.messages import Answer, Declined, Scores, Updates
from lycia.deployment import versions, wire
from lycia.deployment.identity import Identity
from lycia.deployment.operator import OperatorAccess
from lycia.errors import NotFound, VersionError
from lycia.runtime.facts import RoundEnded, RoundMoved, RunBegan, RunEnded, fact_from_json
from tests.deployment.by_hand import ByHand
from tests.deployment.in_process import Coordinator

GOLDEN = Path(__file__).with_name("wire_0_1")
MESSAGES = {
    "ask": wire.AskMessage, "ask_without_model": wire.AskMessage, "reply_scores": wire.ReplyMessage,
    "reply_answer": wire.ReplyMessage, "reply_declined": wire.ReplyMessage, "enrol": wire.EnrolMessage,
    "session": wire.SessionMessage, "poll": wire.PollMessage, "alive": wire.AliveMessage,
    "invite": wire.InviteMessage, "start": wire.StartMessage, "code": wire.CodeMessage, "problem": wire.Problem,
}  # fmt: skip


def golden(name: str) -> Any:
    """What release 0.1 sends, byte for byte; these files are never changed."""
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


# --------------------------------------------------------------------------------------------------- what 0.1 has said


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_of_release_0_1_is_read_with_every_word(name: str):
    said = golden(name)
    read = MESSAGES[name].model_validate_json(json.dumps(said)).model_dump(mode="json")
    assert {key: read[key] for key in said} == said
    # and what is new since has a default that means what its absence meant
    assert {key: value for key, value in read.items() if key not in said} in ({}, {"undone": []})


@pytest.mark.parametrize("name", MESSAGES)
def test_what_a_later_release_says_beyond_this_one_is_passed_over(name: str):
    kind, said = MESSAGES[name], golden(name)
    assert kind.model_validate({**said, "news": {"of": ["a", "later", "release"]}}) == kind.model_validate(said)


@pytest.mark.parametrize(("name", "field", "wrong"), [
    ("ask", "plan", "../../etc/passwd"), ("ask", "run", "../up"), ("ask", "grid", 5000), ("enrol", "public_key", "ab"),
    ("invite", "name", "no/name"), ("poll", "wait_s", 1e9), ("enrol", "examples", -1.0),
])  # fmt: skip
def test_what_protects_is_as_strict_as_ever(name: str, field: str, wrong: object):
    with pytest.raises(ValueError, match=field):
        MESSAGES[name].model_validate({**golden(name), field: wrong})


def test_an_ask_of_release_0_1_means_the_same():
    ask = wire.decode_ask(wire.AskMessage.model_validate(golden("ask")), "north", None, {})
    assert (ask.run, ask.round, ask.attempt, ask.task, ask.exchange) == ("small-20261129-120000-ab12", 4, 1, 7, "train")
    assert (ask.nodes, ask.each, ask.norm_bound, ask.grid) == (("north",), {"north": b"for you"}, 1.5, Grid(-40))
    assert (ask.weight_cap, ask.deadline_s, ask.undone) == (100.0, 60.0, ())


def test_a_reply_of_release_0_1_means_the_same():
    scores, answer, declined = (
        wire.decode_reply(wire.ReplyMessage.model_validate(golden(f"reply_{kind}")), 7, "north")
        for kind in ("scores", "answer", "declined")
    )
    assert isinstance(scores, Scores)
    assert (scores.weight.tolist(), scores.metrics["accuracy"].tolist()) == ([20.0], [0.75])
    assert answer == Answer(7, "north", b"shares")
    assert declined == Declined(7, "north", "not today")


def test_an_update_of_release_0_1_means_the_same_and_is_written_as_it_was():
    said = golden("update")
    layout, file = Layout.from_json(json.dumps(said["layout"])), b64decode(said["file"])
    updates = wire.decode_update(layout, file, said["run"], said["task"], said["node"], "handle")
    assert isinstance(updates, Updates)
    assert updates.delta.tolist() == [[0.5, -1.0, 0.25, 2.0, 1.5, -3.0]]
    assert (updates.weight.tolist(), updates.metrics["loss"].tolist()) == ([10.0], [0.5])
    assert updates.extra["0/variate"].tolist() == [[1.0, 2.0]]
    assert b64encode(b"".join(wire.update_file(layout, updates, "small"))).decode() == said["file"]
    assert isinstance(np.asarray(updates.delta), np.ndarray)


def test_what_watchers_of_release_0_1_were_told_and_why_they_were_refused_means_the_same():
    assert [fact_from_json(line) for line in golden("facts")] == [
        RunBegan("small", 3, 0, 2, "loss"), RoundMoved(0, 0, "train", 1, 2),
        RoundEnded({"round": 0, "missed": ""}), RunEnded("finished", "all rounds done", 3),
    ]  # fmt: skip
    error = wire.Problem.model_validate(golden("problem")).to_error()
    assert isinstance(error, NotFound)
    assert (error.what, error.do) == ("there is no run 'x'.", "see `lycia runs`.")


def test_an_error_that_only_a_later_release_knows_is_told_in_its_words():
    error = wire.Problem(kind="QuotaError", what="too much.", why="there is a quota.", do="send less.").to_error()
    assert (type(error).__name__, error.what) == ("LyciaError", "too much.")


# ------------------------------------------------------------------------------------------------- who is let through


@pytest.mark.parametrize(("caller", "coordinator", "good"), [
    ("0.1.0", "0.1.7", True), ("0.2.0", "0.1.0", True), ("0.1.0", "0.2.0rc1", True), ("0.10.0", "0.9.3", True),
    ("0.3.0", "0.1.0", False), ("0.1.0", "0.3.0", False), ("1.0.0", "0.9.0", False), ("0.10.0", "0.1.0", False),
    ("", "0.1.0", True), ("0.1.0", "", True), ("nonsense", "0.1.0", False), ("0.1.0.dev3+g12", "0.1.0", True),
])  # fmt: skip
def test_neighbours_work_together_and_others_do_not(caller: str, coordinator: str, good: bool):
    if good:
        versions.check_neighbours(caller, coordinator)
    else:
        with pytest.raises(VersionError, match="does not work with a coordinator of lycia"):
            versions.check_neighbours(caller, coordinator)


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    """One, in this process."""
    with Coordinator(tmp_path / "coordinator") as running:
        yield running


def by_hand(coordinator: Coordinator, **headers: str) -> ByHand:
    access = OperatorAccess.at(coordinator.home)
    return ByHand(access.url, access.certificate, "operator", Identity.at(Path(access.key)), headers)


def test_a_caller_of_a_distant_release_is_refused_at_its_first_call_and_told_what_to_do(
    coordinator: Coordinator,
):
    major, minor = versions.own().split(".")[:2]
    distant = by_hand(coordinator, **{versions.VERSION_HEADER: f"{major}.{int(minor) + 2}.0"})
    with capture_logs() as logs:
        both = [distant.call("POST", "/v1/challenge", b'{"name": "operator"}') for _ in range(2)]
    for refused in both:
        assert refused.status == 426
        problem = refused.json()
        assert problem["kind"] == "VersionError"
        assert f"a caller of lycia {major}.{int(minor) + 2}.0" in problem["what"]
        assert "one minor release at a time" in problem["do"]
        assert refused.headers["upgrade"] == f"lycia/{versions.own()}"
    # the coordinator's operator is told, too, once
    assert [line["event"] for line in logs] == ["a caller is turned away"]
    # and what is spoken here may be asked by anybody
    said = distant.call("GET", "/v1/meta")
    assert said.json()["version"] == versions.own()
    assert f"{major}.{int(minor) + 1}" in said.json()["works_with"]
    assert said.headers[versions.VERSION_HEADER] == versions.own()
    assert said.headers[versions.PROTOCOL_HEADER] == str(versions.PROTOCOL)


def test_a_caller_that_says_nothing_of_its_release_is_let_through(coordinator: Coordinator):
    assert by_hand(coordinator).sign_in().call("GET", "/v1/runs").json() == {"runs": []}
