"""A node's, or an operator's, side of the network: every call goes out, every call may be repeated."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel, ValidationError

from lycia.deployment import versions
from lycia.deployment.identity import Identity
from lycia.deployment.link import HttpsLink, Into, Link, LinkFailed, Response
from lycia.deployment.node import fetching
from lycia.deployment.node.fetching import in_parallel
from lycia.deployment.pace import Pace
from lycia.deployment.wire import (
    INLINE_BYTES,
    AliveMessage,
    AskMessage,
    EnrolMessage,
    PollMessage,
    Problem,
    ReplyMessage,
    UploadedMessage,
    UploadMessage,
)
from lycia.errors import ConnectionFailed
from lycia.storage import parts
from lycia.storage.blobs import mapped

T = TypeVar("T")
_PATIENCE_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)  # waits between tries; the last one repeats
_PIECE_BYTES = 1 << 18
_TRIES = 3  # of a part that arrives damaged
_PASSING = (408, 429, 502, 503, 504)  # a body came to a halt; somebody on the way is busy, or starts again


class Client:
    """Speaks to one coordinator, whose certificate is known, as one name with one key."""

    def __init__(
        self, url: str, certificate: str, name: str, identity: Identity, *, give_up_s: float | None = 30.0,
        note: Callable[[str], None] | None = None, rate: float | None = None, parallel: int = 3,
        link: Link | None = None, now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        """What it takes to call.

        Args:
          give_up_s: how long an unreachable coordinator is tried for; None for ever, as a node does.
          rate: bytes a second of models and updates, at most.
          parallel: how many parts are on their way at once.
          link, now_s, sleep: the way there and the time, where they are not the world's.
        """
        self.url, self.certificate, self.name = url.rstrip("/"), certificate, name
        self._identity, self._give_up_s, self._note = identity, give_up_s, note or _say_nothing
        self._link = link or HttpsLink(self.url, certificate)
        self._parallel, self._pace, self._now_s, self._sleep = parallel, Pace(rate, now_s), now_s, sleep
        self._bearer, self._is_closed = "", False
        self._session = threading.Lock()

    def close(self) -> None:
        """Hang up, and try nothing again."""
        self._is_closed = True
        self._link.close()

    # ----------------------------------------------------------------------------------------------------- a node's

    def enrol(self, token: str, examples: float | None, versions: Mapping[str, str]) -> None:
        """Introduce this node with its invitation's token; with the same key again, nothing changes.

        Raises: AccessError, if the token is unknown, used, or expired.
        """
        signature = self._identity.sign("lycia enrol", token.encode(), self._identity.public.encode())
        message = EnrolMessage(
            token=token,
            public_key=self._identity.public,
            examples=examples,
            versions=dict(versions),
            signature=signature,
        )
        self._call("POST", "/v1/enrol", message, signed=False)

    def poll(self, wait_s: float, examples: float | None) -> AskMessage | None:
        """The next ask for this node, or None when there was none for `wait_s` seconds."""
        message = PollMessage(wait_s=wait_s, examples=examples)
        response = self._call("POST", "/v1/poll", message, silence_s=wait_s + 30)
        return None if response.status == 204 else _parse(AskMessage, response)

    def alive(self, run: str, task: int) -> None:
        """Say that work on a task goes on. It is said again soon, so it is tried once.

        Raises: ConnectionFailed, if nobody heard it.
        """
        self._call("POST", "/v1/alive", AliveMessage(run=run, task=task), patiently=False)

    def reply(self, run: str, task: int, message: ReplyMessage) -> str:
        """Deliver a reply that is not an update; returns why it was not taken, or ""."""
        return _refusal(self._call("POST", f"/v1/runs/{run}/tasks/{task}/reply", message))

    def upload_update(self, run: str, task: int, path: Path) -> str:
        """Deliver an update from a file, going on with what is there of it; returns why it was not taken, or ""."""
        door = f"/v1/runs/{run}/tasks/{task}"
        return str(self._upload(path, f"{door}/upload", f"{door}/update").get("refused", ""))

    def download(self, digest: str, target: Path, run: str | None = None, *, anew: bool = False) -> Path:
        """Fetch a blob into `target`, going on with what is there of it; a whole one is fetched only `anew`.

        Raises: ConnectionFailed, if what came is not what the digest names; NotFound, if it is not for this caller.
        """
        if anew or not target.exists():
            fetching.fetch(self._fetch, _path(f"/v1/blobs/{digest}", {"run": run} if run else {}), digest, target)
        return target

    # ------------------------------------------------------------------------------------------------- an operator's

    def get(self, path: str, **parameters: str | int | float) -> Any:
        """The JSON behind a path."""
        return self._call("GET", path, parameters=parameters).json()

    def post(self, path: str, message: BaseModel | None = None) -> Any:
        """Send a message; returns the JSON that comes back."""
        return self._call("POST", path, message).json()

    def upload_blob(self, pieces: Iterable[bytes | memoryview]) -> str:
        """Put a blob into the coordinator's store; returns its digest."""
        with NamedTemporaryFile(prefix="lycia-") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            return self.upload_file(Path(file.name))

    def upload_file(self, path: Path) -> str:
        """Put a file into the coordinator's store; returns its digest."""
        return str(self._upload(path, "/v1/blobs/uploads", "/v1/blobs")["digest"])

    # ------------------------------------------------------------------------------------------------------ transport

    def _upload(self, path: Path, announce: str, finish: str) -> dict[str, Any]:
        """What is said when the whole file is there: in one call if it is small, by parts else."""
        if path.stat().st_size <= INLINE_BYTES:
            answer: dict[str, Any] = self._call("POST", finish, path.read_bytes()).json()
            return answer
        content = mapped(path)
        assert content is not None
        message = UploadMessage(size_bytes=content.nbytes, parts=list(parts.digests(content)))
        while True:
            said: dict[str, Any] = self._call("POST", announce, message).json()
            if said.get("over"):
                return said
            missing = sorted(set(range(len(message.parts))) - set(said["have"]))
            door, parallel = f"{announce}/{said['upload']}", min(self._parallel, int(said.get("parallel", 1)))
            answer = self._send_parts(content, message, door, missing, parallel)
            if answer.get("over"):
                return answer
            done: dict[str, Any] = self._call("POST", finish, UploadedMessage(upload=said["upload"])).json()
            if "missing" not in done:  # the coordinator may have lost parts: it says so, and what it has
                return done

    def _send_parts(
        self, content: memoryview, message: UploadMessage, door: str, missing: Sequence[int], parallel: int
    ) -> dict[str, Any]:
        """Send parts, as many at once as both sides want; returns the answer that no more are wanted, if any."""

        def send(number: int) -> dict[str, Any]:
            digest = message.parts[number]
            part = content[parts.place(content.nbytes, number)]
            for _ in range(_TRIES):
                said = self._call("PUT", f"{door}/{number}", part, headers={"x-part-digest": digest}).json()
                if not said.get("damaged"):
                    return dict(said)
            raise ConnectionFailed(
                f"part {number} arrived damaged {_TRIES} times.",
                why="something on the way, or this machine's memory or disk, changes its bytes.",
                do="check this machine; start the node again, and it goes on with the parts that arrived whole.",
            )

        answers = list(in_parallel(send, missing, parallel, stop=lambda said: bool(said.get("over"))))
        return next((said for said in answers if said.get("over")), {})

    def _fetch(self, path: str, headers: Callable[[], Mapping[str, str]], into: Into | None) -> Response:
        def paced(piece: memoryview) -> None:
            if into is not None:
                into(piece)
                self._pause(self._pace.wait_s(piece.nbytes))

        wanted = None if into is None else paced
        return self._retry(lambda: self._once("GET", path, b"", {**self._headers(True), **headers()}, wanted), True)

    def _call(
        self, method: str, path: str, body: BaseModel | bytes | memoryview | None = None, *, signed: bool = True,
        parameters: Mapping[str, str | int | float] | None = None, headers: Mapping[str, str] | None = None,
        patiently: bool = True, silence_s: float = 30.0,
    ) -> Response:  # fmt: skip
        kind = {"content-type": "application/json" if isinstance(body, BaseModel) else "application/octet-stream"}
        content = body.model_dump_json().encode() if isinstance(body, BaseModel) else body or b""

        def once() -> Response:
            sent = self._headers(signed) | (kind if body is not None else {}) | dict(headers or {})
            return self._once(method, _path(path, parameters or {}), content, sent, None, silence_s)

        return self._retry(once, signed, patiently)

    def _once(
        self, method: str, path: str, content: bytes | memoryview, headers: Mapping[str, str], into: Into | None,
        silence_s: float = 30.0,
    ) -> Response:  # fmt: skip
        sized = {"content-length": str(len(content))} if method != "GET" else {}
        body = self._paced(content) if len(content) > _PIECE_BYTES else content
        said = {**versions.spoken(), **headers, **sized}
        return self._link.call(method, path, headers=said, body=body, into=into, silence_s=silence_s)

    def _paced(self, content: bytes | memoryview) -> Iterator[memoryview]:
        view = memoryview(content)
        for start in range(0, view.nbytes, _PIECE_BYTES):
            piece = view[start : start + _PIECE_BYTES]
            self._pause(self._pace.wait_s(piece.nbytes))
            yield piece

    def _pause(self, wait_s: float) -> None:
        if wait_s > 0:
            self._sleep(wait_s)

    def _headers(self, signed: bool) -> dict[str, str]:
        if not signed:
            return {}
        with self._session:
            if not self._bearer:
                self._bearer = self._new_session()
            return {"authorization": f"Bearer {self._bearer}"}

    def _new_session(self) -> str:
        response = self._sign_in()
        if response.status == 403:  # also the answer to a challenge from before a restart of the coordinator
            response = self._sign_in()
        return str(_good(response).json()["bearer"])

    def _sign_in(self) -> Response:
        nonce = str(_good(self._post("/v1/challenge", {"name": self.name})).json()["nonce"])
        signature = self._identity.sign("lycia session", self.name.encode(), nonce.encode())
        return self._post("/v1/session", {"name": self.name, "nonce": nonce, "signature": signature})

    def _post(self, path: str, said: Mapping[str, str]) -> Response:
        return self._once("POST", path, json.dumps(said).encode(), {"content-type": "application/json"}, None)

    def _retry(self, once: Callable[[], Response], signed: bool, patiently: bool = True) -> Response:
        """Call until it works: over lost connections, restarts of the coordinator, and sessions that ran out."""
        began, tries, renewed, give_up_s = self._now_s(), 0, False, self._give_up_s if patiently else 0.0
        while True:
            try:
                try:
                    response = once()
                except _NoSession as error:
                    response = error.response
                if response.status != 426:  # which says the same, from the other side
                    versions.check_neighbours(versions.own(), versions.said_in(response.headers))
                if response.status == 401 and signed and not renewed:
                    renewed, self._bearer = True, ""
                    continue
                # A node outlives whatever befalls its coordinator, such as a full disk; an operator is told at once.
                if response.status not in _PASSING and (response.status < 500 or give_up_s is not None):
                    _check(response)
                    if tries > 1:
                        self._note("the coordinator answers again")
                    return response
                reason, renewed = _reason(response), False
            except LinkFailed as error:
                reason = str(error)
            waited = self._now_s() - began
            if self._is_closed or (give_up_s is not None and waited >= give_up_s):
                raise ConnectionFailed(
                    f"no coordinator answers at {self.url} ({reason}).",
                    why=f"it was tried for {waited:.0f} s.",
                    do="check that `lycia serve` runs there, and that this machine can reach the address and port.",
                )
            if tries == 1:  # one lost connection is nothing to speak of
                self._note(f"the coordinator cannot be reached ({reason}); trying again")
            self._sleep(_PATIENCE_S[min(tries, len(_PATIENCE_S) - 1)])
            tries += 1


class _NoSession(Exception):
    """A session could not be opened; `response` says why."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


def _good(response: Response) -> Response:
    if response.status >= 400:
        raise _NoSession(response)
    return response


def _reason(response: Response) -> str:
    try:
        return Problem.model_validate_json(response.body).what
    except ValidationError:
        return f"status {response.status}"


def _say_nothing(_: str) -> None:
    return


def _path(path: str, parameters: Mapping[str, str | int | float]) -> str:
    return f"{path}?{urlencode(parameters)}" if parameters else path


def _refusal(response: Response) -> str:
    reason: str = response.json()["refused"]
    return reason


def _parse(kind: type[T], response: Response) -> T:
    assert issubclass(kind, BaseModel)
    try:
        return kind.model_validate_json(response.body)
    except ValidationError as error:
        raise ConnectionFailed(
            f"the coordinator's answer cannot be read ({error.error_count()} errors).",
            why="it does not speak this version's protocol.",
            do="use the same minor version of lycia on both sides.",
        ) from None


def _check(response: Response) -> None:
    if response.status < 400 or response.status == 416:  # all of a range was here, and only its end had been lost
        return
    try:
        problem = Problem.model_validate_json(response.body)
    except ValidationError:
        raise ConnectionFailed(
            f"the coordinator answered with status {response.status}.",
            why="something between here and there, or a coordinator of another version, sent it.",
            do="check the address, and any proxy in between.",
        ) from None
    raise problem.to_error()
