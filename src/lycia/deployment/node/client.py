"""A node's, or an operator's, side of the network: every call goes out, every call may be repeated."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

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


class Client:
    """Speaks to one coordinator, whose certificate is known, as one name with one key."""

    def __init__(
        self, url: str, certificate: str, name: str, identity: Identity, *, give_up_s: float | None = 30.0,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:  # fmt: skip
        """`give_up_s`: how long an unreachable coordinator is tried for; None for ever, as a node does."""
        self.url, self.name = url.rstrip("/"), name
        self._identity, self._give_up_s, self._note = identity, give_up_s, note
        timeout = httpx2.Timeout(30.0, read=90.0)
        self._http = httpx2.Client(base_url=self.url, verify=client_context(certificate), timeout=timeout)
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
        """Say that work on a task goes on."""
        self._call("POST", "/v1/alive", AliveMessage(run=run, task=task))

    def reply(self, run: str, task: int, message: ReplyMessage) -> str:
        """Deliver a reply that is not an update; returns why it was not taken, or ""."""
        return _refusal(self._call("POST", f"/v1/runs/{run}/tasks/{task}/reply", message))

    def upload_update(self, run: str, task: int, path: Path) -> str:
        """Deliver an update from a file; returns why it was not taken, or ""."""
        return _refusal(self._call("POST", f"/v1/runs/{run}/tasks/{task}/update", path))

    def download(self, digest: str, target: Path, run: str | None = None) -> Path:
        """Fetch a blob into `target`, unless it is there already."""
        return (
            target if target.exists() else self.download_to(f"/v1/blobs/{digest}", target, {"run": run} if run else {})
        )

    def download_to(self, path: str, target: Path, parameters: Mapping[str, str]) -> Path:
        """Fetch what is behind a path into `target`; a download that breaks off leaves no `target`."""
        part = target.with_name(f"{target.name}.part")
        with _Stream(self, path, parameters) as response, part.open("wb") as file:
            for piece in response.iter_bytes(_PIECE):
                file.write(piece)
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
        parameters: Mapping[str, str] | None = None,
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

        return self._retry(once, signed)

    def _headers(self, signed: bool) -> dict[str, str]:
        if not signed:
            return {}
        with self._session:
            if not self._bearer:
                self._bearer = self._new_session()
        return {"authorization": f"Bearer {self._bearer}"}

    def _new_session(self) -> str:
        challenge = self._http.post("/v1/challenge", json={"name": self.name})
        _check(challenge)
        nonce = str(challenge.json()["nonce"])
        signature = self._identity.sign("lycia session", self.name.encode(), nonce.encode())
        message = SessionMessage(name=self.name, nonce=nonce, signature=signature)
        response = self._http.post("/v1/session", json=message.model_dump())
        _check(response)
        return str(response.json()["bearer"])

    def _retry(self, once: Callable[[], httpx2.Response], signed: bool) -> httpx2.Response:
        """Call until it works: over lost connections, restarts of the coordinator, and sessions that ran out."""
        began, tries, renewed = time.monotonic(), 0, False
        while True:
            try:
                response = once()
                if response.status_code == 401 and signed and not renewed:
                    renewed, self._bearer = True, ""
                    continue
                if response.status_code not in (502, 503, 504):
                    _check(response)
                    return response
                reason = f"status {response.status_code}"
            except httpx2.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
            waited = time.monotonic() - began
            if self._give_up_s is not None and waited > self._give_up_s:
                raise ConnectionFailed(
                    f"no coordinator answers at {self.url} ({reason}).",
                    why=f"it was tried for {waited:.0f} s.",
                    do="check that `lycia serve` runs there, and that this machine can reach the address and port.",
                )
            if tries == 0:
                self._note(f"the coordinator cannot be reached ({reason}); trying again")
            time.sleep(_PATIENCE_S[min(tries, len(_PATIENCE_S) - 1)])
            tries += 1


class _Stream:
    """A download that is read piece by piece."""

    def __init__(self, client: Client, path: str, parameters: Mapping[str, str]) -> None:
        self._client, self._path, self._parameters = client, path, parameters

    def __enter__(self) -> httpx2.Response:
        http = self._client._http

        def once() -> httpx2.Response:
            request = http.build_request(
                "GET", self._path, headers=self._client._headers(True), params=self._parameters
            )
            response = http.send(request, stream=True)
            if response.status_code >= 400:
                response.read()
            return response

        self._response = self._client._retry(once, True)
        return self._response

    def __exit__(self, *_: object) -> None:
        self._response.close()


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
