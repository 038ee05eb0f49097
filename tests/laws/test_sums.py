"""The sum of a round depends on which updates it holds, and on nothing else."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lycia.aggregators import ExampleWeightedMean, UniformMean
from lycia.algorithms import SGD, Adam, FedAvg
from lycia.core import admission, closing
from lycia.core.events import Asked, Event, Opened
from lycia.core.hearing import hear
from lycia.core.layout import Layout, Model
from lycia.core.messages import Summed, Updates
from lycia.core.plan import Evaluation, Plan, RoundRules
from lycia.core.round import Carried, Round, Run, first, grid_of, take
from lycia.selection import Everyone
from lycia.testing import digest_of
from tests.laws import rooms

SIZE = 5
BOUND = 1e4
AVERAGING = SGD()
float32s = st.floats(-1e3, 1e3, width=32)
AGGREGATORS = [*rooms.aggregators(), UniformMean(expected_cohort=3.0)]


@st.composite
def cohorts(draw) -> tuple[np.ndarray, np.ndarray]:
    """Deltas and weights of some nodes."""
    nodes = draw(st.integers(1, 7))
    row = st.lists(float32s, min_size=SIZE, max_size=SIZE)
    deltas = np.array(draw(st.lists(row, min_size=nodes, max_size=nodes)), np.float32)
    examples = st.just(0.0) | st.floats(0.01, 1e6)
    weights = draw(st.lists(examples, min_size=nodes, max_size=nodes))
    return deltas, np.array(weights)


@st.composite
def worlds(draw) -> tuple[np.ndarray, np.ndarray, list[list[int]], list[list[int]]]:
    """A cohort, and two ways in which it arrives: which rows come in which block, in which order."""
    deltas, weights = draw(cohorts())

    def arrival() -> list[list[int]]:
        order = draw(st.permutations(range(len(deltas))))
        cuts = sorted(draw(st.sets(st.integers(1, len(deltas)))))
        return [order[a:b] for a, b in zip([0, *cuts], [*cuts, len(deltas)], strict=True) if order[a:b]]

    return deltas, weights, arrival(), arrival()


def run_of(aggregator, server=AVERAGING, *, bound: float | None = BOUND) -> Run:
    plan = Plan(
        rounds=3, selector=Everyone(), client=FedAvg(), aggregator=aggregator, server=server,
        rules=RoundRules(norm_bound=bound), evaluation=Evaluation(nodes=0, evaluators=False),
    )  # fmt: skip
    return Run("run", plan, Layout.of({"w": np.zeros(SIZE, np.float32)}))


def names(count: int) -> tuple[str, ...]:
    return tuple(f"node {index}" for index in range(count))


def opened(run: Run, nodes: int) -> tuple[Carried, Round]:
    carried = first(run, Model(np.zeros(SIZE, np.float32)))
    current = Round.begin(run, Opened(0.0, 0, 0, "train", nodes, bytes(32), run.plan.rules.norm_bound))
    return carried, take(current, Asked(0.0, 0, "train", names(nodes)))


def block(deltas: np.ndarray, weights: np.ndarray, rows: Sequence[int]) -> Updates:
    chosen = list(rows)
    nodes = names(len(deltas))
    return Updates(
        0, tuple(nodes[row] for row in chosen), deltas[chosen], weights[chosen], {},
        {"loss": weights[chosen] / 7}, tuple(nodes[row] for row in chosen),
    )  # fmt: skip


def closed(run: Run, deltas: np.ndarray, weights: np.ndarray, arrival: Sequence[Sequence[int]]) -> Carried:
    """What is carried on after a round in which the rows came in these blocks, in this order."""
    carried, current = opened(run, len(deltas))
    for rows in arrival:
        for event in hear(run, carried, current, block(deltas, weights, rows), 1.0):
            current = take(current, event)
    by_name = {name: block(deltas, weights, [row]) for row, name in enumerate(names(len(deltas)))}
    return closing.close(run, carried, current, by_name.__getitem__)


def same(one: Carried, other: Carried) -> bool:
    slots = {name: array.tobytes() for name, array in one.slots.items()}
    return (
        digest_of(one.model) == digest_of(other.model)
        and slots == {name: array.tobytes() for name, array in other.slots.items()}
        and one.norms == other.norms
    )


@pytest.mark.parametrize("aggregator", AGGREGATORS, ids=repr)
@given(world=worlds())
@settings(max_examples=60)
def test_order_of_arrival_and_blocks_do_not_matter(aggregator, world):
    deltas, weights, one, other = world
    if len(deltas) >= aggregator.minimum:
        run = run_of(aggregator, Adam())
        assert same(closed(run, deltas, weights, one), closed(run, deltas, weights, other))


@pytest.mark.parametrize("aggregator", [part for part in AGGREGATORS if part.shape == "sum"], ids=repr)
@given(world=worlds())
@settings(max_examples=60)
def test_sums_that_were_taken_elsewhere_give_the_same_as_rows(aggregator, world):
    deltas, weights, arrival, parts = world
    run = run_of(aggregator)
    carried, current = opened(run, len(deltas))
    grid, kept = grid_of(run, current), {}
    for rows in parts:
        part = block(deltas, weights, rows)
        total = grid.total(part.delta, aggregator.weights(part.weight))
        norms = admission.measure(part).norms
        summed = Summed(0, part.nodes, total, grid, part.weight, norms, part.metrics, {}, f"sum of {part.nodes}")
        kept[summed.handle] = summed
        for event in hear(run, carried, current, summed, 1.0):
            current = take(current, event)
    from_sums = closing.close(run, carried, current, kept.__getitem__)
    assert same(from_sums, closed(run, deltas, weights, arrival))


@given(cohort=cohorts())
@settings(max_examples=60)
def test_before_any_bound_is_known_the_sum_is_as_exact_as_float32(cohort):
    deltas, weights = cohort
    run = run_of(ExampleWeightedMean(), bound=None)
    carried = closed(run, deltas, weights, [range(len(deltas))])
    exact = (
        np.zeros(SIZE) if not weights.sum() else (deltas.astype(np.float64) * weights[:, None]).sum(0) / weights.sum()
    )
    np.testing.assert_allclose(carried.model.trained, exact, rtol=2e-7, atol=1e-6)


@given(cohort=cohorts())
@settings(max_examples=60)
def test_on_the_rounds_grid_the_mean_is_within_a_step_of_the_exact_one(cohort):
    deltas, _ = cohort
    run = run_of(UniformMean())
    _, current = opened(run, len(deltas))
    mean = closed(run, deltas, np.ones(len(deltas)), [range(len(deltas))]).model.trained.astype(np.float64)
    exact = deltas.astype(np.float64).mean(axis=0)
    step = 2.0 ** grid_of(run, current).exponent
    assert (np.abs(mean - exact) <= step / 2 + np.spacing(np.abs(exact).astype(np.float32))).all()


@given(cohort=cohorts())
@settings(max_examples=30)
def test_a_block_is_norm_for_norm_and_reach_for_reach_its_rows(cohort):
    deltas, weights = cohort
    whole = block(deltas, weights, range(len(deltas)))
    rows = replace(whole, extra={"variate": deltas[:, :2]})
    together = admission.measure(rows)
    for index in range(len(deltas)):
        alone = admission.measure(rows.row(index))
        assert alone.norms[0] == together.norms[index]
        assert alone.reach["variate"][0] == together.reach["variate"][index]


def test_the_largest_admitted_updates_of_the_largest_cohort_do_not_overflow():
    nodes, run = 1024, run_of(ExampleWeightedMean())
    largest = np.zeros((nodes, SIZE), np.float32)
    largest[:, 0] = BOUND
    weights = np.full(nodes, run.plan.rules.weight_cap)
    carried = closed(run, largest, weights, [range(nodes)])
    assert carried.model.trained.tolist() == [BOUND, 0, 0, 0, 0]


def test_a_sum_on_another_grid_is_refused_with_its_nodes():
    run = run_of(UniformMean())
    carried, current = opened(run, 2)
    finer = replace(grid_of(run, current), exponent=grid_of(run, current).exponent - 1)
    summed = Summed(0, names(2), np.zeros(SIZE, np.int64), finer, np.ones(2), np.zeros(2), handle="sum")
    events = hear(run, carried, current, summed, 1.0)
    assert [event.kind for event in events] == ["quarantined"] * 2
    assert "another grid" in events[0].reason


@pytest.mark.parametrize(
    ("summed", "reason"),
    [
        ({"total": np.zeros(SIZE)}, "float64"),
        ({"total": np.zeros(SIZE + 1, np.int64)}, "int64"),
        ({"norm": np.array([0.0, 2 * BOUND])}, "above the bound"),
        ({"weight": np.array([1.0, -1.0])}, "negative weight"),
        ({"nodes": ("node 0", "stranger")}, "do not count"),
        ({"nodes": ("node 0", "node 0")}, "do not count"),
    ],
)
def test_a_sum_with_something_wrong_counts_as_a_whole_or_not_at_all(summed: dict, reason: str):
    run = run_of(UniformMean())
    carried, current = opened(run, 2)
    fields = {"nodes": names(2), "total": np.zeros(SIZE, np.int64), "weight": np.ones(2), "norm": np.zeros(2)} | summed
    events: list[Event] = hear(
        run, carried, current, Summed(0, grid=grid_of(run, current), handle="sum", **fields), 1.0
    )
    assert {event.kind for event in events} == {"quarantined"}
    assert all(reason in event.reason for event in events)


def test_a_sum_is_refused_where_the_plan_needs_rows():
    run = run_of(UniformMean())
    with_statistics = replace(run, plan=replace(run.plan, statistics="average"))
    carried, current = opened(with_statistics, 2)
    grid = grid_of(with_statistics, current)
    summed = Summed(0, names(2), np.zeros(SIZE, np.int64), grid, np.ones(2), np.zeros(2), handle="sum")
    assert all("single updates" in event.reason for event in hear(with_statistics, carried, current, summed, 1.0))
