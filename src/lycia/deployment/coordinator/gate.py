"""What every call passes before it finds its door: its release is looked at, and a coordinator that drains says so."""

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import structlog

from lycia.deployment import versions
from lycia.deployment.coordinator.health import Health
from lycia.deployment.wire import Problem
from lycia.errors import ConnectionFailed, LyciaError, VersionError

log = structlog.get_logger()

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_BODIES = re.compile(r"/v1/(blobs(/uploads(/.*)?)?|runs/[^/]+/tasks/\d+/(update|reply|upload(/.*)?))")
_FOR_ALL = ("/v1/meta", "/v1/health", "/v1/ready")  # whoever wonders why it is turned away may ask
_MOST_RELEASES = 32  # of which it is logged that they were turned away


class Gate:
    """An ASGI application around the coordinator's doors.

    Attributes:
      open_bodies: how many bodies of updates, replies and models are on their way in, or wait to be written down.
    """

    def __init__(self, app: App, health: Health) -> None:
        self._app, self._health = app, health
        self._turned_away: set[str] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self.open_bodies = 0

    async def wait_idle(self) -> None:
        """Wait until no body is on its way in."""
        await self._idle.wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path, is_body = scope["path"], scope["method"] in ("POST", "PUT") and bool(_BODIES.fullmatch(scope["path"]))
        try:
            if path not in _FOR_ALL:
                self._check_release(scope)
        except VersionError as error:
            return await _refuse(send, 426, error, {"upgrade": f"lycia/{versions.own()}"})
        if self._health.is_draining and (is_body or path == "/v1/poll"):
            return await _refuse(send, 503, _draining(), {"retry-after": "1"})
        if not is_body:
            return await self._app(scope, receive, _speaking(send))
        self.open_bodies += 1
        self._idle.clear()
        try:
            return await self._app(scope, receive, _speaking(send))
        finally:
            self.open_bodies -= 1
            if not self.open_bodies:
                self._idle.set()

    def _check_release(self, scope: Scope) -> None:
        name = versions.VERSION_HEADER.encode()
        release = next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")
        try:
            versions.check_neighbours(release, versions.own())
        except VersionError as error:
            if release not in self._turned_away and len(self._turned_away) < _MOST_RELEASES:
                self._turned_away.add(release)
                log.warning("a caller is turned away", what=error.what, why=error.why, do=error.do)
            raise


def _speaking(send: Send) -> Send:
    async def speak(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            own = [(name.encode(), value.encode()) for name, value in versions.spoken().items()]
            message["headers"] = [*message.get("headers", ()), *own]
        await send(message)

    return speak


async def _refuse(send: Send, status: int, error: LyciaError, more: dict[str, str]) -> None:
    body = Problem.of(error).model_dump_json().encode()
    headers = {"content-type": "application/problem+json", "content-length": str(len(body)), **more}
    speak = _speaking(send)
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await speak({"type": "http.response.start", "status": status, "headers": encoded})
    await speak({"type": "http.response.body", "body": body})


def _draining() -> LyciaError:
    return ConnectionFailed(
        "the coordinator is about to stop.",
        why="it was told to, and finishes only what was arriving already.",
        do="call again: the next one goes on from where this one stops.",
    )
