"""Modules and data that the tests of the torch room share."""

from functools import partial

import torch
from torch import nn

from lycia.core.keys import Key
from lycia.core.layout import Layout, Model
from lycia.core.training import LocalTask
from lycia.data import Examples, Schema
from lycia.trainers.torch import TorchTrainer

SCHEMA = Schema(shape=(5,), labels=(0, 1, 2), bounds=(-8, 8))
NUMBERS = Schema(shape=(5,))
EACH = partial(nn.functional.cross_entropy, reduction="none")


def linear() -> nn.Module:
    """The smallest model."""
    return nn.Linear(5, 3)


def network() -> nn.Module:
    """Two layers."""
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def normalised() -> nn.Module:
    """With running statistics, and with dropout."""
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 3))


class Tied(nn.Module):
    """A layer that is used twice under two names, a frozen one, and a statistic."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 4)
        self.there = nn.Linear(4, 4, bias=False)
        self.norm = nn.BatchNorm1d(4)
        self.back = nn.Linear(4, 4, bias=False)
        self.back.weight = self.there.weight
        self.head = nn.Linear(4, 3)
        self.stem.requires_grad_(False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Scores."""
        hidden = self.norm(self.there(torch.tanh(self.stem(rows))))
        return self.head(self.back(torch.relu(hidden)))


def examples(count: int = 40, seed: int = 0) -> Examples:
    """Three classes that can be told apart."""
    random = Key(seed).generator()
    labels = random.integers(0, 3, count)
    features = random.standard_normal((count, 5))
    features[:, 0] += 3 * labels
    return Examples(features, labels)


def begin(trainer: TorchTrainer, schema: Schema | None = SCHEMA, seed: int = 0) -> tuple[Layout, Model]:
    """Where training starts."""
    return trainer.first_model(schema, Key(seed))


def task_of(
    trainer: TorchTrainer, data: object = None, *, schema: Schema | None = SCHEMA, seed: int = 0, **more: object
) -> LocalTask:
    """The first round of a run over this data."""
    layout, model = begin(trainer, schema)
    return LocalTask(layout, model, examples() if data is None else data, Key(seed).at("train"), **more)  # type: ignore[arg-type]
