"""The runs of one coordinator: started, held, paused, resumed, stopped, and what is known of them."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog

from lycia.catalogue import plan_from_json
from lycia.core.events import Event, Heard
from lycia.core.layout import Layout, Model, checkpoint_layout
from lycia.core.round import Run, first
from lycia.deployment.coordinator.mailbox import Mailbox
from lycia.deployment.coordinator.presence import Presence
from lycia.deployment.coordinator.promises import Promises
from lycia.deployment.coordinator.transfers import Transfers
from lycia.deployment.coordinator.watching import OVER, Watching
from lycia.deployment.wire import StartMessage
from lycia.errors import AccessError, LayoutError, LyciaError, NotFound, StorageError
from lycia.runtime.apps import run_name
from lycia.runtime.beginning import run_id
from lycia.runtime.facts import Fact, RoundEnded, RoundMoved, RunBegan, RunEnded
from lycia.runtime.ports import Clock, Entropy
from lycia.runtime.runner import World, hold
from lycia.storage import runs as kept_runs
from lycia.storage.blobs import BlobFolder
from lycia.storage.carrying import read_kept_model
from lycia.storage.database import Connection, Database
from lycia.storage.disk import to_its_end
from lycia.storage.facts import StoredRun
from lycia.storage.heard import check_all_heard
from lycia.storage.rollback import Held, check_kept, remove_held, roll_back
from lycia.storage.run_store import RunStore

log = structlog.get_logger()


class Over(LyciaError):
    """A run is over: nothing can be done with it any more but to look at it."""


@dataclass
class _Live:
    """A run that is being held now."""

    run: Run
    store: RunStore
    mailbox: Mailbox
    clock: Clock
    feed: "_Feed"
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
        keep_rounds: int | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
          wake: lets all open polls look into their boxes.
          nodes: everyone who is enrolled, as data.
          keep_rounds: how many of a run's newest rounds are kept; None for all.
        """
        self._db, self._blobs, self._outgoing, self._presence = database, blobs, outgoing, presence
        self._transfers = transfers
        self._clock, self._entropy, self._wake, self._keep_rounds = clock, entropy, wake, keep_rounds
        self._promises = Promises()
        self._live: dict[str, _Live] = {}
        self._unwritten: dict[str, StoredRun] = {}
        self._known: dict[str, StoredRun] = {}
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
                log.error("run cannot go on", **await self._place(row.id), **_words(error))
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
        """Begin a run, unless it has begun already under the id that the operator gave it; returns its id.

        Raises:
          PlanError, LayoutError, TensorFileError: if what the operator sent does not fit together.
          AccessError: if another run has that id.
        """
        plan, layout = plan_from_json(message.plan), Layout.from_json(message.layout)
        found = await asyncio.to_thread(checkpoint_layout, self._blobs.open(message.model))
        if found != layout:
            raise LayoutError(
                "the model that was uploaded has another layout than the run.",
                why="a run keeps the names, shapes and kinds of its first model.",
                do="start again with a model of this app.",
            )
        id = message.run or run_id(run_name(message.app))
        row = StoredRun(
            id, message.app, message.plan, plan.digest, message.layout, time.time(), message.versions,
            message.schema_text, first_model=message.model,
        )  # fmt: skip
        async with self._changing:
            known = next((other for other in await self.all() if other.id == row.id), None)
            if known is None:
                held = await self._prepare(row)
                await self._db.write(lambda connection: kept_runs.create_run(connection, row))
                self._hold(*held)
            elif (known.app, known.plan, known.layout) != (row.app, row.plan, row.layout):
                raise AccessError(
                    f"there is another run {row.id!r}.",
                    why="a run's id stands for one plan and one model, so that a start may be repeated.",
                    do="start it under another id.",
                )
        return row.id

    async def pause(self, run: str, by: str) -> StoredRun:
        """Let go of a run, in the middle of its round, until it is resumed; returns how it stands.

        Raises: NotFound; Over.
        """
        async with self._let_go(run) as (row, _):
            _check_not_over(row, "paused")
            if row.state == "running":
                await self._pause(row.id, f"paused by {by}")
                log.info("run is paused", **await self._place(row.id), by=by)
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
                live, model = await self._prepare(row, stood_s)
                await self._db.write(lambda connection: kept_runs.resume_run(connection, row.id, stood_s))
                self._unwritten.pop(row.id, None)
                log.info("run is resumed", **await self._place(row.id), by=by)
                self._hold(live, model)
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
                log.info("run is stopped", **await self._place(row.id), by=by)
                await self._forget(row.id, journal)
                self.watching.changed(row.id)
        return await self._stored(row.id)

    async def roll_back(self, run: str, number: int, by: str) -> StoredRun:
        """Put a run back to what it was after `number` rounds, whatever became of it, and pause it there.

        Raises: NotFound, if there is no such run, or that round is not kept; StorageError, if it cannot be written.
        """
        found = await self.find(run)
        await self._db.read(lambda connection: check_kept(connection, found, number))  # a slip disturbs no run
        async with self._let_go(found) as (row, journal):
            rounds = f"round {number}" if number else "its beginning"
            reason, retries = (
                _goes_on(row.id, f"rolled back to {rounds} by {by}"),
                plan_from_json(row.plan).rules.retries,
            )
            at_s = self._clock.now_s()

            def change(connection: Connection) -> list[Held]:
                return roll_back(connection, row.id, number, by=by, at_s=at_s, reason=reason, retries=retries)

            held = await self._db.write(change)
            self._unwritten.pop(row.id, None)
            log.info("run is rolled back", run=row.id, round=number, by=by)
            await self._forget(row.id, journal)
            # Their models stay, as their records do, which name them; the optimizer's state goes, unless it must not.
            undone = held if self._keep_rounds else [replace(one, model="") for one in held]
            await remove_held(self._db, self._blobs, row.id, undone)
            self.watching.changed(row.id)
        return await self._stored(row.id)

    async def _forget(self, run: str, journal: Sequence[Event]) -> None:
        """Remove the updates of a round that nobody holds any more, and those that are on their way for it."""
        await self._transfers.drop(run, None, ())
        heard = (event for event in journal if isinstance(event, Heard))
        self._transfers.forget({handle for event in heard for handle in event.handles} - {""})

    @asynccontextmanager
    async def _let_go(self, run: str) -> AsyncIterator[tuple[StoredRun, Sequence[Event]]]:
        """How a run stands that nobody holds any more, and its open round's journal; inside, its state is to be set."""
        async with self._changing:
            found = await self.find(run)
            live = self._live.get(found)
            if live is not None and live.task is not None:
                live.task.cancel()
                await asyncio.wait({live.task})
            journal: Sequence[Event] = ()
            taken: set[tuple[int, str]] = set()
            try:
                journal = await self._db.read(lambda connection: kept_runs.journal_of_run(connection, found))
                taken = await self._taken(found)
                yield await self._stored(found), journal
            finally:
                if live is not None and found in self._live:
                    if (await self._last_known(found)).state == "running":
                        await self._pause(
                            found, "it was let go of, and what was to become of it could not be written down"
                        )
                    self._dismiss(live, (await self._last_known(found)).state, taken)

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

    def _hold(self, live: _Live, model: Model) -> None:
        self._live[live.run.id] = live
        self.watching.began(live.run.id)
        live.task = asyncio.create_task(self._watch(live, model))

    async def _prepare(self, row: StoredRun, stood_s: float = 0.0) -> tuple[_Live, Model]:
        self._known[row.id] = replace(row, state="running", reason="", ended_s=None)
        await to_its_end(lambda: self._blobs.check(row.first_model))
        _, model = await asyncio.to_thread(read_kept_model, self._blobs, row.first_model, self._blobs.space)
        journal = await self._db.read(lambda connection: kept_runs.journal_of_run(connection, row.id))
        # What another process wrote is checked before it becomes part of a model.
        await to_its_end(lambda: check_all_heard(self._transfers.spool.root, row.id, journal))
        run = Run(row.id, plan_from_json(row.plan), Layout.from_json(row.layout))
        for text in (row.plan, row.layout):
            self._outgoing.put([text.encode()])  # nodes fetch them by digest
        paused_s = await self._db.read(lambda connection: kept_runs.paused_s_of_run(connection, row.id))
        clock = RunClock(self._clock, paused_s + max(stood_s, 0.0))
        held = await self._db.read(lambda connection: kept_runs.held_by_run(connection, row.id))
        store = RunStore(self._db, self._blobs, run.id, run.layout, self._keep_rounds)
        box = Mailbox(
            run, self._presence, self._transfers, self._blobs, self._outgoing, clock.now_s, self._wake, held,
            store.blob_of, self._promises,
        )  # fmt: skip
        return _Live(run, store, box, clock, _Feed(self.watching, run.id)), model

    async def _watch(self, live: _Live, model: Model) -> None:
        run = live.run
        world = World(live.mailbox, live.store, live.clock, self._entropy, (live.feed,), self._blobs.space)
        try:
            outcome = await hold(run, await asyncio.to_thread(first, run, model, world.space), world)
            state, reason = outcome.state, outcome.reason
        except LyciaError as error:
            log.error("run fails", **live.feed.place, **_words(error))
            state, reason = "paused", error.what
        except Exception as error:  # a bug in one run, or in a part of it, ends no other run
            log.exception("run fails", **live.feed.place)
            state, reason = "paused", f"the coordinator failed over it: {type(error).__name__}: {error}"
        await (self._pause(run.id, reason) if state == "paused" else self._set_state(run.id, state, reason))
        log.info("run ends", **live.feed.place, state=state, reason=reason)
        self._dismiss(live, state, await self._taken(run.id))
        if state in OVER:  # what is still on its way for it is for nothing
            with suppress(StorageError):  # it lies there until the coordinator starts again
                await self._transfers.drop(run.id, None, ())

    def _dismiss(self, live: _Live, state: str, taken: Collection[tuple[int, str]]) -> None:
        del self._live[live.run.id]
        live.mailbox.dismiss(f"the run is {state}", taken)
        self.watching.ended(live.run.id)

    async def _pause(self, run: str, reason: str) -> None:
        await self._set_state(run, "paused", _goes_on(run, reason))

    async def _set_state(self, run: str, state: str, reason: str) -> None:
        ended_s = self._clock.now_s()
        try:
            await self._db.write(lambda connection: kept_runs.set_run_state(connection, run, state, reason, ended_s))
        except StorageError as error:  # such as a full disk, for which the run has paused in the first place
            live = self._live.get(run)
            place = live.feed.place if live else {"run": run}
            log.error("the state of a run cannot be written down", **place, **_words(error))
            known = await self._last_known(run)
            self._unwritten[run] = replace(known, state=state, reason=reason, ended_s=ended_s)

    async def _place(self, run: str) -> dict[str, Any]:
        """Which run, and how many rounds of it are done: for the log."""
        done, _ = await self._db.read(lambda connection: kept_runs.rounds_of_run(connection, run))
        return {"run": run, "round": done}

    async def _taken(self, run: str) -> set[tuple[int, str]]:
        """(task, node) of what was taken lately; nothing, if that cannot be read: those who ask are refused then."""
        try:
            return await self._db.read(lambda connection: kept_runs.taken_of_run(connection, run))
        except StorageError as error:
            log.error("what a run has taken cannot be read", run=run, **_words(error))
            return set()

    async def _stored(self, run: str) -> StoredRun:
        if run in self._unwritten:
            return self._unwritten[run]
        return await self._db.read(lambda connection: kept_runs.get_run(connection, run))

    async def _last_known(self, run: str) -> StoredRun:
        """How a run stands; while the database cannot be asked, how it stood when it was last held."""
        try:
            return await self._stored(run)
        except StorageError:
            if run not in self._known:
                raise
            return self._known[run]


class _Feed:
    """Tells those who watch a run what happens in it, and the log when rounds begin and end.

    Attributes:
      place: which run, and the round that is held, counted from 1 as people do, or else how many are done.
    """

    def __init__(self, watching: Watching, run: str) -> None:
        self._watching, self._attempt = watching, (-1, -1)
        self.place: dict[str, Any] = {"run": run}

    def notice(self, fact: Fact) -> None:
        match fact:
            case RunBegan():
                self._at(fact.round)
                log.info("run begins", **self.place, rounds=fact.rounds, nodes=fact.population)
            case RoundMoved() if (fact.round, fact.attempt) != self._attempt:
                self._attempt = (fact.round, fact.attempt)
                self._at(fact.round + 1)
                log.info("round begins", **self.place, attempt=fact.attempt)
            case RoundEnded():
                record = fact.record
                heard = len(record["survivors"]) or sum(len(scope["nodes"]) for scope in record["evaluation"].values())
                self._at(record["round"] + (record["purpose"] == "train"))
                # Why nodes did not count may be in their own words, which stay in the record.
                kinds = Counter(drop["kind"] for drop in record["dropped"])
                said = {"purpose": record["purpose"], "missed": record["missed"], "heard": heard, **kinds}
                log.info("round ends", **self.place, **said, late=len(record["late"]))
            case RunEnded():
                pass  # which is logged when it has been written down
        self._watching.tell(self.place["run"], fact)

    def _at(self, number: int) -> None:
        self.place = {**self.place, "round": number}


def _words(error: LyciaError) -> dict[str, str]:
    return {"what": error.what, "why": error.why, "do": error.do}


def _goes_on(run: str, reason: str) -> str:
    return f"{reason.rstrip('.')}; it goes on with `lycia resume {run}`"


def _check_not_over(row: StoredRun, turned: str) -> None:
    if row.state in OVER:
        raise Over(
            f"the run {row.id!r} cannot be {turned}: it is {row.state}.",
            why="what has finished or was stopped does not begin again; its record is complete.",
            do=f"start another run from its model: lycia model {row.id} -o MODEL, then lycia start APP --from MODEL.",
        )
