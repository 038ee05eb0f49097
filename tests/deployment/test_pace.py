"""A cap on bytes a second: kept whoever moves how much, and fair to small messages."""

import heapq

from hypothesis import given
from hypothesis import strategies as st

from lycia.deployment.pace import _AHEAD_S, Pace


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def now_s(self) -> float:
        """Now."""
        return self.at_s


def held(rate: float, movers: list[int], until_s: float, clock: Clock) -> list[list[tuple[float, int]]]:
    """(when, bytes) of what each mover moved, who each move so many bytes at once, as fast as they may."""
    pace, began_s = Pace(rate, clock.now_s), clock.at_s
    moved: list[list[tuple[float, int]]] = [[] for _ in movers]
    due = [(began_s, index, True) for index in range(len(movers))]
    while due[0][0] < began_s + until_s:
        clock.at_s, index, asks = heapq.heappop(due)
        if asks:
            heapq.heappush(due, (clock.at_s + pace.wait_s(movers[index]), index, False))
        else:
            moved[index].append((clock.at_s - began_s, movers[index]))
            heapq.heappush(due, (clock.at_s, index, True))
    return moved


sizes = st.lists(st.integers(100, 5000), min_size=1, max_size=6)


@given(rate=st.floats(1000, 100_000), movers=sizes)
def test_no_more_moves_than_the_cap_and_what_may_move_ahead(rate: float, movers: list[int]):
    moves = sorted(move for one in held(rate, movers, 2.0, Clock()) for move in one)
    total = 0
    for at_s, size in moves:
        total += size
        assert total <= rate * (at_s + _AHEAD_S) * (1 + 1e-9)
    assert total + sum(movers) >= rate * 2.0 * (1 - 1e-9)  # and it is not slower than it says


@given(rate=st.floats(1000, 100_000), movers=st.lists(st.sampled_from([10, 5000]), min_size=2, max_size=6))
def test_everybody_gets_a_turn_before_anybody_gets_two(rate: float, movers: list[int]):
    turns = [len(one) for one in held(rate, movers, 5.0, Clock())]
    assert max(turns) - min(turns) <= 1 + rate * _AHEAD_S / min(movers)  # those whom the burst let through come first


def test_what_was_not_used_is_not_saved_up():
    clock = Clock()
    pace = Pace(1000.0, clock.now_s)
    clock.at_s += 3600
    assert pace.wait_s(250) == 0.0
    assert pace.wait_s(1000) == 1.0


def test_without_a_cap_nothing_waits_and_nobody_looks_at_the_clock():
    asked = []
    pace = Pace(None, lambda: asked.append(1) or 0.0)
    assert [pace.wait_s(1 << 40) for _ in range(3)] == [0.0] * 3
    assert len(asked) == 1
