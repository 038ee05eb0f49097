"""Nodes whose training is known on paper: each has a quadratic loss, and the trainer takes gradient steps on it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lycia.core.keys import Key
from lycia.core.layout import Layout, Model
from lycia.core.training import LocalResult, LocalTask, NodeData, Schema
from lycia.errors import TrainingError


@dataclass(frozen=True)
class Quadratic:
    """The data of a node with the loss ½ Σ curvature · (w − optimum)², as if it had so many examples."""

    optimum: np.ndarray
    curvature: np.ndarray
    examples: float = 1.0

    @classmethod
    def at(cls, optimum: Sequence[float], curvature: float | Sequence[float] = 1.0, examples: float = 1.0) -> NodeData:
        """A node that trains and measures on the quadratic around `optimum`."""
        place = np.array(optimum, dtype=np.float32)
        data = cls(place, np.broadcast_to(np.asarray(curvature, dtype=np.float32), place.shape), examples)
        return NodeData(data, data)


@dataclass(frozen=True)
class QuadraticTrainer:
    """Gradient steps on quadratics: local training whose outcome is known on paper.

    Attributes:
      size: how many parameters there are, in one leaf "w" that starts at zero.
      jitter: standard deviation of noise in each gradient, drawn from the task's key.
      layout: another layout with as many trained parameters, such as one in bfloat16.
    """

    size: int
    steps: int = 4
    learning_rate: float = 0.1
    jitter: float = 0.0
    layout: Layout | None = None
    takes_terms: bool = True

    def first_model(self, schema: Schema | None, key: Key) -> tuple[Layout, Model]:
        """Zeros."""
        layout = self.layout or Layout.of({"w": np.zeros(self.size, np.float32)})
        return layout, Model(
            np.zeros(layout.size("trained"), np.float32),
            np.zeros(layout.size("statistics")),
            np.zeros(layout.size("local"), np.float32),
        )

    def train(self, task: LocalTask) -> LocalResult:
        """`steps` gradient steps, with the task's term in each."""
        data = _quadratic(task.data)
        rate, random = np.float32(self.learning_rate), task.key.generator()
        w = task.model.trained
        for _ in range(self.steps):
            gradient = data.curvature * (w - data.optimum)
            if self.jitter:
                gradient = gradient + np.float32(self.jitter) * random.standard_normal(len(w)).astype(np.float32)
            w = w - rate * (gradient if task.term is None else task.term(gradient, w))
        loss = _loss(data, task.model.trained)
        return LocalResult(
            replace(task.model, trained=w), data.examples, self.steps, self.learning_rate, {"loss": loss}
        )

    def evaluate(self, layout: Layout, model: Model, data: Any) -> tuple[float, Mapping[str, float]]:
        """The loss, and how far the parameters are from the node's optimum."""
        node = _quadratic(data)
        distance = float(np.linalg.norm(model.trained.astype(np.float64) - node.optimum))
        return node.examples, {"loss": _loss(node, model.trained), "distance": distance}


def optimum_of(nodes: Iterable[NodeData], *, by_examples: bool = False) -> np.ndarray:
    """(size,) float64: where the mean of the nodes' losses is least."""
    quadratics = [_quadratic(data.train) for data in nodes]
    shares = [data.examples if by_examples else 1.0 for data in quadratics]
    pull = sum(
        share * data.curvature.astype(np.float64) * data.optimum for share, data in zip(shares, quadratics, strict=True)
    )
    stiffness = sum(share * data.curvature.astype(np.float64) for share, data in zip(shares, quadratics, strict=True))
    return np.asarray(pull / stiffness)


def _quadratic(data: Any) -> Quadratic:
    if isinstance(data, Quadratic):
        return data
    raise TrainingError(
        f"a quadratic trainer cannot work on {type(data).__name__}.",
        why="its data is a Quadratic.",
        do="give the node Quadratic.at(optimum).",
    )


def _loss(data: Quadratic, w: np.ndarray) -> float:
    return float(0.5 * np.sum(data.curvature.astype(np.float64) * np.square(w.astype(np.float64) - data.optimum)))
