"""Local training: batches, gradients, what is done to them, and the steps."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import nn

from lycia.algorithms import SGD
from lycia.core.training import GradientTerm, LocalResult, LocalTask
from lycia.errors import TrainingError
from lycia.trainers.local import LocalAdam
from lycia.trainers.torch import machine
from lycia.trainers.torch.replica import Replica
from lycia.trainers.torch.rows import Rows, batch_sizes, batches

if TYPE_CHECKING:
    from lycia.trainers.torch.trainer import TorchTrainer

_LOOK_EVERY = 64  # batches between two looks at the losses, which a GPU has to be waited for
_REFUSALS = (RuntimeError, ValueError, TypeError, IndexError)
"""What PyTorch raises when shapes or types do not fit."""


def train(settings: "TorchTrainer", task: LocalTask, replica: Replica, rows: Rows) -> LocalResult:
    """The result of local steps from the model that is in `replica`.

    Raises: TrainingError, if the module, the loss and the data do not fit together, or if a loss is not finite.
    """
    module, device = replica.module.train(), replica.vector.device
    scale = _LossScale() if settings.precision == "float16" else None
    stepper = _stepper(settings, replica, as_it_is=task.term is None and settings.clip_norm is None and scale is None)
    term = None if task.term is None else _Term(task.term, replica)
    narrower = machine.autocast(device, settings.precision)
    work = _Groups(settings, rows, task.key.generator(), two_at_least=normalises(module))
    losses, rates = _Losses(work.steps), []
    for step, (sizes, feed) in enumerate(work):
        replica.forget_gradients()
        together = sum(sizes)
        for inputs, targets, size in islice(feed, len(sizes)):
            with narrower:
                loss = mean_loss(settings.loss, outputs_of(module, inputs, targets), targets, size)
            _backward(loss, size / together * (scale.factor if scale else 1.0), inputs, targets)
            losses.add(loss.detach(), size, step)
        factor = settings.schedule.factor(task.round + step / work.steps) if settings.schedule else 1.0
        with torch.no_grad():
            if stepper.wants_vector:
                replica.gather_gradients()
                if scale and not scale.take_off(replica.gradient):
                    continue
                if settings.clip_norm is not None:
                    _clip(replica.gradient, settings.clip_norm)
                if term:
                    term.add()
            rates.append(stepper.step(factor))
            replica.narrow()
    return LocalResult(
        replica.result(task.model), float(len(rows)), len(rates), float(np.mean(rates)) if rates else 0.0,
        {"loss": losses.mean()},
    )  # fmt: skip


def outputs_of(module: nn.Module, inputs: Any, targets: Any) -> torch.Tensor:
    """What the module makes of a batch.

    Raises: TrainingError, if it cannot take the inputs, or gives something else than a tensor.
    """
    try:
        outputs = module(inputs)
    except _REFUSALS as error:
        raise _misfit(f"the module {type(module).__name__} cannot take", inputs, targets, error) from error
    if not isinstance(outputs, torch.Tensor):
        raise TrainingError(
            f"the module gave a {type(outputs).__name__} instead of a tensor.",
            why="the loss and the metrics are computed from one tensor of outputs.",
            do="return the scores from forward, such as `model(x).logits`, or use TorchTrainer(…, loop=…).",
        )
    return outputs


def mean_loss(loss: Callable[..., Any], outputs: torch.Tensor, targets: Any, size: int) -> torch.Tensor:
    """The mean loss of a batch, whether the user's function gives the mean or one value for each example.

    Raises: TrainingError, if it gives something else, or cannot take the outputs with these targets.
    """
    try:
        found = loss(outputs, targets)
    except _REFUSALS as error:
        raise _misfit(f"the loss cannot take outputs of {_shown(outputs)} with", None, targets, error) from error
    if isinstance(found, torch.Tensor) and found.shape == (size,):
        return found.mean()
    if isinstance(found, torch.Tensor) and found.shape == ():
        return found
    raise TrainingError(
        f"the loss gave {_shown(found)} for a batch of {size} examples.",
        why=f"a loss is one value for each example, or their mean; the outputs are {_shown(outputs)}, and the targets "
        f"{_shown(targets)}.",
        do="take the mean over all other axes; squeeze outputs of shape (n, 1) where the targets have shape (n,).",
    )


def _backward(loss: torch.Tensor, share: float, inputs: Any, targets: Any) -> None:
    try:
        torch.autograd.backward(loss if share == 1.0 else loss * share)
    except _REFUSALS as error:
        raise _misfit("the loss cannot be traced back to the parameters, for", inputs, targets, error) from error


def _clip(gradient: torch.Tensor, norm: float) -> None:
    gradient.mul_((norm / (torch.linalg.vector_norm(gradient) + 1e-6)).clamp(max=1.0))


def normalises(module: nn.Module) -> bool:
    """Whether it has BatchNorm, which cannot learn from a batch of one example."""
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())


class _Groups:
    """The batches of all epochs, in groups with a step after each: the sizes of a group, and where its batches come."""

    def __init__(
        self, settings: "TorchTrainer", rows: Rows, random: np.random.Generator, *, two_at_least: bool
    ) -> None:
        self._rows, self._random, self._together = rows, random, settings.accumulate
        self._sizes = batch_sizes(len(rows), settings.batch_size, two_at_least=two_at_least)
        self.steps = settings.steps or settings.epochs * -(-len(self._sizes) // settings.accumulate)

    def __iter__(self) -> Iterator[tuple[list[int], Iterator[tuple[Any, Any, int]]]]:
        left = self.steps
        while left:
            sizes = self._sizes[: left * self._together]
            feed = batches(self._rows, self._random.permutation(len(self._rows)), sizes)
            for start in range(0, len(sizes), self._together):
                yield sizes[start : start + self._together], feed
                left -= 1


class _Losses:
    """The losses of all batches: their mean, and that they stay finite."""

    def __init__(self, steps: int) -> None:
        self._steps, self._total, self._examples = steps, 0.0, 0
        self._waiting: list[tuple[torch.Tensor, int, int]] = []

    def add(self, loss: torch.Tensor, size: int, step: int) -> None:
        self._waiting.append((loss, size, step))
        if len(self._waiting) == _LOOK_EVERY:
            self._look()

    def mean(self) -> float:
        self._look()
        return self._total / self._examples

    def _look(self) -> None:
        values = torch.stack([loss.float() for loss, _, _ in self._waiting]).tolist() if self._waiting else []
        for value, (_, size, step) in zip(values, self._waiting, strict=True):
            if not np.isfinite(value):
                raise TrainingError(
                    f"the loss is {value} at step {step + 1} of {self._steps}.",
                    why="from there on the parameters mean nothing; this node's work is thrown away, and the model of "
                    "the federation is as it was.",
                    do="lower the learning rate, set clip_norm=1.0, or look for examples that are not finite.",
                )
            self._total += value * size
            self._examples += size
        self._waiting.clear()


class _Term:
    """What the client rule adds to the gradient of the trained segment, which it sees as NumPy arrays."""

    def __init__(self, term: GradientTerm, replica: Replica) -> None:
        self._term = term
        self._gradient, self._vector = replica.gradient[: replica.trained], replica.vector[: replica.trained]

    def add(self) -> None:
        gradient, vector = self._gradient.cpu().numpy(), self._vector.cpu().numpy()  # on the CPU these are no copies
        changed = np.ascontiguousarray(self._term(gradient, vector), np.float32)
        if self._gradient.device.type == "cpu":
            np.copyto(gradient, changed)
        else:
            self._gradient.copy_(torch.from_numpy(changed))


class _LossScale:
    """What float16 losses are multiplied with, so that small gradients do not vanish. It backs off where they overflow.

    Source: Micikevicius et al. 2018, "Mixed precision training", arXiv:1710.03740, section 3.2.
    """

    def __init__(self) -> None:
        self.factor, self._sound = 2.0**16, 0

    def take_off(self, gradient: torch.Tensor) -> bool:
        """Divide the gradient by it; returns whether the gradient can be used."""
        if not bool(torch.isfinite(gradient.sum())):
            self.factor, self._sound = self.factor / 2, 0
            return False
        gradient.div_(self.factor)
        self._sound += 1
        if self._sound == 2000:
            self.factor, self._sound = self.factor * 2, 0
        return True


# ------------------------------------------------------------------------------------------------------------ the steps


class _Stepper(Protocol):
    """Steps along the gradient.

    Attributes:
      wants_vector: whether it reads the gradient from the replica's vector, and not from the parameters.
    """

    wants_vector: bool

    def step(self, factor: float) -> float:
        """Take a step of so many times the learning rate; returns its size."""
        ...


def _stepper(settings: "TorchTrainer", replica: Replica, *, as_it_is: bool) -> _Stepper:
    rule = settings.optimizer
    if isinstance(rule, SGD):
        plain = as_it_is and not rule.momentum and not rule.weight_decay and not replica.is_narrow
        return _PlainSteps(rule, replica) if plain else _MomentumSteps(rule, replica)
    return _AdamSteps(rule, replica) if isinstance(rule, LocalAdam) else _ForeignSteps(rule, replica)


class _PlainSteps:
    """SGD where nothing comes between a gradient and its step: no gradient is moved before it is used."""

    wants_vector = False

    def __init__(self, rule: SGD, replica: Replica) -> None:
        self._rule, self._parameters = rule, replica.parameters

    def step(self, factor: float) -> float:
        rate = self._rule.learning_rate * factor
        reached = [(parameter, parameter.grad) for parameter in self._parameters if parameter.grad is not None]
        torch._foreach_add_([item for item, _ in reached], [gradient for _, gradient in reached], alpha=-rate)
        return rate


class _MomentumSteps:
    wants_vector = True

    def __init__(self, rule: SGD, replica: Replica) -> None:
        self._rule, self._vector, self._gradient = rule, replica.vector, replica.gradient
        self._velocity = torch.zeros_like(replica.vector) if rule.momentum else None

    def step(self, factor: float) -> float:
        rule, step = self._rule, self._gradient
        rate = rule.learning_rate * factor
        if rule.weight_decay:
            step.add_(self._vector, alpha=rule.weight_decay)
        if self._velocity is not None:
            step = self._velocity.mul_(rule.momentum).add_(step)
        self._vector.add_(step, alpha=-rate)
        return rate


class _AdamSteps:
    wants_vector = True

    def __init__(self, rule: LocalAdam, replica: Replica) -> None:
        self._rule, self._vector, self._gradient = rule, replica.vector, replica.gradient
        self._mean, self._square = torch.zeros_like(replica.vector), torch.zeros_like(replica.vector)
        self._steps = 0

    def step(self, factor: float) -> float:
        rule, gradient = self._rule, self._gradient
        rate = rule.learning_rate * factor
        self._steps += 1
        if rule.weight_decay and rule.decoupled:
            self._vector.mul_(1 - rate * rule.weight_decay)
        elif rule.weight_decay:
            gradient.add_(self._vector, alpha=rule.weight_decay)
        self._mean.lerp_(gradient, 1 - rule.beta1)
        self._square.mul_(rule.beta2).addcmul_(gradient, gradient, value=1 - rule.beta2)
        spread = (self._square.sqrt() / (1 - rule.beta2**self._steps) ** 0.5).add_(rule.epsilon)
        self._vector.addcdiv_(self._mean, spread, value=-rate / (1 - rule.beta1**self._steps))
        return rate


class _ForeignSteps:
    """An optimizer of PyTorch, over parameters that are the views of the vector."""

    wants_vector = True

    def __init__(self, factory: Callable[[Sequence[nn.Parameter]], Any], replica: Replica) -> None:
        parameters = [nn.Parameter(view) for view in replica.views]
        for parameter, gradient in zip(parameters, replica.gradients, strict=True):
            parameter.grad = gradient
        self._optimizer = factory(parameters)
        if not isinstance(self._optimizer, torch.optim.Optimizer):
            raise TrainingError(
                f"the optimizer's factory gave a {type(self._optimizer).__name__}.",
                why="it is called with the parameters, and returns an optimizer of PyTorch over them.",
                do="write optimizer=lambda params: torch.optim.RMSprop(params, lr=0.01).",
            )
        groups = self._optimizer.param_groups
        self._rates = [float(group.get("lr", 0.0)) for group in groups]
        sizes = [sum(parameter.numel() for parameter in group["params"]) for group in groups]
        self._shares: list[float] = [size / len(replica.vector) for size in sizes]

    def step(self, factor: float) -> float:
        rates = [rate * factor for rate in self._rates]
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            if "lr" in group:
                group["lr"] = rate
        self._optimizer.step()
        return sum(rate * share for rate, share in zip(rates, self._shares, strict=True))


def _misfit(what: str, inputs: Any, targets: Any, error: Exception) -> TrainingError:
    seen = [
        f"{noun} of {_shown(value)}" for noun, value in (("inputs", inputs), ("targets", targets)) if value is not None
    ]
    return TrainingError(
        f"{what} {' and '.join(seen)}.",
        why=f"PyTorch says: {error}",
        do="check the data against the app's schema, and the shapes that build_model is made for.",
    )


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"shape {tuple(value.shape)} ({str(value.dtype).removeprefix('torch.')})"
    return f"type {type(value).__name__}"
