"""`lycia scrub`: a look through all that a coordinator keeps. It names what is damaged, and changes nothing.

While a coordinator serves, files come and go: what looks damaged counts only if a second look finds the same. What
nothing refers to is looked for only while nobody serves, since a file is written before anything refers to it.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from sqlalchemy import select, text

from lycia.catalogue import plan_from_json
from lycia.core import round as rounds
from lycia.core.events import Event, Heard, from_json
from lycia.core.layout import Layout
from lycia.core.round import Round, Run
from lycia.errors import JournalError, LyciaError, PlanError, StorageError
from lycia.storage import carrying, parts
from lycia.storage.blobs import BlobFolder, mapped
from lycia.storage.database import Connection, reading
from lycia.storage.facts import StoredRun
from lycia.storage.findings import Damage, Findings, Look, files_in
from lycia.storage.heard import check_heard, heard_updates
from lycia.storage.homes import BLOBS, KEYS, SPOOL, check_is_home, check_whole, database_of
from lycia.storage.runs import carried_of_run, list_runs, models_of_run, records_of_run
from lycia.storage.tables import EVENTS, RECORDS
from lycia.storage.uploads import Upload, get_upload, uploads_of_run

_OVER = ("finished", "stopped")
_RESTORE = "restore {} from a backup"
_MODEL_FROM_BEFORE = "or start a new run from a model that is sound: `lycia model {} --round N`, `lycia start --from`"
_REST_IS_SOUND = "The rounds that ended, and their models, are not affected."


def scrub(home: Path, database: str = "", *, is_served: bool = False) -> Findings:
    """What is found in a coordinator's folder and its database.

    Args:
      database: its URL, if it is not known in the folder.
      is_served: whether a coordinator may be writing at this moment.
    Raises:
      NotFound: if no coordinator has served from the folder.
      StorageError: if the database cannot be reached, or was made by another version.
    """
    check_is_home(home)
    check_whole(home)
    found = _look(home, database, is_served)
    if is_served and found.damages:
        again = set(_look(home, database, is_served).damages)
        found = replace(found, damages=tuple(damage for damage in found.damages if damage in again))
    return found


def _look(home: Path, database: str, is_served: bool) -> Findings:
    url, look, blobs = database_of(home, database), Look(), BlobFolder(home / BLOBS, read_only=True)
    spool = home / SPOOL
    look.damages += _keys(home)
    referred: set[Path] = set()
    runs: list[StoredRun] = []
    try:
        with reading(url) as connection:
            look.damages += _database(connection)
            runs = list_runs(connection)
            for run in runs:
                referred |= {*_run(connection, blobs, run, look), *_updates(connection, spool, run, look)}
    except StorageError as error:
        if "damaged" not in error.what:
            raise
        look.damages.append(
            Damage(error.what, "no coordinator can serve from it, and which files it needs is not known.",
                   _RESTORE.format("the database"), file=str(home))
        )  # fmt: skip
        return Findings(tuple(look.damages), None, len(runs), len(look.looked))
    # What is damaged may have been what refers to a file: nothing is called an orphan then.
    is_known = not is_served and not look.damages
    there = (*files_in(blobs.root), *files_in(spool)) if is_known else ()
    orphans = tuple(path for path in there if path not in referred) if is_known else None
    return Findings(tuple(look.damages), orphans, len(runs), len(look.looked))


def _keys(home: Path) -> Iterator[Damage]:
    for name in KEYS:
        path = home / name
        if not path.is_file() or not path.stat().st_size:
            yield Damage(
                f"{name} is missing from the folder, or empty.",
                "nodes and the operator know the coordinator, and it knows them, by what stands there.",
                _RESTORE.format(path),
                file=str(path),
            )


def _database(connection: Connection) -> Iterator[Damage]:
    if connection.dialect.name != "sqlite":
        return  # a server checks its pages as it reads them
    for (said,) in connection.execute(text("PRAGMA integrity_check")):
        if said != "ok":
            yield Damage(
                f"the database is damaged: {said}.",
                "what it says of runs and nodes may be wrong.",
                "stop the coordinator, and " + _RESTORE.format("the database"),
                file="database",
            )
    for table, _, parent, _ in connection.execute(text("PRAGMA foreign_key_check")):
        yield Damage(
            f"a row of the table {table} belongs to nothing in {parent}.",
            "something other than a coordinator has changed the database.",
            "stop the coordinator, and " + _RESTORE.format("the database"),
            file=f"table {table}",
        )


def _run(connection: Connection, blobs: BlobFolder, row: StoredRun, look: Look) -> set[Path]:
    """Looks at one run; returns the files that it refers to."""
    referred = [row.first_model]
    again = f"{_RESTORE.format('it')}, {_MODEL_FROM_BEFORE.format(row.id)}"

    def damage(what: str, file: str = "", means: str = "the run cannot go on.", round: int | None = None) -> Damage:
        return Damage(f"{what.rstrip('.')}.", means, again, row.id, round, file)

    look.blob(blobs, row.first_model, "the model that the run started from", lambda what, file: damage(what, file))
    called = {"model": "the newest model", "arrays": "the optimizer's state", "frozen": "the model's frozen part"}
    for number, carried in carried_of_run(connection, row.id).items():
        means = "the run cannot go on." if number is None else f"the run cannot be rolled back to round {number}."
        told = partial(damage, means=means, round=number)
        named = look.attempt(partial(told, file="table runs"), partial(carrying.named_in, carried))
        for name, digest in (named or {}).items():
            if digest not in referred:
                look.blob(blobs, digest, called[name], told)
            referred.append(digest)
    for model in models_of_run(connection, row.id):
        referred += [model.digest, *_model(blobs, row, model.round, model.digest, look)]
    look.damages += _records(connection, row)
    referred += _undone(connection, row)
    return {path for digest in referred if _is_digest(blobs, digest) for path in blobs.files(digest)}


def _model(blobs: BlobFolder, row: StoredRun, number: int, digest: str, look: Look) -> list[str]:
    """Looks at the model of a round; returns the digest of its frozen part, if that lies apart."""

    def damage(what: str, file: str = "") -> Damage:
        means = f"the model of round {number} can neither be taken home nor gone back to; those of other rounds can."
        return Damage(f"{what.rstrip('.')}.", means, _RESTORE.format(file or "the blob"), row.id, number, file)

    if not look.blob(blobs, digest, f"the model of round {number}", damage):
        return []
    frozen = look.attempt(damage, lambda: carrying.frozen_of(blobs, digest))
    if frozen:
        look.blob(blobs, frozen, f"the frozen part of the model of round {number}", damage)
    return [frozen] if frozen else []


def _undone(connection: Connection, row: StoredRun) -> list[str]:
    """The models of rounds that were undone: only their records still name them."""
    lines = connection.scalars(select(RECORDS.c.json).where(RECORDS.c.run == row.id, RECORDS.c.undone_s.is_not(None)))
    found = []
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):  # which `_records` tells
            found.append(str(json.loads(line)["model"]))
    return [digest for digest in found if digest]


def _records(connection: Connection, row: StoredRun) -> Iterator[Damage]:
    def damage(what: str) -> Damage:
        means = "reports of this run leave something out, or cannot be made; its models are not affected."
        return Damage(what, means, _RESTORE.format("the database"), row.id, file="table records")

    numbers = list(
        connection.scalars(select(RECORDS.c.number).where(RECORDS.c.run == row.id).order_by(RECORDS.c.number))
    )
    if numbers != list(range(len(numbers))):
        missing = next(number for number, found in enumerate([*numbers, -1]) if number != found)
        yield damage(f"the record number {missing} is missing.")
    try:
        records_of_run(connection, row.id)
    except ValueError as error:
        yield damage(f"a record cannot be read: {error}.")


def _updates(connection: Connection, spool: Path, row: StoredRun, look: Look) -> set[Path]:
    """Looks at the open round's journal, and at the updates that it has heard or that are on their way."""
    if row.state in _OVER:
        return set()
    referred = set()
    for event, node, handle in heard_updates(_journal(connection, row, look)):
        referred.add(spool / handle)
        _heard(spool, row, event, node, handle, look)
    for id in uploads_of_run(connection, row.id):
        referred.add(spool / id)
        if (known := get_upload(connection, id)) is not None:
            _on_its_way(spool / id, row, *known, look)
    return referred


def _heard(spool: Path, row: StoredRun, event: Heard, node: str, handle: str, look: Look) -> None:
    path = spool / handle
    is_new = path not in look.looked
    wrong = look.sound(path, lambda: check_heard(spool, row.id, event, node, handle))
    if wrong and is_new:
        means = f"the open round cannot be closed, or would be closed with what is wrong. {_REST_IS_SOUND}"
        do = f"stop the run, {_RESTORE.format('the file')}, {_MODEL_FROM_BEFORE.format(row.id)}"
        what = f"an update that the open round has heard, of {node}, {wrong.rstrip('.')}."
        look.damages.append(Damage(what, means, do, row.id, file=str(path)))


def _on_its_way(path: Path, row: StoredRun, upload: Upload, arrived: frozenset[int], look: Look) -> None:
    content = mapped(path)
    if content is None or path in look.looked:
        return  # it is announced again, and begun again, by its node
    damaged = [
        number
        for number in sorted(arrived)
        if parts.digests(content[parts.place(upload.size_bytes, number)]) != (upload.parts[number],)
    ]
    look.looked[path] = f"is damaged: part {damaged[0]} has changed" if damaged else ""
    if damaged:
        means = f"it is refused when it is whole, or changes the round's model. {_REST_IS_SOUND}"
        do = f"stop the coordinator, delete {path}, and start it again: {upload.node} sends it again"
        what = f"an update that {upload.node} is sending {look.looked[path]}."
        look.damages.append(Damage(what, means, do, row.id, file=str(path)))


def _journal(connection: Connection, row: StoredRun, look: Look) -> list[Event]:
    """Looks at the open round's journal; returns its events, if they can be read."""
    lines = connection.execute(select(EVENTS).where(EVENTS.c.run == row.id).order_by(EVENTS.c.seq)).all()
    if not lines:
        return []
    number = lines[0].round

    def damage(what: str) -> Damage:
        means = f"the open round cannot go on. {_REST_IS_SOUND}"
        do = _RESTORE.format("the database") + f", {_MODEL_FROM_BEFORE.format(row.id)}"
        return Damage(f"the journal of round {number}: {what}", means, do, row.id, number, "table events")

    if [line.seq for line in lines] != list(range(len(lines))):
        look.damages.append(damage("a line of it is missing."))
        return []
    events = look.attempt(damage, lambda: [from_json(line.line) for line in lines])
    if events is None:
        return []
    look.attempt(damage, lambda: replayed(row, events))
    return events


def replayed(row: StoredRun, events: list[Event]) -> Round | None:
    """The state of the open round.

    Raises: JournalError, if the events do not make one; LayoutError, if the run's layout cannot be read.
    """
    try:
        plan = plan_from_json(row.plan)
    except PlanError:  # a part of it is not installed where this look is taken
        return None
    try:
        return rounds.replay(Run(row.id, plan, Layout.from_json(row.layout)), events)
    except LyciaError:
        raise
    except Exception as error:
        raise JournalError(
            f"its events do not belong together: {error!r}.",
            why="each event follows from those before it.",
            do="restore the journal from a backup.",
        ) from error


def _is_digest(blobs: BlobFolder, digest: str) -> bool:
    try:
        blobs.path(digest)
    except LyciaError:
        return False
    return True
