"""Server optimizers against the formulas of Reddi et al. 2021, written out in float64."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lycia.algorithms import SGD, Adagrad, Adam, Yogi
from lycia.errors import PlanError
from tests.laws import rooms

means = st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=12)


def adaptive(
    beta1: float, second: Callable[[float, float], float], rate: float, tau: float
) -> Callable[[list[float]], float]:
    """Algorithm 2 of the paper for one coordinate: where the parameter is after these mean updates."""

    def path(means_: list[float]) -> float:
        x, m, v = 0.0, 0.0, tau**2  # v is tau squared before the first round, and nothing is corrected for its start
        for mean in means_:
            m = beta1 * m + (1 - beta1) * mean
            v = second(v, mean * mean)
            x += rate * m / (math.sqrt(v) + tau)
        return x

    return path


def plain(rate: float, momentum: float = 0.0, decay: float = 0.0) -> Callable[[list[float]], float]:
    def path(means_: list[float]) -> float:
        x = velocity = 0.0
        for mean in means_:
            velocity = momentum * velocity + mean - decay * x
            x += rate * velocity
        return x

    return path


FORMULAS = {
    SGD(0.5): plain(0.5),
    SGD(0.3, momentum=0.9): plain(0.3, 0.9),
    SGD(0.3, momentum=0.5, weight_decay=0.1): plain(0.3, 0.5, 0.1),
    Adagrad(0.1, epsilon=0.01): adaptive(0.0, lambda v, square: v + square, 0.1, 0.01),
    Adam(0.1, 0.9, 0.01, 0.99): adaptive(0.9, lambda v, square: 0.99 * v + 0.01 * square, 0.1, 0.01),
    Yogi(0.1, 0.9, 0.01, 0.99): adaptive(
        0.9, lambda v, square: v - 0.01 * square * math.copysign(v != square, v - square), 0.1, 0.01
    ),
}


@pytest.mark.parametrize("part", FORMULAS, ids=lambda part: type(part).__name__)
@given(means_=means)
def test_a_server_optimizer_follows_its_formula(part, means_: list[float]):
    params, slots = np.zeros(1, np.float32), part.slots(1)
    for mean in means_:
        params, slots = part.step(params, np.float32([mean]), slots)
    path = sum(abs(mean) for mean in means_) + 1
    assert float(params[0]) == pytest.approx(FORMULAS[part](means_), rel=1e-4, abs=3e-6 * path)


def test_every_optimizer_of_the_room_has_its_formula_here():
    assert {type(part) for part in rooms.server_optimizers()} == {type(part) for part in FORMULAS}


def test_without_momentum_nothing_is_kept():
    assert SGD().slots(3) == {}


def test_the_first_step_of_adam_on_paper():
    # m = 0.1 · 2; v = 0.99 · 0.001² + 0.01 · 4; step = 0.1 · 0.2 / (√0.04000099 + 0.001)
    params, slots = Adam(0.1).step(np.zeros(1, np.float32), np.float32([2.0]), Adam(0.1).slots(1))
    assert float(params[0]) == pytest.approx(0.02 / (math.sqrt(0.04 + 0.99e-6) + 1e-3), rel=1e-6)
    assert float(slots["m"][0]) == pytest.approx(0.2)


@pytest.mark.parametrize("part", [Adagrad, Adam, Yogi])
def test_v_starts_at_epsilon_squared_and_m_at_zero(part):
    slots = part(epsilon=0.5).slots(3)
    assert slots["v"].tolist() == [0.25] * 3
    assert slots["m"].tolist() == [0.0] * 3


@pytest.mark.parametrize("part", rooms.server_optimizers(), ids=lambda part: type(part).__name__)
@given(size=st.integers(0, 6), data=st.data())
def test_any_split_of_the_model_gives_the_same(part, size: int, data):
    row = st.lists(st.floats(-1e3, 1e3, width=32), min_size=size, max_size=size)
    params, mean = (np.array(data.draw(row), np.float32) for _ in range(2))
    cut = data.draw(st.integers(0, size))
    whole = part.step(params, mean, part.slots(size))[0]
    halves = [
        part.step(params[place], mean[place], {name: slot[place] for name, slot in part.slots(size).items()})[0]
        for place in (slice(None, cut), slice(cut, None))
    ]
    assert np.concatenate(halves).tobytes() == whole.tobytes()


@pytest.mark.parametrize("part", rooms.server_optimizers(), ids=lambda part: type(part).__name__)
def test_from_rest_no_update_moves_nothing(part):
    params = np.float32([1.0, -2.0])
    assert part.step(params, np.zeros(2, np.float32), part.slots(2))[0].tolist() == params.tolist()


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan])
@pytest.mark.parametrize("part", [SGD, Adagrad, Adam, Yogi])
def test_a_learning_rate_is_positive(part, wrong: float):
    with pytest.raises(PlanError, match="learning_rate"):
        part(learning_rate=wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Adam(epsilon=0.0),
        lambda: Adam(beta1=1.0),
        lambda: Adam(beta2=1.0),
        lambda: Yogi(beta2=-0.1),
        lambda: SGD(momentum=1.0),
        lambda: SGD(weight_decay=-0.1),
    ],
)
def test_decay_rates_and_epsilon_are_checked(wrong: Callable[[], object]):
    with pytest.raises(PlanError):
        wrong()
