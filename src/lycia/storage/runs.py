"""Runs in the coordinator's database. Each function works inside a `Database.write` or `read`."""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, insert, select, update

from lycia.errors import NotFound
from lycia.storage.database import Connection
from lycia.storage.facts import StoredRun, facts_of
from lycia.storage.tables import MODELS, RECORDS, RUNS, StoredModel


def create_run(connection: Connection, run: StoredRun) -> None:
    """Put a run on the list, before its first round."""
    connection.execute(
        insert(RUNS).values(
            id=run.id, app=run.app, plan=run.plan, plan_digest=run.plan_digest, layout=run.layout, schema=run.schema,
            versions=json.dumps(dict(run.versions)), state=run.state, reason=run.reason,
            created_s=run.created_s, ended_s=run.ended_s, first_model=run.first_model,
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
    chosen = select(RUNS).order_by(RUNS.c.created_s, RUNS.c.id)
    return [_run(row) for row in connection.execute(chosen if state is None else chosen.where(RUNS.c.state == state))]


def set_run_state(connection: Connection, id: str, state: str, reason: str = "", ended_s: float | None = None) -> None:
    """Write down how a run stands.

    Raises: NotFound.
    """
    change = update(RUNS).where(RUNS.c.id == id).values(state=state, reason=reason, ended_s=ended_s)
    if not connection.execute(change).rowcount:
        raise _unknown(id)


def models_of_run(connection: Connection, id: str) -> list[StoredModel]:
    """The models of a run, the first one first.

    Raises: NotFound, if there is no such run.
    """
    get_run(connection, id)
    rows = connection.execute(
        select(MODELS.c.round, MODELS.c.digest).where(MODELS.c.run == id).order_by(MODELS.c.round)
    )
    return [StoredModel(row.round, row.digest) for row in rows]


def records_of_run(connection: Connection, id: str, first: int = 0) -> list[Mapping[str, Any]]:
    """What each round that ended left behind, in the order in which they ended, from number `first` on."""
    of_run = (RECORDS.c.run == id) & (RECORDS.c.number >= first)
    rows = connection.execute(select(RECORDS.c.json).where(of_run).order_by(RECORDS.c.number))
    return [json.loads(row.json) for row in rows]


def facts_of_run(connection: Connection, id: str) -> dict[str, Any]:
    """All that a report is made from.

    Raises: NotFound, if there is no such run.
    """
    return facts_of(get_run(connection, id), "deployment", records_of_run(connection, id))


def _run(row: Row[Any]) -> StoredRun:
    values = {name: value for name, value in row._mapping.items() if name != "carried"}
    return StoredRun(**{**values, "versions": json.loads(row.versions)})


def _unknown(id: str) -> NotFound:
    return NotFound(
        f"there is no run {id!r}.",
        why="no run of that name was ever started here.",
        do="see `lycia runs` for those that were.",
    )
