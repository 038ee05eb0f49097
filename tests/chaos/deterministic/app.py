"""The app that the simulated federation trains: a few numbers, and a part that each node remembers for itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lycia.aggregators import ExampleWeightedMean
from lycia.algorithms import SGD, Adam, FedAvg
from lycia.core.keys import Key
from lycia.core.layout import Layout, Model
from lycia.core.plan import App, Evaluation, Plan, RoundRules
from lycia.core.training import LocalResult, LocalTask, NodeData
from lycia.selection import Everyone, Uniform

NAMES = ("ada", "bea", "cleo", "dora")
_SIZE = 1200  # large enough for an update to have several parts, where those are small
_OPTIMA = {name: np.linspace(1, 9, _SIZE, dtype=np.float32) * (index + 1) for index, name in enumerate(NAMES)}


def _do_nothing() -> None:
    return


@dataclass(frozen=True)
class SmallTrainer:
    """Steps on a quadratic, with noise from the task's key, from where its own memory has been moved to.

    Whatever is trained twice where it counts once, or from a memory that is not its own, ends in other numbers.

    Attributes:
      takes_time: called in the middle of training.
    """

    takes_time: Callable[[], None] = _do_nothing
    takes_terms: bool = True

    def first_model(self, schema: Any, key: Key) -> tuple[Layout, Model]:
        """Zeros."""
        arrays = {"w": np.zeros(_SIZE - 3, np.float32), "b": np.zeros(3, np.float32), "own": np.zeros(2, np.float32)}
        layout = Layout.of(arrays, local=("own",))
        return layout, Model(np.zeros(_SIZE, np.float32), np.zeros(0), np.zeros(2, np.float32))

    def train(self, task: LocalTask) -> LocalResult:
        """Three steps."""
        optimum, weight = task.data
        w, own, random = task.model.trained, task.model.local, task.key.generator()
        for _ in range(3):
            gradient = w - optimum + np.float32(own.sum()) + np.float32(0.1) * random.standard_normal(_SIZE, np.float32)
            w = w - np.float32(0.1) * gradient
        self.takes_time()
        own = own * np.float32(0.5) + w[:2] * np.float32(0.01)
        return LocalResult(replace(task.model, trained=w, local=own), weight, 3, 0.1, {"loss": float(np.abs(w).sum())})

    def evaluate(self, layout: Layout, model: Model, data: Any) -> tuple[float, Mapping[str, float]]:
        """The distance from the optimum."""
        optimum, weight = data
        self.takes_time()
        return weight, {"loss": float(np.abs(model.trained - optimum).sum())}


def data_of(name: str) -> NodeData:
    """A node's data."""
    mine = (_OPTIMA[name], float(10 + NAMES.index(name)))
    return NodeData(mine, mine)


def app_of(plan: Plan, takes_time: Callable[[], None] = _do_nothing) -> App:
    """The app."""
    population = {name: data_of(name) for name in NAMES}
    return App(trainer=SmallTrainer(takes_time), plan=plan, population=population, name="simulated")


def _plan(**changes: Any) -> Plan:
    parts: dict[str, Any] = {
        "rounds": 3, "seed": 7, "client": FedAvg(), "aggregator": ExampleWeightedMean(), "server": SGD(),
        "evaluation": Evaluation(every=3, nodes=4),
    }  # fmt: skip
    return Plan(**{**parts, **changes})


_PATIENT = RoundRules(
    least_nodes=4, quorum=1.0, over_selection=1.0, replacement=False, deadline_s=1e6, retries=3
)  # fmt: skip
PLANS = {
    # A fixed cohort, all of which must be heard: every model follows from the plan alone.
    "fixed": {
        "everyone": _plan(selector=Everyone(), rules=_PATIENT),
        "with a server optimizer": _plan(selector=Everyone(), rules=_PATIENT, server=Adam()),
    },
    # The usual rules: who is heard depends on what befalls whom.
    "default": {
        "two of four": _plan(selector=Uniform(2), rules=RoundRules(least_nodes=2, deadline_s=40.0)),
        "everyone who comes": _plan(selector=Everyone(), rules=RoundRules(least_nodes=2, deadline_s=30.0)),
    },
}
