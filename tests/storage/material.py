"""A small run, what its loop asks a store to keep, and two places where it can be kept."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lycia.aggregators import UniformMean
from lycia.algorithms.client_rules import FedAvg
from lycia.algorithms.server_optimizers import Adam
from lycia.core.events import Asked, Closed, Ended, Event, Heard, Opened, Settled
from lycia.core.layout import Layout, Leaf, Model
from lycia.core.plan import Plan
from lycia.core.round import Carried, Run, first
from lycia.runtime.ports import Store
from lycia.selection import Uniform
from lycia.storage.blobs import BlobFolder
from lycia.storage.database import Connection, Database, sqlite_url
from lycia.storage.facts import StoredRun
from lycia.storage.run_folder import KeepModels, RunFolder, read_facts, read_models
from lycia.storage.run_store import RunStore
from lycia.storage.runs import create_run, facts_of_run, list_runs, models_of_run, set_run_state

LAYOUT = Layout((Leaf("layer.weight", (3, 2)), Leaf("layer.bias", (2,), "bfloat16")))
PLAN = Plan(rounds=3, selector=Uniform(2), client=FedAvg(), aggregator=UniformMean(), server=Adam())
RUN = Run("a-run", PLAN, LAYOUT)


def carried_into(number: int) -> Carried:
    """What the run carries into a round; no two rounds have anything in common."""
    start = first(RUN, Model(np.linspace(-1, 1, 8, dtype=np.float32) + number))
    slots = {name: array + np.float32(number / 3) for name, array in start.slots.items()}
    return replace(start, round=number, slots=slots, norms=(0.1,) * number, task=2 * number)


def concluded(number: int) -> Carried:
    """What a round's end carries on: as its close, with the figures that came after it."""
    return replace(carried_into(number + 1), task=2 * number + 2, best=0.1 * number, since_best=number)


def digest_of(carried: Carried) -> str:
    """The digest of the model's file, as anybody can compute it."""
    return hashlib.sha256(b"".join(LAYOUT.file(carried.model))).hexdigest()


def opened(number: int) -> Opened:
    return Opened(1.5 * number, number, 0, "train", 5, bytes([number] * 32), None if number == 0 else 0.3)


def asked(number: int) -> Asked:
    return Asked(0.1 + number, 7 * number, "train", ("ada", "bob"))


def heard(number: int, node: str) -> Heard:
    return Heard(
        0.2 + number, 7 * number, (node,), (f"{node}-{number}",), (3.0,), (1 / 3,),
        {"loss": (0.1 * number,), "accuracy": (None,)}, {"extra": (0.7,)}, (b"\x00\xff",),
    )  # fmt: skip


def record(number: int) -> dict[str, Any]:
    return {"round": number, "attempt": 0, "survivors": ["ada", "bob"], "evaluation": {"accuracy": 1 / 3}, "missed": ""}


@dataclass(frozen=True)
class Known:
    """What a store should know."""

    carried: Carried | None = None
    events: tuple[Event, ...] = ()
    records: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Call:
    """One call of a store, and what the store should know after it."""

    make: Callable[[Store], Awaitable[object]]
    after: Callable[[Known], Known]


def begin() -> Call:
    return Call(lambda store: store.begin(RUN, carried_into(0)), lambda _: Known(carried_into(0)))


def append(*events: Event) -> Call:
    return Call(lambda store: store.append(events), lambda known: replace(known, events=(*known.events, *events)))


def advance(number: int) -> Call:
    following, at_s = carried_into(number + 1), 0.5 + number
    closed = Closed(at_s, digest_of(following))
    return Call(
        lambda store: store.advance(following, at_s),
        lambda known: replace(known, carried=following, events=(*known.events, closed)),
    )


def end_round(number: int) -> Call:
    following = concluded(number)
    return Call(
        lambda store: store.end_round(following, record(number)),
        lambda known: Known(following, (), (*known.records, record(number))),
    )


def one_round(number: int) -> list[Call]:
    """What the loop asks of a store in a round."""
    return [
        append(opened(number), asked(number)),
        append(heard(number, "ada")),
        append(heard(number, "bob"), Settled(0.4 + number, "train", ("ada", "bob"))),
        advance(number),
        append(Ended(0.6 + number)),
        end_round(number),
    ]


def known_after(calls: list[Call]) -> Known:
    known = Known()
    for call in calls:
        known = call.after(known)
    return known


def make(store: Store, calls: list[Call]) -> None:
    """Make the calls, one after the other."""

    async def one_by_one() -> None:
        for call in calls:
            await call.make(store)

    asyncio.run(one_by_one())


class FolderPlace:
    """A run folder, and the stores that are opened on it."""

    def __init__(self, path: Path, keep_models: KeepModels | None = None) -> None:
        self.path, self._keep_models = path, keep_models
        self.blobs = path / "blobs"

    def another(self, name: str) -> "FolderPlace":
        """A place beside this one, with nothing in it."""
        return FolderPlace(self.path.with_name(name), self._keep_models)

    def open(self, run: Run = RUN) -> RunFolder:
        """The store as a process that has just started finds it."""
        return RunFolder(
            self.path, run, app="digits", versions={"lycia": "0"}, started_s=12.5, keep_models=self._keep_models
        )

    def facts(self) -> dict[str, Any]:
        return read_facts(self.path)

    def models(self) -> dict[int, str]:
        return read_models(self.path)

    def set_state(self, state: str, reason: str, ended_s: float | None) -> None:
        self.open().set_state(state, reason, ended_s)

    def stop(self) -> None:
        """Nothing is open between two calls."""


def in_a_file(path: Path) -> str:
    """The URL of a SQLite database in a folder."""
    return sqlite_url(path / "coordinator.db")


class DatabasePlace:
    """A database and a folder of blobs, and the stores that are opened on them."""

    def __init__(self, path: Path, url_of: Callable[[Path], str] = in_a_file) -> None:
        self.path, self.blobs, self._url_of = path, path / "blobs", url_of
        path.mkdir(parents=True, exist_ok=True)
        self._database: Database | None = None
        self._ask(lambda connection: list_runs(connection) or create_run(connection, self._described(RUN)))

    def another(self, name: str) -> "DatabasePlace":
        """A place beside this one, with nothing in it."""
        return DatabasePlace(self.path.with_name(name), self._url_of)

    def open(self, run: Run = RUN) -> RunStore:
        """The store as a process that has just started finds it."""
        return RunStore(self.database(), BlobFolder(self.blobs), run.id, run.layout)

    def database(self) -> Database:
        """The database, opened if it is not."""
        self._database = self._database or Database(self._url_of(self.path))
        return self._database

    def facts(self) -> dict[str, Any]:
        return self._ask(lambda connection: facts_of_run(connection, RUN.id))

    def models(self) -> dict[int, str]:
        return {model.round: model.digest for model in self._ask(lambda connection: models_of_run(connection, RUN.id))}

    def set_state(self, state: str, reason: str, ended_s: float | None) -> None:
        self._ask(lambda connection: set_run_state(connection, RUN.id, state, reason, ended_s))

    def stop(self) -> None:
        """Close the database, as at the end of a process."""
        if self._database:
            self._database.close()
            self._database = None

    def _ask(self, question: Callable[[Connection], Any]) -> Any:
        return asyncio.run(self.database().write(question))

    def _described(self, run: Run) -> StoredRun:
        plan, layout = run.plan.to_json(), run.layout.to_json()
        return StoredRun(run.id, "digits", plan, run.plan.digest, layout, 12.5, {"lycia": "0"})


Place = FolderPlace | DatabasePlace


def what_it_knows(place: Place) -> Known:
    """What a process that starts now finds."""
    resumed = asyncio.run(place.open().resume())
    return Known(resumed.carried, tuple(resumed.events), tuple(place.facts()["records"])) if resumed else Known()


def in_bits(known: Known) -> tuple[object, ...]:
    """Everything that is known, arrays by their bytes: equal only if no bit differs."""
    carried = known.carried
    if carried is None:
        return (None, known.events, known.records)
    model = carried.model
    segments = {"trained": model.trained, "statistics": model.statistics, "local": model.local}
    arrays = {**segments, **model.frozen, **carried.slots}
    rest = (carried.round, carried.norms, carried.task, carried.best, carried.since_best, dict(carried.inflight))
    more = (dict(carried.participation), carried.finished, carried.over, known.events, known.records)
    return ({name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()}, *rest, *more)
