"""Power-of-choice fits the types: an exchange before training, from whose answers the cohort is chosen."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from lycia.aggregators import UniformMean
from lycia.algorithms import SGD, FedAvg
from lycia.core.messages import EVALUATE, TRAIN
from lycia.core.parts import Arrays, ClientRule, NodeView, Roster, Selector, ServerView
from lycia.core.plan import Evaluation, Plan, RoundRules
from lycia.core.training import NodeData
from lycia.errors import SelectionError
from lycia.testing import Fault, Federation, Quadratic, QuadraticTrainer, check_selector

FAR_OUT = {f"node {place}": Quadratic.at([float(place)]) for place in range(8)}  # the model starts at zero


@dataclass(frozen=True)
class PowerOfChoice(Selector):
    """Of some candidates, those on whose data the model is worst.

    Source: Cho et al. 2020, "Client selection in federated learning", arXiv:2010.01243, section 3.
    """

    cohort_size: int
    candidates_asked: int
    before: ClassVar[tuple[str, ...]] = ("probe",)
    with_model: ClassVar[tuple[str, ...]] = ("probe",)

    def goal(self, population: int) -> int:
        return min(self.cohort_size, population)

    def candidates(self, goal: int) -> int:
        return max(goal, self.candidates_asked)

    def draw(self, roster: Roster, count: int, without: frozenset[str], random: np.random.Generator) -> tuple[str, ...]:
        left = [name for index in range(len(roster)) if (name := roster[index]) not in without]
        return tuple(left[index] for index in random.permutation(len(left))[:count])

    def answer(self, exchange: str, view: NodeView) -> tuple[bytes, Arrays]:
        return json.dumps(view.measure()["loss"]).encode(), view.memory

    def choose(self, goal: int, view: ServerView) -> tuple[str, ...]:
        losses = {node: json.loads(view.answers["probe"][node]) for node in view.present}
        return tuple(sorted(losses, key=losses.__getitem__, reverse=True)[:goal])


def federation(
    selector: Selector, rounds: int = 1, rules: RoundRules | None = None, client: ClientRule | None = None,
    nodes: Mapping[str, NodeData] = FAR_OUT, **fleet,
) -> Federation:  # fmt: skip
    plan = Plan(
        rounds=rounds, selector=selector, client=client or FedAvg(), aggregator=UniformMean(), server=SGD(),
        rules=rules or RoundRules(over_selection=1.0), evaluation=Evaluation(nodes=2, evaluators=False),
    )  # fmt: skip
    return Federation(plan, QuadraticTrainer(1), nodes, **fleet)


def test_the_cohort_is_the_candidates_with_the_highest_losses():
    held = federation(PowerOfChoice(3, 5))
    held.hold()
    (candidates,), (cohort,) = held.fleet.asked("probe"), held.fleet.asked(TRAIN)
    assert len(candidates) == 5
    assert sorted(cohort) == sorted(candidates)[-3:]


def test_the_cohort_follows_the_model_from_round_to_round():
    nodes = {"left": Quadratic.at([-1.0]), "right": Quadratic.at([3.0])}
    held = federation(PowerOfChoice(1, 2), rounds=3, nodes=nodes, rules=RoundRules(over_selection=1.0))
    held.fleet.trainer = QuadraticTrainer(1, steps=40)  # whoever trains pulls the model onto its own optimum
    held.hold()
    assert held.fleet.asked(TRAIN) == [["right"], ["left"], ["right"]]


@pytest.mark.parametrize("does", ["silence", "decline", "vanish", "late", "garble"])
def test_a_candidate_that_does_not_answer_is_not_chosen(does: str):
    rules = RoundRules(over_selection=1.0, deadline_s=9, replacement=False)
    held = federation(PowerOfChoice(3, 8), rules=rules, faults=[Fault("node 7", does, "probe")])
    held.hold()
    assert held.fleet.asked(TRAIN) == [["node 6", "node 5", "node 4"]]


def test_another_candidate_is_asked_for_one_that_declines():
    willing = federation(PowerOfChoice(3, 5))
    willing.hold()
    (drawn,) = willing.fleet.asked("probe")
    held = federation(PowerOfChoice(3, 5), faults=[Fault(drawn[0], "decline", "probe")])
    held.hold()
    first, second = held.fleet.asked("probe")
    assert first == drawn
    assert len(second) == 1
    assert not set(second) & set(first)


def test_the_cohort_was_written_down_before_anyone_was_told():
    held = federation(PowerOfChoice(3, 5))
    held.hold()
    told = [event.exchange for event in held.store.journals[0] if type(event).__name__ in ("Asked", "Settled")]
    assert told[:5] == ["probe", "probe", TRAIN, TRAIN, EVALUATE]


def test_a_candidate_without_training_data_declines():
    nodes = {**FAR_OUT, "node 7": NodeData(None, FAR_OUT["node 7"].held_out)}
    held = federation(PowerOfChoice(3, 8), nodes=nodes)
    held.hold()
    assert held.fleet.asked(TRAIN) == [["node 6", "node 5", "node 4"]]
    assert {drop["node"]: drop["kind"] for drop in held.records[0]["dropped"]} == {"node 7": "declined"}


def test_the_candidates_of_another_parts_exchange_are_the_chosen_ones():
    @dataclass(frozen=True)
    class Greeting(ClientRule):
        before: ClassVar[tuple[str, ...]] = ("greet",)

        def answer(self, exchange: str, view: NodeView) -> tuple[bytes, Arrays]:
            return b"hello", view.memory

    held = federation(PowerOfChoice(3, 8), client=Greeting())
    held.hold()
    (greeted,), (trained,) = held.fleet.asked("greet"), held.fleet.asked(TRAIN)
    assert sorted(greeted) == sorted(trained) == ["node 5", "node 6", "node 7"]


@pytest.mark.parametrize("chosen", [("nobody",), ("node 1", "node 1")], ids=["a stranger", "a node twice"])
def test_a_choice_that_is_no_set_of_candidates_is_refused(chosen: tuple[str, ...]):
    class Wrong(PowerOfChoice):
        def choose(self, goal: int, view: ServerView) -> tuple[str, ...]:
            return chosen

    with pytest.raises(SelectionError, match=chosen[0]):
        federation(Wrong(3, 8)).hold()


def test_the_selector_keeps_its_contract():
    check_selector(PowerOfChoice(2, 4))
