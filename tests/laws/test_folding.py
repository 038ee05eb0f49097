"""Small updates become one sum: with the bits that their rows would give, whatever is folded with what."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lycia import SGD, Everyone, ExampleWeightedMean, FedAvg, Plan, UniformMean
from lycia.core.folding import block, fold, is_alike
from lycia.core.grid import Grid
from lycia.core.layout import Layout, Leaf
from lycia.core.messages import Summed, Updates
from lycia.deployment import wire
from lycia.errors import StorageError

LAYOUT = Layout((Leaf("weight", (2,)), Leaf("bias", (1,))))
PLAN = Plan(rounds=2, selector=Everyone(), client=FedAvg(), aggregator=ExampleWeightedMean(), server=SGD())
GRID = Grid.covering(1e6)
numbers = st.floats(-1e3, 1e3, width=32)
rows = st.lists(st.tuples(st.lists(numbers, min_size=3, max_size=3), st.floats(0.5, 100)), min_size=1, max_size=8)


def single(index: int, delta: list[float], weight: float) -> Updates:
    """What one node sends."""
    metrics = {"loss": np.array([float(index)])}
    values = np.array([delta], np.float32)
    return Updates(7, (f"node-{index}",), values, np.array([weight]), {}, metrics, (f"{index:064x}",))


def kept(summed: Summed) -> Summed:
    """The sum as it is found again on the disk."""
    found = wire.reread(LAYOUT, b"".join(wire.sum_file(summed, "a-run")), summed.handle)
    assert isinstance(found, Summed)
    return found


@given(sent=rows, data=st.data())
def test_sums_add_up_to_the_bits_of_their_rows_in_any_order_and_any_grouping(sent, data):
    updates = [single(index, *one) for index, one in enumerate(sent)]
    mixed = data.draw(st.permutations(updates))
    ends = sorted({*data.draw(st.lists(st.integers(1, len(mixed)), max_size=3)), len(mixed)})
    groups = [mixed[start:stop] for start, stop in zip([0, *ends], ends, strict=False)]
    found = []
    for group in groups:
        folded, norms = block(group), [float(index) for index in range(len(group))]
        summed = fold(PLAN, GRID, folded, range(len(group)), norms)
        assert kept(summed).total.tobytes() == summed.total.tobytes()
        again = kept(summed)
        assert (again.task, again.nodes, again.grid, again.handle) == (7, folded.nodes, GRID, summed.handle)
        assert (again.weight.tolist(), again.norm.tolist()) == (folded.weight.tolist(), norms)
        found.append(again.total)
    deltas, weights = np.array([one for one, _ in sent], np.float32), np.array([weight for _, weight in sent])
    assert sum(found).tolist() == GRID.total(deltas, PLAN.aggregator.weights(weights)).tolist()


def test_only_the_rows_that_were_admitted_are_part_of_a_sum():
    together = block([single(index, [float(index)] * 3, 2.0) for index in range(4)])
    summed = fold(PLAN, GRID, together, [3, 1], [3.0, 1.0])
    assert summed.nodes == ("node-3", "node-1")
    assert GRID.to_float(summed.total).tolist() == [8.0] * 3
    assert summed.metrics["loss"].tolist() == [3.0, 1.0]


def test_where_shares_are_equal_a_sum_does_not_weigh():
    plan = Plan(rounds=2, selector=Everyone(), client=FedAvg(), aggregator=UniformMean(), server=SGD())
    summed = fold(plan, GRID, block([single(1, [1.0] * 3, 9.0), single(2, [2.0] * 3, 1.0)]), [0, 1], [1.0, 2.0])
    assert GRID.to_float(summed.total).tolist() == [3.0] * 3
    assert summed.weight.tolist() == [9.0, 1.0]  # what they claimed is recorded all the same


def test_sums_of_other_updates_have_other_handles():
    one, two, three = (single(index, [1.0] * 3, 1.0) for index in range(3))
    handles = [
        fold(PLAN, GRID, block(group), range(len(group)), [1.0] * len(group)).handle
        for group in ([one, two], [two, three], [one, two, three], [one])
    ]
    assert len({*handles, *one.handles, *two.handles}) == 6


@given(sent=rows)
def test_a_block_has_the_rows_of_its_updates(sent):
    updates = [single(index, *one) for index, one in enumerate(sent)]
    together = block(updates)
    for index, update in enumerate(updates):
        row = together.row(index)
        assert (row.nodes, row.handles) == (update.nodes, update.handles)
        assert row.delta.tobytes() == update.delta.tobytes()
        assert row.weight.tolist() == update.weight.tolist()
        assert row.metrics["loss"].tolist() == update.metrics["loss"].tolist()


@pytest.mark.parametrize(
    "change",
    [
        {"task": 8},
        {"delta": np.zeros((1, 4), np.float32)},
        {"delta": np.zeros((1, 3), np.uint64)},
        {"metrics": {}},
        {"metrics": {"accuracy": np.zeros(1)}},
        {"extra": {"control": np.zeros((1, 3), np.float32)}},
    ],
)
def test_updates_that_differ_in_form_are_not_put_into_one_block(change: dict):
    one, other = single(1, [1.0] * 3, 1.0), single(2, [2.0] * 3, 5.0)
    assert is_alike(one, other)
    assert not is_alike(one, replace(other, **change))


@pytest.mark.parametrize("damage", [slice(0, 5), slice(8, 12), slice(-30, None)])
def test_a_sum_that_was_damaged_on_the_disk_is_told_in_words(damage: slice):
    summed = fold(PLAN, GRID, block([single(1, [1.0] * 3, 1.0), single(2, [1.0] * 3, 1.0)]), [0, 1], [1.0, 1.0])
    content = bytearray(b"".join(wire.sum_file(summed, "a-run")))
    del content[damage]
    with pytest.raises(StorageError, match="cannot be read any more"):
        wire.reread(LAYOUT, bytes(content), summed.handle)
