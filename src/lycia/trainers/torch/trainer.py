"""The settings of a trainer of PyTorch modules. PyTorch itself is not imported before there is one."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass, field, fields
from functools import cached_property, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lycia.algorithms import SGD
from lycia.core import training
from lycia.core.keys import Key
from lycia.core.layout import Layout, Model
from lycia.core.normalising import Moments
from lycia.core.training import LocalResult, LocalTask
from lycia.errors import AppError, TrainingError
from lycia.trainers.examples import moments_of
from lycia.trainers.local import LocalAdam, Schedule, is_count

if TYPE_CHECKING:
    from lycia.trainers.torch.modules import Masks
    from lycia.trainers.torch.replica import Pool, Replica

PRECISIONS = ("float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda", "mps")
_PLAIN = SGD(0.01)
_MEASURING = Key(0).at("evaluate")  # for a module that draws numbers even in eval mode


class ModuleTrainer:
    """What trainers of an nn.Module have in common: how it becomes a model, and the model a module again."""

    build_model: Callable[..., Any]
    frozen: tuple[str, ...]
    local: tuple[str, ...]
    scaled: bool
    threads: int

    def first_model(self, schema: training.Schema | None, key: Key) -> tuple[Layout, Model]:
        """The module as it is built, with the label set and the scaling beside it.

        Raises: TrainingError, if the module cannot be federated, or if a schema is missing where one is needed.
        """
        from lycia.trainers.torch import modules

        return modules.first_model(self.build_model, self.masks, schema, key, scaled=self.scaled, threads=self.threads)

    def moments(self, data: Any) -> Moments:
        """Count, mean and variance of each feature of examples.

        Raises: TrainingError, if the data is not examples of numbers.
        """
        return moments_of(data)

    def predictor(self, layout: Layout, model: Model) -> Any:
        """A new module with the model in it, in eval mode; it scales its inputs first, if the model was made so.

        Raises: LayoutError, if it is not a model of this trainer.
        """
        from lycia.trainers.torch import modules

        return modules.predictor(self.build_model, self.masks, layout, model)

    @cached_property
    def masks(self) -> "Masks":
        """What is frozen, and what is local."""
        from lycia.trainers.torch.modules import Masks

        return Masks(self.frozen, self.local)

    def _take_patterns(self) -> None:
        for name in ("frozen", "local"):  # a lone one may be given as a text
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(given))


@dataclass(frozen=True)
class TorchTrainer(ModuleTrainer):
    """Trains any nn.Module; its leaves are the names of its state_dict.

    Parameters are trained together, float buffers (BatchNorm) and integer ones are statistics, and parameters that
    require no gradient are frozen: each node gets them once. Tied tensors are one leaf with aliases. Of `Examples`,
    floats and bools come to the module as float32, integers (token ids) as int64; their labels come to the loss as
    places in the schema's label set (int64), or without one as float32. A map-style Dataset of (input, target) pairs
    may be a node's data, too; its pairs come as they are.

    Attributes:
      build_model: gives the module, called without arguments or with the app's schema. What it draws from the
        generators of torch, NumPy and Python follows from the run's seed.
      loss: (outputs, targets) → one value for each example, or their mean.
      optimizer: SGD(…) or LocalAdam(…), which are data; or a function from the parameters to an optimizer of torch. It
        starts afresh in every round.
      schedule: how the learning rate changes over the run, such as CosineDecay(rounds=100).
      batch_size: examples in a batch. The last one may be smaller; where the module has BatchNorm, which cannot learn
        from a single example, a last single one joins the batch before it.
      epochs: passes over the node's data; not used where `steps` is given.
      steps: optimizer steps of local work instead, whatever the node's size.
      clip_norm: the largest L2 norm of a step's gradient, before the client rule adds to it.
      accumulate: batches in one optimizer step, weighted by their examples; the last step of an epoch may have fewer.
      precision: "float32", or "bfloat16" or "float16" for mixed precision.
      device: "cpu", "cuda", "cuda:1", "mps", or "auto" for a GPU where there is one.
      frozen: patterns of names, such as "backbone.*", that are never trained. They go on in train mode.
      local: patterns of names, such as "head.*", that each node keeps to itself; buffers, too.
      scaled: brings the features of examples to one scale, as a part of the model.
      metrics: name → (outputs, targets) → one value for each example, or one number for all; beside the loss, and the
        accuracy of classes or the mean squared error (mse) of numbers.
      loop: a whole training function instead of these settings: (module, dataset, work) → metrics or None, where `work`
        is a `Work`. Metrics called "steps" and "learning_rate" say what it did. Client rules cannot add to its steps.
      threads: of torch, while it trains and measures.
    Guarantees: on the CPU equal tasks give equal results, bit for bit, with the same torch on the same kind of machine:
      whatever was trained before. Global generators and thread numbers are as they were afterwards.
    Raises:
      AppError: if a setting cannot train.
      TrainingError: if PyTorch is not installed.
    Example:
      >>> TorchTrainer(Net, nn.CrossEntropyLoss(), optimizer=SGD(0.1, momentum=0.9))  # doctest: +SKIP
    """

    build_model: Callable[..., Any]
    loss: Callable[..., Any]
    _: KW_ONLY
    optimizer: SGD | LocalAdam | Callable[..., Any] = _PLAIN
    schedule: Schedule | None = None
    batch_size: int = 32
    epochs: int = 1
    steps: int | None = None
    clip_norm: float | None = None
    accumulate: int = 1
    precision: str = "float32"
    device: str = "cpu"
    frozen: tuple[str, ...] = ()
    local: tuple[str, ...] = ()
    scaled: bool = False
    metrics: Mapping[str, Callable[..., Any]] = field(default_factory=dict, hash=False)
    loop: Callable[..., Mapping[str, float] | None] | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        check_installed("torch", "torch")
        self._take_patterns()
        object.__setattr__(self, "metrics", dict(self.metrics))
        _check_settings(self)

    @property
    def takes_terms(self) -> bool:
        """Whether client rules may add to the steps; not to those of a loop of one's own."""
        return self.loop is None

    def train(self, task: LocalTask) -> LocalResult:
        """The model after local steps from the task's. Its metric is the mean loss over all steps.

        Raises: TrainingError, if there are no examples, if they do not fit the module, if a loss is not finite, or if
          the device is not here.
        """
        from lycia.trainers.torch import loop, machine, own, rows

        device = machine.device_of(self.device)
        with machine.alone(task.key.at("torch"), self.threads, device):
            if self.loop is not None:
                return own.train(self, self.loop, task, device)
            data = rows.rows_for(task.data, task.model, device)
            with self._replica(device, task.layout, task.model) as replica:
                return loop.train(self, task, replica, data)

    def evaluate(self, layout: Layout, model: Model, data: Any) -> tuple[float, dict[str, float]]:
        """How many examples there are, and the metrics, measured with the module in eval mode.

        Raises: TrainingError, as `train` does.
        """
        from lycia.trainers.torch import machine, measuring, rows

        device = machine.device_of(self.device)
        with machine.alone(_MEASURING, self.threads, device):
            known = rows.rows_for(data, model, device)
            with self._replica(device, layout, model) as replica:
                return float(len(known)), measuring.evaluate(self, replica, known)

    @cached_property
    def _pool(self) -> "Pool":
        return []

    def _replica(self, device: Any, layout: Layout, model: Model) -> "AbstractContextManager[Replica]":
        from lycia.trainers.torch import modules, replica

        build = partial(modules.built_for, self.build_model, self.masks, model)
        return replica.borrowed(self._pool, build, self.masks, device, layout, model)

    def __getstate__(self) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in fields(self)}  # modules stay in their process


def check_installed(package: str, extra: str) -> None:
    """Do nothing if the package can be imported.

    Raises: TrainingError.
    """
    try:
        import_module(package)
    except ImportError as error:
        raise TrainingError(
            f"{package} is not installed.",
            why=f"this trainer trains with it, and importing it fails: {error}.",
            do=f"pip install 'lycia[{extra}]'",
        ) from None


def _check_settings(trainer: TorchTrainer) -> None:
    if hasattr(trainer.build_model, "state_dict") and not isinstance(trainer.build_model, type):
        kind = type(trainer.build_model).__name__
        raise AppError(
            f"TorchTrainer is given a {kind}, and takes a function that makes one.",
            why="every node and every process builds the module for itself, with weights that follow from the seed.",
            do=f"pass the class, or a function: TorchTrainer(lambda: {kind}(…), …).",
        )
    settings = {
        "build_model": callable(trainer.build_model),
        "loss": callable(trainer.loss),
        "schedule": trainer.schedule is None or isinstance(trainer.schedule, Schedule),
        "batch_size": is_count(trainer.batch_size),
        "epochs": is_count(trainer.epochs),
        "steps": trainer.steps is None or is_count(trainer.steps),
        "clip_norm": trainer.clip_norm is None or trainer.clip_norm > 0,
        "accumulate": is_count(trainer.accumulate),
        "precision": trainer.precision in PRECISIONS,
        "device": trainer.device.split(":")[0] in DEVICES,
        "metrics": "loss" not in trainer.metrics and all(map(callable, trainer.metrics.values())),
        "loop": trainer.loop is None or callable(trainer.loop),
        "threads": is_count(trainer.threads),
    }
    for name, fits in settings.items():
        if not fits:
            raise AppError(
                f"TorchTrainer({name}={getattr(trainer, name)!r}) cannot train.",
                why="build_model, loss, loop and metrics are functions, and no metric is called 'loss'; counts are "
                f"whole numbers from one on; clip_norm is positive; precision is one of {', '.join(PRECISIONS)}; "
                f"device is one of {', '.join(DEVICES)}, with a number after a colon where there are several.",
                do="see the attributes in its docstring.",
            )
    _check_optimizer(trainer.optimizer)
    idle = [name for name in ("clip_norm", "accumulate", "precision") if getattr(trainer, name) != _DEFAULTS[name]]
    if trainer.loop is not None and idle:
        raise AppError(
            f"TorchTrainer(loop=…, {', '.join(f'{name}={getattr(trainer, name)!r}' for name in idle)}) cannot train.",
            why="a loop of your own takes its steps itself, and would not be told of this.",
            do="do it in the loop, or leave the loop out.",
        )


def _check_optimizer(optimizer: Any) -> None:
    if isinstance(optimizer, (SGD, LocalAdam)):
        return
    if hasattr(optimizer, "slots") and hasattr(optimizer, "step"):
        name = optimizer.__name__ if isinstance(optimizer, type) else type(optimizer).__name__
        raise AppError(
            f"TorchTrainer(optimizer={name}{'' if isinstance(optimizer, type) else '(…)'}) cannot train.",
            why=f"{name} is a rule for the server's step along the mean update, or not made yet.",
            do="use SGD(0.05) or LocalAdam(0.001) at the nodes, and give Plan(server=…) the server's rule.",
        )
    if not callable(optimizer) or hasattr(optimizer, "param_groups"):
        raise AppError(
            f"TorchTrainer(optimizer={optimizer!r}) cannot train.",
            why="each node starts with an optimizer of its own, over its own parameters, in every round.",
            do="use SGD(…) or LocalAdam(…), or a function: lambda params: torch.optim.RMSprop(params, lr=0.01).",
        )


_DEFAULTS = {item.name: item.default for item in fields(TorchTrainer)}
