"""A fleet in this process: nodes train one after the other, and answer in the order of a virtual clock."""

import asyncio
import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from lycia.core.events import Event
from lycia.core.keys import Key
from lycia.core.messages import Ask, Declined, Late, Reply, Summed, Updates, Vanished
from lycia.core.needs import Needs
from lycia.core.plan import App
from lycia.core.round import ASIDE, Run
from lycia.core.tensorfile import ITEM_BYTES
from lycia.core.training import NodeData
from lycia.core.work import Node, work
from lycia.data.population import Population
from lycia.errors import SelectionError
from lycia.runtime.threads import one_thread
from lycia.simulation.clock import Pace, VirtualClock
from lycia.simulation.faults import Faults, Mishap
from lycia.storage.node_state import NodeState

EVALUATOR = "evaluator"
_SILENCE_S = 1.0  # on the virtual clock, until it is noticed that a node has vanished


@dataclass(frozen=True)
class SimulatedRoster:
    """The population as the loop sees it."""

    population: Population
    evaluators: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.population)

    def __getitem__(self, index: int) -> str:
        return self.population.names[index]

    def sizes(self) -> np.ndarray | None:
        """(nodes,) training examples of each."""
        return self.population.sizes()


@dataclass(order=True)
class _Due:
    at_s: float
    order: int
    node: str = field(compare=False)
    ask: Ask = field(compare=False)
    mishap: Mishap | None = field(compare=False, default=None)


class SimulatedFleet:
    """The reference engine: one node at a time, on one thread, in the order in which the nodes would answer.

    Work that nobody waits for any more is not done: what a withdrawn task would have sent comes as a late reply
    without its numbers, which is all that the round looks at.
    """

    def __init__(
        self, run: Run, app: App, population: Population, clock: VirtualClock, faults: Faults, pace: Pace,
        folder: Path | None = None,
    ) -> None:  # fmt: skip
        """`folder`: where the nodes' memories are kept, for a run that may be resumed."""
        self._folder = folder
        self._run, self._app, self._population = run, app, population
        self._clock, self._faults, self._pace = clock, faults, pace
        self._due: list[_Due] = []
        self._withdrawn: set[int] = set()
        self._busy_until_s: dict[str, float] = {}
        self._states: dict[str, NodeState] = {}
        self._kept: dict[str, Updates] = {}
        self._order = self._up = self._down = 0

    async def roster(self, at_least: int) -> SimulatedRoster:
        """The whole population.

        Raises: SelectionError, if it is smaller than `at_least`.
        """
        if len(self._population) < at_least:
            raise SelectionError(
                f"the population has {len(self._population)} nodes, and a round needs at least {at_least}.",
                why="the plan's rules say least_nodes, and a simulated population does not grow.",
                do="simulate more nodes, or lower RoundRules(least_nodes=…).",
            )
        return SimulatedRoster(self._population, () if self._app.evaluator is None else (EVALUATOR,))

    async def check_space(self, needs: Needs) -> None:
        """Updates stay in memory, so there is nothing to look at."""

    async def send(self, ask: Ask) -> None:
        """Work out when each node would answer."""
        payload = model_bytes(self._run, ask)
        for node in ask.nodes:
            self._down += payload
            mishap = self._faults.mishap(self._run.plan.seed, ask.round, ask.attempt, ask.exchange, node)
            begin_s = max(self._clock.now_s(), self._busy_until_s.get(node, 0.0))
            spent_s = self._seconds(node, 2 * payload) * self._faults.slowdown(self._run.plan.seed, node)
            end_s = begin_s + (ask.deadline_s + spent_s if mishap == "late" else _SILENCE_S if mishap else spent_s)
            self._busy_until_s[node] = end_s if mishap != "vanish" else begin_s
            self._order += 1
            heapq.heappush(self._due, _Due(end_s, self._order, node, ask, mishap))

    async def receive(self, until_s: float) -> Reply | None:
        """The reply that comes next on the virtual clock, worked out now."""
        await asyncio.sleep(0)  # lets a notebook's loop, or a Ctrl-C, in between two nodes
        if not self._due or self._due[0].at_s > until_s:
            self._clock.move_to(until_s)
            return None
        due = heapq.heappop(self._due)
        self._clock.move_to(due.at_s)
        if due.mishap == "vanish":
            return Vanished(due.ask.task, due.node, "it dropped out of the simulation")
        if due.mishap == "decline":
            return Declined(due.ask.task, due.node, "the simulation's script says so")
        if due.ask.task in self._withdrawn:
            return Late(due.ask.task, due.node)
        return self._work(due.ask, due.node)

    async def secure(self, reply: Reply, events: Sequence[Event]) -> Sequence[Event]:
        """A simulated update is kept where it was made; after a restart it is made again."""
        return events

    async def acknowledge(self, reply: Reply, refusals: Mapping[str, str]) -> None:
        """Drop the updates that were not taken, and let their nodes forget that they made them."""
        if isinstance(reply, Updates):
            self.forget(handle for node, handle in zip(reply.nodes, reply.handles, strict=True) if node in refusals)
        for node in refusals:
            self._remember(node, self._state(node).refused(reply.task))

    async def withdraw(self, tasks: Iterable[int]) -> None:
        """What is still due for these tasks is not worked out any more."""
        self._withdrawn.update(tasks)

    def kept(self, handle: str) -> Updates | Summed:
        """The update that waits for its round to close."""
        return self._kept[handle]

    def forget(self, handles: Iterable[str]) -> None:
        """Let go of updates that are part of a model."""
        for handle in handles:
            self._kept.pop(handle, None)

    def traffic(self) -> tuple[int, int]:
        """Bytes that would have gone up and down."""
        return self._up, self._down

    def _work(self, ask: Ask, name: str) -> Reply:
        state, measures = self._state(name), ask.exchange in ASIDE
        node = Node(name, self._data(name), state.now if measures else state.base(ask), self._secret(ask, name))
        with one_thread():
            reply, memory = work(self._app.trainer, self._run.plan, self._run.layout, ask, node)
        if not measures:
            self._remember(name, state.worked(ask, memory))
        if isinstance(reply, Updates):
            handle = f"{ask.task}/{name}"
            reply = replace(reply, handles=(handle,))
            self._kept[handle] = reply
            self._up += reply.delta.nbytes + sum(rows.nbytes for rows in reply.extra.values())
        return reply

    def _state(self, name: str) -> NodeState:
        if name not in self._states:
            self._states[name] = NodeState.at(self._state_path(name)) if self._folder else NodeState()
        return self._states[name]

    def _remember(self, name: str, state: NodeState) -> None:
        # A run whose nodes remember nothing has nothing to keep; one that forgets all that it had has.
        if state.now or state.before or state.start or self._state(name).now:
            self._states[name] = state
            if self._folder:
                self._folder.mkdir(parents=True, exist_ok=True)
                state.keep(self._state_path(name))

    def _state_path(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{sha256(name.encode()).hexdigest()[:32]}.safetensors"

    def _data(self, name: str) -> NodeData:
        if name == EVALUATOR and self._app.evaluator is not None:
            return self._app.evaluator
        return self._population[name]

    def _seconds(self, name: str, payload: int) -> float:
        train = self._data(name).train
        examples = float(len(train)) if hasattr(train, "__len__") else 1.0
        return self._pace.seconds(self._run.plan.seed, name, examples, payload)

    def _secret(self, ask: Ask, name: str) -> bytes:
        return Key(self._run.plan.seed).at("secret of", name, ask.round, ask.attempt).digest()


def model_bytes(run: Run, ask: Ask) -> int:
    """What one node is sent with `ask`, in bytes: the leaves that travel every round, and what parts tell."""
    told = sum(array.nbytes for array in ask.told.values())
    if ask.model is None:
        return told
    travel = (leaf for leaf in run.layout.leaves if leaf.segment in ("trained", "statistics"))
    return told + sum(leaf.size * ITEM_BYTES[leaf.dtype] for leaf in travel)
