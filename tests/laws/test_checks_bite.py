"""The contract checks find what they are there to find, and say what to do about it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pytest

from lycia.aggregators import UniformMean
from lycia.algorithms import SGD, FedAvg
from lycia.core.messages import Updates
from lycia.core.parts import Arrays, NodeView, Roster, ServerView, Stage, Total
from lycia.core.training import LocalResult, LocalTask
from lycia.errors import LyciaError
from lycia.selection import Everyone, Uniform
from lycia.testing import (
    ContractBroken,
    Quadratic,
    QuadraticTrainer,
    check_aggregator,
    check_client_rule,
    check_selector,
    check_server_optimizer,
    check_stage,
    check_trainer,
)


@dataclass(frozen=True)
class Coordinatewise:
    """A sound stranger's rule, which the broken ones are variations of."""

    shape: ClassVar[str] = "coordinate"
    equal_shares: ClassVar[bool] = True
    minimum: ClassVar[int] = 2

    def weights(self, claimed: np.ndarray) -> np.ndarray:
        return np.ones(len(claimed))

    def divisor(self, weights: np.ndarray) -> float:
        return float(weights.sum())

    def reduce(self, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.median(rows, axis=0).astype(np.float32)


class WeighsByPlace(Coordinatewise):
    equal_shares: ClassVar[bool] = False

    def weights(self, claimed: np.ndarray) -> np.ndarray:
        return np.arange(len(claimed), dtype=float)


class ClaimsEqualShares(Coordinatewise):
    def weights(self, claimed: np.ndarray) -> np.ndarray:
        return claimed


class HasNoMean(Coordinatewise):
    def divisor(self, weights: np.ndarray) -> float:
        return float("nan")


class LooksAcrossColumns(Coordinatewise):
    def reduce(self, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return rows[np.argmin(np.abs(rows).sum(axis=1))]


class ReducesInPlace(Coordinatewise):
    def reduce(self, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        rows.sort(axis=0)
        return rows[len(rows) // 2]


class ReducesToDoubles(Coordinatewise):
    def reduce(self, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return np.median(rows, axis=0).astype(np.float64)


class DrawsTwice(Uniform):
    def draw(self, roster: Roster, count: int, without: frozenset[str], random: np.random.Generator) -> tuple[str, ...]:
        return tuple(roster[int(random.integers(len(roster)))] for _ in range(count))


class DrawsWhoIsRuledOut(Everyone):
    def draw(self, roster: Roster, count: int, without: frozenset[str], random: np.random.Generator) -> tuple[str, ...]:
        return tuple(roster[index] for index in range(len(roster)))[:count]


class DrawsBySystemChance(Uniform):
    def draw(self, roster: Roster, count: int, without: frozenset[str], random: np.random.Generator) -> tuple[str, ...]:
        return super().draw(roster, count, without, np.random.default_rng())


class WantsMoreThanThereAre(Uniform):
    def goal(self, population: int) -> int:
        return self.cohort_size


@dataclass(frozen=True)
class NormalizesTheMean(SGD):
    def step(self, params: np.ndarray, mean: np.ndarray, slots: Arrays):
        return params + mean / np.float32(1 + np.linalg.norm(mean)), {}


@dataclass(frozen=True)
class StepsInDoubles(SGD):
    def step(self, params: np.ndarray, mean: np.ndarray, slots: Arrays):
        return params + 0.1 * mean.astype(np.float64), {}


@dataclass(frozen=True)
class StepsInPlace(SGD):
    def step(self, params: np.ndarray, mean: np.ndarray, slots: Arrays):
        params += mean
        return params, {}


class ForgetsItsExtra(FedAvg):
    def finish(self, delta: np.ndarray, result: LocalResult, told: Arrays, memory: Arrays):
        return {"undeclared": delta}, memory


@dataclass(frozen=True)
class Counts(Stage):
    """Keeps what it did in itself."""

    seen: list[int] = field(default_factory=list, compare=False)

    def on_node(self, updates: Updates, view: NodeView):
        self.seen.append(1)
        return replace(updates, delta=updates.delta * np.float32(len(self.seen))), view.memory


@dataclass(frozen=True)
class ScalesInPlace(Stage):
    def on_node(self, updates: Updates, view: NodeView):
        np.multiply(updates.delta, 0.5, out=updates.delta)
        return updates, view.memory


@dataclass(frozen=True)
class MasksThatStay(Stage):
    undone: ClassVar[str] = "on_sum"
    hides_rows: ClassVar[bool] = True
    words: ClassVar[str] = "uint64"

    def on_node(self, updates: Updates, view: NodeView):
        words = view.ask.grid.to_grid(updates.delta).view(np.uint64) + np.uint64(2**40)
        return replace(updates, delta=words), view.memory

    def on_sum(self, total: Total, view: ServerView) -> Total:
        return replace(total, values=total.values.view(np.int64))


@dataclass(frozen=True)
class NeedsEveryAnswer(Stage):
    before: ClassVar[tuple[str, ...]] = ("hello",)

    def answer(self, exchange: str, view: NodeView):
        return b"hello", view.memory

    def on_sum(self, total: Total, view: ServerView) -> Total:
        assert len(view.answers["hello"]) == 6
        return total


NODE = Quadratic.at([1.0, 2.0])


@dataclass(frozen=True)
class TrainsByChance(QuadraticTrainer):
    def train(self, task: LocalTask) -> LocalResult:
        return super().train(replace(task, key=task.key.at(np.random.default_rng().integers(2**40))))


class IgnoresTerms(QuadraticTrainer):
    def train(self, task: LocalTask) -> LocalResult:
        return super().train(replace(task, term=None))


class TrainsInPlace(QuadraticTrainer):
    def train(self, task: LocalTask) -> LocalResult:
        task.model.trained[:] = 0
        return super().train(task)


class SaysNothingOfItsSteps(QuadraticTrainer):
    def train(self, task: LocalTask) -> LocalResult:
        return replace(super().train(task), steps=0)


class MeasuresNothing(QuadraticTrainer):
    def evaluate(self, layout, model, data):
        return 0, {}


@pytest.mark.parametrize(
    ("check", "broken", "finding"),
    [
        (check_aggregator, WeighsByPlace(), "order of the nodes"),
        (check_aggregator, ClaimsEqualShares(), "equal_shares is true"),
        (check_aggregator, HasNoMean(), "divisor"),
        (check_aggregator, LooksAcrossColumns(), "split at column"),
        (check_aggregator, ReducesInPlace(), "writes into"),
        (check_aggregator, ReducesToDoubles(), "float64"),
        (check_selector, DrawsTwice(3), "a cohort is a set"),
        (check_selector, DrawsWhoIsRuledOut(), "without"),
        (check_selector, DrawsBySystemChance(3), "an equal generator"),
        (check_selector, WantsMoreThanThereAre(3), "of 1 nodes it wants 3"),
        (check_server_optimizer, NormalizesTheMean(), "split at"),
        (check_server_optimizer, StepsInDoubles(), "float64"),
        (check_server_optimizer, StepsInPlace(), "writes into"),
        (check_client_rule, ForgetsItsExtra(), "two healthy rounds"),
        (check_stage, Counts(), "equal view"),
        (check_stage, ScalesInPlace(), "writes into"),
        (check_stage, MasksThatStay(), "without this stage"),
        (check_stage, NeedsEveryAnswer(), "falls silent in 'hello'"),
        (lambda trainer: check_trainer(trainer, NODE), TrainsByChance(2, jitter=1.0), "an equal task"),
        (lambda trainer: check_trainer(trainer, NODE), IgnoresTerms(2), "takes_terms"),
        (lambda trainer: check_trainer(trainer, NODE), TrainsInPlace(2), "writes into"),
        (lambda trainer: check_trainer(trainer, NODE), SaysNothingOfItsSteps(2), "0 steps"),
        (lambda trainer: check_trainer(trainer, NODE), MeasuresNothing(2), "measured 0"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_a_check_finds(check: Callable, broken: object, finding: str):
    with pytest.raises(ContractBroken, match=finding):
        check(broken)


@pytest.mark.parametrize("sound", [Coordinatewise(), UniformMean()])
def test_a_check_lets_a_sound_rule_pass(sound: object):
    check_aggregator(sound)


def test_a_check_lets_a_sound_trainer_pass():
    check_trainer(QuadraticTrainer(2, jitter=0.1), NODE)


def test_what_a_check_raises_is_an_assertion_and_one_of_our_errors():
    with pytest.raises(AssertionError) as caught:
        check_aggregator(HasNoMean())
    assert isinstance(caught.value, LyciaError)
    assert all((caught.value.what, caught.value.why, caught.value.do))
