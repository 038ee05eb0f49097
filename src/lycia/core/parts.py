"""The parts that a plan is made of: what each must offer, on the node and on the server.

A part is a frozen dataclass of plain values, so that a plan can be sent, digested and compared. It may add
exchanges to a round by naming them in `before` and `after`; the round asks them of the nodes that are still in it,
and hands their answers back through `ServerView.answers`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import numpy as np

from lycia.core.grid import Grid
from lycia.core.keys import Key
from lycia.core.layout import Layout
from lycia.core.messages import Ask, Updates
from lycia.core.training import GradientTerm, LocalResult

Arrays = Mapping[str, np.ndarray]


class Roster(Protocol):
    """The nodes that could be asked: a length and an index, so that a million of them cost nothing."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> str: ...

    @property
    def evaluators(self) -> Sequence[str]:
        """Nodes that never train and hold the operator's own data."""
        ...

    def sizes(self) -> np.ndarray | None:
        """(len,) how many examples each node says it has; None where nodes do not say."""
        ...


@dataclass(frozen=True)
class Extra:
    """Something that travels beside the delta, and how the rows of it become one.

    Attributes:
      combine: "mean" counts every survivor the same; "weighted" as the aggregator counts them; "sum" adds them up.
    """

    name: str
    size: int
    dtype: Literal["float32", "float64"] = "float32"
    combine: Literal["mean", "weighted", "sum"] = "mean"


@dataclass(frozen=True)
class Told:
    """What a part tells the nodes in an exchange: arrays for all, private bytes for each."""

    arrays: Arrays = field(default_factory=dict)
    each: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class ServerView:
    """What a part sees on the server.

    Attributes:
      present: the nodes still in the round, in name order.
      answers: exchange → node → the body of its answer, for the parts' exchanges that are over.
      slots: the arrays that the part keeps from round to round.
      secret: 32 bytes drawn for this round and attempt, known to nobody else.
    """

    run: str
    plan: str
    round: int
    attempt: int
    present: tuple[str, ...]
    answers: Mapping[str, Mapping[str, bytes]]
    slots: Arrays
    secret: bytes


@dataclass(frozen=True)
class NodeView:
    """What a part sees on the node.

    Attributes:
      key: names randomness of this node, task and part that need not be secret.
      secret: bytes that only this node knows, drawn once for the run, round and attempt.
      memory: the arrays that the part keeps at this node from round to round.
      measure: the asked model's metrics on the node's training data.
    """

    ask: Ask
    node: str
    key: Key
    secret: bytes
    memory: Arrays
    measure: Callable[[], Mapping[str, float]]


class Part:
    """What selectors, client rules and stages have in common: their exchanges and what they keep.

    Attributes:
      before, after: names of exchanges that this part adds around training.
      with_model: those of them that need the model to be sent along.
    """

    before: ClassVar[tuple[str, ...]] = ()
    after: ClassVar[tuple[str, ...]] = ()
    with_model: ClassVar[tuple[str, ...]] = ()

    def slots(self, layout: Layout) -> dict[str, np.ndarray]:
        """The arrays that the server keeps for this part, as they are before the first round."""
        return {}

    def extras(self, layout: Layout) -> tuple[Extra, ...]:
        """What updates carry for this part beside the delta; a client rule and a stage may add some."""
        return ()

    def close(self, slots: Arrays, combined: Arrays, heard: int, population: int) -> dict[str, np.ndarray]:
        """The server's arrays after a round in which `heard` nodes' extras became `combined`."""
        return dict(slots)

    def tell(self, exchange: str, view: ServerView) -> Told:
        """What the nodes are told with the ask for `exchange`, training included."""
        return Told()

    def answer(self, exchange: str, view: NodeView) -> tuple[bytes, Arrays]:
        """The node's answer to one of this part's own exchanges, and what it remembers from now on."""
        raise TypeError(f"{type(self).__name__} names the exchange {exchange!r} but does not answer it")


class Selector(Part, ABC):
    """Who takes part in a round.

    Attributes:
      exact: the plan relies on how the cohort was drawn (a sampling assumption), so it is asked exactly as drawn:
        no over-selection, no replacement, and an empty cohort is a cohort.
    """

    exact: ClassVar[bool] = False

    @abstractmethod
    def goal(self, population: int) -> int:
        """How many updates close a round, of a population of this size."""

    @abstractmethod
    def draw(self, roster: Roster, count: int, without: frozenset[str], random: np.random.Generator) -> tuple[str, ...]:
        """Up to `count` different nodes, none of them in `without`, in the order drawn."""

    def candidates(self, goal: int) -> int:
        """How many nodes to ask first, where the cohort is chosen from their answers."""
        return goal

    def choose(self, goal: int, view: ServerView) -> tuple[str, ...]:
        """The cohort among `view.present`, once the exchanges in `before` have been answered."""
        return view.present


class ClientRule(Part):
    """What is special about local training, with the server's side of it.

    Attributes:
      needs_term: `term` gives something, so the trainer must be able to add to its gradients.
      needs_full_memory: relies on state at the nodes, so an unknown node cannot just be replaced by another.
    """

    needs_term: ClassVar[bool] = False

    def term(self, asked: np.ndarray, told: Arrays, memory: Arrays) -> GradientTerm | None:
        """What to add to each local gradient, given the parameters asked with."""
        return None

    def finish(self, delta: np.ndarray, result: LocalResult, told: Arrays, memory: Arrays) -> tuple[Arrays, Arrays]:
        """The extras to send, each (k,), and what the node remembers from now on."""
        return {}, memory


@dataclass(frozen=True)
class Total:
    """A sum over updates, before it becomes a mean.

    Shapes: values (size,): int64 on `grid`, or the words of a stage that hides single updates; it turns them into that.
    """

    values: np.ndarray
    grid: Grid
    weight: float
    survivors: tuple[str, ...]


class Stage(Part):
    """One thing done to an update between a node and the sum, in both its halves.

    Attributes:
      undone: "on_arrival", for each update; "on_sum", once; or "nowhere".
      hides_rows: the server never sees a single update after this stage (masks).
      words: the dtype of an update that hides rows; None otherwise.
      bounds_share: its guarantee holds only if every node counts the same (differential privacy).
      covers: names of the extras that it covers as it covers the delta; "all" for every one.
    """

    undone: ClassVar[Literal["on_arrival", "on_sum", "nowhere"]] = "nowhere"
    hides_rows: ClassVar[bool] = False
    words: ClassVar[Literal["uint32", "uint64"] | None] = None
    bounds_share: ClassVar[bool] = False
    covers: ClassVar[frozenset[str] | Literal["all"]] = frozenset()

    def on_node(self, updates: Updates, view: NodeView) -> tuple[Updates, Arrays]:
        """A block of one as it goes on from here, and what the node remembers from now on."""
        return updates, view.memory

    def on_arrival(self, updates: Updates, view: ServerView) -> Updates:
        """The block as it was before `on_node`, as far as the stage can undo it."""
        return updates

    def on_sum(self, total: Total, view: ServerView) -> Total:
        """The sum with this stage's work on it undone, or its share added."""
        return total


class Aggregator(Protocol):
    """How updates become one.

    Attributes:
      shape: "sum": a weighted sum, taken on the integer grid, that never needs two updates at once;
        "coordinate": a reduction over all updates of each coordinate.
      equal_shares: every node counts the same, whatever it claims.
      minimum: the fewest updates that it is defined for.
    """

    @property
    def shape(self) -> Literal["sum", "coordinate"]: ...

    @property
    def equal_shares(self) -> bool: ...

    @property
    def minimum(self) -> int: ...

    def weights(self, claimed: np.ndarray) -> np.ndarray:
        """(nodes,) what each update counts, from what its node claims."""
        ...

    def divisor(self, weights: np.ndarray) -> float:
        """What a sum over updates of these weights is divided by; 0 if there is no mean."""
        ...

    def reduce(self, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """(nodes, columns) float32, in node order → (columns,) float32; only of shape "coordinate"."""
        ...


class ServerOptimizer(Protocol):
    """How the mean update becomes the next model. Works coordinate by coordinate, so any split gives the same."""

    def slots(self, size: int) -> dict[str, np.ndarray]:
        """Its arrays before the first round, each (size,) float32."""
        ...

    def step(self, params: np.ndarray, mean: np.ndarray, slots: Arrays) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Shapes: all (size,) float32. Returns the next parameters and the next slots."""
        ...
