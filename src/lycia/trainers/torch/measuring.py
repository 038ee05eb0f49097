"""Measuring a model on data: the loss, what is usual beside it, and the user's own metrics."""

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lycia.errors import TrainingError
from lycia.trainers.torch import machine
from lycia.trainers.torch.loop import mean_loss, outputs_of
from lycia.trainers.torch.replica import Replica
from lycia.trainers.torch.rows import Rows, batch_sizes, batches

if TYPE_CHECKING:
    from lycia.trainers.torch.trainer import TorchTrainer

_LARGEST_BATCH = 1024
_NO_LESS_THAN = 4  # times the batch size of training, which needs far more memory


def evaluate(settings: "TorchTrainer", replica: Replica, rows: Rows) -> dict[str, float]:
    """The loss, the accuracy of classes or the mean squared error (mse) of numbers, and the user's metrics.

    Raises: TrainingError, if the module, the loss, the metrics and the data do not fit together.
    """
    module, count = replica.module.eval(), len(rows)
    narrower = machine.autocast(replica.vector.device, settings.precision)
    largest = max(_NO_LESS_THAN * settings.batch_size, min(rows.at_once, _LARGEST_BATCH))
    sums: dict[str, float] = defaultdict(float)
    of_each, of_all = dict(settings.metrics), {}
    kept: list[tuple[Any, Any]] = []
    with torch.no_grad():
        for inputs, targets, size in batches(rows, np.arange(count), batch_sizes(count, largest, two_at_least=False)):
            with narrower:
                outputs = outputs_of(module, inputs, targets)
                loss = mean_loss(settings.loss, outputs, targets, size)
            outputs = outputs.float()
            own = {name: metric(outputs, targets) for name, metric in of_each.items()}
            if not sums:  # the first batch tells which kind each metric is of
                of_all = {name: of_each.pop(name) for name, value in own.items() if np.shape(value) != (size,)}
            sums["loss"] += float(loss) * size
            for name, value in {**_usual(outputs, targets), **own}.items():
                if name not in of_all:
                    sums[name] += _total(name, value, size)
            if of_all:
                kept.append((outputs.cpu(), targets.cpu() if isinstance(targets, torch.Tensor) else targets))
        whole = {name: _total(name, metric(*_joined(kept)), 1) * count for name, metric in of_all.items()}
    return {name: total / count for name, total in {**sums, **whole}.items()}


def _usual(outputs: torch.Tensor, targets: Any) -> dict[str, torch.Tensor]:
    """What one expects to be told of such outputs, a value for each example."""
    if not isinstance(targets, torch.Tensor) or not outputs.ndim:
        return {}
    if targets.dtype == torch.int64 and targets.ndim == 1:
        if outputs.ndim == 2 and outputs.shape[1] > 1:
            return {"accuracy": outputs.argmax(dim=1) == targets}
        if outputs.numel() == len(targets):
            return {"accuracy": (outputs.reshape(-1) > 0) == targets.bool()}
    elif targets.is_floating_point() and outputs.numel() == targets.numel():
        squares = (outputs.reshape(targets.shape) - targets.float()).square()
        return {"mse": squares.reshape(len(targets), -1).mean(dim=1)}
    return {}


def _joined(kept: list[tuple[Any, Any]]) -> tuple[torch.Tensor, Any]:
    outputs, targets = (list(column) for column in zip(*kept, strict=True))
    return torch.cat(outputs), torch.cat(targets) if isinstance(targets[0], torch.Tensor) else targets


def _total(name: str, value: Any, size: int) -> float:
    found = torch.as_tensor(value)
    if found.numel() != size:
        raise TrainingError(
            f"the metric {name!r} gave values of shape {tuple(found.shape)} for {size} examples.",
            why="a metric is one value for each example of every batch, or one number for all examples.",
            do="return a tensor of shape (n,), or a number.",
        )
    return float(found.cpu().double().sum())
