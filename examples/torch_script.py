"""Handwritten digits with PyTorch: an ordinary script, as it was before it became the federated app of torch_app.py.

    python examples/torch_script.py

It needs all digits in one place.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.layers(pictures / 16)


pictures, digits = load_digits(return_X_y=True)
data = TensorDataset(torch.tensor(pictures, dtype=torch.float32), torch.tensor(digits))
train, held_out = random_split(data, [0.75, 0.25], torch.Generator().manual_seed(0))

model = Net()
loss = nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

for _ in range(10):
    for inputs, targets in DataLoader(train, batch_size=32, shuffle=True):
        optimizer.zero_grad()
        loss(model(inputs), targets).backward()
        optimizer.step()

model.eval()
with torch.no_grad():
    inputs, targets = held_out[:]
    accuracy = (model(inputs).argmax(dim=1) == targets).float().mean().item()
print(f"accuracy on {len(held_out)} digits that were held out: {accuracy:.3f}")
