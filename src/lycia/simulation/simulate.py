"""`lycia.simulate`: an app over its simulated population."""

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np

from lycia.core.events import Closed
from lycia.core.keys import Key
from lycia.core.layout import Layout, Model
from lycia.core.plan import App
from lycia.core.round import Run, first
from lycia.core.space import MEMORY
from lycia.data.population import as_population
from lycia.errors import AppError, PlanError
from lycia.observers.tracking import describe, leave
from lycia.reports import RunFacts, card, write_report
from lycia.runtime.apps import run_name
from lycia.runtime.beginning import first_model, run_id, versions
from lycia.runtime.ports import Observer, Resumed, Store
from lycia.runtime.runner import Outcome, World, hold
from lycia.simulation.clock import Pace, VirtualClock
from lycia.simulation.faults import Faults
from lycia.simulation.fleet import EVALUATOR, SimulatedFleet
from lycia.simulation.memory import MemoryStore
from lycia.storage.carrying import model_digest
from lycia.storage.facts import StoredRun, facts_of
from lycia.storage.run_folder import RunFolder, read_facts, read_model

T = TypeVar("T")


@dataclass(frozen=True, repr=False)
class Result:
    """A simulated run, as it stands at its end. In a notebook it shows itself, with curves.

    Attributes:
      state, reason: "finished", "paused" or "stopped", and why.
      records: one for each round, as `lycia.core.closing.round_record` describes them.
      facts: all that a report is made of, as plain data.
    """

    id: str
    state: str
    reason: str
    layout: Layout
    model: Model
    rounds: int
    facts: Mapping[str, Any]

    @property
    def records(self) -> Sequence[Mapping[str, Any]]:
        """One for each round."""
        records: Sequence[Mapping[str, Any]] = self.facts["records"]
        return records

    @property
    def digest(self) -> str:
        """SHA-256 of the model's file: equal models have equal digests."""
        return model_digest(self.layout, self.model)

    def arrays(self) -> dict[str, np.ndarray]:
        """The trained tensors by name."""
        return self.layout.arrays(self.model)

    def metrics(self, exchange: str = "evaluate") -> list[tuple[int, dict[str, float]]]:
        """(round, pooled metrics) of every measurement, rounds counted from 1."""
        return [
            (record["round"] + 1, dict(record["evaluation"][exchange]["pooled"]))
            for record in self.records
            if exchange in record["evaluation"]
        ]

    def report(self, folder: str | Path) -> Path:
        """Write the whole report into `folder`: an HTML page, and its facts and metrics; returns where the page is.

        Raises: StorageError, if the folder cannot be written to.
        """
        return write_report(self.facts, Path(folder))

    def __repr__(self) -> str:
        final = RunFacts.of(self.facts).summary()["final"]
        figures = "".join(f", {name} {value:.4g}" for name, value in list(final.items())[:3])
        return f"<Result {self.id}: {self.state}, {self.rounds} rounds{figures}>"

    def _repr_html_(self) -> str:
        return card(RunFacts.of(self.facts), name=f"run-{uuid4().hex[:8]}")

    def save(self, path: str | Path) -> Path:
        """Write the model as a safetensors file, which `lycia.load_model` reads."""
        target = Path(path)
        with target.open("wb") as file:
            file.writelines(self.layout.file(self.model))
        return target


def simulate(
    app: App,
    *,
    directory: str | Path | None = None,
    rounds: int | None = None,
    seed: int | None = None,
    faults: Faults | None = None,
    pace: Pace | None = None,
    start: str | Path | None = None,
    until_round: int | None = None,
    observers: Sequence[Observer] = (),
) -> Result:
    """Train `app` over its population, and return the result.

    Args:
      directory: where the run is kept. A run that is there already, of the same plan, is resumed.
      rounds, seed: instead of the plan's.
      faults, pace: what goes wrong and how fast nodes are, on a virtual clock.
      start: a checkpoint to begin with, instead of the trainer's first model.
      until_round: stop when so many rounds are done; the run can be resumed from its directory.
      observers: told of every step.
    Raises:
      AppError: if it is no App, if it has no population, or a node in it that is called as its evaluator.
      PlanError: if `rounds` is not a number of rounds, or if the script of `faults` names nodes that are not there.
      NotFound, TensorFileError, LayoutError: if `start` is not a checkpoint of this app's model.
      StorageError: if the directory holds another run.
    """
    if not isinstance(app, App):
        raise AppError(
            f"{app!r} is not an App.",
            why="a simulation takes the app itself, and neither its file nor its parts.",
            do="pass App(trainer=…, plan=…, population=…); for a file, `lycia simulate FILE.py`, or import its app.",
        )
    if rounds is not None or seed is not None:
        rounds, seed = app.plan.rounds if rounds is None else rounds, app.plan.seed if seed is None else seed
        plan = replace(app.plan, rounds=rounds, seed=seed)
        app = replace(app, plan=plan)
    if app.population is None:
        raise AppError(
            f"the app {app.name!r} has no population.",
            why="a simulation needs the data of its simulated nodes.",
            do="pass App(population={'north': NodeData(…), …}), or run it on real nodes with `lycia join`.",
        )
    if app.evaluator is not None and EVALUATOR in as_population(app.population):
        raise AppError(
            f"a node of the app {app.name!r} is called {EVALUATOR!r}.",
            why="the app has an evaluator, which goes by that name in a simulation.",
            do="give the node another name.",
        )
    strangers = {node for _, node in (faults or Faults()).script} - {*as_population(app.population), EVALUATOR}
    if strangers:
        raise PlanError(
            f"the script of Faults names {', '.join(sorted(strangers))}.",
            why="there is no such node in the app's population, so nothing would happen.",
            do="name nodes of the population.",
        )
    return _finish(_simulate(app, directory, faults or Faults(), pace or Pace(), start, until_round, observers))


async def _simulate(
    app: App, directory: str | Path | None, faults: Faults, pace: Pace,
    start: str | Path | None, until_round: int | None, observers: Sequence[Observer],
) -> Result:  # fmt: skip
    layout, model = first_model(app, start)
    path = None if directory is None else Path(directory)
    run = Run(_known_id(path) or _new_id(app, path), app.plan, layout)
    began_s = time.time()
    folder = RunFolder(path, run, app=app.name, versions=versions(), started_s=began_s) if path else None
    memory = MemoryStore()
    store: Store = _FromItsBeginning(folder) if folder else memory
    clock = VirtualClock()
    begun = await store.resume()
    if path and begun:
        _, model = read_model(path, 0)  # what it began with, whatever is given now
    if folder and begun:
        clock.move_to(_latest_s(folder.facts()["records"], begun))
    if observers:
        about = _about(run, app, began_s)
        describe(observers, facts_of(about, "simulation", folder.facts()["records"] if folder and begun else []))
    fleet = SimulatedFleet(run, app, as_population(app.population), clock, faults, pace, path and path / "nodes")
    space = folder.blobs.space if folder else MEMORY
    world = World(fleet, store, clock, lambda number, attempt: _secret(app, number, attempt), observers, space)
    try:
        outcome = await hold(run, first(run, model, space), world, until_round)
    except BaseException as error:
        leave(observers, error)
        raise
    if folder:
        folder.set_state(outcome.state, outcome.reason, time.time())
        facts = folder.facts()
    else:
        facts = _facts(run, app, outcome, memory, began_s)
    return Result(run.id, outcome.state, outcome.reason, layout, outcome.carried.model, outcome.carried.round, facts)


class _FromItsBeginning:
    """A store that lets a simulation hold the open round again: its updates were in the memory of a process that ended.

    The same asks give the same updates, so the round is what it would have been. A round that has its model goes on.
    """

    def __init__(self, store: RunFolder) -> None:
        self._store = store
        self.begin, self.append = store.begin, store.append
        self.advance, self.end_round = store.advance, store.end_round

    async def resume(self) -> Resumed | None:
        """Where the run stands; at the beginning of a round that has no model yet."""
        found = await self._store.resume()
        if found is None or any(isinstance(event, Closed) for event in found.events):
            return found
        return Resumed(found.carried)


def _new_id(app: App, path: Path | None) -> str:
    """A name of its own; the folder's, where that is made of the app's name, so that a run is found by either."""
    name = run_name(app.name)
    return path.name if path is not None and path.name.startswith(f"{name}-") else run_id(name)


def _known_id(path: Path | None) -> str | None:
    if path is None or not (path / "run.json").exists():
        return None
    return str(read_facts(path)["id"])


def _latest_s(records: Sequence[Mapping[str, Any]], begun: Resumed) -> float:
    """The latest moment on the run's clock that was written down."""
    return max([0.0, *(record["ended_s"] or 0.0 for record in records[-1:]), *(event.at_s for event in begun.events)])


def _secret(app: App, number: int, attempt: int) -> bytes:
    return Key(app.plan.seed).at("secret", number, attempt).digest()


def _facts(run: Run, app: App, outcome: Outcome, memory: MemoryStore, began_s: float) -> dict[str, Any]:
    about = replace(
        _about(run, app, began_s), state=outcome.state, reason=outcome.reason, ended_s=time.time(),
        first_model=memory.first_model,
    )  # fmt: skip
    return facts_of(about, "simulation", memory.records)


def _about(run: Run, app: App, began_s: float) -> StoredRun:
    plan, layout = run.plan.to_json(), run.layout.to_json()
    return StoredRun(run.id, app.name, plan, run.plan.digest, layout, began_s, versions())


def _finish(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, also where a loop is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    inside = asyncio.new_event_loop()
    task = inside.create_task(work)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(_run_to_end, inside, task)
        try:
            return done.result()
        except BaseException:  # such as the interrupt of a notebook's cell, which reaches only this thread
            if not done.done():
                inside.call_soon_threadsafe(task.cancel)
            raise


def _run_to_end(loop: asyncio.AbstractEventLoop, task: "asyncio.Task[T]") -> T:
    try:
        return loop.run_until_complete(task)
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
