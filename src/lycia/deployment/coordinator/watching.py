"""What watchers are told: by a call that waits (`lycia watch`), or by a stream of server-sent events (the dashboard).

Nothing is queued for anybody. A watcher who is woken looks at how things stand, and is told what has changed since it
was last told something: one who is slow takes no memory, and misses only what was over before it looked.
"""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from lycia.catalogue import plan_from_json
from lycia.deployment.coordinator import glances
from lycia.deployment.coordinator.glances import Lately
from lycia.runtime.facts import Fact, RoundEnded, RoundMoved, RunBegan, RunEnded, fact_to_json
from lycia.storage import runs as kept_runs
from lycia.storage.database import Connection, Database
from lycia.storage.facts import StoredRun

OVER = ("finished", "stopped")
"""The states of a run in which nothing can happen to it any more."""

_TOGETHER_S = 0.1  # what happens within the blink of an eye is told at once
_LOOK_S = 1.0  # that a node is gone is seen by looking, and by nothing else
_HEARTBEAT_S = 15.0
_RECORDS_AT_ONCE = 64
_RETRY = "retry: 1000\n\n"
_STILL_HERE = "event: here\ndata: {}\n\n"  # no comment, of which a browser's scripts do not learn

_T = TypeVar("_T")
IsGood = Callable[[], bool]


@dataclass
class _Live:
    """What is known of a run that is being held; `written` counts the records that it has left since it is."""

    moved: RoundMoved | None = None
    written: int = 0


class Watching:
    """All who watch one coordinator."""

    def __init__(
        self, database: Database, stored: Callable[[str], Awaitable[StoredRun]], nodes: Callable[[], Sequence[Any]]
    ) -> None:
        """`stored`: a run as it stands; `nodes`: everyone who is enrolled, as data.

        Attributes:
          listeners: who is told every fact of every run.
        """
        self.listeners: list[Callable[[str, Fact], None]] = []
        self._db, self._stored, self._nodes = database, stored, nodes
        self._live: dict[str, _Live] = {}
        self._lately: dict[str, Lately] = {}
        self._bells: dict[str, asyncio.Event] = {}
        self._looks: dict[str, dict[Hashable, asyncio.Task[Any]]] = {}
        self._board, self._stale = _Board(), set[str]()
        self._looking, self._look_at_s, self._is_over = asyncio.Lock(), 0.0, False

    # ------------------------------------------------------------------------------------------ what the service says

    async def begin(self) -> None:
        """Learn which runs there are."""
        self._stale |= {row.id for row in await self._db.read(kept_runs.list_runs)}

    def began(self, run: str) -> None:
        """A run is being held from now on."""
        self._live[run] = _Live()
        self.changed(run)

    def tell(self, run: str, fact: Fact) -> None:
        """Something happened in a run; all but the moves inside a round is in the store."""
        live = self._live[run]
        if isinstance(fact, RoundMoved):
            live.moved = fact
        if isinstance(fact, RoundEnded):
            live.written += 1
        for listener in self.listeners:
            listener(run, fact)
        self.changed(run)

    def ended(self, run: str) -> None:
        """A run is not held any more; how it stands has been written down."""
        self._live.pop(run, None)
        self.changed(run)

    def changed(self, run: str = "") -> None:
        """Wake those who watch a run, and those who watch everything."""
        if run:
            self._stale.add(run)
            self._looks.pop(run, None)
        else:
            self._look_at_s = 0.0
        for name in {run, ""}:
            self._bells.pop(name, asyncio.Event()).set()

    def end(self) -> None:
        """Let all watchers go."""
        self._is_over = True
        for bell in self._bells.values():
            bell.set()

    # -------------------------------------------------------------------------------------------------- the long poll

    async def events(self, run: str, after: int, wait_s: float) -> dict[str, Any]:
        """What happened in a run after fact number `after`; waits for something to happen."""
        until_s = time.monotonic() + wait_s
        written = -1
        while True:
            bell, live = self._bell(run), self._live.get(run)
            moved = live.moved if live else None
            facts: list[tuple[int, Fact]] = []
            state = "running"
            if live is None or live.written != written:  # a move inside a round is not in the store
                written = live.written if live else -1
                facts, state = await self._facts_after(run, after)
            left_s = until_s - time.monotonic()
            if facts or live is None or left_s <= 0 or self._is_over:
                break
            await _rung(bell, left_s)
            if live.moved != moved and live.written == written:
                moved = live.moved
                break
        events = [[number, fact_to_json(fact)] for number, fact in facts]
        return {"run": run, "events": events, "moved": fact_to_json(moved) if moved else "", "state": state}

    async def _facts_after(self, run: str, after: int) -> tuple[list[tuple[int, Fact]], str]:
        """Facts with their numbers: 1 is the run's beginning, then one for each round that ended.

        Its end, or that it pauses, has the number of what was before it: it may go on from there, as it does when it is
        rolled back. Of rounds that were undone nobody is told any more; their numbers stay theirs.
        """
        row = await self._stored(run)
        known = max(after - 2, 0)  # the last round that the caller has seen, to tell it from one who has seen the end
        records = await self._db.read(lambda connection: kept_runs.records_of_run(connection, run, known))
        if after >= 2 and not records:
            return [], row.state
        facts: list[tuple[int, Fact]] = []
        if after < 1:
            plan = plan_from_json(row.plan)
            population = records[0]["population"] if records else self._there()
            facts.append((1, RunBegan(run, plan.rounds, 0, population, plan.stop.metric if plan.stop else "")))
        facts += [
            (number, RoundEnded(record))
            for number, record in enumerate(records, start=known + 2)
            if number > after and "undone" not in record
        ]
        if row.state != "running":
            rounds, _ = await self._db.read(lambda connection: kept_runs.rounds_of_run(connection, run))
            number = known + 1 + len(records)
            facts.append((number, RunEnded(row.state, row.reason, rounds)))
        return facts, row.state

    # ---------------------------------------------------------------------------------------------------- the streams

    async def everything(self, since: str, is_good: IsGood) -> AsyncIterator[str]:
        """How all runs and nodes stand, and then what changes, as server-sent events `run` and `node`.

        Args:
          since: the id of the last event that the watcher had; "" or an unknown one for everything.
          is_good: whether the watcher may go on watching.
        """
        version, quiet_s = self._board.version_of(since), 0.0
        yield _RETRY
        while is_good() and not self._is_over:
            bell = self._bell("")
            await self._look()
            for number, kind, text in self._board.after(version):
                yield _event(kind, text, self._board.id_of(number))
                version, quiet_s = number, 0.0
            quiet_s += await _rung(bell, _LOOK_S)
            if quiet_s >= _HEARTBEAT_S:
                yield _STILL_HERE
                quiet_s = 0.0

    async def run(self, run: str, after: int, picked: Collection[str], is_good: IsGood) -> AsyncIterator[str]:
        """One run: `about` once, `run` when it stands otherwise, `round` for each that ended, `step` inside a round.

        Only a `round` has an id: the number that `events` gives it too, before a restart of the coordinator and after.
        It ends with the run.

        Args:
          after: the number of the last round that the watcher had; 0 for all.
          picked: nodes of which a round's own figures are told, where there are too many to tell them of all.
          is_good: whether the watcher may go on watching.
        """
        told = _Told(max(after - 1, 0), frozenset(picked))
        quiet_s = 0.0
        yield _RETRY + _event("about", _text(glances.about(await self._stored(run), time.time())))
        while is_good() and not self._is_over:
            bell = self._bell(run)
            news, told, is_all = await self._together(run, told, partial(self._news, run, told))
            if news:
                yield news
                quiet_s = 0.0
            if is_all and told.state in OVER:
                return
            if is_all:
                quiet_s += await _rung(bell, _HEARTBEAT_S)
            if quiet_s >= _HEARTBEAT_S:
                yield _STILL_HERE
                quiet_s = 0.0

    async def _news(self, run: str, told: "_Told") -> tuple[str, "_Told", bool]:
        """What a watcher of a run does not know yet, what it knows then, and whether that is all."""
        standing = await self._together(run, "", partial(self._glance, run))
        text = _text(standing)
        news = [] if text == told.standing else [_event("run", text)]

        def read(connection: Connection) -> "_Told":
            # After the standing: if that says that the run is over, these are all rounds.
            records = kept_runs.records_of_run(connection, run, told.rounds, _RECORDS_AT_ONCE)
            for number, record in enumerate(records, start=told.rounds):
                news.append(_event("round", _text(glances.round_glance(number, record, told.picked)), str(number + 2)))
            place = kept_runs.open_round_of_run(connection, run)
            first = told.steps if place == told.place else 0
            events = kept_runs.journal_of_run(connection, run, first) if place else []
            if events:
                news.append(_event("step", _text([glances.step_glance(event) for event in events])))
            return _Told(told.rounds + len(records), told.picked, text, standing["state"], place, first + len(events))

        now = await self._db.read(read)
        return "".join(news), now, now.rounds - told.rounds < _RECORDS_AT_ONCE

    async def _together(self, run: str, what: Hashable, look: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """What `look` returns. Who asks the same while it looks, and before the run changes, gets the same."""
        looks = self._looks.setdefault(run, {})
        if what not in looks:
            looks[what] = looking = asyncio.create_task(look())
            looking.add_done_callback(lambda _: looks.pop(what))
        found: _T = await asyncio.shield(looks[what])  # who hangs up takes it from nobody else
        return found

    async def _look(self) -> None:
        """Bring the board up to date; at the nodes, one watcher looks for all."""
        async with self._looking:
            for run in tuple(self._stale):
                self._stale.discard(run)
                try:
                    self._board.put("run", run, await self._together(run, "", partial(self._glance, run)))
                except BaseException:  # such as that the watcher who looks hangs up: the others are owed it still
                    self._stale.add(run)
                    raise
            if time.monotonic() >= self._look_at_s:
                for node in self._nodes():
                    self._board.put("node", node["name"], node)
                self._look_at_s = time.monotonic() + _LOOK_S / 2

    async def _glance(self, run: str) -> dict[str, Any]:
        row, live = await self._stored(run), self._live.get(run)

        def read(connection: Connection) -> dict[str, Any]:
            done, records = kept_runs.rounds_of_run(connection, run)
            undone, lately = kept_runs.undone_of_run(connection, run), self._lately.get(run)
            changes = records + len(undone)  # each only grows
            if lately is None or lately.changes != changes:  # they are large, and moves inside a round come often
                last = kept_runs.last_records_of_run(connection, run, glances.LOOKED_BACK)
                lately = self._lately[run] = Lately.of(row, changes, last)
            paused_s = kept_runs.paused_s_of_run(connection, run)
            return glances.run_glance(row, done, lately, paused_s, live.moved if live else None, undone)

        return await self._db.read(read)

    def _there(self) -> int:
        return sum(node["there"] and node["role"] == "node" for node in self._nodes())

    def _bell(self, name: str) -> asyncio.Event:
        return self._bells.setdefault(name, asyncio.Event())


@dataclass(frozen=True)
class _Told:
    """What a watcher of a run has been told: its rounds, how it stands, and the first steps of which open round."""

    rounds: int
    picked: frozenset[str]
    standing: str = ""
    state: str = ""
    place: tuple[int, int] | None = None
    steps: int = 0


class _Board:
    """How everything stands, each thing with the number of its last change: who knows one is told what is newer."""

    def __init__(self) -> None:
        self._life = secrets.token_hex(4)  # numbers begin anew when the coordinator does
        self._version = 0
        self._things: dict[tuple[str, str], tuple[int, str]] = {}

    def put(self, kind: str, name: str, thing: Mapping[str, Any]) -> None:
        """Note how a thing stands now."""
        text = _text(thing)
        known = self._things.pop((kind, name), None)
        if known is None or known[1] != text:
            self._version += 1
            known = (self._version, text)
        self._things[kind, name] = known

    def after(self, version: int) -> list[tuple[int, str, str]]:
        """(number, kind, thing) for all that changed after `version`, in order."""
        return sorted((number, kind, text) for (kind, _), (number, text) in self._things.items() if number > version)

    def id_of(self, version: int) -> str:
        """What a watcher remembers of a number."""
        return f"{self._life}.{version}"

    def version_of(self, id: str) -> int:
        """The number that a watcher remembers; 0 if it is not one of ours."""
        life, _, number = id.partition(".")
        return int(number) if life == self._life and number.isdecimal() else 0


async def _rung(bell: asyncio.Event, most_s: float) -> float:
    """Wait until the bell rings, at most so long; returns how long that was."""
    began_s = time.monotonic()
    with suppress(TimeoutError):
        async with asyncio.timeout(most_s):
            await bell.wait()
    if bell.is_set():
        await asyncio.sleep(_TOGETHER_S)
    return time.monotonic() - began_s


def _event(kind: str, text: str, id: str = "") -> str:
    numbered = f"id: {id}\n" if id else ""
    return f"event: {kind}\n{numbered}data: {text}\n\n"


def _text(thing: Any) -> str:
    return json.dumps(thing, separators=(",", ":"), allow_nan=False)
