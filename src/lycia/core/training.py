"""What a node's local work takes and gives: the trainer's side of a round."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lycia.core.keys import Key
from lycia.core.layout import Layout, Model
from lycia.core.normalising import Moments

GradientTerm = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(gradient, parameters) → gradient, both (size,) float32: what a client rule adds to each local step."""


@dataclass(frozen=True)
class NodeData:
    """What one node holds. Both parts are whatever the app's trainer takes, such as `Examples`.

    Attributes:
      train: to train on; None at an evaluator.
      held_out: to measure with; None where a node is too small to hold anything out.
    """

    train: Any
    held_out: Any = None


class Schema(Protocol):
    """What an app expects of the data: columns, types, units, label set."""

    def differences(self, data: NodeData) -> Sequence[str]:
        """One sentence for each way in which `data` is not what the schema says; empty if it fits."""
        ...

    def to_json(self) -> str:
        """The schema as JSON, for people and for the record."""
        ...


@dataclass(frozen=True)
class LocalTask:
    """One node's share of a training exchange.

    Attributes:
      model: the parameters asked with, the node's own local segment filled in.
      data: `NodeData.train` of the node.
      key: names the randomness of this work; equal keys give equal results.
      term: what the client rule adds to each gradient step; None for plain local training.
      round: how many rounds the model has been through, for a learning rate that changes with them.
    """

    layout: Layout
    model: Model
    data: Any
    key: Key
    term: GradientTerm | None = None
    round: int = 0


@dataclass(frozen=True)
class LocalResult:
    """What local training gives back.

    Attributes:
      model: the parameters after local training.
      weight: how many examples it learned from.
      steps: local optimizer steps taken; learning_rate: their mean step size. Client rules with variates use both.
      metrics: what was measured on the way, such as the mean training loss.
    """

    model: Model
    weight: float
    steps: int = 0
    learning_rate: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)


class Trainer(Protocol):
    """The user's model and its local training.

    Attributes:
      takes_terms: whether `train` honours `LocalTask.term`; a plan whose client rule needs one refuses others.
    """

    @property
    def takes_terms(self) -> bool: ...

    def first_model(self, schema: Schema | None, key: Key) -> tuple[Layout, Model]:
        """The model that a run starts from; the same for the same key.

        Raises: TrainingError, if the schema lacks what the model's shapes depend on.
        """
        ...

    def train(self, task: LocalTask) -> LocalResult:
        """Train on one node's data.

        Raises: TrainingError, if the data cannot be trained on; the node then declines with its message.
        """
        ...

    def evaluate(self, layout: Layout, model: Model, data: Any) -> tuple[float, Mapping[str, float]]:
        """How many examples were measured, and the metrics, such as {"accuracy": 0.9, "loss": 0.3}.

        Raises: TrainingError, if the data cannot be measured on.
        """
        ...


@runtime_checkable
class DescribesFeatures(Protocol):
    """A trainer whose model scales its features, so that they can be normalised over all nodes."""

    @property
    def scaled(self) -> bool: ...

    def moments(self, data: Any) -> Moments:
        """Count, mean and variance of each feature of one node's data.

        Raises: TrainingError, if the data is not of that kind.
        """
        ...
