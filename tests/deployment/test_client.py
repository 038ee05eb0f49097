"""A node's calls: repeated over whatever befalls the coordinator, and never taken for what they are not."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from lycia.deployment.coordinator.http import Doors
from lycia.deployment.identity import Identity
from lycia.deployment.link import Body, Into, LinkFailed, Response
from lycia.deployment.node import client as module
from lycia.deployment.node.client import Client
from lycia.deployment.wire import Problem
from lycia.errors import AccessError, ConnectionFailed, NotFound, StorageError
from tests.deployment.in_process import Coordinator

FULL = Problem.of(StorageError("there is no room left.", why="the disk is full.", do="free some."))
GONE = Problem.of(NotFound("there is no blob.", why="it is over.", do="poll again."))
SIGN_IN = Problem.of(AccessError("no good session.", why="it ran out.", do="sign in."))


class Script:
    """What a coordinator answers, in order: a status with a body, or the error that a lost connection is."""

    def __init__(self, *answers: tuple[int, object] | Exception) -> None:
        self.answers, self.asked = list(answers), []

    def call(
        self, method: str, path: str, *, headers: Mapping[str, str], body: Body = b"", into: Into | None = None,
        silence_s: float = 30.0,
    ) -> Response:  # fmt: skip
        """As `Link.call`."""
        self.asked.append(path.partition("?")[0])
        if path == "/v1/challenge":
            return Response(200, {}, b'{"nonce": "00"}')
        if path == "/v1/session":
            return Response(200, {}, json.dumps({"bearer": f"bearer {len(self.asked)}"}).encode())
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            return answer(headers, into)
        status, said = answer
        content = said.model_dump_json() if isinstance(said, Problem) else said
        content = content if isinstance(content, (bytes, str)) else json.dumps(content)
        content = content.encode() if isinstance(content, str) else content
        if into is not None and status < 300:
            into(memoryview(content))
            content = b""
        return Response(status, {}, content)

    def close(self) -> None:
        """Nothing to hang up."""


@pytest.fixture
def caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Client]]:
    """Makes clients that hear a script instead of a network, and lose no time between tries."""
    made: list[Client] = []
    monkeypatch.setattr(module, "_PATIENCE_S", (0.0,))

    def make(script: Script, give_up_s: float | None = None, notes: list[str] | None = None) -> Client:
        note = (lambda _: None) if notes is None else notes.append
        identity = Identity.at(tmp_path / "key")
        client = Client("https://localhost", "", "north", identity, give_up_s=give_up_s, note=note, link=script)
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


def lost() -> Exception:
    """A connection that broke."""
    return LinkFailed("refused")


def test_a_node_tries_again_for_as_long_as_it_takes_and_says_so_once(caller: Callable[..., Client]):
    notes: list[str] = []
    troubles = [lost()] * 5 + [(503, b""), (502, b"<html>"), (500, b"bug"), (507, FULL), (429, b"")]
    assert caller(Script(*troubles, (200, {"refused": ""})), notes=notes).get("/v1/anything") == {"refused": ""}
    assert [note.partition(" (")[0] for note in notes] == [
        "the coordinator cannot be reached", "the coordinator answers again",
    ]  # fmt: skip


def test_one_lost_connection_is_not_worth_a_word(caller: Callable[..., Client]):
    notes: list[str] = []
    caller(Script(lost(), (200, {})), notes=notes).get("/v1/anything")
    assert notes == []


def test_an_operator_is_told_of_a_full_disk_at_once_and_of_an_absent_coordinator_after_a_while(
    caller: Callable[..., Client],
):
    with pytest.raises(StorageError, match="no room left"):
        caller(Script((507, FULL)), give_up_s=10.0).get("/v1/anything")
    with pytest.raises(ConnectionFailed, match="no coordinator answers at https://localhost") as refused:
        caller(Script(*[lost()] * 3), give_up_s=0.0).get("/v1/anything")
    assert "lycia serve" in refused.value.do


def test_a_session_is_renewed_once_a_call_and_again_after_an_outage(caller: Callable[..., Client]):
    script = Script((401, SIGN_IN), (200, {}))
    caller(script).get("/v1/anything")
    assert script.asked.count("/v1/session") == 2
    with pytest.raises(AccessError, match="no good session"):
        caller(Script((401, SIGN_IN), (401, SIGN_IN))).get("/v1/anything")
    caller(Script((401, SIGN_IN), (503, b""), (401, SIGN_IN), (200, {}))).get("/v1/anything")


def test_a_challenge_that_was_lost_with_a_restart_does_not_end_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with Coordinator(tmp_path / "coordinator") as coordinator:
        invitation = coordinator.invite("north")
        identity = Identity.at(tmp_path / "key")
        certificate = (coordinator.home / "certificate.pem").read_text()
        with closing(Client(coordinator.url, certificate, "north", identity, give_up_s=5.0)) as client:
            client.enrol(invitation.token, None, {})
            real, forgetful = Doors.challenge, []

            async def challenge(self: Doors, request: object) -> object:
                response = await real(self, request)
                if not forgetful:  # the first one is forgotten, as in a restart between the two calls
                    forgetful.append(1)
                    self._service.sessions._nonces.clear()
                return response

            monkeypatch.setattr(Doors, "challenge", challenge)
            coordinator.stop()
            coordinator.start()
            assert client.poll(0.0, None) is None
            assert forgetful


@pytest.mark.parametrize("body", [b"", b"<html>nice page</html>", b"{}", b"[]"])
def test_an_answer_of_somebody_else_is_told_in_words(caller: Callable[..., Client], body: bytes):
    with pytest.raises(ConnectionFailed, match="status 418") as refused:
        caller(Script((418, body))).get("/v1/anything")
    assert "proxy" in refused.value.do
    with pytest.raises(ConnectionFailed, match="cannot be read") as unread:
        caller(Script((200, body))).poll(0.0, None)
    assert "same minor version" in unread.value.do


def test_a_sign_of_life_is_given_once_and_not_for_ever(caller: Callable[..., Client]):
    script = Script(*[lost()] * 9)
    began = time.monotonic()
    with pytest.raises(ConnectionFailed):
        caller(script).alive("a-run", 1)
    assert script.asked.count("/v1/alive") == 1
    assert time.monotonic() - began < 5


def test_a_download_that_breaks_off_goes_on_where_it_was(caller: Callable[..., Client], tmp_path: Path):
    content, asked = b"half of all", []

    def breaks_off(headers: Mapping[str, str], into: Into) -> Response:
        asked.append(headers["range"])
        into(memoryview(content[:5]))
        raise LinkFailed("connection reset")

    def goes_on(headers: Mapping[str, str], into: Into) -> Response:
        asked.append(headers["range"])
        into(memoryview(content[5:]))
        return Response(206, {"content-range": f"bytes 5-10/{len(content)}"})

    digest = hashlib.sha256(content).hexdigest()
    target = caller(Script(breaks_off, goes_on)).download(digest, tmp_path / "file")
    assert target.read_bytes() == content
    assert [place.partition("-")[0] for place in asked] == ["bytes=0", "bytes=5"]
    assert [path.name for path in tmp_path.iterdir() if path.name != "key"] == ["file"]


def test_what_does_not_match_its_digest_is_refused_and_not_kept(caller: Callable[..., Client], tmp_path: Path):
    with pytest.raises(ConnectionFailed, match="is something else") as refused:
        caller(Script((200, b"other bytes"))).download("0" * 64, tmp_path / "file", "a-run")
    assert "tell the operator" in refused.value.do
    assert [path.name for path in tmp_path.iterdir() if path.name != "key"] == []
    with pytest.raises(NotFound):
        caller(Script((404, GONE))).download("0" * 64, tmp_path / "file", "a-run")
