"""`lycia scrub` of the folder of a simulated run."""

import json
from pathlib import Path
from typing import Any

from lycia.core.events import Opened
from lycia.errors import JournalError, LyciaError, NotFound
from lycia.storage import carrying
from lycia.storage.blobs import BlobFolder
from lycia.storage.disk import GrowingFile
from lycia.storage.findings import Damage, Findings, Look, files_in
from lycia.storage.run_folder import Current, journal_path, read_current, read_journal, read_run

_RESTORE = "restore {} from a backup, or run the simulation again: it ends with the same bits"


def is_run_folder(path: Path) -> bool:
    """Whether there is a simulated run in the folder."""
    return (path / "run.json").exists() or (path / "current.json").exists()


def scrub_run(path: Path) -> Findings:
    """What is found in the folder of a simulated run.

    Raises: NotFound, if there is none.
    """
    if not is_run_folder(path):
        raise NotFound(
            f"there is no run in {path}.",
            why="a run's folder holds a run.json and, once it has begun, a current.json.",
            do="check the path; `lycia simulate` prints the folder of each run.",
        )
    look, blobs = Look(), BlobFolder(path / "blobs", read_only=True)

    def damage(what: str, file: Path, means: str = "the run cannot go on.", round: int | None = None) -> Damage:
        return Damage(f"{what.rstrip('.')}.", means, _RESTORE.format(file), path.name, round, str(file))

    about = look.attempt(
        lambda what: damage(what, path / "run.json", "what the run is cannot be told."), lambda: read_run(path)
    )
    if about is None and not look.damages:
        look.damages.append(damage("run.json is missing", path / "run.json", "what the run is cannot be told."))
    current = look.attempt(lambda what: damage(what, path / "current.json"), lambda: read_current(path))
    if current is None:
        return Findings(tuple(look.damages), None, 1, 0)
    referred = {path / "records.jsonl", journal_path(path, current)}
    named = look.attempt(lambda what: damage(what, path / "current.json"), lambda: carrying.named_in(current.carried))
    called = {"model": "the newest model", "arrays": "the optimizer's state", "frozen": "the model's frozen part"}
    digests: list[tuple[str, str, int | None]] = [
        (called[name], digest, None) for name, digest in (named or {}).items()
    ]
    digests += [(f"the model of round {number}", digest, number) for number, digest in sorted(current.models.items())]
    for told, digest, number in digests:
        means = "the run cannot go on." if number is None else f"the model of round {number} cannot be taken home."
        is_sound = look.blob(
            blobs,
            digest,
            told,
            lambda what, file, m=means, n=number: damage(what, Path(file), m, n),  # type: ignore[misc]
        )
        referred.add(blobs.path(digest))
        frozen = carrying.frozen_of(blobs, digest) if is_sound and number is not None else ""
        if frozen:
            look.blob(blobs, frozen, f"the frozen part of it ({told})", lambda what, file: damage(what, Path(file)))
            referred.add(blobs.path(frozen))
    look.attempt(
        lambda what: damage(what, path / "records.jsonl", "reports cannot be made."), lambda: _records(path, current)
    )
    look.attempt(lambda what: damage(what, journal_path(path, current)), lambda: _journal(path, current))
    orphans: tuple[Path, ...] | None = None
    if about is not None and about.state != "running" and not look.damages:  # one that runs writes before it refers
        there = [*files_in(path / "blobs"), *path.glob("journal-*.jsonl"), *path.glob("*.part")]
        orphans = tuple(found for found in there if found not in referred)
    return Findings(tuple(look.damages), orphans, 1, len(look.looked))


def _records(path: Path, current: Current) -> None:
    records = GrowingFile(path / "records.jsonl", current.records_bytes, fsync=False).read()[: current.records_bytes]
    lines = records.splitlines()
    try:
        parsed: list[Any] = [json.loads(line) for line in lines]
    except ValueError as error:
        raise _unreadable(f"a record of a round cannot be read: {error}.") from None
    if len(parsed) != current.records:
        raise _unreadable(f"records.jsonl holds {len(parsed)} records, and {current.records} rounds have ended.")


def _journal(path: Path, current: Current) -> None:
    written = current.closed[0] if current.closed else 0
    found = GrowingFile(journal_path(path, current), written, fsync=False).read()
    events, _ = read_journal(found, current.closed)
    if events and not isinstance(events[0], Opened):
        raise _unreadable("the journal of the open round does not begin with its opening.")


def _unreadable(what: str) -> LyciaError:
    return JournalError(what, why="something has changed the file.", do="restore the folder from a backup.")
