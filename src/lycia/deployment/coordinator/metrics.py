"""Figures for Prometheus, on a listener of their own. They are read off what the coordinator knows anyway.

No label has a node's name or another word that outsiders choose: a series costs memory here and at whoever collects it.
A run's own series go some while after it is over.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lycia.deployment.coordinator.gate import Gate
from lycia.deployment.coordinator.health import Health
from lycia.deployment.coordinator.operating import alive, readiness
from lycia.deployment.coordinator.service import Service
from lycia.runtime.facts import Fact, RoundEnded
from lycia.storage.database import Database

STATES = ("running", "paused", "stopped", "finished")
_KINDS = ("declined", "vanished", "quarantined", "late")
_MOST_RUNS = 100  # of which the rounds are counted one by one; of more, the oldest are let go
_ROUND_S = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000)
_COMMIT_S = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3)
_WALK_S = 60.0  # to add up the sizes of many files takes time
_T = TypeVar("_T")


class Metrics:
    """The figures of one coordinator, in a registry of its own."""

    def __init__(self, service: Service, database: Database, gate: Gate, home: Path) -> None:
        self._service, self._gate, self._home = service, gate, home
        self._registry = CollectorRegistry()
        self._runs = self._made(Gauge, "runs", "Runs by state.", ["state"])
        self._rounds = self._made(Counter, "rounds", "Rounds that ended, by run.", ["run", "outcome"])
        self._round_s = self._made(Histogram, "round_seconds", "How long a round took.", buckets=_ROUND_S)
        self._nodes = self._made(Gauge, "nodes_there", "Nodes that poll or work now.", ["role"])
        self._updates = self._made(Counter, "updates", "What became of nodes that were asked to train.", ["outcome"])
        self._bytes = self._made(
            Counter, "body_bytes", "Bytes of bodies, up from nodes and down to them.", ["direction"]
        )
        self._open = self._made(Gauge, "open_bodies", "Bodies on their way in.")
        self._commits = self._made(Counter, "database_commits", "Transactions that were committed.")
        self._changes = self._made(Counter, "database_changes", "Changes in these transactions.")
        self._commit_s = self._made(Histogram, "database_commit_seconds", "How long a commit took.", buckets=_COMMIT_S)
        self._stored = self._made(Gauge, "stored_bytes", "Bytes on the disk.", ["place"])
        self._free = self._made(Gauge, "disk_free_bytes", "Room on the disk.")
        self._ready = self._made(Gauge, "ready", "1 if the coordinator is ready.")
        for outcome in ("taken", *_KINDS):
            self._updates.labels(outcome)
        self._counted: dict[str, None] = {}
        self._moved, self._walked_s = (0, 0), float("-inf")
        database.on_commit = self._committed
        service.runs.watching.listeners.append(self._notice)

    async def page(self, health: Health) -> bytes:
        """All figures, as Prometheus reads them."""
        states = [row.state for row in await self._service.runs.all()]
        for state in STATES:
            self._runs.labels(state).set(states.count(state))
        roster = self._service.presence.roster()
        self._nodes.labels("node").set(len(roster.names))
        self._nodes.labels("evaluator").set(len(roster.evaluators))
        up, down = self._service.presence.traffic()
        self._bytes.labels("up").inc(up - self._moved[0])
        self._bytes.labels("down").inc(down - self._moved[1])
        self._moved = up, down
        self._open.set(self._gate.open_bodies)
        self._free.set(health.free_bytes())
        self._ready.set(not await health.reasons())
        if time.monotonic() - self._walked_s >= _WALK_S:
            self._walked_s = time.monotonic()
            for place in ("blobs", "spool", "outgoing"):
                self._stored.labels(place).set(await asyncio.to_thread(_size, self._home / place))
            database = [self._home / f"lycia.db{ending}" for ending in ("", "-wal")]
            self._stored.labels("database").set(sum(path.stat().st_size for path in database if path.exists()))
        return generate_latest(self._registry)

    def _notice(self, run: str, fact: Fact) -> None:
        if not isinstance(fact, RoundEnded):
            return
        record = fact.record
        self._counted.pop(run, None)
        self._counted[run] = None
        for outcome in ("ended", "missed"):
            self._rounds.labels(run, outcome).inc(bool(record["missed"]) == (outcome == "missed"))
        while len(self._counted) > _MOST_RUNS:
            oldest = next(iter(self._counted))
            del self._counted[oldest]
            for outcome in ("ended", "missed"):
                self._rounds.remove(oldest, outcome)
        self._round_s.observe(record["wall_s"])
        self._updates.labels("taken").inc(len(record["survivors"]) if not record["missed"] else 0)
        for drop in record["dropped"]:
            if drop["exchange"] == "train" and drop["kind"] in _KINDS:
                self._updates.labels(drop["kind"]).inc()
        self._updates.labels("late").inc(len(record["late"]))

    def _committed(self, changes: int, took_s: float) -> None:
        self._commits.inc()
        self._changes.inc(changes)
        self._commit_s.observe(took_s)

    def _made(self, kind: Callable[..., _T], name: str, about: str, labels: Iterable[str] = (), **more: Any) -> _T:
        return kind(f"lycia_{name}", about, labels, registry=self._registry, **more)


class MetricsServer(uvicorn.Server):
    """Serves the figures, and how the coordinator is, without TLS and without sessions: for a network one trusts."""

    def __init__(self, metrics: Metrics, health: Health) -> None:
        async def page(_: Request) -> Response:
            return Response(await metrics.page(health), media_type=CONTENT_TYPE_LATEST)

        async def ready(_: Request) -> Response:
            return await readiness(health)

        async def is_alive(_: Request) -> Response:
            return alive()

        app = Starlette(routes=[Route("/metrics", page), Route("/health", is_alive), Route("/ready", ready)])
        super().__init__(uvicorn.Config(app, lifespan="off", access_log=False, log_config=None, log_level="warning"))

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None: the coordinator listens to them."""
        yield


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # it went meanwhile
            continue
    return total
