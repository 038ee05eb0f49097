"""An app whose nodes add a constant to the model, so that a round costs nothing but the federation itself."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from lycia import SGD, App, Evaluation, Everyone, FedAvg, NodeData, Plan, RoundRules, UniformMean
from lycia.core.keys import Key
from lycia.core.layout import Layout, Model
from lycia.core.training import LocalResult, LocalTask, Schema

NODES = tuple(f"node-{number}" for number in range(1, 5))
_STEP = np.float32(1e-3)


@dataclass(frozen=True)
class AddConstant:
    """A trainer that learns nothing: every number of the model grows by a thousandth."""

    floats: int
    takes_terms: ClassVar[bool] = False

    def first_model(self, schema: Schema | None, key: Key) -> tuple[Layout, Model]:
        """Zeros."""
        layout = Layout.of({"numbers": np.zeros(self.floats, np.float32)})
        return layout, Model(np.zeros(self.floats, np.float32))

    def train(self, task: LocalTask) -> LocalResult:
        """The model that came, plus the constant."""
        return LocalResult(replace(task.model, trained=task.model.trained + _STEP), weight=1.0)

    def evaluate(self, layout: Layout, model: Model, data: Any) -> tuple[float, Mapping[str, float]]:
        """Nothing is measured; the plan never asks."""
        return 0.0, {}


def constant_app(floats: int, rounds: int) -> App:
    """Four nodes, all of them in every round, nothing evaluated."""
    return App(
        name="constant",
        trainer=AddConstant(floats),
        plan=Plan(
            rounds=rounds,
            selector=Everyone(),
            client=FedAvg(),
            aggregator=UniformMean(),
            server=SGD(),
            rules=RoundRules(least_nodes=len(NODES)),
            evaluation=Evaluation(nodes=0, evaluators=False),
        ),
        population={name: NodeData(train=(name,)) for name in NODES},
    )
