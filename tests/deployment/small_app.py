"""A small app for tests of the coordinator: ten features, two labels, a tiny model."""

import numpy as np

from lycia import (
    SGD,
    App,
    Evaluation,
    Everyone,
    Examples,
    ExampleWeightedMean,
    FedAvg,
    NodeData,
    NumpyTrainer,
    Plan,
    RoundRules,
    Schema,
)  # fmt: skip


def _some(seed: int) -> NodeData:
    random = np.random.default_rng(seed)
    features = random.normal(size=(60, 10)).astype(np.float32)
    examples = Examples(features, (features[:, 0] > 0).astype(np.int64))
    return NodeData(examples[:40], examples[40:])


STRANGE = NodeData(Examples(np.zeros((5, 3), np.float32), np.zeros(5, np.int64)))  # three features, not ten
app = App(
    trainer=NumpyTrainer(learning_rate=0.1, batch_size=20),
    plan=Plan(
        rounds=3, selector=Everyone(), client=FedAvg(), aggregator=ExampleWeightedMean(), server=SGD(),
        rules=RoundRules(least_nodes=2, deadline_s=20.0, quorum=0.2), evaluation=Evaluation(evaluators=True),
    ),
    population={f"node-{i}": _some(i) for i in range(4)} | {"empty": NodeData(_some(9).train[:0]), "strange": STRANGE},
    schema=Schema(shape=(10,), labels=(0, 1)),
    name="small",
)  # fmt: skip
