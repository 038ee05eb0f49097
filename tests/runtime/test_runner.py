"""The loop may be killed at any moment: held again, it ends with the same bits, and asks nobody again who was heard."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from lycia.aggregators import ExampleWeightedMean, UniformMean
from lycia.algorithms import Adam, FedAvg
from lycia.core import hearing
from lycia.core.events import Asked, Closed, Heard, Opened, Settled
from lycia.core.messages import EVALUATE, EVALUATE_BY_EVALUATOR, TRAIN
from lycia.core.parts import Arrays, ClientRule, NodeView, ServerView, Told
from lycia.core.plan import Buffered, Evaluation, Plan, RoundRules, Stop
from lycia.errors import LyciaError, SelectionError, StorageError
from lycia.runtime.facts import RoundEnded, RoundMoved, RunBegan, RunEnded
from lycia.selection import Everyone, Poisson, Uniform
from lycia.testing import Fault, Federation, Fuse, Killed, Quadratic, QuadraticTrainer, Watching, digest_of

NODES = {f"node {index}": Quadratic.at([1.0 + index, -1.0], 1.0, index + 1.0) for index in range(6)}
TRAINER = QuadraticTrainer(2, jitter=0.01)


@dataclass(frozen=True)
class Greeting(ClientRule):
    """A rule with an exchange before training and one after, whose answers later exchanges are told."""

    before: ClassVar[tuple[str, ...]] = ("greet",)
    after: ClassVar[tuple[str, ...]] = ("thank",)

    def answer(self, exchange: str, view: NodeView) -> tuple[bytes, Arrays]:
        return f"{exchange} {view.node} {view.secret.hex()}".encode(), view.memory

    def tell(self, exchange: str, view: ServerView) -> Told:
        if exchange == TRAIN:
            return Told({}, {node: b" ".join(sorted(view.answers["greet"].values())) for node in view.present})
        return Told()


def plan_of(**changes) -> Plan:
    parts = {
        "rounds": 2, "selector": Uniform(3), "client": FedAvg(), "aggregator": ExampleWeightedMean(), "server": Adam(),
        "rules": RoundRules(deadline_s=9.0), "evaluation": Evaluation(nodes=2),
    }  # fmt: skip
    return Plan(**{**parts, **changes})


def backwards(ask, node: str) -> float:
    return 1.0 + 0.1 * (len(NODES) - int(node[-1])) if node[-1].isdigit() else 1.0


STORIES: dict[str, tuple[Plan, dict]] = {
    "a plain run": (plan_of(), {}),
    "dropouts of every kind": (
        plan_of(rounds=3),
        {"faults": [Fault(f"node {n}", does) for n, does in enumerate(["decline", "vanish", "garble", "return"])]},
    ),
    "lateness and repetition": (
        plan_of(selector=Everyone(), rules=RoundRules(deadline_s=3.0)),
        {
            "faults": [Fault("node 0", "late"), Fault("node 1", "twice"), Fault("node 2", "silence", EVALUATE)],
            "eager": True,
        },
    ),
    "a round that misses its quorum": (
        plan_of(rules=RoundRules(deadline_s=3.0, over_selection=1.0, replacement=False)),
        {"faults": [Fault(None, "silence", rounds=frozenset({1}), attempts=frozenset({0, 1}))]},
    ),
    "exchanges of a part": (plan_of(client=Greeting()), {"faults": [Fault("node 4", "silence", "thank")]}),
    "blocks and over-selection": (
        plan_of(rules=RoundRules(over_selection=2.0)),
        {"block": 2, "arrival_s": backwards, "eager": True},
    ),
    "sums": (plan_of(rules=RoundRules(norm_bound=50.0, over_selection=1.0)), {"block": 3, "sums": True}),
    "an exact cohort, sometimes empty": (plan_of(rounds=4, selector=Poisson(1.0), aggregator=UniformMean(1.0)), {}),
    "an epilogue": (plan_of(rounds=1, evaluation=Evaluation(nodes=3, baseline_rounds=2)), {}),
    "evaluators": (plan_of(), {"evaluators": {"referee": Quadratic.at([0.0, 0.0])}}),
    "a target": (plan_of(rounds=3, stop=Stop("loss", target=4.5, better="lower")), {}),
    "a buffer": (plan_of(rounds=3, schedule=Buffered(2, 4)), {"arrival_s": backwards}),
}  # fmt: skip


def told(story: str, fuse: Fuse | None = None) -> Federation:
    plan, fleet = STORIES[story]
    return Federation(plan, TRAINER, NODES, fuse=fuse, **fleet)


def what_matters(held: Federation) -> dict:
    """What must not depend on where the loop was killed: everything but the time."""
    return {
        "model": digest_of(held.model),
        "slots": {name: array.tobytes() for name, array in held.store.carried.slots.items()},
        "finished": (held.store.carried.finished, held.store.carried.over, held.store.carried.round),
        "survivors": [(record["round"], record["attempt"], record["survivors"]) for record in held.records],
        "figures": [record["evaluation"] for record in held.records],
        "kept for nothing": [
            handle
            for update in held.fleet.held.values()
            for handle in update.handles
            if {(update.task, node) for node in update.nodes} <= held.fleet.acknowledged
        ],
    }


@pytest.mark.parametrize("story", STORIES)
def test_a_loop_killed_at_any_moment_ends_with_the_same_bits_and_asks_nobody_twice(story: str):
    whole = told(story)
    whole.hold()
    expected = what_matters(whole)
    assert expected["kept for nothing"] == []
    every = 1 if story == "a plain run" else 3  # one in three takes a third of the time, and meets each call as well
    for moment in range(1, whole.fuse.count + 1, every):
        held = told(story, Fuse(moment))
        with pytest.raises(Killed):
            held.hold()
        held.restart()
        held.hold()
        assert what_matters(held) == expected, f"killed at moment {moment}"
        assert nobody_worked_twice(held), f"killed at moment {moment}"


@pytest.mark.parametrize("story", STORIES)
def test_a_loop_that_is_killed_again_and_again_gets_there_too(story: str):
    whole = told(story)
    whole.hold()
    held = told(story)
    for step in (7, 5, 11, 3, 13, 17, 4, 6, 9, 8) * 9:
        held.fuse.at = held.fuse.count + 5 * step
        try:
            held.hold()
            break
        except Killed:
            held.restart()
    assert what_matters(held) == what_matters(whole)
    assert nobody_worked_twice(held)


def nobody_worked_twice(held: Federation) -> bool:
    return max(Counter(held.fleet.worked).values(), default=0) <= 1


def test_what_nodes_see_is_written_down_before_it_is_sent():
    held, at_send = told("exchanges of a part"), []
    send = held.fleet.send

    async def watched(ask) -> None:
        asked = [line for line in held.store.open if '"event":"Asked"' in line and f'"task":{ask.task},' in line]
        at_send.append(len(asked))
        await send(ask)

    held.fleet.send = watched
    held.hold()
    assert set(at_send) == {1}


def test_a_reply_is_written_down_before_it_is_acknowledged():
    held, acknowledged = told("lateness and repetition"), []
    acknowledge = held.fleet.acknowledge

    async def watched(reply, refusals) -> None:
        written = [
            line for line in held.store.open if f'"task":{reply.task},' in line and '"event":"Asked"' not in line
        ]
        acknowledged.append(
            [node for node in hearing.senders(reply) if not any(f'"{node}"' in line for line in written)]
        )
        await acknowledge(reply, refusals)

    held.fleet.acknowledge = watched
    held.hold()
    assert acknowledged
    assert not any(acknowledged)


def test_a_secret_is_drawn_once_for_each_attempt_and_written_down_before_its_use():
    story = "a round that misses its quorum"
    for moment in range(1, 60, 3):
        held = told(story, Fuse(moment))
        with pytest.raises(Killed):
            held.hold()
        held.restart()
        opened = [line for line in held.store.open if '"event":"Opened"' in line]
        before = len(held.secrets_drawn)
        held.hold(until_round=1)
        again = held.secrets_drawn[before:]
        assert not (opened and again[:1] == held.secrets_drawn[before - 1 : before]), "an open round has its secret"


def test_a_round_that_closed_is_not_closed_again():
    whole = told("a plain run")
    whole.hold()
    for moment in range(1, whole.fuse.count + 1):
        held = told("a plain run", Fuse(moment))
        with pytest.raises(Killed):
            held.hold()
        closed = any('"event":"Closed"' in line for line in held.store.open)
        if closed:
            version = held.store.carried.round
            held.restart()
            held.hold(until_round=version)
            assert held.store.carried.round == version
            assert len([event for event in held.store.journals[-1] if isinstance(event, Closed)]) == 1


def test_a_journal_tells_a_round_in_order():
    held = told("a plain run")
    held.hold()
    kinds = [type(event) for event in held.store.journals[0]]
    assert kinds[:2] == [Opened, Asked]
    assert kinds.index(Heard) < kinds.index(Settled) < kinds.index(Closed)


def test_a_run_that_is_over_stays_over():
    held = told("a plain run")
    first = held.hold()
    asked = len(held.fleet.sent)
    assert held.hold().reason == first.reason == "all rounds done"
    assert len(held.fleet.sent) == asked


def test_a_run_that_is_stopped_at_a_round_goes_on_from_there():
    held, whole = told("a plain run"), told("a plain run")
    whole.hold()
    stopped = held.hold(until_round=1)
    assert (stopped.state, stopped.carried.round) == ("stopped", 1)
    assert held.hold().state == "finished"
    assert what_matters(held) == what_matters(whole)


def test_tasks_that_nobody_needs_any_more_are_withdrawn():
    held = Federation(
        plan_of(rounds=1, rules=RoundRules(over_selection=2.0), evaluation=Evaluation(nodes=0)), TRAINER, NODES
    )
    withdrawn = []
    withdraw = held.fleet.withdraw

    async def watched(tasks) -> None:
        withdrawn.extend(tasks)
        await withdraw(tasks)

    held.fleet.withdraw = watched
    held.fleet.arrival_s = backwards
    held.hold()
    assert withdrawn == [0]
    assert len(held.fleet.worked) == 3


def test_observers_hear_of_everything_in_order():
    watching = Watching()
    plan, fleet = STORIES["a round that misses its quorum"]
    held = Federation(plan, TRAINER, NODES, observers=[watching], **fleet)
    held.hold()
    kinds = [type(fact) for fact in watching.facts]
    assert kinds[0] is RunBegan
    assert kinds[-1] is RunEnded
    assert [fact.record["attempt"] for fact in watching.facts if isinstance(fact, RoundEnded)] == [0, 0, 1, 2]
    moved = [fact for fact in watching.facts if isinstance(fact, RoundMoved)]
    assert {fact.exchange for fact in moved} == {TRAIN, EVALUATE}
    assert all(fact.heard <= fact.asked for fact in moved)


def test_an_observer_that_fails_ends_the_loop_and_the_run_can_go_on():
    class Failing:
        def notice(self, fact) -> None:
            if isinstance(fact, RoundEnded):
                raise RuntimeError("the disk of the reports is full")

    plan, _ = STORIES["a plain run"]
    held = Federation(plan, TRAINER, NODES, observers=[Failing()])
    with pytest.raises(RuntimeError, match="reports"):
        held.hold()
    held.observers = []
    held.restart()
    held.hold()
    whole = told("a plain run")
    whole.hold()
    assert what_matters(held) == what_matters(whole)


def test_a_run_waits_for_the_nodes_that_its_rules_demand():
    held = Federation(plan_of(rules=RoundRules(least_nodes=7)), TRAINER, NODES)
    with pytest.raises(SelectionError, match="6 nodes"):
        held.hold()


def test_two_parts_that_tell_nodes_the_same_thing_are_refused():
    class Loud(Greeting):
        def tell(self, exchange: str, view: ServerView) -> Told:
            return Told({"word": view.slots["word"]}) if exchange == TRAIN else Told()

        def slots(self, layout):
            return {"word": np.zeros(1)}

    class Louder(Uniform):
        slots: Callable = Loud.slots
        tell: Callable = Loud.tell

    with pytest.raises(LyciaError, match="word"):
        Federation(plan_of(client=Loud(), selector=Louder(3)), TRAINER, NODES).hold()


def test_evaluators_are_asked_beside_the_nodes():
    held = told("evaluators")
    held.hold()
    assert held.fleet.asked(EVALUATE_BY_EVALUATOR) == [["referee"]] * 2


def test_a_round_is_opened_only_where_there_is_room_for_it():
    full = StorageError("the next round needs 5 GB.", why="it is asked first.", do="free some space.")
    federation = Federation(plan_of(rounds=3), TRAINER, NODES)
    federation.hold(until_round=1)
    asked = len(federation.fleet.sent)
    federation.fleet.no_space = full
    with pytest.raises(StorageError, match="needs 5 GB"):
        federation.hold()
    assert len(federation.fleet.sent) == asked
    assert federation.store.open == []
    federation.fleet.no_space = None
    federation.hold()
    quiet = Federation(plan_of(rounds=3), TRAINER, NODES)
    quiet.hold()
    assert digest_of(federation.model) == digest_of(quiet.model)
    assert len(federation.fleet.needs) == 4


def test_an_open_round_goes_on_without_asking_for_room_again():
    opened = 0
    for moment in range(1, 40):
        federation = Federation(plan_of(rounds=1, evaluation=Evaluation(nodes=0)), TRAINER, NODES, fuse=Fuse(moment))
        with suppress(Killed):
            federation.hold()
        if federation.store.open:
            opened, asked = opened + 1, len(federation.fleet.needs)
            federation.restart()
            federation.hold()
            assert len(federation.fleet.needs) == asked
    assert opened > 5
