"""The coordinator's doors: HTTP calls in, service calls out. Every call may be repeated."""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from lycia import errors
from lycia.core.messages import Malformed, Reply
from lycia.core.tensorfile import ITEM_BYTES
from lycia.deployment import wire
from lycia.deployment.coordinator import dashboard
from lycia.deployment.coordinator.mailbox import Mailbox, Stopping
from lycia.deployment.coordinator.operating import Door, Guarded, OperatingDoors
from lycia.deployment.coordinator.runs import Over
from lycia.deployment.coordinator.service import Service
from lycia.deployment.coordinator.sessions import CODE_S, COOKIE_S, Caller
from lycia.deployment.identity import Role
from lycia.deployment.wire import (
    AliveMessage,
    CodeMessage,
    EnrolMessage,
    InviteMessage,
    PollMessage,
    Problem,
    ReplyMessage,
    SessionMessage,
    StartMessage,
)  # fmt: skip
from lycia.errors import AccessError, LyciaError, NotFound
from lycia.storage.blobs import BlobFolder
from lycia.storage.carrying import whole_file

M = TypeVar("M", bound=BaseModel)
_LARGEST_MESSAGE = 16 << 20  # a plan with its layout, or an answer with its shares, is far below
_SLACK = 1 << 20  # an update's header and metrics
_LARGEST_MODEL = 1 << 40
_PIECE = 1 << 20
_MOST_EVENTS = 1 << 53  # of a run: more than there will be, and as far as JSON and SQLite can count
_STATUS: dict[type[LyciaError], int] = {
    Over: 409, errors.AccessError: 403, errors.NotFound: 404, errors.StorageError: 507, errors.PlanError: 422,
    errors.LayoutError: 422, errors.TensorFileError: 422,
}  # fmt: skip


class Doors:
    """The routes of one coordinator."""

    def __init__(self, service: Service, blobs: BlobFolder, outgoing: BlobFolder) -> None:
        self._service, self._blobs, self._outgoing = service, blobs, outgoing
        self._page = dashboard.Page()

    def app(self) -> Starlette:
        """The ASGI application."""
        service = self._service
        member: tuple[Role, ...] = ("node", "evaluator")
        app = Starlette(
            routes=[
                *OperatingDoors(service.runs, service.health, _route, self.only, _message).routes(),
                _route("POST", "/v1/enrol", self.enrol),
                _route("POST", "/v1/challenge", self.challenge),
                _route("POST", "/v1/session", self.session),
                _route("POST", "/v1/poll", self.only(self.poll, *member)),
                _route("POST", "/v1/alive", self.only(self.alive, *member)),
                _route("GET", "/v1/blobs/{digest}", self.only(self.blob, *member)),
                _route("POST", "/v1/runs/{run}/tasks/{task:int}/reply", self.only(self.reply, *member)),
                _route("POST", "/v1/runs/{run}/tasks/{task:int}/update", self.only(self.update, *member)),
                _route("POST", "/v1/invitations", self.only(self.invite, "operator")),
                _route("GET", "/v1/nodes", self.only(self.nodes, "operator")),
                _route("POST", "/v1/nodes/{name}/revoke", self.only(self.revoke, "operator")),
                _route("POST", "/v1/blobs", self.only(self.put_blob, "operator")),
                _route("POST", "/v1/runs", self.only(self.start, "operator")),
                _route("GET", "/v1/runs", self.only(self.runs, "operator")),
                _route("GET", "/v1/runs/{run}", self.only(self.facts, "operator")),
                _route("GET", "/v1/runs/{run}/events", self.only(self.events, "operator")),
                _route("GET", "/v1/runs/{run}/records/{number:int}", self.only(self.record, "operator")),
                _route("GET", "/v1/runs/{run}/stream", self.only(self.run_stream, "operator")),
                _route("GET", "/v1/runs/{run}/model", self.only(self.model, "operator")),
                _route("GET", "/v1/stream", self.only(self.stream, "operator")),
                _route("POST", "/v1/dashboard/codes", self.only(self.code, "operator")),
                _route("GET", "/v1/dashboard/session", self.visit),
                _route("POST", "/v1/dashboard/session", self.come),
                _route("DELETE", "/v1/dashboard/session", self.leave),
                *(_route("GET", path, self.page) for path in dashboard.PATHS),
            ],
            exception_handlers={404: _no_door, 405: _no_door, Exception: _bug},
        )
        app.router.redirect_slashes = False  # a caller who is sent elsewhere would not sign in there
        return app

    def only(self, door: Guarded, *roles: Role) -> Door:
        """A door for callers of these roles."""

        async def guarded(request: Request) -> Response:
            caller = self._caller(request)
            if caller is None:
                return _problem(
                    401,
                    AccessError(
                        "the call comes without a good session.",
                        why="every call is made by somebody; a session lasts a quarter of an hour.",
                        do="sign a new challenge (/v1/challenge, /v1/session).",
                    ),
                )
            if caller.role not in roles:
                raise AccessError(
                    f"{caller.name!r} may not do this.",
                    why=f"it is {caller.role}, and this door is for: {', '.join(roles)}.",
                    do="call with the key of somebody who may.",
                )
            return await door(request, caller)

        return guarded

    def _caller(self, request: Request) -> Caller | None:
        """Who is calling: by a bearer; or, without one, by the dashboard's cookie."""
        authorization = request.headers.get("authorization")
        if authorization is None:
            return dashboard.visitor(self._service, request)
        scheme, _, bearer = authorization.partition(" ")
        return self._service.caller(bearer) if scheme.lower() == "bearer" else None

    # ---------------------------------------------------------------------------------------------------- for anybody

    async def enrol(self, request: Request) -> Response:
        """Join with an invitation."""
        node = await self._service.enrol(await _message(request, EnrolMessage))
        return JSONResponse({"name": node.name, "role": node.role})

    async def challenge(self, request: Request) -> Response:
        """A nonce to sign."""
        said = await _message(request, _Name)
        return JSONResponse({"nonce": self._service.sessions.challenge(said.name)})

    async def session(self, request: Request) -> Response:
        """A bearer for a signed nonce."""
        said = await _message(request, SessionMessage)
        return JSONResponse({"bearer": self._service.open_session(said.name, said.nonce, said.signature)})

    async def page(self, request: Request) -> Response:
        """A file of the dashboard. They hold nothing that is secret: what they show, they fetch."""
        return self._page.answer(request)

    async def visit(self, request: Request) -> Response:
        """Who looks at the dashboard; nobody, before a code was brought."""
        visitor = dashboard.visitor(self._service, request)
        return JSONResponse({"name": visitor.name if visitor else None})

    async def come(self, request: Request) -> Response:
        """A cookie for a code."""
        dashboard.check_own_page(request)
        cookie = self._service.sessions.redeem((await _message(request, CodeMessage)).code)
        response = JSONResponse({})
        dashboard.set_cookie(response, self._service.pin, cookie, COOKIE_S)
        return response

    async def leave(self, request: Request) -> Response:
        """Forget the cookie."""
        dashboard.check_own_page(request)
        response = JSONResponse({})
        dashboard.set_cookie(response, self._service.pin, "", 0)
        return response

    # ------------------------------------------------------------------------------------------------------ for nodes

    async def poll(self, request: Request, caller: Caller) -> Response:
        """The next ask, or 204."""
        said = await _message(request, PollMessage)
        found = await self._service.poll(caller, said.wait_s, said.examples, lambda: _hang_up(request))
        return Response(status_code=204) if found is None else _json(found)

    async def alive(self, request: Request, caller: Caller) -> Response:
        """A sign of life."""
        await _message(request, AliveMessage)
        await self._service.presence.saw(caller.name, caller.role)
        return JSONResponse({})

    async def reply(self, request: Request, caller: Caller) -> Response:
        """Scores, an answer, or a refusal."""
        run, task = request.path_params["run"], request.path_params["task"]
        said = await _message(request, ReplyMessage)
        refused = await self._service.deliver(caller, run, wire.decode_reply(said, task, caller.name))
        return JSONResponse({"refused": refused})

    async def update(self, request: Request, caller: Caller) -> Response:
        """An update: a safetensors file."""
        run, task = request.path_params["run"], request.path_params["task"]
        box = await self._service.expects(caller, run, task)
        if box is None:
            return JSONResponse({"refused": await self._service.late(caller, run, task)})
        await self._service.presence.saw(caller.name, caller.role)
        limit = _largest_update(box)
        try:
            digest, size, is_new = await self._receive(request, limit)
        except _TooLarge:
            reply: Reply = Malformed(task, caller.name, f"its update is larger than {limit} bytes")
            return JSONResponse({"refused": await self._service.deliver(caller, run, reply)})
        box.bytes_up += size
        self._service.presence.moved(caller.name, up=size)
        content = await asyncio.to_thread(self._blobs.open, digest)
        reply = wire.decode_update(box.run.layout, content, run, task, caller.name, digest)
        refused = await self._service.deliver(caller, run, reply)
        if isinstance(reply, Malformed) and is_new:  # what was there before may be somebody else's
            await asyncio.to_thread(self._blobs.remove, digest)
        return JSONResponse({"refused": refused})

    async def blob(self, request: Request, caller: Caller) -> Response:
        """The bytes behind a digest, for those whom an ask or a role gives them."""
        digest = request.path_params["digest"]
        if not self._service.may_read(caller, digest):
            raise NotFound(
                f"there is nothing under {digest[:12]}… for {caller.name!r}.",
                why="a blob is for those whom an open ask names it to; a digest alone is no key.",
                do="poll again; if the ask was answered or withdrawn meanwhile, the blob is not needed any more.",
            )
        box = self._service.runs.box(request.query_params.get("run", ""))
        self._service.presence.moved(caller.name, down=self._outgoing.size(digest))
        return self._send(digest, box)

    # -------------------------------------------------------------------------------------------------- for operators

    async def invite(self, request: Request, caller: Caller) -> Response:
        """A new invitation."""
        invitation = await self._service.invite(await _message(request, InviteMessage))
        return JSONResponse({"invitation": invitation.to_text(), "name": invitation.name, "role": invitation.role})

    async def nodes(self, request: Request, caller: Caller) -> Response:
        """Everyone who is enrolled."""
        return JSONResponse({"nodes": self._service.nodes()})

    async def revoke(self, request: Request, caller: Caller) -> Response:
        """Let a node in no more."""
        if request.path_params["name"] == caller.name:
            raise AccessError(
                f"{caller.name!r} cannot revoke itself.",
                why="nobody could let it in again.",
                do="name the node that is to be let in no more.",
            )
        await self._service.revoke(request.path_params["name"])
        return JSONResponse({})

    async def put_blob(self, request: Request, caller: Caller) -> Response:
        """Keep a model's file."""
        digest, _, _ = await self._receive(request, _LARGEST_MODEL)
        return JSONResponse({"digest": digest})

    async def start(self, request: Request, caller: Caller) -> Response:
        """Begin a run."""
        return JSONResponse({"run": await self._service.runs.start(await _message(request, StartMessage))})

    async def runs(self, request: Request, caller: Caller) -> Response:
        """All runs."""
        rows = await self._service.runs.all()
        keys = ("id", "app", "state", "reason", "created_s", "ended_s")
        return JSONResponse({"runs": [{key: getattr(row, key) for key in keys} for row in rows]})

    async def facts(self, request: Request, caller: Caller) -> Response:
        """All that a report is made of."""
        return JSONResponse(await self._service.runs.facts(request.path_params["run"]))

    async def events(self, request: Request, caller: Caller) -> Response:
        """What happened since an event number; waits a while for more."""
        asked = request.query_params
        after, wait_s = _after(asked, "after"), min(_number(asked, "wait_s", 0), 25)
        return JSONResponse(await self._service.runs.events(request.path_params["run"], after, wait_s))

    async def model(self, request: Request, caller: Caller) -> Response:
        """A model's file."""
        number = _number(request.query_params, "round", -1)
        digest = await self._service.runs.model_blob(request.path_params["run"], None if number < 0 else int(number))
        pieces = await asyncio.to_thread(whole_file, self._blobs, digest)
        return StreamingResponse(iterate_in_threadpool(map(bytes, pieces)), media_type="application/octet-stream")

    async def record(self, request: Request, caller: Caller) -> Response:
        """All that one round left behind."""
        run, number = request.path_params["run"], request.path_params["number"]
        return JSONResponse(await self._service.runs.record(run, number))

    async def run_stream(self, request: Request, caller: Caller) -> Response:
        """What happens in one run, as it happens."""
        run = await self._service.runs.find(request.path_params["run"])
        known = "last-event-id" in request.headers
        after = _after(request.headers, "last-event-id") if known else _after(request.query_params, "after")
        picked = frozenset(request.query_params.getlist("node"))
        return _stream(self._service.runs.watching.run(run, after, picked, lambda: self._is_good(request)))

    async def stream(self, request: Request, caller: Caller) -> Response:
        """What becomes of all runs and nodes, as it happens."""
        since = request.headers.get("last-event-id", "")
        return _stream(self._service.runs.watching.everything(since, lambda: self._is_good(request)))

    def _is_good(self, request: Request) -> bool:
        try:
            return self._caller(request) is not None
        except AccessError:
            return False

    async def code(self, request: Request, caller: Caller) -> Response:
        """A code that opens the dashboard once. It takes a key: no cookie lets its holder stay for ever."""
        if "authorization" not in request.headers:
            raise AccessError(
                "a code is not given to a browser.",
                why="a session of the dashboard ends; what renews it is the operator's key, which no browser has.",
                do="run `lycia dashboard` where the operator's key is.",
            )
        code = self._service.sessions.code(caller.name)
        return JSONResponse({"code": code, "valid_s": CODE_S, "pin": self._service.pin})

    # -------------------------------------------------------------------------------------------------------- transfer

    async def _receive(self, request: Request, limit: int) -> tuple[str, int, bool]:
        """Store a body as it comes; returns its digest, its size, and whether there was no such blob before.

        Raises: _TooLarge, if it is larger than `limit`; StorageError.
        """
        if _number(request.headers, "content-length", 0) > limit:
            raise _too_large(limit)
        incoming = await asyncio.to_thread(self._blobs.incoming, limit)
        size, pieces = 0, bytearray()
        try:
            async for piece in request.stream():
                size += len(piece)
                pieces += piece
                if size > limit:
                    raise _too_large(limit)
                if len(pieces) >= _PIECE:
                    await asyncio.to_thread(incoming.write, bytes(pieces))
                    pieces.clear()
            if pieces:
                incoming.write(bytes(pieces)) if size < _PIECE else await asyncio.to_thread(
                    incoming.write, bytes(pieces)
                )
            is_new = not self._blobs.has(incoming.digest)
            return await asyncio.to_thread(incoming.commit), size, is_new
        except BaseException:
            incoming.abort()
            raise

    def _send(self, digest: str, box: Mailbox | None) -> Response:
        size = self._outgoing.size(digest)
        if box is not None:
            box.bytes_down += size
        path = self._outgoing.path(digest)
        headers = {"content-length": str(size), "etag": f'"{digest}"', "cache-control": "private, immutable"}
        if size <= _PIECE:
            return Response(path.read_bytes(), headers=headers, media_type="application/octet-stream")

        async def pieces() -> Any:
            with path.open("rb") as file:
                while piece := await asyncio.to_thread(file.read, _PIECE):
                    yield piece

        return StreamingResponse(pieces(), headers=headers, media_type="application/octet-stream")


class _Name(BaseModel):
    name: str = Field(max_length=200)


class _TooLarge(AccessError):
    """A body is larger than anything that belongs there."""


def _route(method: str, path: str, door: Door) -> Route:
    async def endpoint(request: Request) -> Response:
        try:
            return await door(request)
        except LyciaError as error:
            status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 400)
            return _problem(status, error)
        except ClientDisconnect:
            return Response(status_code=499)
        except Stopping:
            return Response(status_code=503)  # whoever called tries again, and finds the coordinator that comes next

    return Route(path, endpoint, methods=[method])


def _no_door(request: Request, _: Exception) -> Response:
    error = NotFound(
        f"there is nothing at {request.method} {request.url.path[:200]}.",
        why="the protocol has no such call; a name in it may hold what no name has, such as a slash.",
        do="check the name; `lycia runs` and `lycia nodes` list them.",
    )
    return _problem(404, error)


def _bug(request: Request, error: Exception) -> Response:
    told = LyciaError(
        f"the coordinator failed over {request.method} {request.url.path[:200]}: {type(error).__name__}.",
        why="this is a bug of it; its log has the traceback.",
        do="report it with the log; the runs go on.",
    )
    return _problem(500, told)


def _too_large(limit: int) -> LyciaError:
    return _TooLarge(
        f"the body is larger than {limit} bytes.",
        why="nothing that belongs here is that large, so it is not taken in.",
        do="send what the run's layout describes, and no more.",
    )


def _problem(status: int, error: LyciaError) -> Response:
    return Response(Problem.of(error).model_dump_json(), status, media_type="application/problem+json")


def _stream(events: AsyncIterator[str]) -> Response:
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}  # the latter for a proxy that gathers
    return StreamingResponse(events, headers=headers, media_type="text/event-stream")


def _json(message: BaseModel) -> Response:
    return Response(message.model_dump_json(), media_type="application/json")


async def _message(request: Request, kind: type[M]) -> M:
    """The body as a message.

    Raises: AccessError, if it is not one.
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _LARGEST_MESSAGE:
            raise _unreadable(f"it is larger than {_LARGEST_MESSAGE} bytes")
    try:
        return kind.model_validate_json(bytes(body))
    except ValidationError as error:
        raise _unreadable(wire.first_complaint(error)) from None


def _unreadable(reason: str) -> AccessError:
    return AccessError(
        f"the message cannot be read: {reason}.",
        why="it is not what this version of the protocol says.",
        do="use the same minor version of lycia on both sides.",
    )


def _number(said: Mapping[str, str], name: str, otherwise: float) -> float:
    try:
        value = float(said.get(name, otherwise))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _unreadable(f"{name} is not a number")
    return value


def _after(said: Mapping[str, str], name: str) -> int:
    return int(min(_number(said, name, 0), _MOST_EVENTS))


def _largest_update(box: Mailbox) -> int:
    layout = box.run.layout
    extras = sum(extra.size * ITEM_BYTES[extra.dtype] for extra in box.extras())
    return 8 * layout.size("trained") + extras + _SLACK


async def _hang_up(request: Request) -> None:
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return
