"""The one loop. It is the same in simulation and in deployment, and knows neither.

Whatever a node will see (who is asked, who came through) is written down before it is sent, and whatever a node was
promised (its update counts) is written down before it is acknowledged. So the loop may end anywhere: `hold` goes on
from what the store has.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from lycia.core import closing, hearing
from lycia.core import round as rounds
from lycia.core.events import Asked, Ended, Event, Settled
from lycia.core.messages import TRAIN, Reply
from lycia.core.parts import Roster
from lycia.core.round import Carried, Close, Done, Round, Run, Wait
from lycia.runtime.facts import Fact, RoundEnded, RoundMoved, RunBegan, RunEnded
from lycia.runtime.ports import Clock, Entropy, Fleet, Observer, Store


@dataclass(frozen=True)
class World:
    """Everything outside the run that the loop touches."""

    fleet: Fleet
    store: Store
    clock: Clock
    entropy: Entropy
    observers: Sequence[Observer] = ()

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
        if current is None:
            roster = await world.fleet.roster(run.plan.rules.least_nodes)
            current = await _open(run, carried, world, len(roster))
        carried, current = await _hold_round(run, carried, start, current, roster, world, early)
        missed, journal = rounds.missed(current), ()
        if missed and carried.attempt % (run.plan.rules.retries + 1) == 0:  # each time the run goes on, it tries anew
            return _end(world, Outcome(carried, "paused", missed))
    if carried.over:
        for reply in early:
            await world.fleet.acknowledge(reply, dict.fromkeys(hearing.senders(reply), "the run is over"))
        return _end(world, Outcome(carried, "finished", carried.finished))
    return _end(world, Outcome(carried, "stopped", f"stopped after {carried.round} rounds"))


async def _open(run: Run, carried: Carried, world: World, population: int) -> Round:
    secret = world.entropy(carried.round, carried.attempt)
    opened = rounds.opening(run, carried, world.clock.now_s(), carried.attempt, population, secret)
    await world.store.append([opened])
    return rounds.Round.begin(run, opened)


async def _hold_round(
    run: Run, carried: Carried, start: Carried, current: Round, roster: Roster, world: World, early: list[Reply]
) -> tuple[Carried, Round]:
    """One attempt at one round, to its end: what is carried on, and the round as it ended."""
    meter = _Meter(world)
    asked_from = replace(carried, model=start.model) if current.opened.purpose == "epilogue" else carried
    for ask in rounds.outstanding(run, asked_from, current):
        await world.fleet.send(ask)
    while True:
        match rounds.next_step(run, asked_from, current, roster, world.clock.now_s()):
            case Wait(until_s=until_s):
                training = current.program[0] == TRAIN
                reply = early.pop(0) if early and training else await world.fleet.receive(until_s)
                if reply is not None and hearing.is_early(run, asked_from, current, reply):
                    early.append(reply)
                elif reply is not None:
                    current = await _take(run, asked_from, current, reply, world)
                    world.tell(_progress(current))
            case Asked() as asked:
                current = await _write(current, [asked], world)
                await world.fleet.send(rounds.ask(run, asked_from, current, asked))
                world.tell(_progress(current))
            case Settled() as settled:
                await world.fleet.withdraw(rounds.open_tasks(run, current))
                current = await _write(current, [settled], world)
                meter.lap(settled.exchange)
            case Close():
                carried = asked_from = await asyncio.to_thread(closing.close, run, carried, current, world.fleet.kept)
                current = rounds.take(current, await world.store.advance(carried, world.clock.now_s()))
                world.fleet.forget(rounds.handles(current))
                meter.lap("close")
            case Ended() as ended:
                if ended.missed:
                    await world.fleet.withdraw(rounds.open_tasks(run, current))
                current = await _write(current, [ended], world)
            case Done():
                break
    world.fleet.forget(rounds.handles(current))  # also what a restart skipped, and what a missed round had heard
    inflight, carried = carried.inflight, closing.conclude(run, carried, current)
    await world.fleet.withdraw(inflight.keys() - carried.inflight.keys())
    record = {**closing.round_record(run, current), **meter.read(), "verdict": carried.finished}
    await world.store.end_round(carried, record)
    world.tell(RoundEnded(record))
    return carried, current


async def _take(run: Run, carried: Carried, current: Round, reply: Reply, world: World) -> Round:
    events = await asyncio.to_thread(hearing.hear, run, carried, current, reply, world.clock.now_s())
    current = await _write(current, events, world)
    await world.fleet.acknowledge(reply, hearing.refusals(current, reply))
    return current


async def _write(current: Round, events: Sequence[Event], world: World) -> Round:
    if events:
        await world.store.append(events)
    for event in events:
        current = rounds.take(current, event)
    return current


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
