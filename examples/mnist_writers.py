"""MNIST by the people who wrote it: 539 nodes, each with the digits of one writer, and a convolutional network.

    lycia simulate examples/mnist_writers.py
    python examples/mnist_writers.py              # ten writers alone, on other people's digits

Each round twenty writers train. Every writer keeps a fifth of the digits to measure with; the operator's evaluator has
the official test set, which 297 other people wrote. The data comes from LYCIA_DATA, or is downloaded once.
"""

from functools import partial
from statistics import mean

import torch
from torch import nn
from torch.nn import functional

from lycia import (
    SGD,
    App,
    Evaluation,
    Examples,
    ExampleWeightedMean,
    FedAvg,
    Key,
    NodeData,
    Plan,
    TorchTrainer,
    Uniform,
)
from lycia.core.training import LocalTask
from lycia.data.datasets import MNIST, mnist, mnist_by_writer


class Network(nn.Module):
    """Two convolutions and two dense layers: 28 × 28 grey pictures to ten scores."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10),
        )  # fmt: skip

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.layers(pictures.reshape(-1, 1, 28, 28))
        return scores


app = App(
    name="mnist-writers",
    trainer=TorchTrainer(
        Network, partial(functional.cross_entropy, reduction="none"), optimizer=SGD(0.1), batch_size=10, epochs=5,
        scaled=True,  # pictures are stored as whole numbers, 0 to 255
    ),
    plan=Plan(
        rounds=20, selector=Uniform(cohort_size=20), client=FedAvg(), aggregator=ExampleWeightedMean(), server=SGD(),
        evaluation=Evaluation(every=5, nodes=50, baseline_rounds=20),
    ),
    population=mnist_by_writer,
    evaluator=NodeData(None, mnist().held_out),
    schema=MNIST,
)  # fmt: skip


def alone(writer: str, data: Examples) -> float:
    """What a writer who trains alone, for as many rounds of the same local work, reads of other people's digits."""
    layout, model = app.trainer.first_model(app.schema, Key(app.plan.seed).at("first model"))
    for number in range(app.plan.rounds):
        task = LocalTask(layout, model, data, Key(0).at("alone", number, writer, "train"), round=number)
        model = app.trainer.train(task).model
    return app.trainer.evaluate(layout, model, app.evaluator.held_out)[1]["accuracy"]


if __name__ == "__main__":
    population = mnist_by_writer()
    found = {writer: alone(writer, population[writer].train) for writer in population.names[::54]}
    for writer, accuracy in found.items():
        print(f"{writer} alone, on other people's digits: {accuracy:.3f}")
    print(f"on average: {mean(found.values()):.3f}")
