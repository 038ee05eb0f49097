"""Training by a loop that is not ours: a module goes out with the model's numbers in it, and comes back with others."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lycia.core.layout import Layout, Model
from lycia.core.training import LocalResult, LocalTask
from lycia.errors import LayoutError, TrainingError
from lycia.trainers.local import Work
from lycia.trainers.torch import machine, modules
from lycia.trainers.torch.modules import Masks
from lycia.trainers.torch.rows import dataset_for

if TYPE_CHECKING:
    from lycia.trainers.torch.trainer import TorchTrainer


def train(settings: "TorchTrainer", loop: Callable[..., Any], task: LocalTask, device: torch.device) -> LocalResult:
    """What the user's function makes of a module that nobody used before.

    Raises: TrainingError, if the data or the module do not fit, or if the function returns no metrics.
    """
    dataset = dataset_for(task.data, task.model)
    module = module_with(settings.build_model, settings.masks, task.layout, task.model).to(device).train()
    factor = settings.schedule.factor(task.round) if settings.schedule else 1.0
    seed = machine.seed_of(task.key.at("work"))
    work = Work(settings.epochs, settings.steps, settings.batch_size, factor, task.round, seed, str(device))
    found = loop(module, dataset, work)
    try:
        metrics = {str(name): float(value) for name, value in dict(found or {}).items()}
    except (TypeError, ValueError):
        raise TrainingError(
            f"the training function returned a {type(found).__name__} that holds no metrics.",
            why="it returns a dict from names to numbers, or nothing.",
            do='write, for example, return {"loss": total / count}.',
        ) from None
    steps, rate = int(metrics.pop("steps", 0)), metrics.pop("learning_rate", 0.0)
    return LocalResult(modules.taken_from(module, task.layout, task.model), float(len(task.data)), steps, rate, metrics)


def module_with(build_model: Callable[..., Any], masks: Masks, layout: Layout, model: Model) -> nn.Module:
    """A new module with the model's numbers in it.

    Raises: TrainingError, if it is a model of another module.
    """
    module = modules.built_for(build_model, masks, model)
    try:
        return modules.load_into(module, layout, model)
    except LayoutError as error:
        raise TrainingError(error.what, why=error.why, do=error.do) from None
