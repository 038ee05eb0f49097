"""A federation in one process, whose nodes, clock, order of arrival and failures a test decides.

    federation = Federation(plan, QuadraticTrainer(size=2), {"ada": Quadratic.at([1.0, 2.0]), …})
    outcome = federation.hold()

Everything behind the loop is real: nodes run `lycia.core.work`, rounds are held by `lycia.runtime.runner`.
"""

import asyncio
import hashlib
import heapq
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from lycia.core import admission, events, folding
from lycia.core.events import Closed, Event, Heard
from lycia.core.hearing import senders
from lycia.core.keys import Key
from lycia.core.layout import Model
from lycia.core.messages import (
    TRAIN,
    Ask,
    Declined,
    Malformed,
    Reply,
    Summed,
    Updates,
    Vanished,
)
from lycia.core.needs import Needs
from lycia.core.plan import Plan
from lycia.core.round import ASIDE, Carried, Run, first
from lycia.core.training import NodeData, Trainer
from lycia.core.work import Memory, Node, work
from lycia.errors import SelectionError, StorageError
from lycia.runtime.facts import Fact
from lycia.runtime.ports import Observer, Resumed
from lycia.runtime.runner import Outcome, World, hold

Does = Literal["decline", "vanish", "return", "silence", "late", "garble", "twice"]


class Killed(Exception):
    """The process died here. Raised by a `Fuse`, and by nothing else."""


class Fuse:
    """Kills the loop at the call number `at`, counted over everything that shares the fuse; None: never.

    Each call has two moments, before and after it took effect: what is durable must survive both.
    """

    def __init__(self, at: int | None = None) -> None:
        self.at, self.count = at, 0

    def burn(self) -> None:
        """One more moment has come.

        Raises: Killed, if it is the last one.
        """
        self.count += 1
        if self.count == self.at:
            raise Killed(f"at moment {self.at}")


class ManualClock:
    """Seconds that pass when a test, or a `FakeFleet` that waits, says so."""

    def __init__(self, now_s: float = 0.0) -> None:
        self._now_s = now_s

    def now_s(self) -> float:
        """Seconds since the test began."""
        return self._now_s

    def move_to(self, at_s: float) -> None:
        """Go on to `at_s`; never back."""
        self._now_s = max(self._now_s, at_s)


@dataclass(frozen=True)
class FakeRoster:
    """A roster of these names."""

    names: tuple[str, ...]
    evaluators: tuple[str, ...] = ()
    examples: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> str:
        return self.names[index]

    def sizes(self) -> np.ndarray | None:
        """(len,) the examples given, if they were given."""
        return None if self.examples is None else np.array(self.examples)


@dataclass(frozen=True)
class Fault:
    """What a node does instead of answering.

    Attributes:
      node: its name; None for every node.
      does: "decline"; "vanish" (the fleet says so); "return" (it vanishes, and answers after all); "silence";
        "late" (it answers after the deadline); "garble" (bytes that nobody can read); "twice" (it answers twice).
      exchange: in which exchange; rounds, attempts: in which of them, None for all.
    """

    node: str | None
    does: Does
    exchange: str = TRAIN
    rounds: frozenset[int] | None = None
    attempts: frozenset[int] | None = None

    def strikes(self, ask: Ask, node: str) -> bool:
        """Whether it happens to `node` when it is asked this."""
        return (
            self.node in (None, node)
            and self.exchange == ask.exchange
            and (self.rounds is None or ask.round in self.rounds)
            and (self.attempts is None or ask.attempt in self.attempts)
        )


@dataclass(order=True)
class _Due:
    at_s: float
    order: int
    ask: Ask = field(compare=False)
    node: str = field(compare=False)
    news: Reply | None = field(compare=False, default=None)


def _after_a_second(_ask: Ask, _node: str) -> float:
    return 1.0


def _as_it_is(_ask: Ask, reply: Reply) -> Reply:
    return reply


class FakeFleet:
    """A `Fleet` whose nodes live in this process and outlive the loop, as real ones do.

    Attributes:
      arrival_s: (ask, node) → seconds from the ask to the answer; with it a test decides the order of arrival.
      block: how many updates of one ask come in one block at most, as from a simulator.
      sums: hand such blocks up as sums, where the plan needs no rows and the ask has a grid.
      eager: nodes work as soon as they are asked, so that who is not needed any more still answers.
      tamper: (ask, reply) → what is delivered instead, for nodes that do not keep to the rules.
      sent: every ask, in order; received: every reply; acknowledged: the (task, node) of those that were;
        refused: (task, node) → why it was not taken.
      worked: (exchange, round, attempt, node) of everything that a node has really worked out.
      needs: what each round was said to need before it was opened; no_space: what is raised then, if anything.
    Guarantees:
      - A reply that was received and not acknowledged comes again after `restart`, as the same bytes.
      - What a node remembers of work that was refused, or of an attempt that missed its quorum, does not count.
      - Arrays that are handed over are read-only, so that nobody can change what is not theirs.
    """

    def __init__(
        self,
        trainer: Trainer,
        run: Run,
        nodes: Mapping[str, NodeData],
        *,
        evaluators: Mapping[str, NodeData] | None = None,
        faults: Iterable[Fault] = (),
        arrival_s: Callable[[Ask, str], float] = _after_a_second,
        block: int = 1,
        sums: bool = False,
        eager: bool = False,
        tamper: Callable[[Ask, Reply], Reply] = _as_it_is,
        clock: ManualClock | None = None,
        fuse: Fuse | None = None,
    ) -> None:
        self.trainer, self.run, self.nodes, self.evaluators = trainer, run, dict(nodes), dict(evaluators or {})
        self.faults, self.arrival_s, self.block, self.sums, self.tamper = list(faults), arrival_s, block, sums, tamper
        self.eager, self.clock, self.fuse = eager, clock or ManualClock(), fuse or Fuse()
        self.sent: list[Ask] = []
        self.received: list[Reply] = []
        self.acknowledged: set[tuple[int, str]] = set()
        self.refused: dict[tuple[int, str], str] = {}
        self.worked: list[tuple[str, int, int, str]] = []
        self.memory: dict[str, Memory] = {}
        self.held: dict[str, Updates | Summed] = {}
        self.needs: list[Needs] = []
        self.no_space: StorageError | None = None
        self._began: dict[str, tuple[tuple[int, int], Memory]] = {}
        self._due: list[_Due] = []
        self._order = 0
        self._answers: dict[tuple[int, str], tuple[Reply, Memory]] = {}
        self._delivered: list[_Due] = []
        self._withdrawn: set[int] = set()

    def restart(self, heard: Collection[str]) -> None:
        """The loop is gone; nodes go on, and deliver again what nobody acknowledged.

        Args: heard: the handles that the open round has written down; a fleet that starts again removes all others.
        """
        unheard = {handle for due in self._delivered for handle in _handles(due.news)}
        self.held = {handle: item for handle, item in self.held.items() if handle in unheard or handle in heard}
        for due in self._delivered:
            heapq.heappush(self._due, due)
        self._delivered = []

    async def roster(self, at_least: int) -> FakeRoster:
        """All nodes that train.

        Raises: SelectionError, if there are fewer than `at_least`.
        """
        self.fuse.burn()
        if len(self.nodes) < at_least:
            raise SelectionError(
                f"there are {len(self.nodes)} nodes, and a round needs at least {at_least}.",
                why="a fake fleet does not grow.",
                do="give it more nodes.",
            )
        sizes = tuple(float(getattr(data.train, "examples", 1.0)) for data in self.nodes.values())
        return FakeRoster(tuple(self.nodes), tuple(self.evaluators), sizes)

    async def check_space(self, needs: Needs) -> None:
        """Nothing is put on a disk.

        Raises: StorageError, if the test has given one as `no_space`.
        """
        self.needs.append(needs)
        if self.no_space is not None:
            raise self.no_space

    async def send(self, ask: Ask) -> None:
        """Each node begins; one that has begun, or has answered, does not begin again."""
        self.fuse.burn()
        known = {(due.ask.task, due.node) for due in self._due} | self._answers.keys()
        for node in ask.nodes:
            if (ask.task, node) not in known and not self._has_been_sent(ask.task, node):
                self._schedule(_frozen_ask(ask), node)
        self.sent.append(_frozen_ask(ask))
        self.fuse.burn()

    async def receive(self, until_s: float) -> Reply | None:
        """What comes next on the clock, worked out now; None, and the clock at `until_s`, if nothing does."""
        self.fuse.burn()
        while self._due and self._due[0].at_s <= until_s:
            due = heapq.heappop(self._due)
            self.clock.move_to(due.at_s)
            reply = due.news or self._answer(due)
            if reply is not None:
                reply = due.news or self._gather(due.ask, reply, until_s)
                self._delivered.append(replace(due, news=reply))
                self.received.append(reply)
                self.fuse.burn()
                return reply
        self.clock.move_to(until_s)
        return None

    async def secure(self, reply: Reply, events: Sequence[Event]) -> Sequence[Event]:
        """What was delivered is kept already."""
        return events

    async def acknowledge(self, reply: Reply, refusals: Mapping[str, str]) -> None:
        """What was taken counts for the nodes' memory; what was not is thrown away."""
        self.fuse.burn()
        self._delivered = [due for due in self._delivered if due.news is not reply]
        for node in senders(reply):
            self.acknowledged.add((reply.task, node))
            if node in refusals:
                self.refused[reply.task, node] = refusals[node]
            elif (reply.task, node) in self._answers and not isinstance(reply, (Declined, Vanished, Malformed)):
                self.memory[node] = self._answers[reply.task, node][1]
        if isinstance(reply, Updates):
            self.forget(handle for node, handle in zip(reply.nodes, reply.handles, strict=True) if node in refusals)
        elif isinstance(reply, Summed) and refusals.keys() >= set(reply.nodes):
            self.forget([reply.handle])
        self.fuse.burn()

    async def withdraw(self, tasks: Iterable[int]) -> None:
        """Nodes that have not begun need not; an answer that is on its way still comes."""
        self.fuse.burn()
        self._withdrawn.update(tasks)

    def kept(self, handle: str) -> Updates | Summed:
        """What was delivered under `handle`."""
        return self.held[handle]

    def forget(self, handles: Iterable[str]) -> None:
        """Let go of it."""
        for handle in handles:
            self.held.pop(handle, None)

    def traffic(self) -> tuple[int, int]:
        """Nothing is counted."""
        return 0, 0

    def asked(self, exchange: str = TRAIN) -> list[list[str]]:
        """Who was asked in each ask of an exchange, in order."""
        return [list(ask.nodes) for ask in self.sent if ask.exchange == exchange]

    # ------------------------------------------------------------------------------------------------------ the nodes

    def _has_been_sent(self, task: int, node: str) -> bool:
        return any(ask.task == task and node in ask.nodes for ask in self.sent)

    def _schedule(self, ask: Ask, node: str) -> None:
        fault = next((fault.does for fault in self.faults if fault.strikes(ask, node)), None)
        at_s = self.clock.now_s() + self.arrival_s(ask, node)
        late_s = at_s + ask.deadline_s
        if fault == "late" or (self.eager and fault is None):
            self._answers[ask.task, node] = self._work(ask, node)
        gone = Vanished(ask.task, node, "the script says that it vanishes")
        match fault:
            case "silence":
                return
            case "decline":
                self._push(at_s, ask, node, Declined(ask.task, node, "the script says so"))
            case "garble":
                self._push(at_s, ask, node, Malformed(ask.task, node, "the script says that nobody can read it"))
            case "vanish":
                self._push(at_s, ask, node, gone)
            case "return":
                self._push((self.clock.now_s() + at_s) / 2, ask, node, gone)
                self._push(at_s, ask, node)
            case "late":
                self._push(late_s, ask, node)
            case "twice":
                self._push(at_s, ask, node)
                self._push(at_s, ask, node)
            case None:
                self._push(at_s, ask, node)

    def _push(self, at_s: float, ask: Ask, node: str, news: Reply | None = None) -> None:
        self._order += 1
        heapq.heappush(self._due, _Due(at_s, self._order, ask, node, news))

    def _answer(self, due: _Due) -> Reply | None:
        place = (due.ask.task, due.node)
        if place not in self._answers:
            if due.ask.task in self._withdrawn:
                return None
            self._answers[place] = self._work(due.ask, due.node)
        reply, _ = self._answers[place]
        if isinstance(reply, Updates) and reply.handles[0] not in self.held and place not in self.refused:
            self.held[reply.handles[0]] = reply
        return reply

    def _work(self, ask: Ask, name: str) -> tuple[Reply, Memory]:
        data = self.evaluators[name] if name in self.evaluators else self.nodes[name]
        secret = Key(self.run.plan.seed).at("secret of", name, ask.round, ask.attempt).digest()
        node = Node(name, data, self._memory_for(ask, name), secret)
        own = replace(ask, nodes=(name,), each={to: body for to, body in ask.each.items() if to == name})
        reply, memory = work(self.trainer, self.run.plan, self.run.layout, own, node)
        self.worked.append((ask.exchange, ask.round, ask.attempt, name))
        reply = self.tamper(ask, reply)
        if isinstance(reply, Updates):
            reply = _frozen_updates(replace(reply, handles=(f"{ask.task}/{name}",)))
        return reply, _frozen(memory)

    def _memory_for(self, ask: Ask, node: str) -> Memory:
        """What the node remembers, without what came of earlier attempts at the same round, which never counted."""
        memory = self.memory.get(node, {})
        if ask.exchange in ASIDE:
            return memory
        (number, attempt), before = self._began.get(node, ((-1, -1), memory))
        if number == ask.round and attempt < ask.attempt:
            self.memory[node] = memory = before
        if (number, attempt) != (ask.round, ask.attempt):
            self._began[node] = (ask.round, ask.attempt), memory
        return memory

    def _gather(self, ask: Ask, reply: Reply, until_s: float) -> Reply:
        """A block of updates that come until then, or their sum, where there are several to wait for."""
        if not isinstance(reply, Updates) or self.block == 1:
            return reply
        rows, later = [reply], []
        while self._due and self._due[0].at_s <= until_s and len(rows) < self.block:
            due = heapq.heappop(self._due)
            if due.ask.task != ask.task or due.news is not None:
                later.append(due)
                continue
            other = self._answer(due)
            self.clock.move_to(due.at_s)
            if isinstance(other, Updates) and folding.is_alike(other, reply):
                rows.append(other)
            elif other is not None:
                later.append(_Due(due.at_s, due.order, due.ask, due.node, other))
        for due in later:
            heapq.heappush(self._due, due)
        block = _frozen_updates(folding.block(rows))
        return self._sum(ask, block) if self.sums and ask.grid and not self.run.plan.needs_rows else block

    def _sum(self, ask: Ask, block: Updates) -> Summed:
        measured, plan = admission.measure(block), self.run.plan
        reasons = {
            node: admission.objection(plan, ask.norm_bound, float(block.weight[row]), float(measured.norms[row]), {})
            for row, node in enumerate(block.nodes)
        }
        good = [row for row, node in enumerate(block.nodes) if reasons[node] is None]
        assert ask.grid is not None
        summed = folding.fold(plan, ask.grid, block, good, [float(measured.norms[row]) for row in good])
        summed = replace(summed, refused={node: reason for node, reason in reasons.items() if reason})
        self.forget(block.handles)
        self.held[summed.handle] = summed
        return summed


class MemoryStore:
    """A `Store` in memory: what it holds is what a disk would hold after a kill.

    Attributes:
      records: what `end_round` was given, one for each round that ended.
      journals: the events of the rounds that ended, one list for each; open: those of the open round.
      carried: what the open round, or its measurements, go on from.
    """

    def __init__(self, fuse: Fuse | None = None) -> None:
        self.fuse = fuse or Fuse()
        self.carried: Carried | None = None
        self.open: list[str] = []
        self.journals: list[list[Event]] = []
        self.records: list[Mapping[str, Any]] = []

    async def resume(self) -> Resumed | None:
        """Where the run stands; None if it has not begun."""
        self.fuse.burn()
        if self.carried is None:
            return None
        return Resumed(self.carried, [events.from_json(line) for line in self.open])

    async def begin(self, run: Run, carried: Carried) -> None:
        """Keep what the run starts from."""
        self.fuse.burn()
        self.carried = _frozen_carried(carried)
        self.fuse.burn()

    async def append(self, events_: Sequence[Event]) -> None:
        """Write events at the end of the open round's journal."""
        self.fuse.burn()
        self.open += [events.to_json(event) for event in events_]
        self.fuse.burn()

    async def advance(self, carried: Carried, at_s: float) -> tuple[Carried, Event]:
        """Keep the next model and write the event that says so; returns both."""
        self.fuse.burn()
        closed = Closed(at_s, digest_of(carried.model))
        self.carried = _frozen_carried(carried)
        self.open.append(events.to_json(closed))
        self.fuse.burn()
        return carried, closed

    async def end_round(self, carried: Carried, record: Mapping[str, Any]) -> None:
        """Keep the round's record and what is carried on, and end its journal."""
        self.fuse.burn()
        self.carried = _frozen_carried(carried)
        self.records.append(record)
        self.journals.append([events.from_json(line) for line in self.open])
        self.open = []
        self.fuse.burn()


class Federation:
    """A run with its fleet, its store and its clock, to be held, killed and held again.

    Args: `plan`, `trainer` and `nodes` are what they are everywhere; all others go to `FakeFleet`.
    """

    def __init__(
        self,
        plan: Plan,
        trainer: Trainer,
        nodes: Mapping[str, NodeData],
        *,
        fuse: Fuse | None = None,
        observers: Sequence[Observer] = (),
        **fleet: Any,
    ) -> None:
        layout, model = trainer.first_model(None, Key(plan.seed).at("first model"))
        self.run, self.fuse = Run("run", plan, layout), fuse or Fuse()
        self.start = first(self.run, model)
        self.fleet = FakeFleet(trainer, self.run, nodes, fuse=self.fuse, **fleet)
        self.store = MemoryStore(self.fuse)
        self.observers = observers
        self.secrets_drawn: list[tuple[int, int]] = []

    @property
    def records(self) -> list[Mapping[str, Any]]:
        """One for each round that ended, missed ones and the epilogue included."""
        return self.store.records

    @property
    def model(self) -> Model:
        """The latest model that was kept."""
        return (self.store.carried or self.start).model

    def hold(self, until_round: int | None = None) -> Outcome:
        """Hold the run to its end, or until so many rounds are done, going on from where the store stands.

        Raises: Killed, if the fuse says so.
        """
        world = World(self.fleet, self.store, self.fleet.clock, self._secret, self.observers)
        return asyncio.run(hold(self.run, self.start, world, until_round))

    def restart(self) -> None:
        """As after `kill -9` of the loop: only the store, the nodes and the time are left."""
        journal = [events.from_json(line) for line in self.store.open]
        self.fleet.restart({handle for event in journal if isinstance(event, Heard) for handle in event.handles})

    def _secret(self, number: int, attempt: int) -> bytes:
        self.secrets_drawn.append((number, attempt))
        return Key(self.run.plan.seed).at("secret", number, attempt).digest()


class Watching:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []

    def notice(self, fact: Fact) -> None:
        """Keep it."""
        self.facts.append(fact)


def digest_of(model: Model) -> str:
    """SHA-256 over all numbers of a model: equal models, bit for bit, have equal digests."""
    total = hashlib.sha256()
    for array in (model.trained, model.statistics, model.local, *model.frozen.values()):
        total.update(array.dtype.str.encode() + str(array.shape).encode() + array.tobytes())
    return total.hexdigest()


def _handles(reply: Reply | None) -> Sequence[str]:
    return reply.handles if isinstance(reply, Updates) else (reply.handle,) if isinstance(reply, Summed) else ()


def _read_only(array: np.ndarray) -> np.ndarray:
    copy = np.array(array)
    copy.flags.writeable = False
    return copy


def _frozen(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: _read_only(array) for name, array in arrays.items()}


def _frozen_model(model: Model) -> Model:
    trained, statistics, local = map(_read_only, (model.trained, model.statistics, model.local))
    return Model(trained, statistics, local, _frozen(model.frozen))


def _frozen_carried(carried: Carried) -> Carried:
    return replace(carried, model=_frozen_model(carried.model), slots=_frozen(carried.slots))


def _frozen_ask(ask: Ask) -> Ask:
    return replace(ask, model=_frozen_model(ask.model) if ask.model else None, told=_frozen(ask.told))


def _frozen_updates(updates: Updates) -> Updates:
    return replace(
        updates, delta=_read_only(updates.delta), weight=_read_only(updates.weight), extra=_frozen(updates.extra),
        metrics=_frozen(updates.metrics),
    )  # fmt: skip
