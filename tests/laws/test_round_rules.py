"""When a round closes, with whom, and what becomes of everybody else."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lycia.aggregators import UniformMean
from lycia.algorithms import SGD, FedAvg
from lycia.core.messages import BASELINE, EVALUATE, EVALUATE_BY_EVALUATOR, TRAIN, Ask, Reply, Updates
from lycia.core.parts import Roster, Selector
from lycia.core.plan import Evaluation, Plan, RoundRules, share
from lycia.core.training import NodeData
from lycia.errors import SelectionError
from lycia.selection import Everyone, Poisson, Uniform
from lycia.testing import Fault, Federation, Quadratic, QuadraticTrainer, digest_of

EVERYONE = Everyone()
UNMEASURED = Evaluation(nodes=0, evaluators=False)


def nodes_of(count: int) -> dict[str, NodeData]:
    return {f"node {index:02}": Quadratic.at([1.0 + index]) for index in range(count)}


def federation(
    selector: Selector = EVERYONE, population: int = 10, rounds: int = 1, *, server=None, aggregator=None,
    evaluation: Evaluation = UNMEASURED, rules: Mapping[str, Any] | None = None, evaluators=None, **fleet,
) -> Federation:  # fmt: skip
    plan = Plan(
        rounds=rounds, selector=selector, client=FedAvg(), aggregator=aggregator or UniformMean(),
        server=server or SGD(), rules=RoundRules(**{"deadline_s": 9.0, **(rules or {})}), evaluation=evaluation,
    )  # fmt: skip
    return Federation(plan, QuadraticTrainer(1), nodes_of(population), evaluators=evaluators, **fleet)


def one_by_one(ask: Ask, node: str) -> float:
    return 1.0 + ask.nodes.index(node)


def silent(*names: str, **where) -> list[Fault]:
    return [Fault(name, "silence", **where) for name in names]


class TestOverSelection:
    def test_more_are_asked_than_needed_and_the_round_closes_at_the_goal(self):
        held = federation(Uniform(4), rules={"over_selection": 1.5}, arrival_s=one_by_one, eager=True)
        held.hold()
        ((*asked,),) = held.fleet.asked()
        assert len(asked) == 6
        assert held.records[0]["survivors"] == sorted(asked[:4])
        assert held.fleet.clock.now_s() == 4.0

    def test_whoever_comes_after_the_goal_is_refused_by_name(self):
        held = federation(
            Uniform(4), rules={"over_selection": 1.5}, arrival_s=one_by_one, eager=True,
            evaluation=Evaluation(nodes=2, evaluators=False),
        )  # fmt: skip
        held.fleet.faults = silent(None, exchange=EVALUATE)
        held.hold()
        late = [late["node"] for late in held.records[0]["late"]]
        assert late == held.fleet.asked()[0][4:]
        assert {node for _, node in held.fleet.refused} == set(late)

    @pytest.mark.parametrize("block", [2, 3, 6])
    def test_a_block_that_goes_past_the_goal_counts_up_to_it(self, block: int):
        rules = {"over_selection": 1.5}
        blocks = federation(Uniform(4), rules=rules, arrival_s=one_by_one, block=block)
        single = federation(Uniform(4), rules=rules, arrival_s=one_by_one)
        blocks.hold()
        single.hold()
        assert blocks.records[0]["survivors"] == single.records[0]["survivors"]
        assert digest_of(blocks.model) == digest_of(single.model)
        assert blocks.fleet.held == {}

    @pytest.mark.parametrize(("goal", "factor", "asked"), [(10, 1.3, 13), (100, 1.1, 110), (3, 1.3, 4), (7, 1.0, 7)])
    def test_as_many_are_asked_as_the_factor_says(self, goal: int, factor: float, asked: int):
        held = federation(Uniform(goal), population=150, rules={"over_selection": factor})
        held.hold()
        assert len(held.fleet.asked()[0]) == asked

    def test_nobody_is_asked_who_is_not_there(self):
        held = federation(Uniform(4), population=5, rules={"over_selection": 2.0})
        held.hold()
        assert len(held.fleet.asked()[0]) == 5

    def test_a_goal_above_the_population_is_the_population(self):
        held = federation(Uniform(40), population=5)
        held.hold()
        assert len(held.records[0]["survivors"]) == 5


class TestQuorum:
    @pytest.mark.parametrize(("heard", "counts"), [(5, True), (4, False)])
    def test_half_of_the_goal_is_enough_at_the_deadline_and_less_is_not(self, heard: int, counts: bool):
        gone = silent(*[f"node {index:02}" for index in range(heard, 10)])
        held = federation(faults=gone, rules={"retries": 0})
        outcome = held.hold()
        assert outcome.state == ("finished" if counts else "paused")
        assert held.fleet.clock.now_s() == 9.0

    @pytest.mark.parametrize(
        ("part", "whole", "rounded_up"), [(0.55, 100, 55), (0.07, 100, 7), (0.5, 5, 3), (0.0, 9, 0), (1.0, 7, 7)]
    )
    def test_a_share_is_rounded_up_and_not_by_an_error_of_rounding(self, part: float, whole: int, rounded_up: int):
        assert share(part, whole) == rounded_up

    def test_an_aggregators_minimum_is_part_of_the_quorum(self):
        class AtLeastFour(UniformMean):
            minimum: ClassVar[int] = 4

        held = federation(aggregator=AtLeastFour(), population=4, rules={"retries": 0}, faults=silent("node 00"))
        outcome = held.hold()
        assert outcome.state == "paused"
        assert "3 of 4" in outcome.reason

    def test_a_missed_round_is_tried_again_with_another_draw_and_counts_once(self):
        held = federation(Uniform(3), rules={"over_selection": 1.0, "replacement": False})
        held.fleet.faults = silent(None, attempts=frozenset({0, 1}))
        held.hold()
        assert [(record["round"], record["attempt"], bool(record["missed"])) for record in held.records] == [
            (0, 0, True), (0, 1, True), (0, 2, False),
        ]  # fmt: skip
        assert len({tuple(nodes) for nodes in held.fleet.asked()}) > 1
        assert held.secrets_drawn == [(0, 0), (0, 1), (0, 2)]

    def test_task_numbers_are_never_used_twice(self):
        held = federation(rounds=3, evaluation=Evaluation(nodes=3, evaluators=False, baseline_rounds=1))
        held.fleet.faults = silent(None, attempts=frozenset({0}))
        held.hold()
        tasks = [ask.task for ask in held.fleet.sent]
        assert tasks == sorted(set(tasks))

    def test_after_its_retries_the_run_pauses_and_it_can_go_on(self):
        held = federation(rules={"retries": 2}, faults=silent(None))
        outcome = held.hold()
        assert (outcome.state, len(held.records)) == ("paused", 3)
        held.fleet.faults = []
        assert held.hold().state == "finished"
        assert [record["attempt"] for record in held.records] == [0, 1, 2, 3]

    def test_a_run_that_goes_on_after_a_pause_has_all_its_retries_again(self):
        held = federation(rules={"retries": 2}, faults=silent(None))
        held.hold()
        held.hold()
        assert len(held.records) == 6

    def test_an_update_from_a_missed_attempt_is_late_for_the_next(self):
        quiet = silent(*[f"node {index:02}" for index in range(4)], attempts=frozenset({0}))
        held = federation(population=6, faults=[*quiet, Fault("node 05", "late", attempts=frozenset({0}))])
        held.hold()
        (late,) = held.records[1]["late"]
        assert late == {"node": "node 05", "reason": "what it answers was over before attempt 2 at round 1"}
        assert digest_of(held.model) == digest_of(with_everybody(6).model)
        assert held.fleet.held == {}

    def test_a_missed_round_leaves_the_model_and_the_optimizer_as_they_were(self):
        held = federation(
            server=SGD(momentum=0.9), rules={"retries": 0}, faults=silent(*[f"node {n:02}" for n in range(6)])
        )
        carried = held.hold().carried
        assert carried.model.trained.tolist() == held.start.model.trained.tolist()
        assert carried.slots["server/velocity"].tolist() == [0.0]
        assert (carried.round, carried.norms) == (0, ())


def with_everybody(population: int) -> Federation:
    held = federation(population=population)
    held.hold()
    return held


class TestReplacement:
    @pytest.mark.parametrize("does", ["decline", "vanish", "garble"])
    def test_another_node_is_asked_for_one_that_will_not_be_heard(self, does: str):
        held = federation(Uniform(3), rules={"over_selection": 1.0})
        held.hold()
        ((first, *_),) = held.fleet.asked()
        broken = federation(Uniform(3), rules={"over_selection": 1.0}, faults=[Fault(first, does)])
        broken.hold()
        cohort, instead = broken.fleet.asked()
        assert len(instead) == 1
        assert not set(instead) & set(cohort)
        assert len(broken.records[0]["survivors"]) == 3

    def test_replacement_ends_when_nobody_is_left(self):
        names = list(nodes_of(6))
        held = federation(Uniform(4), population=6, faults=[Fault(name, "decline") for name in names[:4]])
        held.hold()
        assert sorted(name for nodes in held.fleet.asked() for name in nodes) == names
        assert held.records[0]["survivors"] == names[4:]

    def test_it_can_be_switched_off(self):
        rules = {"replacement": False, "over_selection": 1.0}
        held = federation(Uniform(4), rules=rules, faults=[Fault(None, "decline")])
        assert held.hold().state == "paused"
        assert [len(nodes) for nodes in held.fleet.asked()] == [4] * 4

    def test_nodes_that_come_back_count_if_they_are_there_before_those_who_replace_them(self):
        held = federation(Uniform(3), rules={"over_selection": 1.0}, faults=[Fault(None, "return")])
        held.fleet.arrival_s = lambda ask, _node: 4.0 if ask.task == 0 else 6.0
        held.hold()
        cohort, *others = held.fleet.asked()
        assert held.records[0]["survivors"] == sorted(cohort)
        assert sum(map(len, others)) == 3

    def test_measuring_nodes_are_not_replaced(self):
        held = federation(
            population=6, evaluation=Evaluation(nodes=2, evaluators=False), faults=[Fault(None, "decline", EVALUATE)]
        )
        held.hold()
        assert [len(nodes) for nodes in held.fleet.asked(EVALUATE)] == [2]


class TestExactCohorts:
    def test_an_exact_cohort_is_asked_as_drawn_and_never_replaced(self):
        held = federation(Poisson(4.0), population=20, rounds=6, faults=[Fault(None, "decline")])
        assert held.hold().state == "finished"
        assert len(held.fleet.asked()) <= 6
        assert all(record["survivors"] == [] and not record["missed"] for record in held.records)

    def test_it_waits_for_all_that_were_drawn_and_does_not_close_at_the_expected_number(self):
        held = federation(Poisson(4.0), population=20, rounds=8, aggregator=UniformMean(expected_cohort=4.0))
        held.hold()
        sizes = [len(record["survivors"]) for record in held.records]
        assert sizes == [len(record["asked"].get(TRAIN, [])) for record in held.records]
        assert max(sizes) > 4

    def test_an_empty_cohort_closes_with_the_model_as_it_was(self):
        held = federation(Poisson(1e-6), population=5, rounds=2, aggregator=UniformMean(expected_cohort=1.0))
        assert held.hold().state == "finished"
        assert held.fleet.sent == []
        assert held.model.trained.tolist() == [0.0]

    def test_momentum_goes_on_over_an_empty_cohort(self):
        class Sometimes(Poisson):
            def draw(self, roster: Roster, count: int, without: frozenset[str], random: np.random.Generator):
                return (roster[0],) if random.random() < 0.5 else ()

        held = federation(
            Sometimes(1.0),
            population=1,
            rounds=8,
            server=SGD(momentum=0.9),
            aggregator=UniformMean(expected_cohort=1.0),
        )
        held.hold()
        empty = [record["round"] for record in held.records if not record["survivors"]]
        models = [record["model"] for record in held.records]
        assert any(number and models[number] != models[number - 1] for number in empty)


class TestDeadlines:
    def test_whoever_is_late_does_not_count_and_hears_why(self):
        held = federation(population=4, rounds=2, faults=[Fault("node 03", "late", rounds=frozenset({0}))])
        held.hold()
        assert held.records[0]["survivors"] == ["node 00", "node 01", "node 02"]
        ((_, reason),) = held.fleet.refused.items()
        assert "over before" in reason

    def test_an_exchange_takes_no_longer_than_its_deadline_whoever_is_replaced(self):
        held = federation(Uniform(4), population=30, rules={"over_selection": 1.0}, arrival_s=lambda _ask, _node: 4.0)
        held.fleet.faults = [Fault(None, "decline")]
        held.hold()
        starts = [record["opened_s"] for record in held.records]
        assert all(record["ended_s"] - start <= 9.0 for record, start in zip(held.records, starts, strict=True))

    def test_a_reply_at_the_deadline_still_counts(self):
        held = federation(population=2, arrival_s=lambda _ask, node: 9.0 if node == "node 01" else 1.0)
        held.hold()
        assert held.records[0]["survivors"] == ["node 00", "node 01"]


class TestSelectors:
    def test_a_selector_that_draws_a_node_twice_is_named(self):
        class Twice(Uniform):
            def draw(self, roster: Roster, count: int, without: frozenset[str], random: np.random.Generator):
                return (roster[0],) * count

        with pytest.raises(SelectionError, match="Twice drew a node twice"):
            federation(Twice(2)).hold()

    def test_a_selector_that_replaces_a_node_by_itself_is_named(self):
        class Stubborn(Uniform):
            def draw(self, roster: Roster, count: int, without: frozenset[str], random: np.random.Generator):
                return tuple(roster[index] for index in range(count))

        with pytest.raises(SelectionError, match="Stubborn"):
            federation(Stubborn(2), faults=[Fault(None, "decline")]).hold()

    @given(population=st.integers(1, 30), cohort=st.integers(1, 30), seed=st.integers(0, 1000), data=st.data())
    @settings(max_examples=60)
    def test_uniform_draws_as_many_as_there_are_of_those_left(self, population, cohort, seed, data):
        held = nodes_of(population)
        without = data.draw(st.frozensets(st.sampled_from(sorted(held))))
        roster = tuple(held)
        drawn = Uniform(cohort).draw(roster, cohort, without, np.random.default_rng(seed))
        assert len(drawn) == min(cohort, population - len(without))

    def test_uniform_draws_each_node_as_often(self):
        counts = np.zeros(10)
        for seed in range(2000):
            for node in Uniform(3).draw(tuple("abcdefghij"), 3, frozenset(), np.random.default_rng(seed)):
                counts["abcdefghij".index(node)] += 1
        assert np.abs(counts / 2000 - 0.3).max() < 0.045  # more than four standard deviations

    def test_poisson_draws_each_node_by_its_own_coin(self):
        draws = [
            set(Poisson(2.0).draw(tuple("abcde"), 2, frozenset(), np.random.default_rng(seed))) for seed in range(2000)
        ]
        both = np.mean([{"a", "b"} <= drawn for drawn in draws])
        sizes = np.array([len(drawn) for drawn in draws])
        assert abs(both - 0.16) < 0.04
        assert abs(sizes.mean() - 2.0) < 0.11
        assert abs(sizes.var() - 1.2) < 0.2


class TestEpilogue:
    def test_each_measuring_node_trains_alone_from_the_first_model_and_measures_that(self):
        evaluation = Evaluation(nodes=10, evaluators=False, baseline_rounds=3)
        held = federation(population=3, rounds=2, evaluation=evaluation)
        outcome = held.hold()
        assert outcome.carried.over
        alone = held.records[-1]["evaluation"][BASELINE]["nodes"]
        shrink = (1 - 0.1) ** (4 * 3)  # of the distance from zero, three times four steps
        for index, name in enumerate(nodes_of(3)):
            assert alone[name]["distance"] == pytest.approx((1.0 + index) * shrink, rel=1e-5)

    def test_it_is_no_round_and_changes_no_model(self):
        evaluation = Evaluation(nodes=10, evaluators=False, baseline_rounds=1)
        held = federation(rounds=2, evaluation=evaluation)
        outcome = held.hold()
        assert [record["purpose"] for record in held.records] == ["train", "train", "epilogue"]
        assert outcome.carried.round == 2
        assert digest_of(outcome.carried.model) == held.records[1]["model"]

    def test_a_run_without_baseline_has_none(self):
        held = federation(rounds=2, evaluation=Evaluation(nodes=3, evaluators=False))
        held.hold()
        assert [record["purpose"] for record in held.records] == ["train", "train"]

    def test_nodes_that_cannot_train_alone_decline_and_the_run_is_over_all_the_same(self):
        held = federation(rounds=1, evaluation=Evaluation(nodes=10, evaluators=False, baseline_rounds=1))
        held.fleet.faults = [Fault(None, "silence", BASELINE)]
        assert held.hold().state == "finished"


def test_the_last_round_is_measured_whatever_the_rhythm():
    held = federation(population=3, rounds=5, evaluation=Evaluation(every=3, nodes=3, evaluators=False))
    held.hold()
    assert [EVALUATE in record["evaluation"] for record in held.records] == [False, False, True, False, True]


def test_evaluators_measure_and_never_train():
    evaluators = {"referee": Quadratic.at([5.0])}
    held = federation(population=3, rounds=2, evaluation=Evaluation(nodes=0), evaluators=evaluators)
    held.hold()
    assert held.fleet.asked(EVALUATE_BY_EVALUATOR) == [["referee"]] * 2
    assert all("referee" not in nodes for nodes in held.fleet.asked())


def test_a_node_whose_update_holds_a_nan_is_quarantined_and_replaced():
    willing = federation(Uniform(3), rules={"over_selection": 1.0})
    willing.hold()
    ((first, *_),) = willing.fleet.asked()

    def poison(ask: Ask, reply: Reply) -> Reply:
        poisoned = isinstance(reply, Updates) and reply.nodes == (first,)
        return replace(reply, delta=np.full_like(reply.delta, np.nan)) if poisoned else reply

    held = federation(Uniform(3), rules={"over_selection": 1.0}, tamper=poison)
    held.hold()
    assert [(drop["node"], drop["kind"]) for drop in held.records[0]["dropped"]] == [(first, "quarantined")]
    assert len(held.records[0]["survivors"]) == 3
    assert held.fleet.refused == {(0, first): "its delta holds a NaN or an infinity"}
