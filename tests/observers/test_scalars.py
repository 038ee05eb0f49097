"""What a tracking service is told: tidy names, the figures of the record, and no name of a node unasked."""

import json

import numpy as np
import pytest

from lycia.observers.scalars import alone_scalars, parameters_of, scalars_of
from tests.reports.runs import an_eventful_run

RUN = an_eventful_run()


def test_a_round_is_its_metrics_its_turnout_and_its_cost():
    first = RUN.rounds[0]
    named = scalars_of(first)
    assert named["evaluate/accuracy"] == first.evaluation["evaluate"].pooled["accuracy"]
    assert named["evaluator/accuracy"] == 0.55
    assert named["train/loss"] == 0.5
    assert named["train/examples"] == 1000
    assert (named["nodes/asked"], named["nodes/heard"], named["nodes/there"]) == (4, 4, 4)
    assert (named["norm/median"], named["norm/max"]) == (np.median([1, 2, 3, 4]), 4)
    assert (named["bytes/up"], named["bytes/down"]) == (first.bytes_up, first.bytes_down)
    assert named["seconds/train"] == first.phases_s["train"]
    assert named["seconds/close"] == first.phases_s["close"]
    assert named["round/attempts"] == 1
    assert all(isinstance(value, float) for value in named.values())


def test_attempts_that_missed_count_for_the_round_that_they_were_attempts_at():
    missed, done = (current for current in RUN.rounds if current.number == 2)
    assert missed.missed
    named = scalars_of(done, [missed])
    assert named["round/attempts"] == 2
    assert named["bytes/down"] == missed.bytes_down + done.bytes_down
    assert named["nodes/quarantined"] == 1
    assert named["nodes/vanished"] == sum(drop.kind == "vanished" for drop in (*missed.dropped, *done.dropped))


def test_no_name_of_a_node_is_told_unless_it_is_asked_for():
    first = RUN.rounds[0]
    assert not any(node in name for name in scalars_of(first) for node in first.cohort)
    single = scalars_of(first, per_node=True)
    assert single["evaluate_by_node/accuracy/north"] == 0.6
    assert single["train_by_node/examples/north"] == 200
    assert single["norm_by_node/north"] == 2
    assert single.items() >= scalars_of(first).items()


def test_what_nodes_reach_alone_has_a_group_of_its_own():
    assert RUN.epilogue
    assert alone_scalars(RUN.epilogue).keys() >= {"alone/accuracy"}


def test_the_parameters_of_a_run_are_flat_and_leave_out_what_is_not_set():
    named = parameters_of(RUN)
    assert named["run"] == "digits-7f3a"
    assert named["plan.rounds"] == 3
    assert named["plan.selector"] == "Everyone"
    assert named["plan.server.learning_rate"] == 1.0
    assert named["plan.stop.metric"] == "accuracy"
    assert named["versions.numpy"] == "2.4.6"
    assert named["model.trained"] == 64 * 32 + 32 + 320
    assert "plan.stop.patience" not in named
    assert json.dumps(dict(named))


@pytest.mark.parametrize("number", [0, -1])
def test_every_round_has_the_number_by_which_it_is_known_to_be_there(number: int):
    assert "round/attempts" in scalars_of(RUN.closed[number])
