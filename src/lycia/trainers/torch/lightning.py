"""Modules of Lightning, trained by Lightning itself: their training_step, optimizers, callbacks and validation_step."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

import numpy as np

from lycia.core.keys import Key
from lycia.core.layout import Layout, Model
from lycia.core.training import LocalResult, LocalTask
from lycia.errors import AppError, TrainingError
from lycia.trainers.local import is_count
from lycia.trainers.torch.trainer import ModuleTrainer, check_installed

_MEASURING = Key(0).at("evaluate")
_QUIET: Mapping[str, Any] = {
    "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip
_OURS = ("max_epochs", "max_steps")


@dataclass(frozen=True)
class LightningTrainer(ModuleTrainer):
    """Trains a LightningModule with a `lightning.Trainer` of its own in every round. It writes nothing to disk.

    The leaves of the model, the data and its batches are those of `TorchTrainer`. The module's `configure_optimizers`
    gives a fresh optimizer in every round, so what it schedules begins anew.

    Attributes:
      build_model: gives the module, called without arguments or with the app's schema.
      batch_size, epochs: of local training.
      steps: optimizer steps instead of epochs, where it is given.
      settings: further arguments of lightning.Trainer, such as {"gradient_clip_val": 1.0, "accelerator": "gpu"}.
      frozen, local, scaled, threads: as `TorchTrainer` takes them.
    Guarantees: on the CPU equal tasks give equal results, bit for bit, with the same versions.
    Raises:
      AppError: if a setting cannot train.
      TrainingError: if Lightning is not installed.
    Example:
      >>> LightningTrainer(DigitsModule, epochs=2, settings={"gradient_clip_val": 1.0})  # doctest: +SKIP
    """

    build_model: Callable[..., Any]
    _: KW_ONLY
    batch_size: int = 32
    epochs: int = 1
    steps: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    frozen: tuple[str, ...] = ()
    local: tuple[str, ...] = ()
    scaled: bool = False
    threads: int = 1
    takes_terms: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_installed("lightning", "lightning")
        self._take_patterns()
        object.__setattr__(self, "settings", dict(self.settings))
        counts = {
            "batch_size": is_count(self.batch_size), "epochs": is_count(self.epochs),
            "steps": self.steps is None or is_count(self.steps), "threads": is_count(self.threads),
            "settings": not self.settings.keys() & set(_OURS), "build_model": callable(self.build_model),
        }  # fmt: skip
        for name, fits in counts.items():
            if not fits:
                raise AppError(
                    f"LightningTrainer({name}={getattr(self, name)!r}) cannot train.",
                    why="build_model is a function, counts are whole numbers from one on, and settings leave out "
                    f"{_OURS[0]} and {_OURS[1]}, which follow from epochs and steps.",
                    do="see the attributes in its docstring.",
                )

    def train(self, task: LocalTask) -> LocalResult:
        """The model after fitting from the task's. Its metrics are what the module has logged.

        Raises: TrainingError, if the module cannot be fitted to this data.
        """
        from torch.utils.data import DataLoader

        from lycia.trainers.torch import machine, modules, own
        from lycia.trainers.torch.loop import normalises
        from lycia.trainers.torch.rows import batch_sizes, dataset_for

        key = task.key.at("torch")
        with machine.alone(key, self.threads, machine.device_of("cpu")), _quietly():
            module = own.module_with(self.build_model, self.masks, task.layout, task.model)
            data = dataset_for(task.data, task.model)
            sizes = batch_sizes(len(task.data), self.batch_size, two_at_least=normalises(module))
            loader = DataLoader(data, batch_sampler=_Shuffled(sizes, task.key.generator()))
            trainer = self._trainer()
            with _in_words(module):
                trainer.fit(module, loader)
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
            rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
            rate = float(sum(rates) / len(rates)) if rates else 0.0
            model = modules.taken_from(module, task.layout, task.model)
        return LocalResult(model, float(len(task.data)), trainer.global_step, rate, metrics)

    def evaluate(self, layout: Layout, model: Model, data: Any) -> tuple[float, dict[str, float]]:
        """How many examples there are, and what the module's validation_step has logged.

        Raises: TrainingError, if it has none, or cannot measure on this data.
        """
        from torch.utils.data import DataLoader

        from lycia.trainers.torch import machine, own
        from lycia.trainers.torch.rows import dataset_for

        with machine.alone(_MEASURING, self.threads, machine.device_of("cpu")), _quietly():
            module = own.module_with(self.build_model, self.masks, layout, model)
            loader = DataLoader(dataset_for(data, model), batch_size=self.batch_size)
            with _in_words(module):
                found = self._trainer().validate(module, loader, verbose=False)
        return float(len(data)), {name: float(value) for logged in found for name, value in logged.items()}

    def _trainer(self) -> Any:
        from lightning.pytorch import Trainer

        length = {"max_epochs": self.epochs} if self.steps is None else {"max_epochs": -1, "max_steps": self.steps}
        return Trainer(**{"accelerator": "cpu", "devices": 1, **_QUIET, **length, **self.settings})


class _Shuffled:
    """The places of each batch, in another order in every epoch, as `TorchTrainer` takes them."""

    def __init__(self, sizes: list[int], random: np.random.Generator) -> None:
        self._sizes, self._random = sizes, random

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[list[int]]:
        ends = np.cumsum(self._sizes)
        return (places.tolist() for places in np.split(self._random.permutation(ends[-1]), ends[:-1]))


@contextmanager
def _quietly() -> Iterator[None]:
    """Inside, Lightning does not tell of the machine and of settings that suit a training of hours."""
    talkers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in talkers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        for logger in talkers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(talkers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _in_words(module: Any) -> Iterator[None]:
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    try:
        yield
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # Lightning leaves the program there; a run is to be paused
            raise KeyboardInterrupt from None
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, MisconfigurationException) as error:
        raise TrainingError(
            f"the module {type(module).__name__} cannot work with this data or these settings.",
            why=f"Lightning or PyTorch says: {error}",
            do="check the data against the app's schema; training_step, configure_optimizers and validation_step are "
            "those of the module.",
        ) from error
