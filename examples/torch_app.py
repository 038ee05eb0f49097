"""Handwritten digits with PyTorch at four sites: torch_script.py, once it has become a federated app.

    lycia simulate examples/torch_app.py

The module and its data are those of the script. A TorchTrainer takes the place of its loop and of its measurement; each
site holds a quarter of the digits, and no digit leaves it.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset, random_split

from lycia import SGD, App, Everyone, ExampleWeightedMean, FedAvg, NodeData, Plan, TorchTrainer


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.layers(pictures / 16)


pictures, digits = load_digits(return_X_y=True)
data = TensorDataset(torch.tensor(pictures, dtype=torch.float32), torch.tensor(digits))
train, held_out = random_split(data, [0.75, 0.25], torch.Generator().manual_seed(0))
shares = [random_split(part, [0.25] * 4, torch.Generator().manual_seed(0)) for part in (train, held_out)]

app = App(
    trainer=TorchTrainer(Net, nn.CrossEntropyLoss(), optimizer=SGD(0.1, momentum=0.9), batch_size=32),
    plan=Plan(
        rounds=10,
        selector=Everyone(),
        client=FedAvg(),
        aggregator=ExampleWeightedMean(),
        server=SGD(),
        statistics="average",
    ),
    population={f"site {number}": NodeData(*share) for number, share in enumerate(zip(*shares, strict=True))},
)
