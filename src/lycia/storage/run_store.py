"""A run in the coordinator's database, as the loop needs it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import delete, func, insert, select, update

from lycia.core.events import Closed, Event, Opened, from_json, to_json
from lycia.core.layout import Layout, Model
from lycia.core.round import Carried, Run
from lycia.errors import StorageError
from lycia.runtime.ports import Resumed
from lycia.storage import carrying
from lycia.storage.blobs import BlobFolder
from lycia.storage.carrying import Kept
from lycia.storage.database import Connection, Database
from lycia.storage.disk import to_its_end
from lycia.storage.facts import record_to_json
from lycia.storage.rollback import Held, let_go, remove_held
from lycia.storage.runs import get_run
from lycia.storage.tables import EVENTS, MODELS, RECORDS, RUNS


class RunStore:
    """A `Store` for one run that stands on the database's list (`create_run`). One coordinator uses it at a time.

    The events of a round are deleted when it ends, and with them its secret. Of all rounds the model is kept, and what
    was carried out of them, so that the run can be rolled back to there (`lycia.storage.rollback`).

    Guarantees: a call is durable when it returns, and has happened wholly or not at all, wherever it is killed.
    """

    def __init__(
        self, database: Database, blobs: BlobFolder, run_id: str, layout: Layout, keep_rounds: int | None = None
    ) -> None:
        """`keep_rounds`: how many of the newest rounds are kept, beside the first and the best one; None for all."""
        self.run_id, self._database, self._blobs, self._layout = run_id, database, blobs, layout
        self._keep_rounds = keep_rounds
        self._kept: Kept | None = None

    async def resume(self) -> Resumed | None:
        """Where the run stands; None if it has not begun.

        Raises:
          NotFound: if there is no such run.
          StorageError: if the run is of another model, or a blob of it is gone or damaged.
        """
        carried, lines = await self._database.read(self._read)
        if carried is None:
            return None
        self._kept = await to_its_end(lambda: carrying.restore(self._blobs, carried, self._blobs.space))
        return Resumed(self._kept.carried, [from_json(line) for line in lines])

    async def begin(self, run: Run, carried: Carried) -> None:
        """Keep what the run starts from.

        Raises: StorageError, if it has begun already, or if `run` is not what was put on the list.
        """
        kept = await self._keep(carried)

        def change(connection: Connection) -> None:
            if get_run(connection, self.run_id).plan_digest != run.plan.digest:
                raise _other("plan", self.run_id)
            if _carried(connection, self.run_id) is not None:
                raise StorageError(
                    f"the run {self.run_id!r} has begun.",
                    why="to begin again would overwrite its rounds.",
                    do="resume it, or create another run.",
                )
            connection.execute(update(RUNS).where(RUNS.c.id == self.run_id).values(first_model=kept.model))
            self._put_model(connection, kept)
            self._end_model(connection, kept)

        await self._write(change, kept)
        self._kept = kept

    async def append(self, events: Sequence[Event]) -> None:
        """Write events at the end of the open round's journal; all of them count, or none."""
        await self._database.write(lambda connection: _append(connection, self.run_id, events))

    async def advance(self, carried: Carried, at_s: float) -> tuple[Carried, Event]:
        """Keep the next model and write the event that says so, in one step; returns what to go on with, and the event.

        What is large in it is mapped from what was kept.
        """
        kept = await self._keep(carried)
        event = Closed(at_s, kept.model)

        def change(connection: Connection) -> None:
            self._put_model(connection, kept)
            _append(connection, self.run_id, [event])

        await self._write(change, kept)
        self._kept = kept = await to_its_end(lambda: carrying.mapped(self._blobs, self._layout, kept))
        return kept.carried, event

    async def end_round(self, carried: Carried, record: Mapping[str, Any]) -> None:
        """Keep the round's record and what is carried on, and end its journal, in one step."""
        kept = await self._keep(carried)
        line = record_to_json(record)
        gone: list[Held] = []

        def change(connection: Connection) -> None:
            number = connection.scalar(select(func.count()).select_from(RECORDS).where(RECORDS.c.run == self.run_id))
            connection.execute(
                insert(RECORDS).values(
                    run=self.run_id, number=number, round=record["round"], attempt=record["attempt"], json=line
                )
            )  # fmt: skip
            connection.execute(delete(EVENTS).where(EVENTS.c.run == self.run_id))
            connection.execute(update(RUNS).where(RUNS.c.id == self.run_id).values(carried=kept.to_json()))
            if record.get("purpose", "train") == "train" and not record["missed"]:
                self._end_model(connection, kept)
                gone.extend(let_go(connection, self.run_id, self._keep_rounds) if self._keep_rounds else ())

        await self._write(change, kept)
        self._kept = kept
        if gone:
            await remove_held(self._database, self._blobs, self.run_id, gone)

    def blob_of(self, model: Model) -> str | None:
        """The digest of the kept file of this very model, where it holds what nodes are sent and nothing else."""
        kept = self._kept
        is_kept = kept is not None and model.trained is kept.carried.model.trained
        return kept.model if kept and is_kept and carrying.is_whole(self._layout) else None

    async def _keep(self, carried: Carried) -> Kept:
        return await to_its_end(lambda: carrying.keep(self._blobs, self.run_id, self._layout, carried, self._kept))

    async def _write(self, change: Callable[[Connection], None], kept: Kept) -> None:
        """Make a change that names the model of `kept`, once that is there for good.

        An equal model may have been another run's, which let go of it a moment ago: see `remove_unneeded`.
        """

        def checked(connection: Connection) -> bool:
            is_there = self._blobs.has(kept.model)
            if is_there:
                change(connection)
            return is_there

        while not await self._database.write(checked):
            await to_its_end(lambda: carrying.put_model(self._blobs, self._layout, kept))

    def _end_model(self, connection: Connection, kept: Kept) -> None:
        of_round = (MODELS.c.run == self.run_id) & (MODELS.c.round == kept.carried.round)
        connection.execute(update(MODELS).where(of_round).values(carried=kept.to_json()))

    def _read(self, connection: Connection) -> tuple[str | None, list[str]]:
        if get_run(connection, self.run_id).layout != self._layout.to_json():
            raise _other("model", self.run_id)
        lines = select(EVENTS.c.line).where(EVENTS.c.run == self.run_id).order_by(EVENTS.c.seq)
        return _carried(connection, self.run_id), [row.line for row in connection.execute(lines)]

    def _put_model(self, connection: Connection, kept: Kept) -> None:
        number = kept.carried.round
        connection.execute(update(RUNS).where(RUNS.c.id == self.run_id).values(carried=kept.to_json()))
        connection.execute(delete(MODELS).where(MODELS.c.run == self.run_id, MODELS.c.round == number))
        connection.execute(insert(MODELS).values(run=self.run_id, round=number, digest=kept.model))


def _carried(connection: Connection, run_id: str) -> str | None:
    carried: str | None = connection.scalar(select(RUNS.c.carried).where(RUNS.c.id == run_id))
    return carried


def _append(connection: Connection, run_id: str, events: Sequence[Event]) -> None:
    last = connection.execute(
        select(EVENTS.c.seq, EVENTS.c.round, EVENTS.c.attempt)
        .where(EVENTS.c.run == run_id)
        .order_by(EVENTS.c.seq.desc())
        .limit(1)
    ).one_or_none()
    seq, number, attempt = last or (-1, 0, 0)
    rows = []
    for event in events:
        if isinstance(event, Opened):
            number, attempt = event.round, event.attempt
        seq += 1
        rows.append({"run": run_id, "seq": seq, "round": number, "attempt": attempt, "line": to_json(event)})
    if rows:
        connection.execute(insert(EVENTS), rows)


def _other(thing: str, run_id: str) -> StorageError:
    return StorageError(
        f"the run {run_id!r} was created with another {thing}.",
        why=f"a run keeps its {thing} from its first round to its last; results of two would be mixed.",
        do=f"start a new run for the changed {thing}, or go on with the app that this run was started with.",
    )
