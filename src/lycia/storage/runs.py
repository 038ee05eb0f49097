"""Runs in the coordinator's database. Each function works inside a `Database.write` or `read`."""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update

from lycia.core.events import Closed, Event, Heard, from_json
from lycia.errors import NotFound
from lycia.storage.database import Connection
from lycia.storage.facts import StoredRun, facts_of
from lycia.storage.tables import EVENTS, MODELS, RECORDS, RUNS, StoredModel


def create_run(connection: Connection, run: StoredRun) -> None:
    """Put a run on the list, before its first round."""
    connection.execute(
        insert(RUNS).values(
            id=run.id, app=run.app, plan=run.plan, plan_digest=run.plan_digest, layout=run.layout, schema=run.schema,
            versions=json.dumps(dict(run.versions)), state=run.state, reason=run.reason,
            created_s=run.created_s, ended_s=run.ended_s, paused_s=0.0, first_model=run.first_model,
        )
    )  # fmt: skip


def get_run(connection: Connection, id: str) -> StoredRun:
    """The run of this id.

    Raises: NotFound.
    """
    row = connection.execute(select(RUNS).where(RUNS.c.id == id)).one_or_none()
    if row is None:
        raise _unknown(id)
    return _run(row)


def list_runs(connection: Connection, state: str | None = None) -> list[StoredRun]:
    """All runs, or those in one state, in the order in which they were created."""
    chosen = select(RUNS)
    rows = connection.execute(chosen if state is None else chosen.where(RUNS.c.state == state))
    return sorted(map(_run, rows), key=lambda run: (run.created_s, run.id))  # each database has an alphabet of its own


def set_run_state(connection: Connection, id: str, state: str, reason: str = "", ended_s: float | None = None) -> None:
    """Write down how a run stands.

    Raises: NotFound.
    """
    change = update(RUNS).where(RUNS.c.id == id).values(state=state, reason=reason, ended_s=ended_s)
    if not connection.execute(change).rowcount:
        raise _unknown(id)


def resume_run(connection: Connection, id: str, stood_s: float) -> None:
    """Let a run that stood still for so long go on.

    Raises: NotFound.
    """
    stood = {"paused_s": RUNS.c.paused_s + max(stood_s, 0.0)}
    change = update(RUNS).where(RUNS.c.id == id).values(state="running", reason="", ended_s=None, **stood)
    if not connection.execute(change).rowcount:
        raise _unknown(id)


def stop_run(connection: Connection, id: str, reason: str, at_s: float) -> None:
    """End a run for good. The journal of its open round goes, and with it the round's secret.

    Raises: NotFound.
    """
    set_run_state(connection, id, "stopped", reason, at_s)
    connection.execute(delete(EVENTS).where(EVENTS.c.run == id))


def paused_s_of_run(connection: Connection, id: str) -> float:
    """How long a run has stood still until it last went on."""
    return float(connection.scalar(select(RUNS.c.paused_s).where(RUNS.c.id == id)) or 0.0)


def journal_of_run(connection: Connection, id: str, first: int = 0) -> list[Event]:
    """The events of a run's open round, from number `first` on; none between two rounds."""
    of_run = (EVENTS.c.run == id) & (EVENTS.c.seq >= first)
    return [
        from_json(row.line) for row in connection.execute(select(EVENTS.c.line).where(of_run).order_by(EVENTS.c.seq))
    ]


def taken_of_run(connection: Connection, id: str) -> set[tuple[int, str]]:
    """(task, node) of all that was taken in a run's open round, and in the last ones before it."""
    carried = connection.scalar(select(RUNS.c.carried).where(RUNS.c.id == id))
    before = json.loads(carried).get("answered", ()) if carried else ()
    heard = [event for event in journal_of_run(connection, id) if isinstance(event, Heard)]
    return {(task, node) for task, *nodes in before for node in nodes} | {
        (event.task, node) for event in heard for node in event.nodes
    }


def open_round_of_run(connection: Connection, id: str) -> tuple[int, int] | None:
    """Number and attempt of a run's open round; None between two rounds."""
    last = select(EVENTS.c.round, EVENTS.c.attempt).where(EVENTS.c.run == id).order_by(EVENTS.c.seq.desc()).limit(1)
    row = connection.execute(last).one_or_none()
    return (row.round, row.attempt) if row else None


def models_of_run(connection: Connection, id: str) -> list[StoredModel]:
    """The models of a run, the first one first.

    Raises: NotFound, if there is no such run.
    """
    get_run(connection, id)
    rows = connection.execute(
        select(MODELS.c.round, MODELS.c.digest).where(MODELS.c.run == id).order_by(MODELS.c.round)
    )
    return [StoredModel(row.round, row.digest) for row in rows]


def carried_of_run(connection: Connection, id: str) -> dict[int | None, str]:
    """Round → what a run carried on after it, of the rounds that one can go back to; under None what it carries now."""
    rows = connection.execute(select(MODELS.c.round, MODELS.c.carried).where(MODELS.c.run == id))
    kept: dict[int | None, str] = {row.round: row.carried for row in rows if row.carried}
    now: str | None = connection.scalar(select(RUNS.c.carried).where(RUNS.c.id == id))
    return ({None: now} if now else {}) | kept


def is_model(connection: Connection, digest: str) -> bool:
    """Whether a run has, or had, a model of this digest."""
    return connection.scalar(select(MODELS.c.run).where(MODELS.c.digest == digest).limit(1)) is not None


def held_by_run(connection: Connection, id: str) -> set[str]:
    """The handles of the updates that a run's open round has heard, and not yet made a model of."""
    journal = journal_of_run(connection, id)
    if any(isinstance(event, Closed) for event in journal):
        return set()
    return {handle for event in journal if isinstance(event, Heard) for handle in event.handles} - {""}


def records_of_run(connection: Connection, id: str, first: int = 0, most: int | None = None) -> list[Mapping[str, Any]]:
    """What rounds that ended left behind, in the order in which they ended: `most` of them, from number `first` on.

    The record of a round that was undone also says `undone`: by whom, and when.
    """
    of_run = (RECORDS.c.run == id) & (RECORDS.c.number >= first)
    rows = connection.execute(select(RECORDS).where(of_run).order_by(RECORDS.c.number).limit(most))
    return [_record(row) for row in rows]


def last_records_of_run(connection: Connection, id: str, most: int) -> list[Mapping[str, Any]]:
    """What the last rounds that ended, and were not undone, left behind."""
    of_run = (RECORDS.c.run == id) & RECORDS.c.undone_s.is_(None)
    rows = connection.execute(select(RECORDS).where(of_run).order_by(RECORDS.c.number.desc()).limit(most)).all()
    return [_record(row) for row in reversed(rows)]


def undone_of_run(connection: Connection, id: str) -> list[int]:
    """The numbers of the records of rounds that were undone."""
    of_run = (RECORDS.c.run == id) & RECORDS.c.undone_s.is_not(None)
    return list(connection.scalars(select(RECORDS.c.number).where(of_run).order_by(RECORDS.c.number)))


def rounds_of_run(connection: Connection, id: str) -> tuple[int, int]:
    """How many rounds of a run are done, and how many records there are of it."""
    models = select(func.max(MODELS.c.round)).where(MODELS.c.run == id)
    records = select(func.count()).select_from(RECORDS).where(RECORDS.c.run == id)
    return connection.scalar(models) or 0, connection.scalar(records) or 0


def facts_of_run(connection: Connection, id: str) -> dict[str, Any]:
    """All that a report is made from.

    Raises: NotFound, if there is no such run.
    """
    return facts_of(get_run(connection, id), "deployment", records_of_run(connection, id))


def _record(row: Row[Any]) -> Mapping[str, Any]:
    record: dict[str, Any] = json.loads(row.json)
    return record if row.undone_s is None else {**record, "undone": {"by": row.undone_by, "at_s": row.undone_s}}


def _run(row: Row[Any]) -> StoredRun:
    values = {name: value for name, value in row._mapping.items() if name not in ("carried", "paused_s")}
    return StoredRun(**{**values, "versions": json.loads(row.versions)})


def _unknown(id: str) -> NotFound:
    return NotFound(
        f"there is no run {id!r}.",
        why="no run of that name was ever started here.",
        do="see `lycia runs` for those that were.",
    )
