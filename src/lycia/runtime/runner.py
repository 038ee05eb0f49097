"""The one loop. It is the same in simulation and in deployment, and knows neither.

Whatever a node will see (who is asked, who came through) is written down before it is sent, and whatever a node was
promised (its update counts) is written down before it is acknowledged. So the loop may end anywhere: `hold` goes on
from what the store has.
"""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lycia.core import closing, hearing
from lycia.core import round as rounds
from lycia.core.events import Asked, Ended, Event, Opened, Settled
from lycia.core.messages import TRAIN, Reply
from lycia.core.needs import needs_of
from lycia.core.parts import Roster
from lycia.core.round import Carried, Close, Done, Round, Run, Wait
from lycia.core.space import MEMORY, Space
from lycia.runtime.facts import Fact, RoundEnded, RoundMoved, RunBegan, RunEnded
from lycia.runtime.ports import Clock, Entropy, Fleet, Observer, Store

_MOST_TOGETHER = 64  # replies that are written down in one go


@dataclass(frozen=True)
class World:
    """Everything outside the run that the loop touches.

    Attributes:
      space: where arrays lie that are as large as the model.
    """

    fleet: Fleet
    store: Store
    clock: Clock
    entropy: Entropy
    observers: Sequence[Observer] = ()
    space: Space = MEMORY

    def tell(self, fact: Fact) -> None:
        """Let every observer know."""
        for observer in self.observers:
            observer.notice(fact)


@dataclass(frozen=True)
class Outcome:
    """How a run stands when the loop returns.

    Attributes:
      state: "finished", "paused" (a round missed its quorum too often), or "stopped" (by the caller, at a round).
      reason: the same in words.
    """

    carried: Carried
    state: Literal["finished", "paused", "stopped"]
    reason: str


async def hold(run: Run, start: Carried, world: World, until_round: int | None = None) -> Outcome:
    """Hold the rounds of `run`, from where the store left off, to its end or until `until_round` rounds are done."""
    resumed = await world.store.resume()
    if resumed is None:
        await world.store.begin(run, start)
    carried, journal = (resumed.carried, resumed.events) if resumed else (start, ())
    start = replace(start, slots={})  # of what it began with, only the model is needed again
    # An open round has its cohort already: it goes on with whoever is there.
    roster = await world.fleet.roster(0 if journal else run.plan.rules.least_nodes)
    metric = run.plan.stop.metric if run.plan.stop else ""
    world.tell(RunBegan(run.id, run.plan.rounds, carried.round, len(roster), metric))
    early: list[Reply] = []
    if resumed:
        for ask in rounds.in_flight(run, carried, journal):
            await world.fleet.send(ask)
    while not carried.over and (journal or until_round is None or carried.round < until_round):
        current = rounds.replay(run, journal)
        unwritten: list[Event] = []
        if current is None:
            roster = await world.fleet.roster(run.plan.rules.least_nodes)
            await world.fleet.check_space(needs_of(run, carried, len(roster)))
            # Written down with the first ask, before which nobody sees it.
            opened = _opening(run, carried, world, len(roster))
            current, unwritten = rounds.Round.begin(run, opened), [opened]
        carried, current = await _hold_round(run, carried, start, current, unwritten, roster, world, early)
        missed, journal = rounds.missed(current), ()
        if missed and carried.attempt % (run.plan.rules.retries + 1) == 0:  # each time the run goes on, it tries anew
            return _end(world, Outcome(carried, "paused", missed))
    if carried.over:
        for reply in early:
            await world.fleet.acknowledge(reply, dict.fromkeys(hearing.senders(reply), "the run is over"))
        return _end(world, Outcome(carried, "finished", carried.finished))
    return _end(world, Outcome(carried, "stopped", f"stopped after {carried.round} rounds"))


def _opening(run: Run, carried: Carried, world: World, population: int) -> Opened:
    secret = world.entropy(carried.round, carried.attempt)
    return rounds.opening(run, carried, world.clock.now_s(), carried.attempt, population, secret)


async def _hold_round(
    run: Run, carried: Carried, start: Carried, current: Round, unwritten: list[Event], roster: Roster, world: World,
    early: list[Reply],
) -> tuple[Carried, Round]:  # fmt: skip
    """One attempt at one round, to its end: what is carried on, and the round as it ended."""
    meter, journal = _Meter(world), _Journal(world.store, unwritten)
    asked_from = carried
    if current.opened.purpose == "epilogue":  # alone, nodes begin where the run began, with features on the same scale
        asked_from = replace(carried, model=replace(start.model, frozen=carried.model.frozen))
    for ask in await asyncio.to_thread(rounds.outstanding, run, asked_from, current, world.space):
        await world.fleet.send(ask)
    while True:
        match rounds.next_step(run, asked_from, current, roster, world.clock.now_s()):
            case Wait(until_s=until_s):
                waited = early and current.program[0] == TRAIN  # what came too early is heard when training goes on
                replies = [early.pop(0)] if waited else await _receive(world, until_s)
                early += [reply for reply in replies if hearing.is_early(run, asked_from, current, reply)]
                due = [reply for reply in replies if not hearing.is_early(run, asked_from, current, reply)]
                current = await _take(run, asked_from, current, due, journal, world)
                world.tell(_progress(current))
            case Asked() as asked:
                current = journal.note(current, [asked])
                await journal.write()
                ask = await asyncio.to_thread(rounds.ask, run, asked_from, current, asked, world.space)
                await world.fleet.send(ask)
                world.tell(_progress(current))
            case Settled() as settled:
                await world.fleet.withdraw(rounds.open_tasks(run, current))
                # Written before the next ask, or before the model that it leads to.
                current = journal.note(current, [settled])
                meter.lap(settled.exchange)
            case Close():
                closing_it = asyncio.to_thread(closing.close, run, carried, current, world.fleet.kept, world.space)
                _, carried = await asyncio.gather(journal.write(), closing_it)
                carried, closed = await world.store.advance(carried, world.clock.now_s())
                asked_from, current = carried, rounds.take(current, closed)
                world.fleet.forget(rounds.handles(current))
                meter.lap("close")
            case Ended() as ended:
                if ended.missed:
                    await world.fleet.withdraw(rounds.open_tasks(run, current))
                current = rounds.take(current, ended)  # written by `end_round`, with all that follows from it
            case Done():
                break
    inflight, carried = carried.inflight, closing.conclude(run, carried, current)
    await world.fleet.withdraw(inflight.keys() - carried.inflight.keys())
    record = {**closing.round_record(run, current), **meter.read(), "verdict": carried.finished}
    await world.store.end_round(carried, record)
    # Also what a restart skipped, and what a missed round had heard: not before, for until then a restart needs it.
    world.fleet.forget(rounds.handles(current))
    world.tell(RoundEnded(record))
    return carried, current


async def _receive(world: World, until_s: float) -> list[Reply]:
    """The next reply and all that have come with it: one write is enough for them."""
    reply = await world.fleet.receive(until_s)
    replies = []
    while reply is not None:
        replies.append(reply)
        reply = await world.fleet.receive(-math.inf) if len(replies) < _MOST_TOGETHER else None
    return replies


async def _take(
    run: Run, carried: Carried, current: Round, replies: Sequence[Reply], journal: "_Journal", world: World
) -> Round:
    for reply in replies:
        heard = await asyncio.to_thread(hearing.hear, run, carried, current, reply, world.clock.now_s())
        current = journal.note(current, await world.fleet.secure(reply, heard))
    await journal.write()
    for reply in replies:
        await world.fleet.acknowledge(reply, hearing.refusals(carried, current, reply))
    return current


class _Journal:
    """The open round's events on their way to the store: what belongs together is written together."""

    def __init__(self, store: Store, unwritten: Sequence[Event]) -> None:
        self._store, self._unwritten = store, list(unwritten)

    def note(self, current: Round, events: Sequence[Event]) -> Round:
        """The state after `events`, which the next `write` makes durable."""
        self._unwritten += events
        for event in events:
            current = rounds.take(current, event)
        return current

    async def write(self) -> None:
        """Make what was noted durable."""
        events, self._unwritten = self._unwritten, []
        if events:
            await self._store.append(events)


def _progress(current: Round) -> RoundMoved:
    exchange = current.program[0] if current.program else TRAIN
    heard, asked = len(current.heard.get(exchange, {})), len(current.asked(exchange))
    return RoundMoved(current.opened.round, current.opened.attempt, exchange, heard, asked)


def _end(world: World, outcome: Outcome) -> Outcome:
    world.tell(RunEnded(outcome.state, outcome.reason, outcome.carried.round))
    return outcome


class _Meter:
    """Where a round's time and bytes went: on the run's clock for exchanges, on the wall for the server's own work."""

    def __init__(self, world: World) -> None:
        self._world, self._wall_s, self._at_s = world, time.perf_counter(), world.clock.now_s()
        self._began_s, self._up, self._down = self._wall_s, *world.fleet.traffic()
        self._phases: dict[str, float] = {}

    def lap(self, phase: str) -> None:
        now_s, wall_s = self._world.clock.now_s(), time.perf_counter()
        spent = wall_s - self._wall_s if phase == "close" else now_s - self._at_s
        self._phases[phase] = self._phases.get(phase, 0.0) + spent
        self._at_s, self._wall_s = now_s, wall_s

    def read(self) -> dict[str, Any]:
        up, down = self._world.fleet.traffic()
        wall_s = time.perf_counter() - self._began_s
        return {"phases_s": self._phases, "wall_s": wall_s, "bytes_up": up - self._up, "bytes_down": down - self._down}
