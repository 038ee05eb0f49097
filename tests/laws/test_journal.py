"""The journal of events is the round: told again, in whole or in part, it gives the same state."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lycia.aggregators import UniformMean
from lycia.algorithms import SGD, FedAvg
from lycia.core import closing, events
from lycia.core.events import Asked, Closed, Dropped, Ended, Event, Heard, Opened, Settled
from lycia.core.hearing import hear, refusals
from lycia.core.layout import Layout, Leaf, Model
from lycia.core.messages import (
    EVALUATE,
    TRAIN,
    Answer,
    Declined,
    Malformed,
    Reply,
    Scores,
    Summed,
    Updates,
    Vanished,
)
from lycia.core.plan import Buffered, Evaluation, Plan, RoundRules
from lycia.core.round import Carried, Round, Run, first, grid_of, replay, take
from lycia.errors import JournalError
from lycia.selection import Everyone, Uniform
from lycia.testing import Fault, Federation, Quadratic, QuadraticTrainer

NAMES = tuple(f"node {index}" for index in range(5))
NODES = {name: Quadratic.at([float(index), 1.0]) for index, name in enumerate(NAMES)}
DOES = ["decline", "vanish", "return", "silence", "late", "garble", "twice"]

numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=8)
nodes = st.lists(st.text(min_size=1, max_size=5), max_size=4, unique=True).map(tuple)


@st.composite
def heards(draw) -> Heard:
    who = draw(nodes)
    figures = st.tuples(*[st.none() | numbers for _ in who])
    known = st.tuples(*[numbers for _ in who])
    bodies = st.tuples(*[st.binary(max_size=9) for _ in who]) | st.just(())
    named = texts | st.just("b64")
    return Heard(
        draw(numbers), draw(st.integers(0)), who, draw(st.tuples(*[texts for _ in who])), draw(known), draw(figures),
        draw(st.dictionaries(named, figures, max_size=2)), draw(st.dictionaries(named, known, max_size=2)),
        draw(bodies),
    )  # fmt: skip


any_event = st.one_of(
    st.builds(
        Opened, numbers, st.integers(0), st.integers(0), st.sampled_from(["train", "epilogue"]), st.integers(0),
        st.binary(min_size=32, max_size=32), st.none() | numbers,
    ),
    st.builds(Asked, numbers, st.integers(0), texts, nodes),
    heards(),
    st.builds(
        Dropped, numbers, st.integers(0), texts,
        st.sampled_from(["declined", "vanished", "quarantined", "late"]), texts,
    ),
    st.builds(Settled, numbers, texts, nodes),
    st.builds(Closed, numbers, texts),
    st.builds(Ended, numbers, texts),
)  # fmt: skip


@given(event=any_event)
def test_an_event_comes_back_from_its_line_as_it_was(event: Event):
    assert events.from_json(events.to_json(event)) == event
    assert "\n" not in events.to_json(event)


@given(
    line=st.text(max_size=60)
    | any_event.map(events.to_json).flatmap(lambda line: st.integers(0, len(line) - 1).map(lambda cut: line[:cut]))
)
def test_a_line_that_is_no_event_is_refused_in_our_words(line: str):
    with pytest.raises(JournalError):
        events.from_json(line)


def test_a_journal_that_begins_in_the_middle_is_refused():
    run = Federation(plan_of(), QuadraticTrainer(2), NODES).run
    with pytest.raises(JournalError, match="Settled"):
        replay(run, [Settled(0.0, TRAIN, ())])


def plan_of(schedule: Buffered | None = None, over_selection: float = 1.5) -> Plan:
    return Plan(
        rounds=3, selector=Everyone() if schedule else Uniform(3), client=FedAvg(), aggregator=UniformMean(),
        server=SGD(), rules=RoundRules(deadline_s=9.0, over_selection=over_selection), evaluation=Evaluation(nodes=3),
        **({"schedule": schedule} if schedule else {}),
    )  # fmt: skip


faults = st.lists(
    st.builds(Fault, st.sampled_from([*NAMES, None]), st.sampled_from(DOES), st.sampled_from([TRAIN, EVALUATE])),
    max_size=4,
)


@given(faults=faults, buffered=st.booleans(), eager=st.booleans(), block=st.integers(1, 3), seed=st.integers(0, 9))
@settings(max_examples=60)
def test_every_prefix_of_a_journal_gives_the_state_that_the_loop_had(faults, buffered, eager, block, seed):
    schedule = Buffered(size=2, concurrency=3, max_staleness=1) if buffered else None
    held = Federation(
        replace(plan_of(schedule), seed=seed), QuadraticTrainer(2), NODES, faults=faults, eager=eager, block=block
    )
    held.hold()
    for journal in held.store.journals:
        state: Round | None = None
        for count, event in enumerate(journal, start=1):
            state = take(state, event) if state else Round.begin(held.run, event)
            again = [events.from_json(events.to_json(earlier)) for earlier in journal[:count]]
            assert replay(held.run, again) == state
            assert take(state, event) == state, "taking an event twice changes something"


# ---------------------------------------------------------------------------------- replies of every kind, in any order


def updates(task: int, who: tuple[str, ...], value: float = 1.0, size: int = 2, dtype: str = "float32") -> Updates:
    count = len(who)
    return Updates(
        task, who, np.full((count, size), value).astype(dtype), np.ones(count), {}, {"loss": np.full(count, value)},
        tuple(f"{task}/{name}" for name in who),
    )  # fmt: skip


def summed(task: int, who: tuple[str, ...], grid) -> Summed:
    count = len(who)
    return Summed(
        task, who, np.zeros(2, np.int64), grid, np.ones(count), np.zeros(count), {}, {"node 4": "wild"}, "sum"
    )


def scores(task: int, who: tuple[str, ...], weight: float) -> Scores:
    return Scores(task, who, np.full(len(who), weight), {"loss": np.ones(len(who))})


some_nodes = st.lists(st.sampled_from([*NAMES, "stranger"]), min_size=1, max_size=4).map(tuple)
one_node = st.sampled_from([*NAMES, "stranger"])
tasks = st.integers(-1, 3)
values = st.sampled_from([0.0, 1.0, 1e9, np.nan, np.inf])


def replies(grid) -> st.SearchStrategy[Reply]:
    return st.one_of(
        st.builds(updates, tasks, some_nodes, values, st.sampled_from([2, 3]), st.sampled_from(["float32", "float64"])),
        st.builds(summed, tasks, some_nodes, st.just(grid)),
        st.builds(scores, tasks, some_nodes, values),
        st.builds(Answer, tasks, one_node, st.binary(max_size=4)),
        st.builds(Declined, tasks, one_node, st.just("busy")),
        st.builds(Vanished, tasks, one_node, st.just("silent")),
        st.builds(Malformed, tasks, one_node, st.just("noise")),
    )  # fmt: skip


def open_round(exchange: str = TRAIN, over_selection: float = 1.0) -> tuple[Run, Carried, Round]:
    plan = replace(
        plan_of(over_selection=over_selection),
        selector=Uniform(3),
        rules=RoundRules(norm_bound=1e3, over_selection=over_selection),
    )
    run = Run("run", plan, Layout.of({"w": np.zeros(2, np.float32)}))
    current = Round.begin(run, Opened(0.0, 0, 0, "train", 5, bytes(32), 1e3))
    current = take(current, Asked(0.0, 0, TRAIN, NAMES[:4]))
    if exchange == EVALUATE:
        for event in (Settled(1.0, TRAIN, ()), Closed(1.0, "digest"), Asked(1.0, 1, EVALUATE, NAMES[:4])):
            current = take(current, event)
    return run, first(run, Model(np.zeros(2, np.float32))), current


@given(data=st.data(), exchange=st.sampled_from([TRAIN, EVALUATE]))
@settings(max_examples=200)
def test_whatever_nodes_send_a_second_hearing_changes_nothing(data, exchange: str):
    run, carried, current = open_round(exchange)
    sent = data.draw(st.lists(replies(grid_of(run, current)), max_size=6))
    verdicts = []
    for at_s, reply in enumerate(sent, start=1):
        for event in hear(run, carried, current, reply, float(at_s)):
            assert events.from_json(events.to_json(event)) == event
            current = take(current, event)
        verdicts.append(refusals(carried, current, reply))
        assert hear(run, carried, current, reply, float(at_s) + 100) == [], "it was heard twice"
        assert refusals(carried, current, reply) == verdicts[-1]
    for reply in sent:
        assert hear(run, carried, current, reply, 999.0) == []


@given(data=st.data())
@settings(max_examples=150)
def test_a_block_means_the_same_as_its_rows_one_by_one(data):
    run, carried, current = open_round()
    who = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True).map(tuple))
    column = np.array([data.draw(values) for _ in who])
    block = replace(updates(0, who), delta=np.stack([column, column], axis=1).astype(np.float32))
    together, singly = current, current
    for event in hear(run, carried, together, block, 1.0):
        together = take(together, event)
    for row in range(len(who)):
        if singly.program[0] == TRAIN and len(singly.heard.get(TRAIN, {})) >= 3:
            singly = take(singly, Settled(1.0, TRAIN, tuple(sorted(singly.heard[TRAIN]))))
        for event in hear(run, carried, singly, block.row(row), 1.0):
            singly = take(singly, event)
    assert together.heard.get(TRAIN, {}).keys() == singly.heard.get(TRAIN, {}).keys()
    assert {n: d.reason for n, d in together.dropped.get(TRAIN, {}).items()} == {
        n: d.reason for n, d in singly.dropped.get(TRAIN, {}).items()
    } or singly.program[0] != TRAIN
    assert {drop.node for drop in together.late} <= {drop.node for drop in singly.late}


def test_a_reply_of_the_wrong_kind_is_quarantined_and_ends_nothing():
    run, carried, current = open_round()
    for reply in (Answer(0, "node 0", b"instead of an update"), Scores(0, ("node 1",), np.ones(1), {})):
        (event,) = hear(run, carried, current, reply, 1.0)
        assert (event.kind, event.node) == ("quarantined", reply.node if isinstance(reply, Answer) else "node 1")
    run, carried, current = open_round(EVALUATE)
    (event,) = hear(run, carried, current, updates(1, ("node 0",)), 1.0)
    assert event.kind == "quarantined"


def test_only_nodes_that_were_asked_are_heard():
    run, carried, current = open_round()
    stranger = updates(0, ("stranger",))
    assert hear(run, carried, current, stranger, 1.0) == []
    assert refusals(carried, current, stranger) == {"stranger": "it was not asked"}


def test_a_node_that_vanished_may_come_back_and_one_that_declined_may_not():
    run, carried, current = open_round()
    for reply in (Vanished(0, "node 0", "silent"), Declined(0, "node 1", "busy")):
        for event in hear(run, carried, current, reply, 1.0):
            current = take(current, event)
    (heard,) = hear(run, carried, current, updates(0, ("node 0", "node 1")), 2.0)
    assert heard.nodes == ("node 0",)
    assert set(take(current, heard).dropped[TRAIN]) == {"node 1"}


def test_an_update_that_was_taken_is_not_refused_when_it_comes_again_rounds_later():
    run, carried, current = open_round(EVALUATE)
    for event in (Heard(1.0, 0, ("node 0",), ("handle",), (1.0,), (1.0,)), Closed(1.0, "digest"), Ended(2.0)):
        current = take(current, event)
    later = closing.conclude(run, replace(carried, round=1), current)
    following = Round.begin(run, Opened(3.0, 1, 0, "train", 5, bytes(32), None))
    again, stranger = updates(0, ("node 0",)), updates(0, ("node 1",))
    assert (hear(run, later, following, again, 4.0), refusals(later, following, again)) == ([], {})
    (late,) = hear(run, later, following, stranger, 4.0)
    assert refusals(later, take(following, late), stranger) == {"node 1": late.reason}


def test_an_update_in_flight_is_heard_once_and_waits_while_the_model_is_measured():
    run = Run(
        "run", plan_of(Buffered(size=2, concurrency=3, max_staleness=2)), Layout.of({"w": np.zeros(2, np.float32)})
    )
    inflight = {50: ("node 3", 4), 51: ("node 4", 1)}
    carried = replace(first(run, Model(np.zeros(2, np.float32))), round=5, inflight=inflight)
    training = Round.begin(run, Opened(0.0, 5, 0, "train", 5, bytes(32), None))
    measuring = replace(training, program=(EVALUATE,))
    update, stale = updates(50, ("node 3",)), updates(51, ("node 4",))
    assert hear(run, carried, measuring, update, 1.0) == []
    (heard,) = hear(run, carried, training, update, 1.0)
    (late,) = hear(run, carried, training, stale, 1.0)
    assert late.reason == "its base model is 4 rounds old"
    after = take(take(training, heard), late)
    assert hear(run, carried, after, update, 2.0) == hear(run, carried, after, stale, 2.0) == []
    assert refusals(carried, after, stale) == {"node 4": late.reason}
    assert refusals(carried, after, update) == {}


def test_a_node_that_makes_up_task_numbers_is_named_once():
    run, carried, current = open_round()
    for number in (7, 8, 10**9):
        for event in hear(run, carried, current, updates(number, ("node 0",)), 1.0):
            current = take(current, event)
    assert [drop.node for drop in current.late] == ["node 0"]


@pytest.mark.parametrize("describes", [False, True])
def test_what_is_in_flight_outlives_a_missed_attempt_unless_features_are_scaled_anew(describes: bool):
    plan = plan_of(Buffered(size=2, concurrency=3))
    run = Run("run", plan, Layout((Leaf("w", (2,)),)))
    carried = first(run, Model(np.zeros(2, np.float32)))
    current = Round.begin(run, Opened(0.0, 0, 0, "train", 3, bytes(32), None, describes))
    for event in (Asked(0.0, 0, TRAIN, ("node 0",)), Ended(9.0, "nobody was heard")):
        current = take(current, event)
    assert closing.conclude(run, carried, current).inflight == ({} if describes else {0: ("node 0", 0)})
