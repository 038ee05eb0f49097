"""Clocks that jump, nodes of different speeds, and what goes wrong by chance or by script."""

import pytest

from lycia.core.messages import EVALUATE, TRAIN
from lycia.errors import PlanError
from lycia.simulation import Faults, Pace
from lycia.simulation.clock import VirtualClock

NODES = [f"node {number}" for number in range(2000)]


def test_a_virtual_clock_jumps_forward_and_never_back():
    clock = VirtualClock()
    clock.move_to(3600.0)
    clock.move_to(5.0)
    assert clock.now_s() == 3600.0


def test_time_is_examples_and_bytes_divided_by_speed():
    pace = Pace(example_s=0.01, link_bytes_s=1000.0)
    assert pace.seconds(0, "any", examples=50, payload_bytes=2000) == pytest.approx(0.5 + 2.0)


def test_uneven_nodes_keep_their_speed_and_differ_from_each_other():
    pace = Pace(spread=1.0)
    first = [pace.seconds(7, node, 100, 0) for node in NODES[:50]]
    assert first == [pace.seconds(7, node, 100, 0) for node in NODES[:50]]
    assert len(set(first)) == 50


def test_dropouts_come_as_often_as_asked_for_and_the_same_for_the_same_seed():
    faults = Faults(dropout=0.2)
    gone = [faults.mishap(1, 0, 0, TRAIN, node) for node in NODES]
    assert gone == [faults.mishap(1, 0, 0, TRAIN, node) for node in NODES]
    assert gone != [faults.mishap(2, 0, 0, TRAIN, node) for node in NODES]
    assert 320 < gone.count("vanish") < 480  # 2,000 draws at 0.2: more than four standard deviations


def test_a_script_says_what_happens_in_training_at_the_first_attempt_only():
    faults = Faults(script={(3, "ash"): "late"})
    assert faults.mishap(0, 3, 0, TRAIN, "ash") == "late"
    assert faults.mishap(0, 3, 1, TRAIN, "ash") is None
    assert faults.mishap(0, 3, 0, EVALUATE, "ash") is None
    assert faults.mishap(0, 2, 0, TRAIN, "ash") is None


def test_stragglers_are_always_the_same_nodes():
    faults = Faults(stragglers=0.3, straggler_factor=8)
    slow = {node for node in NODES if faults.slowdown(4, node) == 8}
    assert 500 < len(slow) < 700
    assert slow == {node for node in NODES if faults.slowdown(4, node) == 8}


@pytest.mark.parametrize("wrong", [{"dropout": 1.5}, {"stragglers": -0.1}, {"straggler_factor": 0.5}])
def test_faults_that_cannot_be_are_refused(wrong: dict[str, float]):
    with pytest.raises(PlanError, match="is not possible"):
        Faults(**wrong)
