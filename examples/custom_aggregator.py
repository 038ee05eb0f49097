"""An aggregator of one's own: the coordinate-wise median, which one broken node cannot move far.

    lycia simulate examples/custom_aggregator.py

Of five nodes that train on handwritten digits, one sends noise in every round. Put ExampleWeightedMean() in the place
of Median() to see what becomes of the model. (Most plans would not need either here: from the second round on, an
update that is three times as long as usual is not admitted. The wide norm bound below turns that off.)
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar, Literal

import numpy as np

from lycia import SGD, App, Everyone, Examples, FedAvg, Key, NodeData, NumpyTrainer, Plan, Population, RoundRules
from lycia.core.training import LocalResult, LocalTask
from lycia.data import DIGITS, digits, evenly, hold_out

NODES = ("node-1", "node-2", "node-3", "node-4", "broken")


@dataclass(frozen=True)
class Median:
    """The median of each coordinate over all updates, whatever weights their nodes claim.

    Source: Yin et al. 2018, "Byzantine-robust distributed learning: towards optimal statistical rates".
    """

    shape: ClassVar[Literal["coordinate"]] = "coordinate"
    equal_shares: ClassVar[bool] = True
    minimum: ClassVar[int] = 3

    def weights(self, claimed: np.ndarray) -> np.ndarray:
        return np.ones(len(claimed))

    def divisor(self, weights: np.ndarray) -> float:
        return float(len(weights))

    def reduce(self, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.median(rows, axis=0).astype(np.float32)


class Garbage(Examples):
    """Data at which the trainer below breaks."""


class BreakableTrainer(NumpyTrainer):
    def train(self, task: LocalTask) -> LocalResult:
        result = super().train(task)
        if not isinstance(task.data, Garbage):
            return result
        noise = task.key.at("garbage").generator().normal(0, 1, task.model.trained.shape).astype(np.float32)
        return replace(result, model=replace(task.model, trained=task.model.trained + noise))


@cache
def shares() -> dict[str, NodeData]:
    kept = hold_out(digits(), 0.25, Key(0).at("held out"))
    parts = zip(evenly(kept.train, 5, Key(0).at("train")), evenly(kept.held_out, 5, Key(0).at("measure")), strict=True)
    nodes = {name: NodeData(*part) for name, part in zip(NODES, parts, strict=True)}
    broken = nodes["broken"].train
    return {**nodes, "broken": NodeData(Garbage(broken.features, broken.labels), nodes["broken"].held_out)}


app = App(
    name="median",
    trainer=BreakableTrainer(hidden=(32,), learning_rate=0.1, epochs=2),
    plan=Plan(
        rounds=15,
        selector=Everyone(),
        client=FedAvg(),
        aggregator=Median(),
        server=SGD(learning_rate=1.0),
        rules=RoundRules(norm_bound=1000),
    ),
    population=Population(NODES, lambda name: shares()[name]),
    schema=DIGITS,
)
