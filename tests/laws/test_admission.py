"""Which updates count: a bad one is quarantined with its reason, moves nothing, and never ends a run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lycia.aggregators import ExampleWeightedMean, UniformMean
from lycia.algorithms import SGD, FedAvg
from lycia.core import admission
from lycia.core.messages import Ask, Reply, Scores, Updates
from lycia.core.parts import Arrays, NodeView, ServerView, Stage
from lycia.core.plan import Evaluation, Plan, RoundRules
from lycia.errors import LayoutError
from lycia.selection import Everyone
from lycia.testing import Fault, Federation, Quadratic, QuadraticTrainer, digest_of

HONEST = {f"honest {index}": Quadratic.at([float(index), 2.0], examples=index + 1.0) for index in range(4)}
NODES = {**HONEST, "rogue": Quadratic.at([1.0, 1.0])}
Change = Callable[[Updates], Updates]


def federation(
    *, rogue: Change | None = None, rounds: int = 2, rules: RoundRules | None = None, stages=(), aggregator=None,
    evaluation: Evaluation | None = None, nodes=None, **fleet,
) -> Federation:  # fmt: skip
    plan = Plan(
        rounds=rounds, selector=Everyone(), client=FedAvg(), aggregator=aggregator or ExampleWeightedMean(),
        server=SGD(), stages=stages, rules=rules or RoundRules(deadline_s=9.0),
        evaluation=evaluation or Evaluation(nodes=0),
    )  # fmt: skip

    def tamper(ask: Ask, reply: Reply) -> Reply:
        return rogue(reply) if rogue and isinstance(reply, Updates) and reply.nodes == ("rogue",) else reply

    return Federation(plan, QuadraticTrainer(2), nodes or NODES, **{"tamper": tamper, **fleet})


def delta(value: float) -> Change:
    return lambda update: replace(update, delta=np.array([[0.5, value]], np.float32))


def weight(value: float) -> Change:
    return lambda update: replace(update, weight=np.array([value]))


BAD: dict[str, tuple[Change, str]] = {
    "a NaN": (delta(np.nan), "its delta holds a NaN or an infinity"),
    "an infinity": (delta(np.inf), "its delta holds a NaN or an infinity"),
    "the other infinity": (delta(-np.inf), "its delta holds a NaN or an infinity"),
    "another shape": (
        lambda u: replace(u, delta=np.zeros((1, 3), np.float32)),
        "its delta has shape (3,) instead of (2,)",
    ),
    "no columns": (
        lambda u: replace(u, delta=np.zeros((1, 0), np.float32)),
        "its delta has shape (0,) instead of (2,)",
    ),
    "no rows": (lambda u: replace(u, delta=np.zeros((0, 2), np.float32)), "its arrays have different numbers of rows"),
    "one axis": (lambda u: replace(u, delta=np.zeros(2, np.float32)), "its delta has shape () instead of (2,)"),
    "another dtype": (
        lambda u: replace(u, delta=u.delta.astype(np.float64)),
        "its delta has dtype float64 instead of float32",
    ),
    "integers": (lambda u: replace(u, delta=u.delta.astype(np.int32)), "its delta has dtype int32 instead of float32"),
    "a negative weight": (weight(-1.0), "it claims a negative weight, -1"),
    "a huge weight": (weight(1e18), "it claims a weight of 1e+18, above the cap of 1e+07"),
    "a weight that is no number": (weight(np.nan), "it claims a weight of nan"),
    "an infinite weight": (weight(np.inf), "it claims a weight of inf"),
    "two weights": (lambda u: replace(u, weight=np.ones(2)), "its arrays have different numbers of rows"),
    "an unknown extra": (
        lambda u: replace(u, extra={"x": np.zeros((1, 1))}),
        "it carries extras that the plan does not know: x",
    ),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("block", [1, 3])
def test_a_bad_update_is_quarantined_and_moves_nothing(bad: str, block: int):
    change, reason = BAD[bad]
    held = federation(rogue=change, block=block)
    without = federation(faults=[Fault("rogue", "decline")])
    assert held.hold().state == without.hold().state == "finished"
    assert digest_of(held.model) == digest_of(without.model)
    for record in held.records:
        assert record["dropped"] == [{"node": "rogue", "exchange": "train", "kind": "quarantined", "reason": reason}]
        assert record["survivors"] == sorted(HONEST)
    assert set(held.fleet.refused.values()) == {reason}
    assert held.fleet.held == {}


@pytest.mark.parametrize("change", [delta(0.0), lambda u: replace(u, delta=np.zeros((1, 2), np.float32)), weight(0.0)])
def test_an_update_that_says_little_counts(change: Change):
    held = federation(rogue=change)
    held.hold()
    assert all("rogue" in record["survivors"] for record in held.records)


def test_a_cohort_without_any_weight_leaves_the_model_as_it_is():
    held = federation(
        tamper=lambda _ask, reply: replace(reply, weight=np.zeros(1)) if isinstance(reply, Updates) else reply
    )
    held.hold()
    assert held.model.trained.tolist() == [0.0, 0.0]
    assert len(held.records[0]["survivors"]) == 5


def test_a_node_that_the_bound_shut_out_is_part_of_the_next_one_so_that_it_comes_in_again():
    # Given two nodes of which one sends ever smaller updates, and the other one the same in every round but the first
    def tamper(ask: Ask, reply: Reply) -> Reply:
        if isinstance(reply, Updates):
            length = 0.5**ask.round if reply.nodes == ("shrinking",) else 4.0 if ask.round else 1.0
            return replace(reply, delta=np.array([[length, 0.0]], np.float32))
        return reply

    two = {"shrinking": Quadratic.at([0.0, 0.0]), "steady": Quadratic.at([1.0, 0.0])}
    held = federation(rounds=6, tamper=tamper, nodes=two)
    held.hold()
    # Then it is refused when it jumps, and the bound, which has seen it, lets it in from then on
    heard = [record["survivors"] for record in held.records]
    assert heard == [["shrinking", "steady"], ["shrinking"], *[["shrinking", "steady"]] * 4]
    assert held.records[1]["dropped"][0]["norm"] == 4.0


def test_a_minority_cannot_raise_the_bound():
    def tamper(ask: Ask, reply: Reply) -> Reply:
        rogue = isinstance(reply, Updates) and reply.nodes == ("rogue",) and ask.round
        return replace(reply, delta=np.full((1, 2), np.float32(1e6))) if rogue else reply

    held = federation(rounds=8, tamper=tamper)
    held.hold()
    assert [record["survivors"] for record in held.records] == [sorted(NODES), *[sorted(HONEST)] * 7]


def test_a_round_that_the_bound_made_miss_its_quorum_raises_the_bound_for_the_next_attempt():
    # Given a first round, which has no bound, in which one update throws the model far away
    def tamper(ask: Ask, reply: Reply) -> Reply:
        rogue = isinstance(reply, Updates) and reply.nodes == ("rogue",) and not ask.round
        return replace(reply, delta=np.full((1, 2), np.float32(1e6))) if rogue else reply

    # When everybody's way back is longer than the bound
    held = federation(rounds=8, tamper=tamper)
    outcome = held.hold()
    # Then the attempt misses its quorum, the next one has seen why, and the run goes on
    assert held.records[1]["missed"]
    assert held.records[2]["survivors"] == sorted(NODES)
    assert outcome.state == "finished"


def test_the_bound_is_three_times_the_median_of_the_last_rounds_and_not_there_in_the_first():
    held = federation(rounds=4)
    held.hold()
    medians = [float(np.median(list(record["norms"].values()))) for record in held.records]
    bounds = [record["norm_bound"] for record in held.records]
    assert bounds[0] is None
    assert bounds[1:] == [pytest.approx(3 * np.median(medians[:count])) for count in (1, 2, 3)]


def test_the_history_is_as_long_as_the_rules_say():
    held = federation(rounds=5, rules=RoundRules(norm_history=2))
    held.hold()
    medians = [float(np.median(list(record["norms"].values()))) for record in held.records]
    assert held.records[4]["norm_bound"] == pytest.approx(3 * np.median(medians[2:4]))
    assert len(held.store.carried.norms) == 2


def test_an_update_above_the_bound_is_quarantined_from_the_second_round_on():
    held = federation(rogue=lambda u: replace(u, delta=u.delta * np.float32(50)))
    held.hold()
    assert ["rogue" in record["survivors"] for record in held.records] == [True, False]
    (drop,) = held.records[1]["dropped"]
    assert drop["reason"].startswith("its norm is ")


def test_a_fixed_bound_holds_from_the_first_round():
    held = federation(rogue=lambda u: replace(u, delta=u.delta * np.float32(50)), rules=RoundRules(norm_bound=5.0))
    held.hold()
    assert ["rogue" in record["survivors"] for record in held.records] == [False, False]
    assert [record["norm_bound"] for record in held.records] == [5.0, 5.0]


def test_rounds_in_which_nothing_moved_do_not_lower_the_bound_to_nothing():
    assert admission.next_norm_bound(federation().run.plan, (0.0, 0.0)) is None
    assert admission.next_norm_bound(federation().run.plan, (0.0, 2.0)) == 6.0


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf, 1e18])
def test_a_measurement_on_an_absurd_number_of_examples_is_quarantined(value: float):
    def boast(ask: Ask, reply: Reply) -> Reply:
        return (
            replace(reply, weight=np.array([value]))
            if isinstance(reply, Scores) and reply.nodes == ("rogue",)
            else reply
        )

    held = federation(tamper=boast, evaluation=Evaluation(evaluators=False))
    assert held.hold().state == "finished"
    for record in held.records:
        assert sorted(record["evaluation"]["evaluate"]["nodes"]) == sorted(HONEST)


@dataclass(frozen=True)
class Signs(Stage):
    """Sends signs and a scale; the server undoes it for each update, if it is one."""

    undone: ClassVar[str] = "on_arrival"

    def on_node(self, updates: Updates, view: NodeView) -> tuple[Updates, Arrays]:
        scale = np.abs(updates.delta).mean(axis=1, keepdims=True)
        return replace(updates, delta=np.sign(updates.delta) * scale * np.float32(2)), view.memory

    def on_arrival(self, updates: Updates, view: ServerView) -> Updates:
        if not np.isfinite(updates.delta).all():
            raise LayoutError("it is no packet of signs.", why="it holds no numbers.", do="send another one.")
        return replace(updates, delta=updates.delta / np.float32(2))


@pytest.mark.parametrize("block", [1, 2, 5])
def test_what_a_stage_cannot_undo_is_quarantined_and_the_others_of_its_block_count(block: int):
    held = federation(rogue=delta(np.nan), stages=(Signs(),), block=block)
    without = federation(stages=(Signs(),), faults=[Fault("rogue", "decline")])
    held.hold()
    without.hold()
    assert digest_of(held.model) == digest_of(without.model)
    assert {drop["reason"] for record in held.records for drop in record["dropped"]} == {"it is no packet of signs."}


def test_sums_leave_out_what_is_not_admitted():
    rules = RoundRules(norm_bound=20.0)
    summed = federation(rogue=delta(np.nan), rules=rules, block=3, sums=True, aggregator=UniformMean())
    without = federation(rules=rules, faults=[Fault("rogue", "decline")], aggregator=UniformMean())
    summed.hold()
    without.hold()
    assert digest_of(summed.model) == digest_of(without.model)
    assert summed.records[0]["dropped"] == [
        {"node": "rogue", "exchange": "train", "kind": "quarantined", "reason": "its delta holds a NaN or an infinity"}
    ]


rows = st.lists(st.lists(st.floats(width=32), min_size=3, max_size=3), min_size=1, max_size=4)


@given(rows=rows)
def test_the_norm_of_a_row_is_its_norm_or_infinite(rows: list[list[float]]):
    block = np.array(rows, np.float32)
    for row, norm in zip(block.astype(np.float64), admission.row_norms(block), strict=True):
        assert norm == pytest.approx(np.linalg.norm(row)) if np.isfinite(row).all() else norm == np.inf


@given(rows=rows)
def test_the_reach_of_a_row_is_its_largest_value_or_infinite(rows: list[list[float]]):
    block = np.array(rows, np.float32)
    for row, reach in zip(block, admission.row_reach(block), strict=True):
        assert reach == (np.abs(row).max() if np.isfinite(row).all() else np.inf)


def test_a_norm_is_the_same_however_the_row_lies_in_memory():
    rows = np.random.default_rng(1).standard_normal((3, 200_000)).astype(np.float32)
    norms = admission.row_norms(rows)
    assert admission.row_norms(np.asfortranarray(rows)).tolist() == norms.tolist()
    assert [admission.row_norms(rows[[index]])[0] for index in range(3)] == norms.tolist()
