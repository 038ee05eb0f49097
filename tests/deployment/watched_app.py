"""An app whose largest node stops in the middle of its second round, until the test that watches it lets it go on.

Its nodes remember from round to round how many examples they have seen, by which their learning rate decays: work that
is done twice must begin where it began the first time.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.linear_model import SGDClassifier

from lycia import (
    SGD,
    App,
    Evaluation,
    Everyone,
    Examples,
    ExampleWeightedMean,
    FedAvg,
    NodeData,
    Plan,
    RoundRules,
    Schema,
    SklearnTrainer,
)  # fmt: skip
from lycia.core.training import LocalResult, LocalTask

SIZES = {"small": 30, "middle": 40, "watched": 50}


@dataclass(frozen=True)
class Watched(SklearnTrainer):
    """Trains; where a test has left a folder, the watched node meets it there."""

    def train(self, task: LocalTask) -> LocalResult:
        """The same as ever, only later."""
        result = super().train(task)
        folder = os.environ.get("WATCHED_AT")
        if folder and len(task.data) == SIZES["watched"]:
            _meet(Path(folder))
        return result


def _meet(folder: Path) -> None:
    number = len(list(folder.glob("training-*"))) + 1
    (folder / "part").write_text(str(os.getpid()))
    (folder / "part").replace(folder / f"training-{number}")
    while number >= 2 and not (folder / "go").exists():
        time.sleep(0.01)


def _data(size: int) -> NodeData:
    random = np.random.default_rng(size)
    features = random.normal(size=(size + 20, 6)).astype(np.float32)
    examples = Examples(features, (features[:, 0] + features[:, 1] > 0).astype(np.int64))
    return NodeData(examples[:size], examples[size:])


app = App(
    name="watched",
    trainer=Watched(estimator=SGDClassifier(loss="log_loss")),
    plan=Plan(
        rounds=3, seed=4, selector=Everyone(), client=FedAvg(), aggregator=ExampleWeightedMean(), server=SGD(),
        rules=RoundRules(least_nodes=3, quorum=1.0, deadline_s=60.0), evaluation=Evaluation(evaluators=False),
    ),
    population={name: _data(size) for name, size in SIZES.items()},
    schema=Schema(shape=(6,), labels=(0, 1)),
)  # fmt: skip
