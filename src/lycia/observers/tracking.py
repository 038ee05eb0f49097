"""`Tracker`: what every tracking service shares. Rounds are written once, in order, and never hold up a run."""

import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from queue import SimpleQueue
from typing import Any, ClassVar, Protocol

from lycia.errors import AppError
from lycia.observers.scalars import alone_scalars, parameters_of, scalars_of
from lycia.reports.facts import RoundFacts, RunFacts
from lycia.runtime.facts import Fact, RoundEnded, RunBegan, RunEnded

Parameters = Mapping[str, str | int | float | bool]

_PATIENCE_S = 30.0  # at the end of a run a service may take so long for what it has not written yet


@dataclass(frozen=True)
class Ending:
    """How a run stands at its end.

    Attributes:
      state: "finished", "paused", "stopped", or "failed" where an error ended it.
      rounds: how many are done.
      figures: what models reach that nodes train alone, and the bytes and seconds of all rounds together.
    """

    state: str
    reason: str
    rounds: int
    figures: Mapping[str, float]


class Series(Protocol):
    """One run in a tracking service, opened for writing. Used by one thread; each call is made again if it raised.

    Attributes:
      there: the last round that the service has already, 0 if it has none.
    """

    there: int

    def add(self, number: int, scalars: Mapping[str, float], at_s: float) -> None:
        """Write a round's numbers. `at_s`: when it ended, in seconds since 1970."""
        ...

    def conclude(self, ending: Ending) -> None:
        """Write how the run ended, in place of what an earlier end said, and let go of the service."""
        ...


class Tracker(ABC):
    """An observer that writes each round's numbers to a tracking service, in a thread of its own.

    Steps are round numbers, counted from 1. A round that was told before, in this process or to an earlier one that
    wrote the same run, is not written again; two that write the same run at the same time both write what is new. A
    service that fails is warned of once and tried again after each round; the run goes on.
    """

    service: ClassVar[str]
    """What the service is called."""

    def __init__(self, extra: str, *, per_node: bool) -> None:
        """Raises: AppError, if the extra is not installed, of which the service's package bears the name."""
        if find_spec(extra) is None:
            raise AppError(
                f"{self.service} is not installed.",
                why=f"the base install is small; what writes to {self.service} comes with the extra {extra!r}.",
                do=f"pip install 'lycia[{extra}]'",
            )
        self.per_node = per_node
        self.warn: Callable[[str], None] = _warn
        self._about: RunFacts | None = None
        self._run, self._told = "", _Told()
        self._courier: _Courier | None = None

    @abstractmethod
    def open(self, run: str, app: str, parameters: Parameters) -> Series:
        """The run in the service, as a new one or as it was left. Called in the tracker's thread."""

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Be told what the run is before it is watched, as a store or a coordinator knows it, and its rounds so far."""
        self._about = RunFacts.of(facts)

    def notice(self, fact: Fact) -> None:
        """Write it down."""
        match fact:
            case RunBegan():
                self._begin(fact.run)
            case RoundEnded():
                self._take(fact.record)
            case RunEnded():
                self._end(fact)
        if self._courier and self._courier.trouble and not self._told.warned:
            self._told.warned = True
            self.warn(
                f"{self.service} cannot be written to ({self._courier.trouble}). "
                "The run goes on; what is missing there is tried again after each round."
            )

    def leave(self, reason: str) -> None:
        """Write what is left and let go of the service, where a run broke off and tells no end itself."""
        if self._courier:
            self._end(RunEnded("failed", reason, self._told.rounds))

    def _begin(self, run: str) -> None:
        if run == self._run and self._told.seen:
            return  # it goes on
        if self._courier:
            self._courier.dismiss(0.0)
        self._run, self._told, self._courier = run, _Told(), None
        if self._about and self._about.id == run:
            for record in self._about.records:
                self._take(record)
        self._open()

    def _open(self) -> "_Courier":
        if self._courier is None:
            run, about = self._run, self._about if self._about and self._about.id == self._run else None
            parameters: Parameters = parameters_of(about) if about else {"run": run}
            self._courier = _Courier(partial(self.open, run, about.app if about else "lycia", parameters))
        return self._courier

    def _take(self, record: Mapping[str, Any]) -> None:
        done, told = RoundFacts.of(record), self._told
        key = (done.number, done.attempt, done.purpose)
        if key in told.seen:
            return
        told.seen.add(key)
        told.bytes_up, told.bytes_down = told.bytes_up + done.bytes_up, told.bytes_down + done.bytes_down
        told.wall_s += done.wall_s
        if done.purpose == "epilogue":
            told.alone = alone_scalars(done, per_node=self.per_node)
        elif done.missed:
            told.missed.append(done)
        else:
            missed, told.missed, told.rounds = told.missed, [], done.number
            is_deployed = self._about is not None and self._about.world == "deployment"  # else the clock is simulated
            at_s = done.ended_s if is_deployed else time.time()
            scalars = scalars_of(done, missed, per_node=self.per_node)
            self._open().bring(partial(_add, done.number, scalars, at_s))

    def _end(self, fact: RunEnded) -> None:
        told = self._told
        figures = {
            **told.alone, "total/bytes_up": told.bytes_up, "total/bytes_down": told.bytes_down,
            "total/seconds": told.wall_s,
        }  # fmt: skip
        courier = self._open()
        ending = Ending(fact.state, fact.reason, fact.rounds, figures)
        courier.bring(lambda series: series.conclude(ending))
        left = courier.dismiss(_PATIENCE_S)
        self._courier = None  # a run that goes on, after a pause, is opened again
        if left:
            self._told = _Told()  # so that rounds count as new when they are told again
            self.warn(
                f"{self.service} could not be written to before the run ended ({courier.trouble or 'it is slow'}); "
                f"{left} of its entries are missing there. Watching or resuming the run again writes them."
            )


@dataclass
class _Told:
    """What a tracker has heard of one run."""

    seen: set[tuple[int, int, str]] = field(default_factory=set)
    missed: list[RoundFacts] = field(default_factory=list)
    alone: Mapping[str, float] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    rounds: int = 0
    wall_s: float = 0.0
    warned: bool = False


_Entry = Callable[[Series], None]


class _Courier:
    """Brings entries to a service, one after the other, in a thread that ends with the process or with `dismiss`.

    What raises is kept and tried again, before anything later, when the next entry comes.
    """

    def __init__(self, open_: Callable[[], Series]) -> None:
        self.trouble = ""
        self._open = open_
        self._series: Series | None = None
        self._waiting: deque[_Entry] = deque()
        self._coming: SimpleQueue[_Entry | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="lycia tracker", daemon=True)
        self._thread.start()

    def bring(self, entry: _Entry) -> None:
        """Make this entry soon."""
        self._coming.put(entry)

    def dismiss(self, within_s: float) -> int:
        """Let it end when it has tried everything; returns how many entries are left after so many seconds."""
        self._coming.put(None)
        self._thread.join(within_s)
        return len(self._waiting) + self._coming.qsize()

    def _work(self) -> None:
        while True:
            entry = self._coming.get()
            if entry is None and not self.trouble:
                return
            if entry is not None:
                self._waiting.append(entry)
            self._deliver()
            if entry is None:
                return

    def _deliver(self) -> None:
        try:
            series = self._series = self._series or self._open()
            while self._waiting:
                self._waiting[0](series)
                self._waiting.popleft()
        except Exception as error:  # noqa: BLE001  # the edge to somebody else's service: whatever it is, no run ends
            said = str(error).strip().splitlines()
            self.trouble = f"{type(error).__name__}: {said[0]}" if said else type(error).__name__


def _add(number: int, scalars: Mapping[str, float], at_s: float, series: Series) -> None:
    if number > series.there:
        series.add(number, scalars, at_s)


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=4)


def describe(observers: Sequence[object], facts: Mapping[str, Any]) -> None:
    """Tell those observers that want to know what the run is."""
    for observer in observers:
        if isinstance(observer, Tracker):
            observer.describe(facts)


def leave(observers: Sequence[object], error: BaseException) -> None:
    """Tell those observers that wait for a run's end that it broke off; of the error only its kind, not its text."""
    for observer in observers:
        if isinstance(observer, Tracker):
            observer.leave(type(error).__name__)
