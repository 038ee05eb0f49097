"""Sums on the grid do not overflow, do not depend on order, and are as fine as the bound allows."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lycia.core.grid import Grid

bounds = st.floats(1e-300, 1e300)


@given(bound=bounds, shares=st.lists(st.floats(-1, 1), min_size=1, max_size=50))
def test_no_sum_within_the_bound_overflows(bound: float, shares: list[float]):
    grid, total = Grid.covering(bound), math.fsum(map(abs, shares)) or 1.0
    terms = [share / total * bound * (1 - 1e-15) for share in shares]
    exact = sum(int(term) for term in grid.to_grid(np.array(terms)))  # Python's integers have no end
    assert abs(exact) <= 2**62 + len(shares)
    assert int(grid.to_grid(np.array(terms)).sum()) == exact


@given(bound=bounds, count=st.integers(1, 5000), sign=st.sampled_from([1, -1]))
def test_the_worst_case_does_not_overflow(bound: float, count: int, sign: int):
    grid = Grid.covering(bound)
    each = int(grid.to_grid(np.array(sign * bound / count)))
    assert abs(each * count) < 2**63


@given(bound=bounds, share=st.floats(-1, 1))
def test_a_term_moves_by_at_most_half_a_step(bound: float, share: float):
    grid, value = Grid.covering(bound), share * bound
    back = float(grid.to_float(grid.to_grid(np.array(value))))
    assert abs(back - value) <= 2.0**grid.exponent / 2 + abs(value) * 2.0**-52


@given(bound=bounds)
def test_the_step_is_as_fine_as_the_bound_allows(bound: float):
    step = 2.0 ** Grid.covering(bound).exponent
    assert step <= bound * 2.0**-61 or Grid.covering(bound).exponent == -1000


@given(values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=30), data=st.data())
def test_a_sum_does_not_depend_on_the_order_of_its_terms(values: list[float], data):
    grid = Grid.covering(1e5)
    mixed = data.draw(st.permutations(values))
    assert int(grid.to_grid(np.array(values)).sum()) == int(grid.to_grid(np.array(mixed)).sum())


@given(
    values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=6, max_size=6),
    weights=st.lists(st.floats(0, 1e3), min_size=3, max_size=3),
)
def test_the_sum_of_parts_is_the_sum_of_all(values: list[float], weights: list[float]):
    grid, rows, by = Grid.covering(1e8), np.array(values, np.float32).reshape(3, 2), np.array(weights)
    parts = sum(grid.total(rows[[index]], by[[index]]) for index in range(3))
    assert grid.total(rows, by).tolist() == parts.tolist()
    columns = np.concatenate([grid.total(rows[:, :1], by), grid.total(rows[:, 1:], by)])
    assert grid.total(rows, by).tolist() == columns.tolist()


@given(value=st.floats(-1e3, 1e3, width=32))
def test_a_float32_not_far_below_the_bound_is_on_the_grid_exactly(value: float):
    grid = Grid.covering(2.0**10)
    if value == 0 or abs(value) > 2.0**-24:
        assert float(grid.to_float(grid.to_grid(np.array(value)))) == value


def test_ties_go_to_even():
    assert Grid(0).to_grid(np.array([0.5, 1.5, 2.5, -0.5])).tolist() == [0, 2, 2, 0]


def test_nothing_is_covered_by_the_finest_grid():
    assert Grid.covering(0.0) == Grid(-1000)
    assert Grid.covering(5e-324) == Grid(-1000)


@pytest.mark.parametrize("bound", [math.nan, math.inf, -1.0, -math.inf])
def test_a_grid_needs_a_bound(bound: float):
    with pytest.raises(ValueError, match="bound"):
        Grid.covering(bound)
