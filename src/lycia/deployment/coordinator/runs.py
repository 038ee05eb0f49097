"""The runs of one coordinator: started, held, paused, resumed, stopped, and what is known of them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog

from lycia.catalogue import plan_from_json
from lycia.core.events import Event, Heard
from lycia.core.layout import Layout, read_checkpoint
from lycia.core.round import Carried, Run, first
from lycia.deployment.coordinator.mailbox import Mailbox
from lycia.deployment.coordinator.presence import Presence
from lycia.deployment.coordinator.transfers import Transfers
from lycia.deployment.coordinator.watching import OVER, Watching
from lycia.deployment.wire import StartMessage
from lycia.errors import LayoutError, LyciaError, NotFound, StorageError
from lycia.runtime.apps import run_name
from lycia.runtime.beginning import run_id
from lycia.runtime.facts import Fact, RoundEnded
from lycia.runtime.ports import Clock, Entropy
from lycia.runtime.runner import World, hold
from lycia.storage import runs as kept_runs
from lycia.storage.blobs import BlobFolder
from lycia.storage.carrying import read_kept_model
from lycia.storage.database import Database
from lycia.storage.facts import StoredRun
from lycia.storage.run_store import RunStore

log = structlog.get_logger()


class Over(LyciaError):
    """A run is over: nothing can be done with it any more but to look at it."""


@dataclass
class _Live:
    """A run that is being held now."""

    run: Run
    mailbox: Mailbox
    clock: Clock
    task: asyncio.Task[None] | None = None


@dataclass(frozen=True)
class RunClock:
    """A run's own time, which stands still while the run is paused: no deadline passes meanwhile."""

    clock: Clock
    paused_s: float

    def now_s(self) -> float:
        """Now."""
        return self.clock.now_s() - self.paused_s


class Runs:
    """All runs of one coordinator. One operator at a time changes how they stand."""

    def __init__(
        self, database: Database, blobs: BlobFolder, outgoing: BlobFolder, transfers: Transfers, presence: Presence,
        clock: Clock, entropy: Entropy, wake: Callable[[], None], nodes: Callable[[], Sequence[Any]],
    ) -> None:  # fmt: skip
        """`wake`: lets all open polls look into their boxes; `nodes`: everyone who is enrolled, as data."""
        self._db, self._blobs, self._outgoing, self._presence = database, blobs, outgoing, presence
        self._transfers = transfers
        self._clock, self._entropy, self._wake = clock, entropy, wake
        self._live: dict[str, _Live] = {}
        self._unwritten: dict[str, StoredRun] = {}
        self._changing = asyncio.Lock()
        self.watching = Watching(database, self._stored, nodes)

    # ------------------------------------------------------------------------------------------------------ their life

    async def begin(self) -> None:
        """Go on with the runs that were under way. What is paused stays so."""
        await self.watching.begin()
        await self._sweep()
        for row in await self._db.read(lambda connection: kept_runs.list_runs(connection, "running")):
            try:
                self._hold(*await self._prepare(row))
            except LyciaError as error:
                log.error("run cannot go on", run=row.id, what=error.what, why=error.why, do=error.do)
                await self._pause(row.id, error.what)

    async def _sweep(self) -> None:
        """Remove what a crash left of updates that no run needs."""
        rows = [row for row in await self._db.read(kept_runs.list_runs) if row.state not in OVER]
        held: set[str] = set()
        for row in rows:
            held |= await self._db.read(partial(kept_runs.held_by_run, id=row.id))
        await self._transfers.sweep(held, {row.id for row in rows})

    async def end(self) -> None:
        """Let go of all; what is durable stays, and `begin` goes on from there."""
        held = list(self._live.values())
        for live in held:
            live.mailbox.interrupt()
            if live.task is not None:
                live.task.cancel()
        await asyncio.gather(*(live.task for live in held if live.task), return_exceptions=True)
        self.watching.end()

    # --------------------------------------------------------------------------------------------------- how they stand

    async def start(self, message: StartMessage) -> str:
        """Begin a run; returns its id.

        Raises: PlanError, LayoutError, TensorFileError, if what the operator sent does not fit together.
        """
        plan, layout = plan_from_json(message.plan), Layout.from_json(message.layout)
        found, _, _ = await asyncio.to_thread(read_checkpoint, self._blobs.open(message.model))
        if found != layout:
            raise LayoutError(
                "the model that was uploaded has another layout than the run.",
                why="a run keeps the names, shapes and kinds of its first model.",
                do="start again with a model of this app.",
            )
        row = StoredRun(
            run_id(run_name(message.app)), message.app, message.plan, plan.digest, message.layout, time.time(),
            message.versions, message.schema_text, first_model=message.model,
        )  # fmt: skip
        held = await self._prepare(row)
        await self._db.write(lambda connection: kept_runs.create_run(connection, row))
        self._hold(*held)
        return row.id

    async def pause(self, run: str, by: str) -> StoredRun:
        """Let go of a run, in the middle of its round, until it is resumed; returns how it stands.

        Raises: NotFound; Over.
        """
        async with self._let_go(run) as (row, _):
            _check_not_over(row, "paused")
            if row.state == "running":
                await self._pause(row.id, f"paused by {by}")
        return await self._stored(row.id)

    async def resume(self, run: str, by: str) -> StoredRun:
        """Go on with a run where it paused, with the very round that was open; returns how it stands.

        Raises: NotFound; Over; StorageError, if what it needs is gone.
        """
        async with self._changing:
            row = await self._stored(await self.find(run))
            _check_not_over(row, "resumed")
            if row.state == "paused":
                stood_s = self._clock.now_s() - (row.ended_s or self._clock.now_s())
                live, start = await self._prepare(row, stood_s)
                await self._db.write(lambda connection: kept_runs.resume_run(connection, row.id, stood_s))
                self._unwritten.pop(row.id, None)
                log.info("run is resumed", run=row.id, by=by)
                self._hold(live, start)
            return await self._stored(row.id)

    async def stop(self, run: str, by: str) -> StoredRun:
        """End a run for good, with the model that it has; returns how it stands.

        Raises: NotFound; Over, if it has finished; StorageError, if that cannot be written down: it is paused then.
        """
        async with self._let_go(run) as (row, journal):
            if row.state != "stopped":
                _check_not_over(row, "stopped")
                reason, at_s = f"stopped by {by}", self._clock.now_s()
                await self._db.write(lambda connection: kept_runs.stop_run(connection, row.id, reason, at_s))
                self._unwritten.pop(row.id, None)
                log.info("run is stopped", run=row.id, by=by)
                await self._transfers.drop(row.id, None, ())
                heard = (event for event in journal if isinstance(event, Heard))
                self._transfers.forget({handle for event in heard for handle in event.handles} - {""})
                self.watching.changed(row.id)
        return await self._stored(row.id)

    @asynccontextmanager
    async def _let_go(self, run: str) -> AsyncIterator[tuple[StoredRun, Sequence[Event]]]:
        """How a run stands that nobody holds any more, and its open round's journal; inside, its state is to be set."""
        async with self._changing:
            found = await self.find(run)
            live = self._live.get(found)
            if live is not None and live.task is not None:
                live.task.cancel()
                await asyncio.wait({live.task})
            journal = await self._db.read(lambda connection: kept_runs.journal_of_run(connection, found))
            taken = await self._taken(found)
            try:
                yield await self._stored(found), journal
            finally:
                if live is not None and found in self._live:
                    if (await self._stored(found)).state == "running":
                        await self._pause(
                            found, "it was let go of, and what was to become of it could not be written down"
                        )
                    self._dismiss(live, (await self._stored(found)).state, taken)

    # ---------------------------------------------------------------------------------------------------- what is known

    async def all(self) -> list[StoredRun]:
        """All runs, the newest first."""
        return [self._unwritten.get(row.id, row) for row in reversed(await self._db.read(kept_runs.list_runs))]

    async def facts(self, run: str) -> dict[str, Any]:
        """All that a report is made of.

        Raises: NotFound, if there is no such run.
        """
        found = await self.find(run)
        facts = await self._db.read(lambda connection: kept_runs.facts_of_run(connection, found))
        unwritten = self._unwritten.get(found)
        return {**facts, "state": unwritten.state, "reason": unwritten.reason} if unwritten else facts

    async def find(self, run: str) -> str:
        """The whole id of a run of which an unmistakable beginning is given; "latest" is the newest.

        Raises: NotFound.
        """
        known = [row.id for row in await self.all()]
        matches = (
            known[:1]
            if run == "latest"
            else [run]
            if run in known
            else [name for name in known if name.startswith(run)]
        )
        if len(matches) != 1:
            raise NotFound(
                f"there is no run {run!r}." if not matches else f"{run!r} may be {', '.join(matches[:5])}.",
                why="a run is named by its id, or by a beginning of it that no other run has.",
                do="see `lycia runs` for the ids.",
            )
        return matches[0]

    async def model_blob(self, run: str, round_number: int | None) -> str:
        """The digest of a run's model after so many rounds; None for the latest.

        Raises: NotFound, if that round has no model here.
        """
        found = await self.find(run)
        stored = await self._db.read(lambda connection: kept_runs.models_of_run(connection, found))
        models = {model.round: model.digest for model in stored}
        number = max(models, default=0) if round_number is None else round_number
        if number not in models:
            raise NotFound(
                f"run {run!r} has no model of round {number}.",
                why=f"it has those of the rounds {', '.join(map(str, sorted(models)))}."
                if models
                else "it has none yet.",
                do="leave --round out for the latest one." if models else "wait until the run has begun: lycia watch",
            )
        return models[number]

    async def is_model(self, digest: str) -> bool:
        """Whether a run has, or had, this model."""
        return await self._db.read(lambda connection: kept_runs.is_model(connection, digest))

    async def events(self, run: str, after: int, wait_s: float) -> dict[str, Any]:
        """What happened in a run after fact number `after`; waits for something to happen."""
        return await self.watching.events(run if run in self._live else await self.find(run), after, wait_s)

    async def record(self, run: str, number: int) -> Mapping[str, Any]:
        """All that a round left behind; `number` counts the records of the run from 0.

        Raises: NotFound.
        """
        found = await self.find(run)
        records = await self._db.read(lambda connection: kept_runs.records_of_run(connection, found, number, 1))
        if not records:
            raise NotFound(
                f"run {run!r} has no record {number}.",
                why="each round that ended has left one; they are counted from 0.",
                do="ask for one that there is; `lycia watch` tells when a round ends.",
            )
        return records[0]

    # ------------------------------------------------------------------------------------------------- for their nodes

    def boxes(self) -> list[Mailbox]:
        """The boxes of all runs that are being held now."""
        return [live.mailbox for live in self._live.values()]

    def box(self, run: str) -> Mailbox | None:
        """The box of a run that is being held now."""
        live = self._live.get(run)
        return live.mailbox if live else None

    async def why_not_held(self, run: str, task: int, node: str) -> str:
        """Why a run that is not held takes no reply of a node's; "" if it took that very one while it was.

        Raises: NotFound.
        """
        state = (await self._stored(run)).state
        return "" if (task, node) in await self._taken(run) else f"the run is {state}"

    # ------------------------------------------------------------------------------------------------ how they are held

    def _hold(self, live: _Live, start: Carried) -> None:
        self._live[live.run.id] = live
        self.watching.began(live.run.id)
        live.task = asyncio.create_task(self._watch(live, start))

    async def _prepare(self, row: StoredRun, stood_s: float = 0.0) -> tuple[_Live, Carried]:
        _, model = read_kept_model(self._blobs, row.first_model)
        run = Run(row.id, plan_from_json(row.plan), Layout.from_json(row.layout))
        for text in (row.plan, row.layout):
            self._outgoing.put([text.encode()])  # nodes fetch them by digest
        paused_s = await self._db.read(lambda connection: kept_runs.paused_s_of_run(connection, row.id))
        clock = RunClock(self._clock, paused_s + max(stood_s, 0.0))
        held = await self._db.read(lambda connection: kept_runs.held_by_run(connection, row.id))
        box = Mailbox(run, self._presence, self._transfers, self._blobs, self._outgoing, clock.now_s, self._wake, held)
        return _Live(run, box, clock), first(run, model)

    async def _watch(self, live: _Live, start: Carried) -> None:
        run = live.run
        store = RunStore(self._db, self._blobs, run.id, run.layout)
        world = World(live.mailbox, store, live.clock, self._entropy, (_Feed(self.watching, run.id),))
        bound = log.bind(run=run.id)
        bound.info("run begins", rounds=run.plan.rounds)
        try:
            outcome = await hold(run, start, world)
            state, reason = outcome.state, outcome.reason
        except LyciaError as error:
            bound.error("run pauses", what=error.what, why=error.why, do=error.do)
            state, reason = "paused", error.what
        except Exception as error:  # noqa: BLE001  # a bug in one run, or in a part of it, ends no other run
            bound.exception("run pauses")
            state, reason = "paused", f"the coordinator failed over it: {type(error).__name__}: {error}"
        await (self._pause(run.id, reason) if state == "paused" else self._set_state(run.id, state, reason))
        bound.info("run ends", state=state, reason=reason)
        self._dismiss(live, state, await self._taken(run.id))

    def _dismiss(self, live: _Live, state: str, taken: Collection[tuple[int, str]]) -> None:
        del self._live[live.run.id]
        live.mailbox.dismiss(f"the run is {state}", taken)
        self.watching.ended(live.run.id)

    async def _pause(self, run: str, reason: str) -> None:
        await self._set_state(run, "paused", f"{reason.rstrip('.')}; it goes on with `lycia resume {run}`")

    async def _set_state(self, run: str, state: str, reason: str) -> None:
        ended_s = self._clock.now_s()
        try:
            await self._db.write(lambda connection: kept_runs.set_run_state(connection, run, state, reason, ended_s))
        except StorageError as error:  # such as a full disk, for which the run has paused in the first place
            log.error("the state of a run cannot be written down", run=run, what=error.what, do=error.do)
            self._unwritten[run] = replace(await self._stored(run), state=state, reason=reason, ended_s=ended_s)

    async def _taken(self, run: str) -> set[tuple[int, str]]:
        """(task, node) of what was taken lately; nothing, if that cannot be read: those who ask are refused then."""
        try:
            return await self._db.read(lambda connection: kept_runs.taken_of_run(connection, run))
        except StorageError as error:
            log.error("what a run has taken cannot be read", run=run, what=error.what, do=error.do)
            return set()

    async def _stored(self, run: str) -> StoredRun:
        row = await self._db.read(lambda connection: kept_runs.get_run(connection, run))
        return self._unwritten.get(run, row)


@dataclass(frozen=True)
class _Feed:
    """Tells those who watch a run what happens in it, and the log what ends."""

    watching: Watching
    run: str

    def notice(self, fact: Fact) -> None:
        if isinstance(fact, RoundEnded):
            record = fact.record
            heard = len(record["survivors"]) or sum(len(scope["nodes"]) for scope in record["evaluation"].values())
            number = record["round"] + (record["purpose"] == "train")
            said = {"purpose": record["purpose"], "missed": record["missed"]}
            log.info("round ends", run=self.run, round=number, heard=heard, **said)
        self.watching.tell(self.run, fact)


def _check_not_over(row: StoredRun, turned: str) -> None:
    if row.state in OVER:
        raise Over(
            f"the run {row.id!r} cannot be {turned}: it is {row.state}.",
            why="what has finished or was stopped does not begin again; its record is complete.",
            do=f"start another run from its model: lycia model {row.id} -o MODEL, then lycia start APP --from MODEL.",
        )
