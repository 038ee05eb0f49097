"""What travels between the server and the nodes. Frozen; arrays inside are never written to.

A reply names the task that it answers; the task says which run, round, attempt and exchange that was.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lycia.core.grid import Grid
from lycia.core.layout import Model

TRAIN = "train"
EVALUATE = "evaluate"
EVALUATE_BY_EVALUATOR = "evaluate by evaluator"
BASELINE = "baseline"
DESCRIBE = "describe"
OWN_EXCHANGES = (TRAIN, EVALUATE, EVALUATE_BY_EVALUATOR, BASELINE, DESCRIBE)
"""The exchanges that the round itself holds; the names of all others belong to a stage, a client rule or a selector."""


@dataclass(frozen=True)
class Ask:
    """Server → nodes: one exchange of a round.

    Everything but `each` is the same for every node and is sent, cached and digested once.

    Attributes:
      plan: the digest of the plan that the run is held under.
      round: the version of the model asked with; in a buffered run a later round may use the answer.
      attempt: counts from 0; a round that missed its quorum is asked again.
      task: a number that no other ask of the run has; names the randomness of the work.
      exchange: "train", "evaluate", …, or the name of an exchange that a part adds.
      model: the model to work from; None where the exchange needs none.
      told: what parts tell every node, as named arrays.
      each: private bytes, which only that node can fetch.
      norm_bound: the largest norm of a delta that is admitted; None in a run's first rounds.
      grid: the grid of the sum, where the bound fixes it beforehand.
      weight_cap: the largest weight that is admitted.
      deadline_s: seconds after which an answer is late.
      undone: (round, task) of each time that the run was rolled back: what a node did in that round or a later one, for
        a task below that number, does not count any more.
    """

    run: str
    plan: str
    round: int
    attempt: int
    task: int
    exchange: str
    nodes: tuple[str, ...]
    model: Model | None = None
    told: Mapping[str, np.ndarray] = field(default_factory=dict)
    each: Mapping[str, bytes] = field(default_factory=dict)
    norm_bound: float | None = None
    grid: Grid | None = None
    weight_cap: float = float("inf")
    deadline_s: float = float("inf")
    undone: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Updates:
    """Nodes → server: a block of updates, one row a node. A real node sends a block of one.

    Shapes:
      delta: (nodes, size) float32; local parameters minus the parameters asked with. A large one that was sent in a
        narrower dtype is a `lycia.core.columns.Columns`, which is read as an array is, until a stage works on it.
      weight: (nodes,) what each node says it counts, in examples.
      extra: name → (nodes, k), as the parts that send them declare.
      metrics: name → (nodes,) what each node measured while it trained.
      handles: (nodes,) where each row is kept until the round closes.
    """

    task: int
    nodes: tuple[str, ...]
    delta: np.ndarray
    weight: np.ndarray
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)
    metrics: Mapping[str, np.ndarray] = field(default_factory=dict)
    handles: tuple[str, ...] = ()

    def row(self, index: int) -> "Updates":
        """The block of one that holds row `index`; views, no copies."""
        one = slice(index, index + 1)
        return Updates(
            self.task, self.nodes[one], self.delta[one], self.weight[one],
            {name: value[one] for name, value in self.extra.items()},
            {name: value[one] for name, value in self.metrics.items()}, self.handles[one],
        )  # fmt: skip


@dataclass(frozen=True)
class Summed:
    """A fleet → server: updates that were admitted and added up where they were made.

    Shapes:
      total: (size,) int64 on `grid`; the sum of weight × delta over `nodes`.
      weight, norm: (nodes,); metrics: name → (nodes,).
      refused: node → why it was not admitted; not part of `nodes`.
    """

    task: int
    nodes: tuple[str, ...]
    total: np.ndarray
    grid: Grid
    weight: np.ndarray
    norm: np.ndarray
    metrics: Mapping[str, np.ndarray] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    handle: str = ""


@dataclass(frozen=True)
class Scores:
    """Nodes → server: what a block of nodes measured on held-out data.

    Shapes: weight (nodes,) held-out examples; metrics name → (nodes,).
    """

    task: int
    nodes: tuple[str, ...]
    weight: np.ndarray
    metrics: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Answer:
    """Node → server: its part of an exchange that a stage, a client rule or a selector holds."""

    task: int
    node: str
    body: bytes


@dataclass(frozen=True)
class Declined:
    """Node → server: a refusal. Ordinary, so a value and not an exception."""

    task: int
    node: str
    reason: str


@dataclass(frozen=True)
class Vanished:
    """Fleet → server: a node that was asked cannot be reached any more."""

    task: int
    node: str
    reason: str


@dataclass(frozen=True)
class Malformed:
    """Fleet → server: a node sent bytes from which no update of this model can be read."""

    task: int
    node: str
    reason: str


@dataclass(frozen=True)
class Late:
    """Fleet → server: a node sent an update for a task that is no longer open; nothing of it was read."""

    task: int
    node: str


Reply = Updates | Summed | Scores | Answer | Declined | Vanished | Malformed | Late
