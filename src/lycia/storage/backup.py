"""`lycia backup`: all that a coordinator keeps, as it was at one moment, while it goes on serving.

The database comes first, as one snapshot; then every blob that the snapshot names. Blobs never change, and are removed
only when nothing names them any more. Those that a round replaces (the optimizer's state) may be removed while the
snapshot is taken; then it is taken again.

A backup is the same whichever database the coordinator has: rows in a SQLite file. Of a round that is open it keeps
nothing: who goes on from a backup holds that round again, and its secret is erased with it elsewhere, so it is here.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, insert, make_url, select, update

from lycia.core.events import Closed, Opened, from_json, to_json
from lycia.errors import NotFound, StorageError
from lycia.storage import carrying, migrating
from lycia.storage.blobs import BlobFolder
from lycia.storage.database import reading
from lycia.storage.dialects import dialect_of
from lycia.storage.homes import BLOBS, DATABASE, KEYS, check_is_home, database_of
from lycia.storage.packs import Packing
from lycia.storage.runs import carried_of_run, list_runs, models_of_run
from lycia.storage.sqlite import copy_file, sqlite_url
from lycia.storage.tables import EVENTS, METADATA, PARTS, RUNS, SETTINGS, UPLOADS

_TRIES = 100
_OWN = ("schema", "ticket")  # settings that belong to one database, and not to what is kept in it
_ROWS_TOGETHER = 500


def back_up(home: Path, target: Path, database: str = "", *, at: datetime | None = None) -> dict[str, Any]:
    """Write a backup of a coordinator's folder and database to `target`; returns what its manifest says of it.

    Raises:
      NotFound: if no coordinator has served from the folder.
      StorageError: if something that it needs is missing or damaged, if there is something at `target`, or no room.
    """
    check_is_home(home)
    url, blobs = database_of(home, database), BlobFolder(home / BLOBS, read_only=True)
    with Packing(target) as packing:
        copy = packing.work / DATABASE if target.suffix != ".tar" else packing.work / "database"
        fleeting = _snapshot(url, copy, blobs)
        with reading(sqlite_url(copy)) as connection:
            revision, digests = migrating.revision_of(connection), _named(connection, blobs)
            runs = [{"id": run.id, "state": run.state} for run in list_runs(connection)]
        for name in KEYS:
            packing.add(name, _key(home / name))
        for digest in sorted(digests):
            if digest not in fleeting:
                _check(blobs, digest)
            packing.add(f"{BLOBS}/{digest[:2]}/{digest[2:]}", fleeting.get(digest) or blobs.open(digest))
        content = memoryview(copy.read_bytes())
        copy.unlink()
        packing.add(DATABASE, content)
        about = {
            "made": (at or datetime.now(UTC)).isoformat(timespec="seconds"), "lycia": _version(),
            "revision": revision, "runs": runs,
        }  # fmt: skip
        packing.finish(about)
    return {**about, "blobs": len(digests)}


def copy_rows(source: Connection, target: Connection) -> None:
    """Put all rows of one database into the empty tables of another."""
    for table in METADATA.sorted_tables:
        rows = source.execute(select(table), execution_options={"yield_per": _ROWS_TOGETHER})
        for some in rows.mappings().partitions():
            chosen = [dict(row) for row in some if table is not SETTINGS or row["key"] not in _OWN]
            if chosen:
                target.execute(insert(table), chosen)


@contextmanager
def writing_file(path: Path) -> Iterator[Connection]:
    """A transaction on a SQLite file that nobody else uses; afterwards it is one file, with nothing beside it."""
    engine = dialect_of(sqlite_url(path)).writer()
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()
    with closing(sqlite3.connect(path)) as alone:
        alone.execute("PRAGMA journal_mode=DELETE").close()


def _snapshot(url: str, copy: Path, blobs: BlobFolder) -> dict[str, memoryview]:
    """Copy the database; returns the blobs that may be removed soon, held open."""
    missing = ""
    for _ in range(_TRIES):
        copy.unlink(missing_ok=True)
        _copy(url, copy)
        with reading(sqlite_url(copy)) as connection:
            runs = connection.scalars(select(RUNS.c.id)).all()
            named = [carrying.named_in(text) for run in runs for text in carried_of_run(connection, run).values()]
        held: dict[str, memoryview] = {}
        try:
            for digest in (names[kind] for names in named for kind in ("arrays", "model") if kind in names):
                held[digest] = blobs.open(digest)
        except NotFound:
            if digest == missing:  # twice the same: no round has replaced it
                break
            missing = digest
            continue
        for digest in held:
            _check(blobs, digest, gone_is_well=True)
        return held
    raise _damaged(f"the blob {missing[:12]}… (an optimizer's state) is missing.")


def _copy(url: str, copy: Path) -> None:
    known = make_url(url)
    if known.get_backend_name() == "sqlite":
        copy_file(Path(str(known.database)), copy)
        with reading(sqlite_url(copy)):
            pass  # whoever reads it must know its tables
    else:
        with reading(url) as source, writing_file(copy) as target:
            migrating.migrate(target)
            copy_rows(source, target)
        copy.chmod(0o600)
    with writing_file(copy) as connection:
        _leave_out_what_is_open(connection)


def _leave_out_what_is_open(connection: Connection) -> None:
    for table in (PARTS, UPLOADS):
        connection.execute(delete(table))
    for run in connection.scalars(select(RUNS.c.id)).all():
        of_run = EVENTS.c.run == run
        lines = connection.execute(select(EVENTS.c.seq, EVENTS.c.line).where(of_run).order_by(EVENTS.c.seq)).all()
        events = [from_json(line) for _, line in lines]
        if not any(isinstance(event, Closed) for event in events):
            connection.execute(delete(EVENTS).where(of_run))
            continue
        # Its model is made: what was heard belongs into its record, its secret does not.
        for (seq, _), event in zip(lines, events, strict=True):
            if isinstance(event, Opened):
                bare = to_json(Opened(**{**event.__dict__, "secret": b""}))
                connection.execute(update(EVENTS).where(of_run, EVENTS.c.seq == seq).values(line=bare))


def _named(connection: Connection, blobs: BlobFolder) -> set[str]:
    """The digests of all blobs that the database names, and of those that these name."""
    found: set[str] = set()
    for run in list_runs(connection):
        found.add(run.first_model)
        for digest in [run.first_model, *(model.digest for model in models_of_run(connection, run.id))]:
            try:
                found |= {digest, carrying.frozen_of(blobs, digest)}
            except NotFound as error:
                raise _damaged(error.what) from error
        for text in carried_of_run(connection, run.id).values():
            found |= set(carrying.named_in(text).values())
    return found - {""}


def _check(blobs: BlobFolder, digest: str, *, gone_is_well: bool = False) -> None:
    try:
        blobs.check(digest)
    except NotFound as error:
        if not gone_is_well:
            raise _damaged(error.what) from error
    except StorageError as error:
        raise _damaged(error.what) from error


def _key(path: Path) -> memoryview:
    if not path.is_file():
        raise _damaged(f"{path} is missing.")
    return memoryview(path.read_bytes())


def _damaged(what: str) -> StorageError:
    return StorageError(
        f"no backup was made: {what}",
        why="a backup is whole: each file in it is checked against its digest.",
        do="run `lycia scrub`, which names all that is damaged, and what to do; then make the backup again.",
    )


def _version() -> str:
    try:
        return version("lycia")
    except PackageNotFoundError:
        return "unknown"
