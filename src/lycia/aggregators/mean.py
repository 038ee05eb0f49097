"""Means of updates: a sum on the integer grid, divided once."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from lycia.errors import PlanError


class _Sum:
    """What the means share: they need a sum, never two updates at once."""

    shape: ClassVar[Literal["sum"]] = "sum"
    minimum: ClassVar[int] = 1

    def reduce(self, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Never called: a sum-shaped aggregator is given sums."""
        raise TypeError(f"{type(self).__name__} is a sum and reduces no rows")


@dataclass(frozen=True)
class ExampleWeightedMean(_Sum):
    """Each node counts as much as it has examples.

    Source: McMahan et al. 2017, "Communication-efficient learning of deep networks from decentralized data",
      algorithm 1.
    """

    equal_shares: ClassVar[bool] = False

    def weights(self, claimed: np.ndarray) -> np.ndarray:
        """(nodes,) the examples that each claims."""
        return claimed

    def divisor(self, weights: np.ndarray) -> float:
        """All examples heard."""
        return float(weights.sum())


@dataclass(frozen=True)
class UniformMean(_Sum):
    """Each node counts the same, whatever it claims.

    Attributes:
      expected_cohort: divide by this fixed number, heard or not, as differential privacy demands; None divides by
        how many were heard.
    """

    expected_cohort: float | None = None
    equal_shares: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.expected_cohort is not None and not self.expected_cohort > 0:
            raise PlanError(
                f"UniformMean(expected_cohort={self.expected_cohort!r}) cannot divide.",
                why="a mean divides by a positive number.",
                do="give the expected size of the cohort, or leave it out to divide by how many are heard.",
            )

    def weights(self, claimed: np.ndarray) -> np.ndarray:
        """(nodes,) ones."""
        return np.ones(len(claimed))

    def divisor(self, weights: np.ndarray) -> float:
        """The fixed number, or how many were heard."""
        return float(self.expected_cohort if self.expected_cohort is not None else weights.sum())
