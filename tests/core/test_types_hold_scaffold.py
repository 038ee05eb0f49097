"""SCAFFOLD fits the types: an extra with each update, state at each node, and the server's own variate."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from lycia.aggregators import UniformMean
from lycia.algorithms import SGD, FedAvg
from lycia.core.layout import Layout
from lycia.core.messages import TRAIN
from lycia.core.parts import Arrays, ClientRule, Extra, ServerView, Told
from lycia.core.plan import Evaluation, Plan, RoundRules
from lycia.core.training import GradientTerm, LocalResult
from lycia.selection import Everyone, Uniform
from lycia.testing import Fault, Federation, Quadratic, QuadraticTrainer, check_client_rule, optimum_of

NODES = {
    "athens": Quadratic.at([4.0, -1.0], [0.4, 2.0]),
    "delphi": Quadratic.at([-2.0, 3.0], [1.0, 1.0]),
    "patara": Quadratic.at([1.0, 5.0], [2.0, 0.2]),
    "xanthos": Quadratic.at([0.5, -4.0], [0.6, 1.4]),
}
TRAINER = QuadraticTrainer(size=2, steps=5, learning_rate=0.2)


@dataclass(frozen=True)
class Scaffold(ClientRule):
    """Each local gradient is corrected by what this node's gradients differ from everyone's.

    Source: Karimireddy et al. 2020, arXiv:1910.06378, algorithm 1, option II.
    """

    needs_term: ClassVar[bool] = True

    def slots(self, layout: Layout) -> dict[str, np.ndarray]:
        return {"variate": np.zeros(layout.size("trained"), np.float32)}

    def extras(self, layout: Layout) -> tuple[Extra, ...]:
        return (Extra("change", layout.size("trained")),)

    def tell(self, exchange: str, view: ServerView) -> Told:
        return Told({"variate": view.slots["variate"]}) if exchange == TRAIN else Told()

    def term(self, asked: np.ndarray, told: Arrays, memory: Arrays) -> GradientTerm:
        correction = told["variate"] - memory.get("variate", np.zeros_like(asked))
        return lambda gradient, _params: gradient + correction

    def finish(self, delta: np.ndarray, result: LocalResult, told: Arrays, memory: Arrays) -> tuple[Arrays, Arrays]:
        own = memory.get("variate", np.zeros_like(delta))
        new = own - told["variate"] - delta / np.float32(result.steps * result.learning_rate)
        return {"change": new - own}, {"variate": new}

    def close(self, slots: Arrays, combined: Arrays, heard: int, population: int) -> dict[str, np.ndarray]:
        return {"variate": slots["variate"] + np.float32(heard / population) * combined["change"]}


def federation(client, rounds, *, selector=None, rules=None, **fleet) -> Federation:
    plan = Plan(
        rounds=rounds, selector=selector or Everyone(), client=client, aggregator=UniformMean(), server=SGD(),
        rules=rules or RoundRules(), evaluation=Evaluation(nodes=0, evaluators=False),
    )  # fmt: skip
    return Federation(plan, TRAINER, NODES, **fleet)


def error_of(held: Federation) -> float:
    return float(np.abs(held.model.trained - optimum_of(NODES.values())).max())


def test_fedavg_stops_beside_the_optimum_and_scaffold_on_it():
    plain, corrected = federation(FedAvg(), 60), federation(Scaffold(), 60)
    plain.hold()
    corrected.hold()
    assert error_of(plain) > 0.1
    assert error_of(corrected) <= 1e-5


@pytest.mark.parametrize("broken", ["late", "decline", "vanish", "garble"])
def test_scaffold_finds_the_optimum_when_part_of_the_cohort_does_not_count(broken: str):
    # The server's variate is the mean of the nodes' only if work that was refused leaves no trace at the node.
    faults = [Fault("delphi", broken, rounds=frozenset(range(0, 100, 3)))]
    held = federation(Scaffold(), 160, selector=Uniform(3), rules=RoundRules(deadline_s=9), faults=faults, eager=True)
    held.hold()
    assert error_of(held) <= 1e-5


def test_scaffold_finds_the_optimum_when_attempts_miss_their_quorum():
    missing = [
        Fault(node, "silence", rounds=frozenset({2, 5, 11}), attempts=frozenset({0})) for node in ("athens", "delphi")
    ]
    held = federation(Scaffold(), 60, rules=RoundRules(quorum=0.75, deadline_s=9), faults=missing)
    held.hold()
    assert sum(bool(record["missed"]) for record in held.records) == 3
    assert error_of(held) <= 1e-5


def test_the_servers_variate_is_the_mean_of_the_nodes():
    held = federation(Scaffold(), 7)
    held.hold()
    nodes = [held.fleet.memory[name]["1/variate"] for name in NODES]
    np.testing.assert_allclose(held.store.carried.slots["1/variate"], np.mean(nodes, axis=0), atol=1e-6)


def test_the_rule_keeps_its_contract():
    check_client_rule(Scaffold())
