"""An app whose model is too large for the memory of its nodes: they add random numbers to it, a block at a time."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lycia import SGD, App, Evaluation, Everyone, FedAvg, NodeData, Plan, RoundRules, UniformMean
from lycia.core.keys import Key
from lycia.core.layout import Layout, Leaf, Model
from lycia.core.space import blocks
from lycia.core.training import LocalResult, LocalTask, Schema
from lycia.storage.space import Scratch

NODES = ("north", "south")
LEAVES = 10
_STEP = np.float32(1e-3)


@dataclass(frozen=True)
class AddNoise:
    """A trainer that learns nothing: to every number of the model it adds a random one."""

    floats: int
    scratch: str
    takes_terms: ClassVar[bool] = False

    def first_model(self, schema: Schema | None, key: Key) -> tuple[Layout, Model]:
        """Zeros, which take no memory until somebody looks at them; the run begins with a checkpoint."""
        return layout_of(self.floats), Model(np.zeros(self.floats, np.float32))

    def train(self, task: LocalTask) -> LocalResult:
        """The model that came, plus noise; it lies on disk."""
        asked, random = task.model.trained, task.key.generator()
        trained = Scratch(Path(self.scratch)).empty(len(asked), np.float32)
        for block in blocks(len(asked)):
            noise = random.random(block.stop - block.start, np.float32)
            np.add(asked[block], noise * _STEP, out=trained[block])
        return LocalResult(replace(task.model, trained=trained), weight=1.0)

    def evaluate(self, layout: Layout, model: Model, data: Any) -> tuple[float, Mapping[str, float]]:
        """Nothing is measured; the plan never asks."""
        return 0.0, {}


def layout_of(floats: int) -> Layout:
    """A few large leaves."""
    return Layout(tuple(Leaf(f"layer {index}", (floats // LEAVES,)) for index in range(LEAVES)))


def large_app(floats: int, rounds: int, scratch: str) -> App:
    """Two nodes, both of them in every round, nothing evaluated."""
    return App(
        name="large",
        trainer=AddNoise(floats, scratch),
        plan=Plan(
            rounds=rounds,
            selector=Everyone(),
            client=FedAvg(),
            aggregator=UniformMean(),
            server=SGD(),
            rules=RoundRules(least_nodes=len(NODES), deadline_s=3600.0),
            evaluation=Evaluation(nodes=0, evaluators=False),
        ),
        population={name: NodeData(train=(name,)) for name in NODES},
    )
