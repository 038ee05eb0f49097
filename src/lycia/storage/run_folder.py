"""A run in a folder of plain files: how simulated runs are kept, with nothing to install and nothing to start.

    run.json          what the run is, and how it stands
    current.json      the one file that says what counts; replacing it is how a step of several files happens at once
    journal-N.jsonl   the open round, after N that ended: one line for each call of `append`, a JSON list of its events
    records.jsonl     one line for each round that ended
    blobs/            models and the optimizer's state, by digest

Whatever `current.json` does not name has not happened: a journal of another number, lines after those it counts, blobs.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from lycia.core.events import Closed, Event, from_json, to_json
from lycia.core.layout import Layout, Model
from lycia.core.round import Carried, Run
from lycia.errors import JournalError, NotFound, StorageError
from lycia.runtime.ports import Resumed
from lycia.storage import carrying
from lycia.storage.blobs import BlobFolder
from lycia.storage.carrying import Kept
from lycia.storage.disk import GrowingFile, in_words, replace_file, sync_folder, to_its_end
from lycia.storage.facts import StoredRun, facts_of, record_to_json

KeepModels = Literal["all", "last"] | int
_T = TypeVar("_T")
_SMALL_BYTES = 1_000_000  # below this the models of a thousand rounds are smaller than many a data set


@dataclass(frozen=True)
class Current:
    """What counts now.

    Attributes:
      carried: what `Kept.to_json` says.
      closed: the event that the last `advance` wrote, and after how many bytes of the journal it stands.
      records, records_bytes: how many rounds ended, and how long their lines are.
      models: round → digest of the model, of those that are kept.
      best: the round of the best model, by the plan's stop metric.
      unneeded: blobs that the step to here made useless, and that may still be there.
    """

    carried: str
    closed: tuple[int, str] | None
    records: int
    records_bytes: int
    models: Mapping[int, str]
    best: int | None = None
    unneeded: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The content of `current.json`."""
        return json.dumps({**asdict(self), "models": sorted(self.models.items())}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Current":
        """What `to_json` wrote."""
        values = json.loads(text)
        models, unneeded = dict(map(tuple, values.pop("models"))), tuple(values.pop("unneeded"))
        closed = values.pop("closed")
        return cls(closed=(closed[0], closed[1]) if closed else None, models=models, unneeded=unneeded, **values)


class RunFolder:
    """A `Store` in a folder. One process uses it at a time; others may read it (`read_facts`, `read_model`).

    Guarantees: a call is durable when it returns, and has happened wholly or not at all, wherever it is killed.
    """

    def __init__(
        self,
        path: Path,
        run: Run,
        *,
        app: str,
        versions: Mapping[str, str],
        started_s: float,
        fsync: bool = True,
        keep_models: KeepModels | None = None,
    ) -> None:
        """Open the folder of `run`, or make it.

        Args:
          fsync: False for throw-away runs: a killed process still loses nothing, a power cut may lose the run.
          keep_models: "all", or how many of the newest, beside the first and the best (by the plan's stop metric);
            "last" is 1. None: all, if the model's file is smaller than 1 MB, or else 2.
        Raises: StorageError, if the folder holds a run of another plan or model, or cannot be used.
        """
        self.path, self._run, self._fsync, self._keep_models = path, run, fsync, keep_models
        new = StoredRun(
            run.id, app, run.plan.to_json(), run.plan.digest, run.layout.to_json(), started_s, dict(versions)
        )
        found = read_run(path)
        if found:
            _check_same(path, new, found)
        self._about = found or new
        self.blobs = BlobFolder(path / "blobs", fsync=fsync)
        self._place: _Place | None = None

    async def resume(self) -> Resumed | None:
        """Where the run stands; None if it has not begun."""
        return await to_its_end(self._resume)

    async def begin(self, run: Run, carried: Carried) -> None:
        """Keep what the run starts from.

        Raises: StorageError, if a run has begun here already.
        """
        await to_its_end(lambda: self._begin(carried))

    async def append(self, events: Sequence[Event]) -> None:
        """Write events at the end of the open round's journal; all of them count, or none."""
        line = f"[{','.join(map(to_json, events))}]\n".encode()
        await to_its_end(lambda: self._here().journal.append(line))

    async def advance(self, carried: Carried, at_s: float) -> tuple[Carried, Event]:
        """Keep the next model and write the event that says so, in one step; returns what to go on with, and the event.

        What is large in it is mapped from what was kept.
        """
        return await to_its_end(lambda: self._advance(carried, at_s))

    async def end_round(self, carried: Carried, record: Mapping[str, Any]) -> None:
        """Keep the round's record and what is carried on, and end its journal, in one step."""
        await to_its_end(lambda: self._end_round(carried, record))

    def set_state(self, state: str, reason: str = "", ended_s: float | None = None) -> None:
        """Write down how the run stands."""
        self._describe(replace(self._about, state=state, reason=reason, ended_s=ended_s))

    def facts(self) -> dict[str, Any]:
        """All that a report is made from; as `read_facts`."""
        return read_facts(self.path)

    def _resume(self) -> Resumed | None:
        current = read_current(self.path)
        if current is None:
            return None
        if self._fsync:  # whoever wrote it may have been killed before it was durable
            with in_words(self.path):
                sync_folder(self.path)
        kept = carrying.restore(self.blobs, current.carried, self.blobs.space)
        written = current.closed[0] if current.closed else 0
        journal = GrowingFile(journal_path(self.path, current), written, fsync=self._fsync)
        events, journal.size_bytes = read_journal(journal.read(), current.closed)
        self._place = _Place(current, kept, journal)
        self._clear_away(current)
        return Resumed(kept.carried, events)

    def _begin(self, carried: Carried) -> None:
        if read_current(self.path):
            raise StorageError(
                f"{self.path} holds a run that has begun.",
                why="to begin again would overwrite its rounds.",
                do="resume that run, or begin in another folder.",
            )
        kept = carrying.keep(self.blobs, self._run.id, self._run.layout, carried)
        self._describe(replace(self._about, first_model=kept.model))
        self._step(Current(kept.to_json(), None, 0, 0, {carried.round: kept.model}), kept)

    def _advance(self, carried: Carried, at_s: float) -> tuple[Carried, Event]:
        here = self._here()
        kept = carrying.keep(self.blobs, self._run.id, self._run.layout, carried, here.kept)
        kept = carrying.mapped(self.blobs, self._run.layout, kept)
        event = Closed(at_s, kept.model)
        closed = (here.journal.size_bytes, to_json(event))
        models = {**here.current.models, carried.round: kept.model}
        self._step(replace(here.current, carried=kept.to_json(), closed=closed, models=models), kept)
        return kept.carried, event

    def _end_round(self, carried: Carried, record: Mapping[str, Any]) -> None:
        here = self._here()
        kept = carrying.keep(self.blobs, self._run.id, self._run.layout, carried, here.kept)
        records = GrowingFile(self.path / "records.jsonl", here.current.records_bytes, fsync=self._fsync)
        records.append(f"{record_to_json(record)}\n".encode())
        best = carried.round if carried.best != here.kept.carried.best else here.current.best
        models = _kept_models(here.current.models, best, self._how_many(kept))
        ended = here.current.records + 1
        self._step(Current(kept.to_json(), None, ended, records.size_bytes, models, best), kept)

    def _step(self, current: Current, kept: Kept) -> None:
        """Make `current` what counts: the one operation that divides before from after."""
        old, needed = self._place, {*current.models.values(), kept.model, kept.arrays, kept.frozen}
        if old:
            unneeded = {*old.current.models.values(), old.kept.arrays} - needed - {""}
            current = replace(current, unneeded=tuple(sorted(unneeded)))
        replace_file(self.path / "current.json", current.to_json().encode(), fsync=self._fsync)
        if old and old.current.records == current.records:
            journal = old.journal
        else:
            journal = GrowingFile(journal_path(self.path, current), 0, fsync=self._fsync)
        self._place = _Place(current, kept, journal)
        self._clear_away(current)

    def _clear_away(self, current: Current) -> None:
        with suppress(StorageError):  # the step has happened; what cannot be removed now is removed at the next start
            for digest in current.unneeded:
                self.blobs.remove(digest)
            for journal in self.path.glob("journal-*.jsonl"):
                if journal != journal_path(self.path, current):
                    with in_words(journal):
                        journal.unlink(missing_ok=True)

    def _here(self) -> "_Place":
        if self._place is None and self._resume() is None:
            raise StorageError(
                f"no run has begun in {self.path}.",
                why="a round is written down after the model that it starts from.",
                do="call `begin` first.",
            )
        assert self._place is not None
        return self._place

    def _how_many(self, kept: Kept) -> int | None:
        if self._keep_models is None:
            return None if self.blobs.size(kept.model) < _SMALL_BYTES else 2
        return {"all": None, "last": 1}[self._keep_models] if isinstance(self._keep_models, str) else self._keep_models

    def _describe(self, about: StoredRun) -> None:
        replace_file(self.path / "run.json", about.to_json().encode(), fsync=self._fsync)
        self._about = about


def read_facts(path: Path) -> dict[str, Any]:
    """What is known of the run in a folder, for reports; also while another process goes on with it.

    Raises:
      NotFound: if there is no run in the folder.
      StorageError: if it cannot be read.
    """
    about, current = read_run(path), read_current(path)
    if about is None:
        raise _no_run(path)
    records = path / "records.jsonl"
    lines = GrowingFile(records, current.records_bytes, fsync=False).read()[: current.records_bytes] if current else b""
    return facts_of(about, "simulation", [json.loads(line) for line in lines.splitlines()])


def read_models(path: Path) -> dict[int, str]:
    """Round → digest of the models that are kept in a folder; the first stands at 0.

    Raises: NotFound, if no run has begun in the folder.
    """
    current = read_current(path)
    if current is None:
        raise _no_run(path)
    return dict(current.models)


def read_model(path: Path, round: int | None = None) -> tuple[Layout, Model]:
    """The model after a round, or the newest; in its storage dtypes.

    Raises: NotFound, if there is no run, or no model of that round.
    """
    return carrying.read_kept_model(_blobs_to_read(path), _digest_of(path, round))


def model_file(path: Path, round: int | None = None) -> Iterator[bytes | memoryview]:
    """The pieces of the checkpoint after a round, or of the newest.

    Raises: NotFound, if there is no run, or no model of that round.
    """
    return carrying.whole_file(_blobs_to_read(path), _digest_of(path, round))


@dataclass(frozen=True)
class _Place:
    """Where the run stands, as this process knows it."""

    current: Current
    kept: Kept
    journal: GrowingFile


def _kept_models(models: Mapping[int, str], best: int | None, newest: int | None) -> dict[int, str]:
    if newest is None:
        return dict(models)
    rounds = sorted(models)
    wanted = {rounds[0], best, *rounds[-max(newest, 1) :]}
    return {number: digest for number, digest in models.items() if number in wanted}


def journal_path(path: Path, current: Current) -> Path:
    """The journal of the open round."""
    return path / f"journal-{current.records}.jsonl"


def read_journal(found: bytes, closed: tuple[int, str] | None) -> tuple[list[Event], int]:
    """The events of a journal, `closed` in its place, and how many bytes count."""
    if closed is None:
        return _read_lines(found)
    before, _ = _read_lines(found[: closed[0]])
    after, length = _read_lines(found[closed[0] :])
    return [*before, from_json(closed[1]), *after], closed[0] + length


def _read_lines(found: bytes) -> tuple[list[Event], int]:
    # A last line without an end was cut off while it was written, so nobody was told of it, and it does not count.
    whole = found[: found.rfind(b"\n") + 1]
    return [event for line in whole.splitlines() for event in _read_line(line)], len(whole)


def _read_line(line: bytes) -> list[Event]:
    try:
        return [from_json(json.dumps(event)) for event in json.loads(line)]
    except (ValueError, TypeError):
        raise JournalError(
            f"a line of the journal cannot be read: {line[:80]!r}.",
            why="it was written to its end, so it counts; something has changed it since.",
            do="restore the folder from a backup. The models of the rounds that ended are not affected.",
        ) from None


def read_run(path: Path) -> StoredRun | None:
    """What the run in a folder is, and how it stands; None if there is none.

    Raises: StorageError, if it cannot be read.
    """
    text = _read(path / "run.json")
    return None if text is None else _parsed(path / "run.json", StoredRun.from_json, text)


def read_current(path: Path) -> Current | None:
    """What counts in a folder; None if no run has begun there.

    Raises: StorageError, if it cannot be read.
    """
    text = _read(path / "current.json")
    return None if text is None else _parsed(path / "current.json", Current.from_json, text)


def _read(path: Path) -> str | None:
    with in_words(path):
        return path.read_text(encoding="utf-8") if path.exists() else None


def _parsed(path: Path, parse: Callable[[str], _T], text: str) -> _T:
    try:
        return parse(text)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise StorageError(
            f"{path} cannot be read: {error!r}.",
            why="it is not the JSON that this version writes; it was changed by hand, or comes from a newer version.",
            do="restore it from a backup, or go on with the version that wrote it.",
        ) from None


def _check_same(path: Path, new: StoredRun, found: StoredRun) -> None:
    for thing, ours, theirs in (("plan", new.plan_digest, found.plan_digest), ("model", new.layout, found.layout)):
        if ours != theirs:
            raise StorageError(
                f"{path} holds a run of another {thing}.",
                why=f"a run keeps its {thing} from its first round to its last; results of two would be mixed.",
                do=f"use another folder for the changed {thing}, or change it back to go on with that run.",
            )


def _blobs_to_read(path: Path) -> BlobFolder:
    return BlobFolder(path / "blobs", read_only=True)


def _digest_of(path: Path, round: int | None) -> str:
    models = read_models(path)
    number = max(models) if round is None else round
    if number not in models:
        raise NotFound(
            f"the model of round {number} is not in {path}.",
            why=f"the folder keeps the models of rounds {', '.join(map(str, sorted(models)))}.",
            do="take one of these; to keep every model of the next run, pass keep_models='all'.",
        )
    return models[number]


def _no_run(path: Path) -> NotFound:
    return NotFound(
        f"there is no run in {path}.",
        why="a run's folder holds a run.json and, once it has begun, a current.json.",
        do="check the path; `lycia simulate` prints the folder of each run.",
    )
