"""The app of the stories: real digits over four nodes, uneven in size and labels."""

import numpy as np

from lycia import (
    Adam,
    App,
    Evaluation,
    ExampleWeightedMean,
    FedAvg,
    NodeData,
    NumpyTrainer,
    Plan,
    RoundRules,
    Uniform,
)  # fmt: skip
from lycia.data.datasets import DIGITS, digits

ROUNDS = 8
DEADLINE_S = 10.0  # longer than the outage: a coordinator takes some seconds to come back on a busy machine


def four_nodes() -> dict[str, NodeData]:
    """Sizes from 60 to 600, each node with labels that others have fewer of."""
    data = digits()
    order = np.argsort(data.labels * 7 % 10, kind="stable")
    bounds = (0, 60, 260, 760, 1360)
    return {
        name: NodeData(data[order[begin:end:2]], data[order[begin + 1 : end : 2]])
        for name, begin, end in zip(("ash", "birch", "cedar", "dogwood"), bounds, bounds[1:], strict=False)
    }


def plan(server: object) -> Plan:
    """Three of four nodes a round, so that the draw matters; nobody is replaced, so that the script alone decides."""
    return Plan(
        rounds=ROUNDS, seed=5, selector=Uniform(cohort_size=3), client=FedAvg(), server=server,
        aggregator=ExampleWeightedMean(),
        rules=RoundRules(quorum=0.5, least_nodes=4, over_selection=1.0, replacement=False, deadline_s=DEADLINE_S),
        evaluation=Evaluation(every=4, evaluators=False),
    )  # fmt: skip


trainer = NumpyTrainer(hidden=(16,), learning_rate=0.1, batch_size=16, epochs=1)
app = App(trainer=trainer, plan=plan(Adam(learning_rate=0.03)), population=four_nodes(), schema=DIGITS, name="digits")
