"""A node's calls: repeated over whatever befalls the coordinator, and never taken for what they are not."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from lycia.deployment.coordinator.http import Doors
from lycia.deployment.identity import Identity, make_certificate
from lycia.deployment.node import client as module
from lycia.deployment.node.client import Client
from lycia.deployment.wire import Problem
from lycia.errors import AccessError, ConnectionFailed, NotFound, StorageError
from tests.deployment.in_process import Coordinator

CERTIFICATE = make_certificate(["localhost"])[0].decode()
FULL = Problem.of(StorageError("there is no room left.", why="the disk is full.", do="free some."))
GONE = Problem.of(NotFound("there is no blob.", why="it is over.", do="poll again."))
SIGN_IN = Problem.of(AccessError("no good session.", why="it ran out.", do="sign in."))


class Script:
    """What a coordinator answers, in order: a status with a body, or the error that a lost connection is."""

    def __init__(self, *answers: tuple[int, object] | Exception) -> None:
        self.answers, self.asked = list(answers), []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request.url.path)
        if request.url.path == "/v1/challenge":
            return httpx2.Response(200, json={"nonce": "00"})
        if request.url.path == "/v1/session":
            return httpx2.Response(200, json={"bearer": f"bearer {len(self.asked)}"})
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        status, body = answer
        if isinstance(body, Problem):
            return httpx2.Response(status, content=body.model_dump_json())
        return httpx2.Response(status, content=body if isinstance(body, bytes) else json.dumps(body))


@pytest.fixture
def caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Client]]:
    """Makes clients that hear a script instead of a network, and lose no time between tries."""
    made: list[Client] = []
    monkeypatch.setattr(module, "_PATIENCE_S", (0.0,))

    def make(script: Script, give_up_s: float | None = None, notes: list[str] | None = None) -> Client:
        note = (lambda _: None) if notes is None else notes.append
        client = Client(
            "https://localhost", CERTIFICATE, "north", Identity.at(tmp_path / "key"), give_up_s=give_up_s, note=note
        )
        client._http.close()
        client._http = httpx2.Client(base_url="https://localhost", transport=httpx2.MockTransport(script))
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


def lost() -> Exception:
    """A connection that broke."""
    return httpx2.ConnectError("refused")


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


class Broken(httpx2.SyncByteStream):
    """A body that breaks off."""

    def __iter__(self) -> Iterator[bytes]:
        yield b"half of "
        raise httpx2.ReadError("connection reset")


def test_a_download_that_breaks_off_is_begun_again_and_leaves_the_whole_file(
    caller: Callable[..., Client], tmp_path: Path
):
    answers = iter([httpx2.Response(200, stream=Broken()), httpx2.Response(200, content=b"half of all")])
    target = caller(lambda request: _session(request) or next(answers)).download_to("/v1/a-file", tmp_path / "file", {})
    assert target.read_bytes() == b"half of all"
    assert [path.name for path in tmp_path.iterdir() if path.name != "key"] == ["file"]


def _session(request: httpx2.Request) -> httpx2.Response | None:
    said = {"/v1/challenge": {"nonce": "00"}, "/v1/session": {"bearer": "b"}}.get(request.url.path)
    return None if said is None else httpx2.Response(200, json=said)


def test_what_does_not_match_its_digest_is_refused_and_not_kept(caller: Callable[..., Client], tmp_path: Path):
    with pytest.raises(ConnectionFailed, match="is something else") as refused:
        caller(Script((200, b"other bytes"))).download("0" * 64, tmp_path / "file", "a-run")
    assert "tell the operator" in refused.value.do
    assert [path.name for path in tmp_path.iterdir() if path.name != "key"] == []
    with pytest.raises(NotFound):
        caller(Script((404, GONE))).download("0" * 64, tmp_path / "file", "a-run")
