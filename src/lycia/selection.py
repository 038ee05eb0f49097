"""Who takes part in a round."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lycia.core.parts import Roster, Selector
from lycia.errors import PlanError, SelectionError


@dataclass(frozen=True)
class Everyone(Selector):
    """All nodes there are: the usual cohort of a federation of organisations."""

    def goal(self, population: int) -> int:
        """All of them."""
        return population

    def draw(self, roster: Roster, count: int, without: frozenset[str], random: np.random.Generator) -> tuple[str, ...]:
        """All that are not in `without`; where fewer are wanted, each set of `count` is equally likely."""
        left = tuple(node for index in range(len(roster)) if (node := roster[index]) not in without)
        if len(left) <= count:
            return left
        return tuple(left[int(index)] for index in random.choice(len(left), count, replace=False))


@dataclass(frozen=True)
class Uniform(Selector):
    """A fixed number of nodes, each set of them equally likely, without replacement.

    Attributes:
      cohort_size: how many updates close a round.
    """

    cohort_size: int

    def __post_init__(self) -> None:
        _check_positive("Uniform", "cohort_size", self.cohort_size)

    def goal(self, population: int) -> int:
        """The cohort size, or everyone where there are fewer."""
        return min(self.cohort_size, population)

    def draw(self, roster: Roster, count: int, without: frozenset[str], random: np.random.Generator) -> tuple[str, ...]:
        """`count` nodes, in the order drawn; time and memory do not grow with the roster."""
        pool = len(roster)
        asked = min(count + len(without), pool)
        picks = random.choice(pool, asked, replace=False)
        return tuple(node for index in picks if (node := roster[int(index)]) not in without)[:count]


@dataclass(frozen=True)
class Poisson(Selector):
    """Each node takes part by its own coin: the sampling that amplification by subsampling assumes.

    The cohort's size varies, may be zero, and is asked exactly as drawn.

    Attributes:
      expected_cohort: its mean; each node's chance is this over the number of nodes.
    Source: Abadi et al. 2016, "Deep learning with differential privacy", arXiv:1607.00133, section 3.1 ("lots").
    """

    expected_cohort: float
    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_positive("Poisson", "expected_cohort", self.expected_cohort)

    def goal(self, population: int) -> int:
        """The expected cohort; what is drawn may be more or less."""
        return min(math.ceil(self.expected_cohort), population)

    def draw(self, roster: Roster, count: int, without: frozenset[str], random: np.random.Generator) -> tuple[str, ...]:
        """Those whose coin fell: a binomial number of nodes, each set of that size equally likely."""
        pool = len(roster)
        drawn = random.binomial(pool, min(self.expected_cohort / pool, 1.0)) if pool else 0
        picks = random.choice(pool, drawn, replace=False) if drawn else ()
        return tuple(node for index in picks if (node := roster[int(index)]) not in without)


@dataclass(frozen=True)
class SizeWeighted(Selector):
    """A fixed number of nodes, drawn without replacement, larger ones more likely in proportion to their examples.

    Use it with `UniformMean`: the draw already counts the examples, and a weighted mean would count them twice.

    Attributes:
      cohort_size: how many updates close a round.
    Source: Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir", algorithm A-ES, in logarithms;
      as a scheme for federated averaging, Li et al. 2020, "On the convergence of FedAvg on non-IID data",
      arXiv:1907.02189, section 3.2.
    """

    cohort_size: int

    def __post_init__(self) -> None:
        _check_positive("SizeWeighted", "cohort_size", self.cohort_size)

    def goal(self, population: int) -> int:
        """The cohort size, or everyone where there are fewer."""
        return min(self.cohort_size, population)

    def draw(self, roster: Roster, count: int, without: frozenset[str], random: np.random.Generator) -> tuple[str, ...]:
        """`count` nodes, in the order drawn.

        Raises: SelectionError, if the nodes do not say how many examples they have.
        """
        sizes = roster.sizes()
        if sizes is None:
            raise SelectionError(
                "SizeWeighted cannot draw: the nodes do not say how many examples they have.",
                why="it draws in proportion to these numbers.",
                do="let nodes report their size when they join, or select with Uniform(cohort_size=…).",
            )
        with np.errstate(divide="ignore"):
            # No examples, or fewer: never drawn.
            keys = np.log(random.random(len(roster))) / np.maximum(np.asarray(sizes, dtype=np.float64), 0)
        order = np.argsort(-keys, kind="stable")
        drawn: list[str] = []
        for index in order:
            if len(drawn) == count or not np.isfinite(keys[index]):
                break
            if (node := roster[int(index)]) not in without:
                drawn.append(node)
        return tuple(drawn)


def _check_positive(part: str, name: str, value: float) -> None:
    whole = name == "cohort_size"
    if not value > 0 or (whole and not isinstance(value, int)):
        raise PlanError(
            f"{part}({name}={value!r}) cannot be asked.",
            why="a cohort has at least one node, or expects some.",
            do=f"give a positive {'whole number' if whole else 'number'} as {name}.",
        )
