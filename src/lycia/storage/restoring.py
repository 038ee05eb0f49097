"""`lycia restore`: a backup becomes a coordinator's folder again, from which runs go on as if nothing newer had been.

Nodes may hold work for what came after the backup. None of it may become part of a round that is held now: a run that
goes on asks under task numbers that no node has ever seen, and whatever answers another one is late.
"""

import json
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from lycia.catalogue import plan_from_json
from lycia.core import closing
from lycia.core import round as rounds
from lycia.core.events import Ended, Event
from lycia.core.layout import Layout
from lycia.core.round import Run, first
from lycia.errors import PlanError, StorageError
from lycia.storage import carrying, migrating
from lycia.storage.backup import copy_rows, writing_file
from lycia.storage.blobs import BlobFolder
from lycia.storage.database import reading, worded
from lycia.storage.dialects import Dialect, dialect_of
from lycia.storage.disk import in_words, make_folder, replace_file, sync_folder
from lycia.storage.facts import StoredRun, record_to_json
from lycia.storage.homes import BLOBS, DATABASE, KEYS, RESTORING, note_database
from lycia.storage.packs import Pack, open_pack
from lycia.storage.runs import journal_of_run, list_runs
from lycia.storage.settings import set_setting, setting
from lycia.storage.sqlite import sqlite_url
from lycia.storage.tables import EVENTS, MODELS, RECORDS, RUNS

_OVER = ("finished", "stopped")
_APART = 1 << 20  # task numbers between two lives of a run: more than one can ask in its life
_LIVES = 1 << 20  # of as many one is drawn, so that two restores of one backup do not meet either
_MANY_ATTEMPTS = 1 << 10
_LOCK = "held"  # of the process that restores
_RESTORED = "restored"


def restore(source: Path, home: Path, database: str = "") -> dict[str, Any]:
    """Put the backup at `source` into an empty folder, and into an empty database if one is given.

    Returns: what its manifest says, and "paused": the runs that wait to be resumed.
    Raises:
      NotFound: if there is no backup.
      StorageError: if it is damaged, or if the folder or the database is not empty; nothing is changed then.
    """
    pack = open_pack(source)
    _check_complete(pack)
    server = dialect_of(database) if database else None
    mark = _begin(home, server, database)
    if mark is None:  # all was there, but the last step
        return _end(home, pack, database)
    blobs = BlobFolder(home / BLOBS)
    for name in KEYS:
        replace_file(home / name, pack.files[name], fsync=True)
    for name, content in pack.files.items():
        if name.startswith(f"{BLOBS}/"):
            _put(blobs, name, content)
    file = home / DATABASE
    replace_file(file, pack.files[DATABASE], fsync=True)
    with writing_file(file) as connection:
        migrating.check_known(connection, str(source))
        migrating.migrate(connection)
        for run in list_runs(connection):
            if run.state not in _OVER:
                _set_back(connection, blobs, run, str(pack.about["made"]))
        set_setting(connection, _RESTORED, mark)
    if server is not None:
        note_database(home, database)
        _move(file, server)
    return _end(home, pack, database)


def _begin(home: Path, server: Dialect | None, database: str) -> str | None:
    """Mark the folder as one that is not whole; returns the mark, or None if it is whole but for the mark."""
    there = {path.name for path in home.iterdir()} - {_LOCK} if home.exists() else set()
    mark = (home / RESTORING).read_text(encoding="utf-8") if RESTORING in there else ""
    if there and not mark:
        raise StorageError(
            f"the folder {home} is not empty.",
            why="a restore never replaces anything: what lies there may be newer than the backup.",
            do="give another folder with --home.",
        )
    if server is not None and not _is_empty(server):
        if mark and _was_restored(database, mark):
            return None
        raise StorageError(
            f"the database {server.told} is not empty.",
            why="a restore never replaces anything: what is in it may be newer than the backup.",
            do="make a new database and give that one.",
        )
    mark = secrets.token_hex(16)
    with in_words(home):
        make_folder(home, fsync=True)
        home.chmod(0o700)
        replace_file(home / RESTORING, mark.encode(), fsync=True)
        for name in there - {RESTORING}:  # of a restore that was killed
            path = home / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return mark


def _was_restored(database: str, mark: str) -> bool:
    with reading(database) as connection:
        return setting(connection, _RESTORED) == mark


def _end(home: Path, pack: Pack, database: str) -> dict[str, Any]:
    with in_words(home):
        if database:
            (home / DATABASE).unlink(missing_ok=True)
        (home / RESTORING).unlink()
        sync_folder(home)
    with reading(database or sqlite_url(home / DATABASE)) as connection:
        paused = [run.id for run in list_runs(connection, "paused")]
    return {**pack.about, "home": str(home), "paused": paused}


def _put(blobs: BlobFolder, name: str, content: memoryview) -> None:
    digest = blobs.put([content])
    if name != f"{BLOBS}/{digest[:2]}/{digest[2:]}":
        raise StorageError(
            f"the backup holds {name}, which is a blob of another name.",
            why="a blob is named by its bytes; the backup was changed by hand.",
            do="use another backup.",
        )


def _check_complete(pack: Pack) -> None:
    missing = [name for name in (DATABASE, *KEYS) if name not in pack.files]
    if missing:
        raise StorageError(
            f"the backup {pack.path} has no {missing[0]}.",
            why="without it no coordinator can be made from it.",
            do="use another backup.",
        )


def _is_empty(server: Dialect) -> bool:
    engine = server.reader(1)
    try:
        with worded(server), engine.connect() as connection:
            return migrating.is_empty(connection)
    finally:
        engine.dispose()


def _move(file: Path, server: Dialect) -> None:
    """All rows of the file into a server's database, in one transaction."""
    server.take()
    writer = server.writer()
    try:
        with worded(server), reading(sqlite_url(file)) as source, writer.begin() as target:
            migrating.migrate(target)
            copy_rows(source, target)
    finally:
        writer.dispose()
        server.let_go()


def _set_back(connection: Connection, blobs: BlobFolder, row: StoredRun, made: str) -> None:
    """Let a run stand still at the beginning of the round that was open, out of reach of all that came after."""
    run = _run_of(row)
    text: str | None = connection.scalar(select(RUNS.c.carried).where(RUNS.c.id == row.id))
    events = journal_of_run(connection, row.id)
    if run is not None and text is None:
        text = _begun(connection, blobs, run, row)
    elif run is not None and text is not None and events:
        text = _concluded(connection, blobs, run, text, events)
    if text is not None:
        tries = run.plan.rules.retries + 1 if run is not None else 1
        # A run pauses when it has tried a round so many times: it begins anew to count.
        attempts = (_attempt(text) + _MANY_ATTEMPTS) // tries * tries + tries
        text = carrying.raised(text, _APART * (1 + secrets.randbelow(_LIVES)), attempts)
    reason = f"restored from a backup of {made}, what came after it is lost; it goes on with `lycia resume {row.id}`"
    ended_s = row.ended_s if row.ended_s is not None else datetime.fromisoformat(made).timestamp()
    stands = {"state": "paused", "reason": reason, "ended_s": ended_s, "carried": text}
    connection.execute(update(RUNS).where(RUNS.c.id == row.id).values(stands))
    connection.execute(delete(EVENTS).where(EVENTS.c.run == row.id))


def _run_of(row: StoredRun) -> Run | None:
    try:
        return Run(row.id, plan_from_json(row.plan), Layout.from_json(row.layout))
    except PlanError:  # a part of it is not installed here; whoever resumes the run is told
        return None


def _begun(connection: Connection, blobs: BlobFolder, run: Run, row: StoredRun) -> str:
    """A run that was only on the list begins now: its numbers, too, are to be raised."""
    _, model = carrying.read_kept_model(blobs, row.first_model)
    kept = carrying.keep(blobs, run.id, run.layout, first(run, model))
    connection.execute(update(RUNS).where(RUNS.c.id == run.id).values(first_model=kept.model))
    connection.execute(insert(MODELS).values(run=run.id, round=0, digest=kept.model, carried=kept.to_json()))
    return kept.to_json()


def _concluded(connection: Connection, blobs: BlobFolder, run: Run, text: str, events: Sequence[Event]) -> str:
    """A round whose model is made ends with the measurements that were heard; its record is kept."""
    kept = carrying.restore(blobs, text)
    current = rounds.replay(run, [*events, Ended(events[-1].at_s)])
    assert current is not None
    carried = closing.conclude(run, kept.carried, current)
    record = {
        **closing.round_record(run, current), "phases_s": {}, "wall_s": 0.0, "bytes_up": 0, "bytes_down": 0,
        "verdict": carried.finished,
    }  # fmt: skip
    number = connection.scalar(select(func.count()).select_from(RECORDS).where(RECORDS.c.run == run.id))
    connection.execute(
        insert(RECORDS).values(
            run=run.id, number=number, round=record["round"], attempt=record["attempt"], json=record_to_json(record)
        )
    )
    text = replace(kept, carried=carried).to_json()
    of_round = (MODELS.c.run == run.id) & (MODELS.c.round == carried.round)
    connection.execute(update(MODELS).where(of_round).values(carried=text))
    return text


def _attempt(text: str) -> int:
    return int(json.loads(text)["attempt"])
