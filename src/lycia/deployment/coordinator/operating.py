"""The doors of those who operate a coordinator: how its runs are turned, and how it is itself."""

from collections.abc import Awaitable, Callable, Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lycia.deployment import versions
from lycia.deployment.coordinator.health import Health
from lycia.deployment.coordinator.requests import message_of
from lycia.deployment.coordinator.runs import Runs
from lycia.deployment.coordinator.sessions import Caller
from lycia.deployment.identity import Role
from lycia.deployment.wire import RollbackMessage
from lycia.storage.facts import StoredRun

Door = Callable[[Request], Awaitable[Response]]
Guarded = Callable[[Request, Caller], Awaitable[Response]]


class OperatingDoors:
    """Some of the routes of one coordinator."""

    def __init__(
        self, runs: Runs, health: Health, route: Callable[[str, str, Door], Route], only: Callable[..., Door]
    ) -> None:
        """`route` makes a route of a method, a path and a door; `only` a door for callers of some roles."""
        self._runs, self._health, self._route, self._only = runs, health, route, only

    def routes(self) -> Sequence[Route]:
        """The routes."""
        operator: Role = "operator"
        turns = {"pause": self._runs.pause, "resume": self._runs.resume, "stop": self._runs.stop}
        return [
            self._route("GET", "/v1/meta", self.meta),
            self._route("GET", "/v1/health", self.health),
            self._route("GET", "/v1/ready", self.ready),
            *(
                self._route("POST", f"/v1/runs/{{run}}/{name}", self._only(_turning(change), operator))
                for name, change in turns.items()
            ),
            self._route("POST", "/v1/runs/{run}/rollback", self._only(self.roll_back, operator)),
        ]

    async def meta(self, request: Request) -> Response:
        """What is spoken here."""
        release = versions.own()
        said = {"protocol": versions.PROTOCOL, "version": release, "works_with": versions.works_with(release)}
        return JSONResponse(said)

    async def health(self, request: Request) -> Response:
        """That somebody is here."""
        return alive()

    async def ready(self, request: Request) -> Response:
        """Whether to send somebody here."""
        return await readiness(self._health)

    async def roll_back(self, request: Request, caller: Caller) -> Response:
        """Put a run back to an earlier round."""
        number = (await message_of(request, RollbackMessage)).round
        return _standing(await self._runs.roll_back(request.path_params["run"], number, caller.name))


def alive() -> Response:
    """That somebody is here."""
    return JSONResponse({"alive": True}, headers={"cache-control": "no-store"})


async def readiness(health: Health) -> Response:
    """Whether to send somebody here, and in a word why not."""
    reasons = await health.reasons()
    said = {"ready": not reasons, "reasons": reasons}
    return JSONResponse(said, 503 if reasons else 200, headers={"cache-control": "no-store"})


def _turning(change: Callable[[str, str], Awaitable[StoredRun]]) -> Guarded:
    async def turn(request: Request, caller: Caller) -> Response:
        return _standing(await change(request.path_params["run"], caller.name))

    return turn


def _standing(row: StoredRun) -> Response:
    return JSONResponse({"run": row.id, "state": row.state, "reason": row.reason})
