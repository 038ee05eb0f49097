"""Buffered runs fit the types: nodes train on older versions, across the closes of rounds and restarts of the loop."""

from dataclasses import replace

import numpy as np
import pytest

from lycia.aggregators import ExampleWeightedMean, UniformMean
from lycia.algorithms import SGD, FedAvg
from lycia.core.events import Asked, Heard
from lycia.core.messages import EVALUATE, TRAIN, Ask
from lycia.core.plan import Buffered, Evaluation, Plan, RoundRules
from lycia.selection import Everyone, Uniform
from lycia.testing import Fault, Federation, Fuse, Killed, Quadratic, QuadraticTrainer, digest_of

NODES = {
    "athens": Quadratic.at([1.0]),
    "delphi": Quadratic.at([2.0]),
    "patara": Quadratic.at([3.0]),
    "xanthos": Quadratic.at([4.0]),
}
SLOW = {"xanthos": 3.5}  # seconds; all others take one
TWO_OF_FOUR = Buffered(size=2, concurrency=4)
UNMEASURED = Evaluation(nodes=0, evaluators=False)


def federation(
    rounds: int = 4, schedule: Buffered = TWO_OF_FOUR, *, slow=SLOW, nodes=NODES, evaluation=UNMEASURED, selector=None,
    aggregator=None, **fleet,
) -> Federation:  # fmt: skip
    plan = Plan(
        rounds=rounds, selector=selector or Everyone(), client=FedAvg(), aggregator=aggregator or UniformMean(),
        server=SGD(), schedule=schedule, rules=RoundRules(deadline_s=60.0), evaluation=evaluation,
    )  # fmt: skip

    def arrival_s(ask: Ask, node: str) -> float:
        return slow.get(node, 1.0 + 0.1 * list(nodes).index(node)) if ask.exchange == TRAIN else 0.5

    return Federation(plan, QuadraticTrainer(1), nodes, **{"arrival_s": arrival_s, **fleet})


def versions_trained(held: Federation) -> list[tuple[str, int]]:
    return [(node, version) for exchange, version, _, node in held.fleet.worked if exchange == TRAIN]


def test_a_round_closes_when_its_buffer_is_full_and_others_train_on():
    held = federation(rounds=4)
    held.hold()
    assert [record["survivors"] for record in held.records[:2]] == [["athens", "delphi"], ["athens", "patara"]]
    assert ("xanthos", 0) in versions_trained(held)
    (in_which_round,) = [record["round"] for record in held.records if "xanthos" in record["survivors"]]
    assert in_which_round > 0


def test_an_update_is_added_to_the_newest_model_from_whatever_version_it_started():
    nodes = {"fast": Quadratic.at([1.0]), "slow": Quadratic.at([2.0])}
    held = federation(rounds=3, schedule=Buffered(size=1, concurrency=2), nodes=nodes, slow={"fast": 1.0, "slow": 1.5})
    held.hold()
    shrink = (1 - 0.1) ** 4  # four steps of 0.1 leave so much of the distance to a node's optimum
    fast, slow_first = (1.0 - 0.0) * (1 - shrink), 2.0 * (1 - shrink)  # both from version 0
    second = (1.0 - fast) * (1 - shrink)  # fast again, from version 1, while slow still trained on version 0
    assert versions_trained(held) == [("fast", 0), ("slow", 0), ("fast", 1)]
    np.testing.assert_allclose(held.model.trained, [fast + slow_first + second], rtol=1e-6)


def test_the_record_of_a_run_says_who_trained_which_version():
    held = federation(rounds=4)
    held.hold()
    events = [(journal[0].round, event) for journal in held.store.journals for event in journal]
    version = {event.task: number for number, event in events if isinstance(event, Asked)}
    heard = [(node, version[event.task]) for _, event in events if isinstance(event, Heard) for node in event.nodes]
    assert heard == versions_trained(held)


def test_a_node_trains_one_version_at_a_time():
    held = federation(rounds=6, slow={"xanthos": 2.2, "patara": 1.7})
    held.hold()
    busy: dict[str, int] = {}
    for ask in held.fleet.sent:
        (node,) = ask.nodes
        assert node not in busy or any(node in reply.nodes for reply in held.fleet.received if reply.task == busy[node])
        busy[node] = ask.task


def test_an_update_that_is_too_stale_is_refused_by_name():
    schedule = Buffered(size=1, concurrency=4, max_staleness=2)
    held = federation(rounds=8, schedule=schedule, slow={"xanthos": 2.9})
    held.hold()
    late = [late for record in held.records for late in record["late"] if late["node"] == "xanthos"]
    assert len(late) == 1
    assert late[0]["reason"].startswith("its base model is")
    assert all("xanthos" not in record["survivors"] for record in held.records)
    ((task, node),) = [place for place in held.fleet.refused if place[1] == "xanthos"]
    assert held.fleet.refused[task, node] == late[0]["reason"]


def test_an_update_at_the_limit_of_staleness_still_counts():
    schedule = Buffered(size=1, concurrency=4, max_staleness=5)
    held = federation(rounds=9, schedule=schedule, slow={"xanthos": 2.15})
    held.hold()
    (number,) = [record["round"] for record in held.records if "xanthos" in record["survivors"]]
    assert number <= 5


def test_an_update_that_comes_while_the_model_is_measured_counts_in_the_next_round():
    held = federation(rounds=4, evaluation=Evaluation(nodes=4, evaluators=False), slow={"xanthos": 1.3})
    held.hold()
    # Round 0 closes at 1.1 s and measures until 1.6 s; patara and xanthos answer at 1.2 s and 1.3 s.
    assert [record["survivors"] for record in held.records[:2]] == [["athens", "delphi"], ["patara", "xanthos"]]
    assert held.fleet.refused == {}
    assert [len(record["evaluation"][EVALUATE]["nodes"]) for record in held.records] == [4] * 4


@pytest.mark.parametrize(
    "evaluation", [UNMEASURED, Evaluation(nodes=2, evaluators=False)], ids=["unmeasured", "measured"]
)
def test_a_loop_that_dies_at_any_moment_loses_no_task_in_flight(evaluation: Evaluation):
    options = {"rounds": 5, "evaluation": evaluation}
    whole = federation(**options)
    whole.hold()
    for moment in range(1, whole.fuse.count + 1, 5):
        held = federation(**options, fuse=Fuse(moment))
        with pytest.raises(Killed):
            held.hold()
        held.restart()
        held.hold()
        assert digest_of(held.model) == digest_of(whole.model), f"killed at moment {moment}"
        assert len(held.fleet.worked) == len(set(held.fleet.worked))


def test_a_run_that_stops_between_rounds_goes_on_with_what_is_in_flight():
    whole, held = federation(rounds=5), federation(rounds=5)
    whole.hold()
    for rounds in range(1, 6):
        held.hold(until_round=rounds)
        held.restart()
    assert digest_of(held.model) == digest_of(whole.model)


def test_nodes_that_fall_silent_give_their_places_back_when_they_are_too_stale_to_count():
    faults = [Fault("athens", "silence"), Fault("delphi", "silence")]
    nodes = {f"node {n}": Quadratic.at([1.0]) for n in range(6)} | NODES
    schedule = Buffered(size=1, concurrency=3, max_staleness=1)
    held = federation(rounds=30, schedule=schedule, nodes=nodes, slow={}, selector=Uniform(1), faults=faults)
    assert held.hold().state == "finished"
    assert all(not record["missed"] for record in held.records)
    assert {"athens", "delphi"} & {node for (node,) in held.fleet.asked()}, "the draw never met the silent ones"


def test_a_round_that_all_its_nodes_let_down_is_tried_again_with_others():
    faults = [Fault(None, "silence", rounds=frozenset({1}), attempts=frozenset({0}))]
    nodes = {f"node {n}": Quadratic.at([1.0]) for n in range(12)}
    held = federation(rounds=3, schedule=Buffered(size=2, concurrency=2), faults=faults, nodes=nodes, slow={})
    outcome = held.hold()
    assert outcome.state == "finished"
    # Round 1 still has an update from round 0, which is its quorum; round 2 has none, until it asks again.
    assert [len(record["survivors"]) for record in held.records] == [2, 1, 0, 2]
    assert [bool(record["missed"]) for record in held.records] == [False, False, True, False]


def test_nodes_that_are_heard_often_count_less():
    nodes = {"often": Quadratic.at([1.0], examples=3.0), "seldom": Quadratic.at([-1.0], examples=3.0)}
    one = federation(
        rounds=1, schedule=Buffered(size=2, concurrency=2), nodes=nodes, slow={}, aggregator=ExampleWeightedMean()
    )
    one.start = replace(one.start, participation={"often": 3, "seldom": 0})
    one.hold()
    step = 1 - (1 - 0.1) ** 4
    # This is often's fourth update and seldom's first: they count a quarter and one of their three examples.
    np.testing.assert_allclose(one.model.trained, [(0.25 * step - step) / 1.25], rtol=1e-6)


def test_what_is_in_flight_when_the_run_is_over_is_withdrawn():
    held = federation(rounds=2)
    outcome = held.hold()
    assert outcome.carried.inflight == {}
    assert held.fleet.held == {}


def test_training_an_older_version_again_uses_other_randomness():
    held = federation(rounds=4)
    held.fleet.trainer = replace(held.fleet.trainer, jitter=0.5)
    held.hold()
    deltas = [float(reply.delta[0, 0]) for reply in held.fleet.received]
    assert len(set(deltas)) == len(deltas)
