"""Local training as data: the optimizer that a node steps with, and how its learning rate changes over the run.

These say what a step is, and name no framework, so that any trainer or engine can take them. The plain local optimizer
is the `SGD` of lycia.algorithms: one rule for the server's step and for local ones.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from numbers import Integral
from typing import Protocol, runtime_checkable

from lycia.errors import AppError


@dataclass(frozen=True)
class LocalAdam:
    """Adam at the node, both moments corrected for their start; they start afresh in every round.

    The server's Adaptive rules, such as `Adam`, are another thing: they step along the mean update.

    Attributes:
      learning_rate: what each step is multiplied by.
      beta1, beta2: how much of the last first and second moment is kept.
      epsilon: what keeps the division by the second moment's root from zero.
      weight_decay, decoupled: `weight_decay` times the parameters is added to the gradient; with `decoupled`, it is
        taken off the parameters, times the learning rate, and never enters the moments (AdamW).
    Source: Kingma and Ba 2015, "Adam", arXiv:1412.6980, algorithm 1; Loshchilov and Hutter 2019, "Decoupled weight
      decay regularization", arXiv:1711.05101, algorithm 2.
    """

    learning_rate: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False

    def __post_init__(self) -> None:
        _check(
            self, learning_rate=self.learning_rate > 0, beta1=0 <= self.beta1 < 1, beta2=0 <= self.beta2 < 1,
            epsilon=self.epsilon > 0, weight_decay=self.weight_decay >= 0,
        )  # fmt: skip


@runtime_checkable
class Schedule(Protocol):
    """How the local learning rate changes over a run."""

    def factor(self, at: float) -> float:
        """What the learning rate is multiplied with.

        Units: at is in rounds since the beginning of the run; 2.5 is half way through the local work of round 2.
        """
        ...


@dataclass(frozen=True)
class _Decay(ABC):
    """What the decays to an end have in common: a warm-up, and then from 1 down to `least`.

    Attributes:
      rounds: when it ends.
      least: the factor there, and from then on.
      warm_up: rounds before it, in which the factor rises evenly to 1. It starts above zero, so that no step is lost.
    """

    rounds: float
    least: float = 0.0
    warm_up: float = 0.0

    def __post_init__(self) -> None:
        _check(self, rounds=self.rounds > self.warm_up, least=0 <= self.least <= 1, warm_up=self.warm_up >= 0)

    def factor(self, at: float) -> float:
        """The factor after so many rounds."""
        if at < self.warm_up:
            return min(1.0, (at + 1) / (self.warm_up + 1))
        done = min((at - self.warm_up) / (self.rounds - self.warm_up), 1.0)
        return self.least + (1 - self.least) * self.left(done)

    @abstractmethod
    def left(self, done: float) -> float:
        """What is left of the way down, from 1 to 0, when this share of the rounds is done."""


@dataclass(frozen=True)
class CosineDecay(_Decay):
    """From 1 down to `least` along half a cosine, which ends with `rounds`.

    Example:
      >>> [round(CosineDecay(rounds=4).factor(at), 3) for at in (0, 1, 2, 4, 9)]
      [1.0, 0.854, 0.5, 0.0, 0.0]
    """

    def left(self, done: float) -> float:
        """Half a cosine."""
        return (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class LinearDecay(_Decay):
    """From 1 down to `least` along a line, which ends with `rounds`.

    Example:
      >>> [round(LinearDecay(rounds=6, warm_up=2).factor(at), 3) for at in (0, 1, 2, 3, 6)]
      [0.333, 0.667, 1.0, 0.75, 0.0]
    """

    def left(self, done: float) -> float:
        """A line."""
        return 1 - done


@dataclass(frozen=True)
class StepDecay:
    """Multiplied with `by` after every `every` rounds.

    Attributes:
      every: rounds between two steps.
      by: from 0 to 1.
    Example:
      >>> [StepDecay(every=10, by=0.5).factor(at) for at in (0, 9.9, 10, 25)]
      [1.0, 1.0, 0.5, 0.25]
    """

    every: float
    by: float = 0.1

    def __post_init__(self) -> None:
        _check(self, every=self.every > 0, by=0 < self.by <= 1)

    def factor(self, at: float) -> float:
        """The factor after so many rounds."""
        return float(self.by ** (at // self.every))


@dataclass(frozen=True)
class ExponentialDecay:
    """Multiplied with `by` in the course of every round, a little with each step.

    Attributes:
      by: from 0 to 1.
    Example:
      >>> [round(ExponentialDecay(by=0.81).factor(at), 3) for at in (0, 0.5, 1, 2)]
      [1.0, 0.9, 0.81, 0.656]
    """

    by: float

    def __post_init__(self) -> None:
        _check(self, by=0 < self.by <= 1)

    def factor(self, at: float) -> float:
        """The factor after so many rounds."""
        return float(self.by**at)


@dataclass(frozen=True)
class Work:
    """What a training function of one's own is asked to do.

    Attributes:
      steps: of local work instead of epochs, where the trainer says so.
      factor: what the schedule multiplies the learning rate with at the beginning of this work.
      round: how many rounds the model has been through.
      seed: for generators of its own; the global ones of torch, NumPy and Python are seeded already.
      device: where the module and the data belong, as torch names it.
    """

    epochs: int
    steps: int | None
    batch_size: int
    factor: float
    round: int
    seed: int
    device: str


def is_count(value: object) -> bool:
    """Whether it is a whole number of at least one, as epochs and batch sizes are."""
    return isinstance(value, Integral) and int(value) >= 1


def _check(rule: object, **holds: bool) -> None:
    for name, good in holds.items():
        if not good:
            raise AppError(
                f"{type(rule).__name__}({name}={getattr(rule, name)!r}) cannot train.",
                why="rates, epsilon and lengths are positive, betas lie in [0, 1), factors in [0, 1]; a schedule is "
                "longer than its warm-up.",
                do="see the attributes in its docstring.",
            )
