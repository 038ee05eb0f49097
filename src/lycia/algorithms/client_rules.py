"""What is special about local training, on the node and in what the server makes of it."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lycia.core.parts import Arrays, ClientRule
from lycia.core.training import GradientTerm
from lycia.errors import PlanError


@dataclass(frozen=True)
class FedAvg(ClientRule):
    """Plain local training.

    Source: McMahan et al. 2017, "Communication-efficient learning of deep networks from decentralized data".
    """


@dataclass(frozen=True)
class FedProx(ClientRule):
    """Local training with a pull towards the model asked with, so that uneven local work drifts less.

    Each local gradient gets mu · (parameters − parameters asked with): the gradient of (mu / 2) · ‖w − w⁰‖².

    Attributes:
      mu: the strength of the pull; 0.01 is usual.
    Source: Li et al. 2020, "Federated optimization in heterogeneous networks", arXiv:1812.06127, equation 2.
    """

    mu: float
    needs_term: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.mu >= 0:
            raise PlanError(
                f"FedProx(mu={self.mu!r}) would push local models away.",
                why="mu is the strength of a pull, so it is not negative.",
                do="use a value such as 0.01; FedAvg() is mu=0.",
            )

    def term(self, asked: np.ndarray, told: Arrays, memory: Arrays) -> GradientTerm | None:
        """Adds the pull to a gradient; leaves its arguments as they are."""
        mu = np.float32(self.mu)
        return lambda gradient, params: gradient + mu * (params - asked)
