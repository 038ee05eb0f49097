"""A store that forgets when the process ends: for simulations that nobody means to resume."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lycia.core.events import Closed, Event
from lycia.core.round import Carried, Run
from lycia.runtime.ports import Resumed
from lycia.storage.carrying import model_digest
from lycia.storage.facts import record_to_json


class MemoryStore:
    """What `lycia.simulate` keeps a run in, where no directory is given."""

    def __init__(self) -> None:
        self._run: Run | None = None
        self._resumed: Resumed | None = None
        self.records: list[Mapping[str, Any]] = []
        self.first_model = ""

    async def resume(self) -> Resumed | None:
        """Where the run stands, if this very store has held it before."""
        return self._resumed

    async def begin(self, run: Run, carried: Carried) -> None:
        """Keep what the run starts from."""
        self._run, self._resumed = run, Resumed(carried)
        self.first_model = self._digest(carried)

    async def append(self, events: Sequence[Event]) -> None:
        """Write events at the end of the open round's journal."""
        self._resumed = Resumed(self._here().carried, (*self._here().events, *events))

    async def advance(self, carried: Carried, at_s: float) -> tuple[Carried, Event]:
        """Keep the next model; returns it, and the event that says so."""
        closed = Closed(at_s, self._digest(carried))
        self._resumed = Resumed(carried, (*self._here().events, closed))
        return carried, closed

    async def end_round(self, carried: Carried, record: Mapping[str, Any]) -> None:
        """Keep the record and begin a new journal."""
        self._resumed = Resumed(carried)
        self.records.append(json.loads(record_to_json(record)))

    def _here(self) -> Resumed:
        if self._resumed is None:
            raise RuntimeError("the store is used before the run has begun")
        return self._resumed

    def _digest(self, carried: Carried) -> str:
        if self._run is None:
            raise RuntimeError("the store is used before the run has begun")
        return model_digest(self._run.layout, carried.model)
