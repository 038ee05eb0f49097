"""How the mean update becomes the next model.

The mean update plays the part of a gradient that points downhill. All arithmetic is float32 and coordinate by
coordinate, in operations that IEEE 754 rounds correctly, so that every machine gives the same bits.

Source: Reddi et al. 2021, "Adaptive federated optimization", arXiv:2003.00295, algorithms 1 and 2. As there, and
unlike in Kingma and Ba's Adam, no moment is corrected for its start, and v starts at epsilon².
"""

from dataclasses import dataclass

import numpy as np

from lycia.core.parts import Arrays
from lycia.errors import PlanError

_F = np.float32


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent: one rule for the server's step and for a trainer's local ones.

    On the server the mean update stands for the gradient: `SGD()` is federated averaging, and with momentum it is
    FedAvgM.

    Attributes:
      learning_rate: what the step is multiplied by.
      momentum: velocity = momentum · velocity + gradient; it is the velocity that is stepped along.
      weight_decay: times the parameters is taken off the update, or added to the gradient.
    Source: Hsu et al. 2019, "Measuring the effects of non-identical data distribution", arXiv:1909.06335, section 4.3.
    Example:
      >>> SGD(0.5).step(np.float32([1.0]), np.float32([0.2]), {})[0]
      array([1.1], dtype=float32)
    """

    learning_rate: float = 1.0
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(
            self, learning_rate=self.learning_rate > 0, momentum=0 <= self.momentum < 1,
            weight_decay=self.weight_decay >= 0,
        )  # fmt: skip

    def slots(self, size: int) -> dict[str, np.ndarray]:
        """With momentum the velocity, at rest."""
        return {"velocity": np.zeros(size, _F)} if self.momentum else {}

    def step(self, params: np.ndarray, mean: np.ndarray, slots: Arrays) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """params + learning_rate · velocity, which without momentum is the mean update."""
        if self.weight_decay:
            mean = mean - _F(self.weight_decay) * params
        if not self.momentum:
            return params + _F(self.learning_rate) * mean, {}
        velocity = _F(self.momentum) * slots["velocity"] + mean
        return params + _F(self.learning_rate) * velocity, {"velocity": velocity}


@dataclass(frozen=True)
class _Adaptive:
    """What the adaptive rules share: m = beta1 · m + (1 − beta1) · mean; params + learning_rate · m / (√v + ε).

    Attributes:
      learning_rate: what the step is multiplied by.
      beta1: how much of the last first moment, m, is kept.
      beta2: how much of the last second moment, v, is kept.
      epsilon: ε, the paper's τ: how adaptive it is; steps are smaller where updates have been large beside it.
    """

    learning_rate: float = 0.1
    beta1: float = 0.9
    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        _check(self, learning_rate=self.learning_rate > 0, beta1=0 <= self.beta1 < 1, epsilon=self.epsilon > 0)

    def slots(self, size: int) -> dict[str, np.ndarray]:
        """m starts at zero, v at epsilon²."""
        return {"m": np.zeros(size, _F), "v": np.full(size, self.epsilon**2, _F)}

    def step(self, params: np.ndarray, mean: np.ndarray, slots: Arrays) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """One step of algorithm 2 in the paper."""
        m = _F(self.beta1) * slots["m"] + _F(1 - self.beta1) * mean
        v = self.second_moment(slots["v"], np.square(mean))
        return params + _F(self.learning_rate) * m / (np.sqrt(v) + _F(self.epsilon)), {"m": m, "v": v}

    def second_moment(self, v: np.ndarray, square: np.ndarray) -> np.ndarray:
        """The next v, from the last one and the mean's square."""
        raise TypeError(f"{type(self).__name__} has no rule for its second moment")


@dataclass(frozen=True)
class Adagrad(_Adaptive):
    """FedAdagrad: v adds up all squares. The paper runs it with beta1=0."""

    beta1: float = 0.0

    def second_moment(self, v: np.ndarray, square: np.ndarray) -> np.ndarray:
        """v + square."""
        return np.asarray(v + square)


@dataclass(frozen=True)
class Adam(_Adaptive):
    """FedAdam: v forgets with beta2."""

    beta2: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, beta2=0 <= self.beta2 < 1)

    def second_moment(self, v: np.ndarray, square: np.ndarray) -> np.ndarray:
        """beta2 · v + (1 − beta2) · square."""
        return np.asarray(_F(self.beta2) * v + _F(1 - self.beta2) * square)


@dataclass(frozen=True)
class Yogi(_Adaptive):
    """FedYogi: v moves towards the square by a fixed share of the square, whatever the distance."""

    beta2: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, beta2=0 <= self.beta2 < 1)

    def second_moment(self, v: np.ndarray, square: np.ndarray) -> np.ndarray:
        """v − (1 − beta2) · square · sign(v − square)."""
        return np.asarray(v - _F(1 - self.beta2) * square * np.sign(v - square))


def _check(part: object, **holds: bool) -> None:
    for name, good in holds.items():
        if not good:
            raise PlanError(
                f"{type(part).__name__}({name}={getattr(part, name)!r}) cannot step.",
                why="learning rates and epsilon are positive; momentum and beta lie in [0, 1); decay is not negative.",
                do="see the docstring for the paper's values.",
            )
