"""Measurements are pooled exactly, and stop a run when its plan says so."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lycia.aggregators import UniformMean
from lycia.algorithms import SGD, FedAvg
from lycia.core import closing
from lycia.core.events import Asked, Heard, Opened
from lycia.core.layout import Layout
from lycia.core.messages import EVALUATE, EVALUATE_BY_EVALUATOR, TRAIN, Ask, Reply, Scores
from lycia.core.plan import Evaluation, Plan, Stop
from lycia.core.round import Round, Run, take
from lycia.selection import Everyone
from lycia.testing import Fault, Federation, Quadratic, QuadraticTrainer

NODES = {name: Quadratic.at([place]) for name, place in (("athens", 1.0), ("delphi", 2.0), ("patara", 3.0))}
figures = st.floats(-1e6, 1e6).map(lambda figure: round(figure, 9))
weights = st.just(0.0) | st.floats(0.01, 1e6)


def measured(values: Sequence[tuple[float, float | None]], order: Sequence[int] | None = None) -> Round:
    """A round in which nodes of these weights measured these figures, heard in this order."""
    plan = Plan(rounds=1, selector=Everyone(), client=FedAvg(), aggregator=UniformMean(), server=SGD())
    run = Run("run", plan, Layout.of({"w": np.zeros(1, np.float32)}))
    names = tuple(f"node {index}" for index in range(len(values)))
    current = Round.begin(run, Opened(0.0, 0, 0, "train", len(values), bytes(32), None))
    current = take(current, Asked(0.0, 0, EVALUATE, names))
    for index in order if order is not None else range(len(values)):
        weight, value = values[index]
        current = take(current, Heard(1.0, 0, (names[index],), ("",), (weight,), (None,), {"loss": (value,)}))
    return current


@given(values=st.lists(st.tuples(weights, figures), min_size=1, max_size=8), data=st.data())
def test_a_pooled_figure_is_the_weighted_mean_whatever_the_order(values, data):
    order = data.draw(st.permutations(range(len(values))))
    pooled, other = closing.pooled(measured(values), EVALUATE), closing.pooled(measured(values, order), EVALUATE)
    assert pooled == other
    total = sum(Fraction(weight) for weight, _ in values)
    if not total:
        assert pooled == {}
    else:
        exact = sum(Fraction(weight) * Fraction(value) for weight, value in values) / total
        spread = max(abs(value) for _, value in values)
        assert math.isclose(pooled["loss"], exact, rel_tol=1e-14, abs_tol=1e-14 * spread)


@given(
    values=st.lists(
        st.tuples(st.floats(0.01, 1e7), st.floats(allow_nan=False, allow_infinity=False)), min_size=1, max_size=6
    )
)
def test_no_figure_is_too_large_to_be_pooled(values):
    (figure,) = closing.pooled(measured(values), EVALUATE).values()
    assert min(value for _, value in values) <= figure <= max(value for _, value in values) or math.isclose(
        figure, values[0][1], rel_tol=1e-12
    )


def test_what_a_node_could_not_measure_is_left_out():
    pooled = closing.pooled(measured([(1.0, 2.0), (5.0, None), (3.0, 4.0)]), EVALUATE)
    assert pooled == {"loss": 3.5}


def federation(
    rounds: int = 8, *, stop: Stop | None = None, evaluation: Evaluation | None = None, **fleet
) -> Federation:
    plan = Plan(
        rounds=rounds, selector=Everyone(), client=FedAvg(), aggregator=UniformMean(), server=SGD(), stop=stop,
        evaluation=evaluation or Evaluation(),
    )  # fmt: skip
    return Federation(plan, fleet.pop("trainer", QuadraticTrainer(1)), NODES, **fleet)


@dataclass(frozen=True)
class Scripted(QuadraticTrainer):
    """Measures what the script says for the version of the model, which counts how often it was trained."""

    script: tuple[float, ...] = ()

    def train(self, task):
        return replace(super().train(task), model=replace(task.model, trained=task.model.trained + np.float32(1)))

    def evaluate(self, layout, model, data):
        return 1.0, {"accuracy": self.script[round(float(model.trained[0])) - 1]}


def rounds_until(script: Sequence[float], stop: Stop, **options) -> tuple[int, str]:
    held = federation(len(script), stop=stop, trainer=Scripted(1, script=tuple(script)), **options)
    outcome = held.hold()
    return outcome.carried.round, outcome.reason


def test_a_run_stops_at_its_target():
    rounds, reason = rounds_until([0.2, 0.6, 0.9, 0.95], Stop("accuracy", target=0.9))
    assert (rounds, reason) == (3, "target reached: accuracy 0.9")


def test_a_target_may_be_a_lower_value():
    assert rounds_until([0.9, 0.5, 0.1, 0.0], Stop("accuracy", target=0.3, better="lower"))[0] == 3


def test_a_target_in_the_last_round_is_what_the_run_ends_with():
    assert rounds_until([0.1, 0.9], Stop("accuracy", target=0.9))[1].startswith("target reached")


def test_a_run_stops_when_its_patience_ends():
    rounds, reason = rounds_until([0.2, 0.5, 0.5, 0.4, 0.9], Stop("accuracy", patience=2))
    assert (rounds, reason) == (4, "no better accuracy in 2 measurements")


def test_an_improvement_below_the_least_change_is_none():
    assert rounds_until([0.5, 0.505, 0.51, 0.9], Stop("accuracy", patience=2, least_change=0.05))[0] == 3


def test_patience_counts_measurements_and_not_rounds():
    script = [0.5, 0.5, 0.5, 0.4, 0.4, 0.4, 0.9]
    rounds, _ = rounds_until(script, Stop("accuracy", patience=2), evaluation=Evaluation(every=2))
    assert rounds == 6


def test_a_run_without_a_reason_to_stop_ends_with_its_rounds():
    assert rounds_until([0.1, 0.2, 0.3], Stop("accuracy", target=0.9, patience=5)) == (3, "all rounds done")


def test_rounds_without_the_figure_neither_stop_nor_wear_out_patience():
    assert rounds_until([0.1] * 4, Stop("f1", patience=1)) == (4, "all rounds done")


def test_the_evaluators_figure_decides_where_there_is_one():
    held = federation(stop=Stop("distance", target=1.0, better="lower"), evaluators={"referee": Quadratic.at([0.0])})
    outcome = held.hold()
    evaluation = held.records[0]["evaluation"]
    assert evaluation[EVALUATE_BY_EVALUATOR]["pooled"]["distance"] < 1.0 < evaluation[EVALUATE]["pooled"]["distance"]
    assert outcome.carried.round == 1


def test_best_and_patience_survive_a_stop_of_the_loop():
    whole = federation(5, stop=Stop("accuracy", patience=2), trainer=Scripted(1, script=(0.5, 0.6, 0.55, 0.5, 0.9)))
    parts = federation(5, stop=Stop("accuracy", patience=2), trainer=Scripted(1, script=(0.5, 0.6, 0.55, 0.5, 0.9)))
    outcome = whole.hold()
    for rounds in range(1, 6):
        again = parts.hold(until_round=rounds)
    assert (again.carried.round, again.carried.best, again.carried.finished) == (4, 0.6, outcome.reason)


@pytest.mark.parametrize("boast", [np.nan, np.inf, -np.inf])
def test_a_figure_that_is_no_number_does_not_count(boast: float):
    def tamper(ask: Ask, reply: Reply) -> Reply:
        rogue = isinstance(reply, Scores) and reply.nodes == ("patara",)
        return replace(reply, metrics={"distance": np.array([boast])}) if rogue else reply

    held, without = federation(2, tamper=tamper), federation(2, faults=[Fault("patara", "decline", EVALUATE)])
    held.hold()
    without.hold()
    pooled = [record["evaluation"][EVALUATE]["pooled"]["distance"] for record in held.records]
    assert pooled == [record["evaluation"][EVALUATE]["pooled"]["distance"] for record in without.records]


def test_two_nodes_that_boast_of_the_largest_number_do_not_end_the_run():
    def tamper(ask: Ask, reply: Reply) -> Reply:
        return replace(reply, metrics={"distance": np.array([1.7e308])}) if isinstance(reply, Scores) else reply

    held = federation(2, tamper=tamper, stop=Stop("distance", target=0.1, better="lower"))
    assert held.hold().state == "finished"
    assert held.records[0]["evaluation"][EVALUATE]["pooled"]["distance"] == 1.7e308


def test_a_metric_with_the_name_of_our_own_notation_survives_a_restart():
    def tamper(ask: Ask, reply: Reply) -> Reply:
        return replace(reply, metrics={"b64": np.array([1.0])}) if isinstance(reply, Scores) else reply

    held = federation(1, tamper=tamper)
    held.hold()
    assert held.records[0]["evaluation"][EVALUATE]["pooled"] == {"b64": 1.0}


def test_training_metrics_are_pooled_over_the_survivors():
    held = federation(1, faults=[Fault("patara", "decline", TRAIN)])
    held.hold()
    assert held.records[0]["train_metrics"]["pooled"] == {"loss": pytest.approx((0.5 * 1 + 0.5 * 4) / 2)}


def test_a_record_can_be_written_down():
    held = federation(2, evaluators={"referee": Quadratic.at([0.0])})
    held.hold()
    assert json.loads(json.dumps(held.records, allow_nan=False)) == held.records
