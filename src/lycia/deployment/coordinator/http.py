"""The coordinator's doors: HTTP calls in, service calls out. Every call may be repeated."""

from collections.abc import AsyncIterator

from pydantic import BaseModel, Field
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from lycia import errors
from lycia.deployment import wire
from lycia.deployment.coordinator import dashboard
from lycia.deployment.coordinator.bulk import BulkDoors
from lycia.deployment.coordinator.mailbox import Stopping
from lycia.deployment.coordinator.operating import Door, Guarded, OperatingDoors
from lycia.deployment.coordinator.requests import after_of, json_of, message_of, number_of, problem_of
from lycia.deployment.coordinator.runs import Over
from lycia.deployment.coordinator.service import Service
from lycia.deployment.coordinator.sessions import CODE_S, COOKIE_S, Caller
from lycia.deployment.coordinator.transfers import Busy, Silent, TooLarge
from lycia.deployment.identity import Role
from lycia.deployment.wire import (
    AliveMessage,
    CodeMessage,
    EnrolMessage,
    InviteMessage,
    PollMessage,
    ReplyMessage,
    SessionMessage,
    StartMessage,
)  # fmt: skip
from lycia.errors import AccessError, LyciaError, NotFound
from lycia.storage.blobs import BlobFolder

_STATUS: dict[type[LyciaError], int] = {
    Over: 409, errors.AccessError: 403, errors.NotFound: 404, errors.StorageError: 507, errors.PlanError: 422,
    errors.LayoutError: 422, errors.TensorFileError: 422, TooLarge: 413,
}  # fmt: skip


class Doors:
    """The routes of one coordinator."""

    def __init__(self, service: Service, blobs: BlobFolder, outgoing: BlobFolder) -> None:
        self._service, self._bulk = service, BulkDoors(service, blobs, outgoing)
        self._page = dashboard.Page()

    def app(self) -> Starlette:
        """The ASGI application."""
        service, bulk = self._service, self._bulk
        member: tuple[Role, ...] = ("node", "evaluator")
        app = Starlette(
            routes=[
                *OperatingDoors(service.runs, service.health, _route, self.only).routes(),
                _route("POST", "/v1/enrol", self.enrol),
                _route("POST", "/v1/challenge", self.challenge),
                _route("POST", "/v1/session", self.session),
                _route("POST", "/v1/poll", self.only(self.poll, *member)),
                _route("POST", "/v1/alive", self.only(self.alive, *member)),
                _route("GET", "/v1/blobs/{digest}", self.only(bulk.blob, *member, "operator")),
                _route("GET", "/v1/blobs/{digest}/parts", self.only(bulk.blob_parts, *member, "operator")),
                _route("POST", "/v1/runs/{run}/tasks/{task:int}/reply", self.only(self.reply, *member)),
                _route("POST", "/v1/runs/{run}/tasks/{task:int}/upload", self.only(bulk.announce_update, *member)),
                _route(
                    "PUT",
                    "/v1/runs/{run}/tasks/{task:int}/upload/{id}/{number:int}",
                    self.only(bulk.update_part, *member),
                ),
                _route("POST", "/v1/runs/{run}/tasks/{task:int}/update", self.only(bulk.update, *member)),
                _route("POST", "/v1/invitations", self.only(self.invite, "operator")),
                _route("GET", "/v1/nodes", self.only(self.nodes, "operator")),
                _route("POST", "/v1/nodes/{name}/revoke", self.only(self.revoke, "operator")),
                _route("POST", "/v1/blobs/uploads", self.only(bulk.announce_blob, "operator")),
                _route("PUT", "/v1/blobs/uploads/{id}/{number:int}", self.only(bulk.blob_part, "operator")),
                _route("POST", "/v1/blobs", self.only(bulk.put_blob, "operator")),
                _route("POST", "/v1/runs", self.only(self.start, "operator")),
                _route("GET", "/v1/runs", self.only(self.runs, "operator")),
                _route("GET", "/v1/runs/{run}", self.only(self.facts, "operator")),
                _route("GET", "/v1/runs/{run}/events", self.only(self.events, "operator")),
                _route("GET", "/v1/runs/{run}/records/{number:int}", self.only(self.record, "operator")),
                _route("GET", "/v1/runs/{run}/stream", self.only(self.run_stream, "operator")),
                _route("GET", "/v1/runs/{run}/model", self.only(bulk.model, "operator")),
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
                return problem_of(
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
        node = await self._service.enrol(await message_of(request, EnrolMessage))
        return JSONResponse({"name": node.name, "role": node.role})

    async def challenge(self, request: Request) -> Response:
        """A nonce to sign."""
        said = await message_of(request, _Name)
        return JSONResponse({"nonce": self._service.sessions.challenge(said.name)})

    async def session(self, request: Request) -> Response:
        """A bearer for a signed nonce."""
        said = await message_of(request, SessionMessage)
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
        cookie = self._service.sessions.redeem((await message_of(request, CodeMessage)).code)
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
        said = await message_of(request, PollMessage)
        found = await self._service.poll(caller, said.wait_s, said.examples, lambda: _hang_up(request))
        return Response(status_code=204) if found is None else json_of(found)

    async def alive(self, request: Request, caller: Caller) -> Response:
        """A sign of life."""
        await message_of(request, AliveMessage)
        await self._service.presence.saw(caller.name, caller.role)
        return JSONResponse({})

    async def reply(self, request: Request, caller: Caller) -> Response:
        """Scores, an answer, or a refusal."""
        run, task = request.path_params["run"], request.path_params["task"]
        said = await message_of(request, ReplyMessage)
        refused = await self._service.deliver(caller, run, wire.decode_reply(said, task, caller.name))
        return JSONResponse({"refused": refused})

    # -------------------------------------------------------------------------------------------------- for operators

    async def invite(self, request: Request, caller: Caller) -> Response:
        """A new invitation."""
        invitation = await self._service.invite(await message_of(request, InviteMessage))
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

    async def start(self, request: Request, caller: Caller) -> Response:
        """Begin a run."""
        return JSONResponse({"run": await self._service.runs.start(await message_of(request, StartMessage))})

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
        after, wait_s = after_of(asked, "after"), min(number_of(asked, "wait_s", 0), 25)
        return JSONResponse(await self._service.runs.events(request.path_params["run"], after, wait_s))

    async def record(self, request: Request, caller: Caller) -> Response:
        """All that one round left behind."""
        run, number = request.path_params["run"], request.path_params["number"]
        return JSONResponse(await self._service.runs.record(run, number))

    async def run_stream(self, request: Request, caller: Caller) -> Response:
        """What happens in one run, as it happens."""
        run = await self._service.runs.find(request.path_params["run"])
        known = "last-event-id" in request.headers
        after = after_of(request.headers, "last-event-id") if known else after_of(request.query_params, "after")
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


class _Name(BaseModel):
    name: str = Field(max_length=200)


def _route(method: str, path: str, door: Door) -> Route:
    async def endpoint(request: Request) -> Response:
        try:
            return await door(request)
        except LyciaError as error:
            status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 400)
            return problem_of(status, error)
        except ClientDisconnect:
            return Response(status_code=499)
        except Silent:  # what it sent of a part is worth nothing; the parts before it are kept
            return Response(status_code=408, headers={"connection": "close"})
        except Busy:
            return Response(status_code=429, headers={"retry-after": "1", "connection": "close"})
        except Stopping:
            return Response(status_code=503)  # whoever called tries again, and finds the coordinator that comes next

    return Route(path, endpoint, methods=[method])


def _no_door(request: Request, _: Exception) -> Response:
    error = NotFound(
        f"there is nothing at {request.method} {request.url.path[:200]}.",
        why="the protocol has no such call; a name in it may hold what no name has, such as a slash.",
        do="check the name; `lycia runs` and `lycia nodes` list them.",
    )
    return problem_of(404, error)


def _bug(request: Request, error: Exception) -> Response:
    told = LyciaError(
        f"the coordinator failed over {request.method} {request.url.path[:200]}: {type(error).__name__}.",
        why="this is a bug of it; its log has the traceback.",
        do="report it with the log; the runs go on.",
    )
    return problem_of(500, told)


def _stream(events: AsyncIterator[str]) -> Response:
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}  # the latter for a proxy that gathers
    return StreamingResponse(events, headers=headers, media_type="text/event-stream")


async def _hang_up(request: Request) -> None:
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return
