"""A node's, or an operator's, side of the network: every call goes out, every call may be repeated."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from lycia.deployment import versions
from lycia.deployment.identity import Identity, client_context
from lycia.deployment.wire import (
    AliveMessage,
    AskMessage,
    EnrolMessage,
    PollMessage,
    Problem,
    ReplyMessage,
    SessionMessage,
)
from lycia.errors import ConnectionFailed

T = TypeVar("T")
_PATIENCE_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0)  # waits between tries; the last one repeats
_PIECE = 1 << 20
_PASSING = (429, 502, 503, 504)  # somebody on the way is busy, or starts again


class Client:
    """Speaks to one coordinator, whose certificate is known, as one name with one key."""

    def __init__(
        self, url: str, certificate: str, name: str, identity: Identity, *, give_up_s: float | None = 30.0,
        note: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        """`give_up_s`: how long an unreachable coordinator is tried for; None for ever, as a node does."""
        self.url, self.name = url.rstrip("/"), name
        self._identity, self._give_up_s, self._note = identity, give_up_s, note or _say_nothing
        timeout = httpx2.Timeout(30.0, read=90.0)
        self._http = httpx2.Client(
            base_url=self.url, verify=client_context(certificate), timeout=timeout, headers=versions.spoken()
        )
        self._bearer = ""
        self._session = threading.Lock()

    def close(self) -> None:
        """Hang up."""
        self._http.close()

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
        response = self._call("POST", "/v1/poll", PollMessage(wait_s=wait_s, examples=examples))
        return None if response.status_code == 204 else _parse(AskMessage, response)

    def alive(self, run: str, task: int) -> None:
        """Say that work on a task goes on. It is said again soon, so it is tried once.

        Raises: ConnectionFailed, if nobody heard it.
        """
        self._call("POST", "/v1/alive", AliveMessage(run=run, task=task), patiently=False)

    def reply(self, run: str, task: int, message: ReplyMessage) -> str:
        """Deliver a reply that is not an update; returns why it was not taken, or ""."""
        return _refusal(self._call("POST", f"/v1/runs/{run}/tasks/{task}/reply", message))

    def upload_update(self, run: str, task: int, path: Path) -> str:
        """Deliver an update from a file; returns why it was not taken, or ""."""
        return _refusal(self._call("POST", f"/v1/runs/{run}/tasks/{task}/update", path))

    def download(self, digest: str, target: Path, run: str | None = None) -> Path:
        """Fetch a blob into `target`, unless it is there already.

        Raises: ConnectionFailed, if what came is not what the digest names; NotFound, if it is not for this caller.
        """
        if target.exists():
            return target
        return self.download_to(f"/v1/blobs/{digest}", target, {"run": run} if run else {}, digest)

    def download_to(self, path: str, target: Path, parameters: Mapping[str, str], digest: str = "") -> Path:
        """Fetch what is behind a path into `target`; one that breaks off is begun again, and leaves no `target`."""
        part, found = target.with_name(f"{target.name}.part"), ""

        def once() -> httpx2.Response:
            nonlocal found
            with self._http.stream("GET", path, headers=self._headers(True), params=parameters) as response:
                if response.status_code >= 400:
                    response.read()
                    return response
                content = hashlib.sha256()
                with part.open("wb") as file:
                    for piece in response.iter_bytes(_PIECE):
                        file.write(piece)
                        content.update(piece)
                found = content.hexdigest()
                return response

        self._retry(once, True)
        if digest and found != digest:
            part.unlink()
            raise ConnectionFailed(
                f"what the coordinator sent as {digest[:12]}… is something else, {found[:12]}….",
                why="what is fetched is named by the digest of its bytes.",
                do="tell the operator: a file of the coordinator has changed.",
            )
        return part.replace(target)

    # ------------------------------------------------------------------------------------------------- an operator's

    def get(self, path: str, **parameters: str | int | float) -> Any:
        """The JSON behind a path."""
        return self._call("GET", path, parameters={key: str(value) for key, value in parameters.items()}).json()

    def post(self, path: str, message: BaseModel | None = None) -> Any:
        """Send a message; returns the JSON that comes back."""
        return self._call("POST", path, message).json()

    def upload_blob(self, pieces: Iterable[bytes | memoryview]) -> str:
        """Put a blob into the coordinator's store; returns its digest."""
        return str(self._call("POST", "/v1/blobs", b"".join(pieces)).json()["digest"])

    # ------------------------------------------------------------------------------------------------------ transport

    def _call(
        self, method: str, path: str, body: BaseModel | Path | bytes | None = None, *, signed: bool = True,
        parameters: Mapping[str, str] | None = None, patiently: bool = True,
    ) -> httpx2.Response:  # fmt: skip
        def once() -> httpx2.Response:
            headers = self._headers(signed)
            if isinstance(body, BaseModel):
                headers["content-type"] = "application/json"
                return self._http.request(
                    method, path, content=body.model_dump_json(), headers=headers, params=parameters
                )
            if isinstance(body, Path) and body.stat().st_size > _PIECE:
                headers |= {"content-type": "application/octet-stream", "content-length": str(body.stat().st_size)}
                return self._http.request(method, path, content=_pieces(body), headers=headers, params=parameters)
            content = body.read_bytes() if isinstance(body, Path) else body
            return self._http.request(method, path, content=content, headers=headers, params=parameters)

        return self._retry(once, signed, patiently)

    def _headers(self, signed: bool) -> dict[str, str]:
        if not signed:
            return {}
        with self._session:
            if not self._bearer:
                self._bearer = self._new_session()
        return {"authorization": f"Bearer {self._bearer}"}

    def _new_session(self) -> str:
        response = self._sign_in()
        if response.status_code == 403:  # also the answer to a challenge from before a restart of the coordinator
            response = self._sign_in()
        return str(_good(response).json()["bearer"])

    def _sign_in(self) -> httpx2.Response:
        nonce = str(_good(self._http.post("/v1/challenge", json={"name": self.name})).json()["nonce"])
        signature = self._identity.sign("lycia session", self.name.encode(), nonce.encode())
        message = SessionMessage(name=self.name, nonce=nonce, signature=signature)
        return self._http.post("/v1/session", json=message.model_dump())

    def _retry(self, once: Callable[[], httpx2.Response], signed: bool, patiently: bool = True) -> httpx2.Response:
        """Call until it works: over lost connections, restarts of the coordinator, and sessions that ran out."""
        began, tries, renewed, give_up_s = time.monotonic(), 0, False, self._give_up_s if patiently else 0.0
        while True:
            try:
                try:
                    response = once()
                except _NoSession as error:
                    response = error.response
                if response.status_code != 426:  # which says the same, from the other side
                    versions.check_neighbours(versions.own(), versions.said_in(response.headers))
                if response.status_code == 401 and signed and not renewed:
                    renewed, self._bearer = True, ""
                    continue
                # A node outlives whatever befalls its coordinator, such as a full disk; an operator is told at once.
                if response.status_code not in _PASSING and (response.status_code < 500 or give_up_s is not None):
                    _check(response)
                    if tries > 1:
                        self._note("the coordinator answers again")
                    return response
                reason, renewed = _reason(response), False
            except httpx2.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
            waited = time.monotonic() - began
            if give_up_s is not None and waited >= give_up_s:
                raise ConnectionFailed(
                    f"no coordinator answers at {self.url} ({reason}).",
                    why=f"it was tried for {waited:.0f} s.",
                    do="check that `lycia serve` runs there, and that this machine can reach the address and port.",
                )
            if tries == 1:  # one lost connection is nothing to speak of
                self._note(f"the coordinator cannot be reached ({reason}); trying again")
            time.sleep(_PATIENCE_S[min(tries, len(_PATIENCE_S) - 1)])
            tries += 1


class _NoSession(Exception):
    """A session could not be opened; `response` says why."""

    def __init__(self, response: httpx2.Response) -> None:
        super().__init__(response.status_code)
        self.response = response


def _good(response: httpx2.Response) -> httpx2.Response:
    if response.status_code >= 400:
        raise _NoSession(response)
    return response


def _reason(response: httpx2.Response) -> str:
    try:
        return Problem.model_validate_json(response.content).what
    except ValidationError:
        return f"status {response.status_code}"


def _say_nothing(_: str) -> None:
    return


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _refusal(response: httpx2.Response) -> str:
    reason: str = response.json()["refused"]
    return reason


def _parse(kind: type[T], response: httpx2.Response) -> T:
    assert issubclass(kind, BaseModel)
    try:
        return kind.model_validate_json(response.content)
    except ValidationError as error:
        raise ConnectionFailed(
            f"the coordinator's answer cannot be read ({error.error_count()} errors).",
            why="it does not speak this version's protocol.",
            do="use the same minor version of lycia on both sides.",
        ) from None


def _check(response: httpx2.Response) -> None:
    if response.status_code < 400:
        return
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        raise ConnectionFailed(
            f"the coordinator answered with status {response.status_code}.",
            why="something between here and there, or a coordinator of another version, sent it.",
            do="check the address, and any proxy in between.",
        ) from None
    raise problem.to_error()
