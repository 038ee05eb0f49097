"""The same nodes and the same script with a module of PyTorch: a frozen layer, running statistics, and tied weights.

Before the first round nodes describe their features, so that all are on one scale.
"""

from dataclasses import replace

import torch
from torch import nn

from lycia import SGD, Adam, Normalisation
from lycia.trainers.torch import TorchTrainer
from tests.stories.digits_app import app as digits_app
from tests.stories.digits_app import plan


class Net(nn.Module):
    """All that a module can be made of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(64, 24)
        self.stem.requires_grad_(False)
        self.norm = nn.BatchNorm1d(24)
        self.there, self.back = nn.Linear(24, 24), nn.Linear(24, 24)
        self.back.weight = self.there.weight
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(24, 10)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """A score for each digit."""
        hidden = torch.relu(self.norm(self.stem(pictures)))
        return self.head(self.drop(torch.relu(self.back(torch.relu(self.there(hidden))))))


app = replace(
    digits_app,
    trainer=TorchTrainer(
        Net, nn.CrossEntropyLoss(reduction="none"), optimizer=SGD(0.1, momentum=0.5), batch_size=16, scaled=True
    ),
    plan=replace(plan(Adam(learning_rate=0.03)), statistics="average", normalisation=Normalisation()),
)
