"""Local optimizers and schedules, as data."""

import json
import math
import pickle
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lycia.core.plan import describe
from lycia.errors import AppError
from lycia.trainers.local import CosineDecay, ExponentialDecay, LinearDecay, LocalAdam, Schedule, StepDecay

SCHEDULES = [
    CosineDecay(rounds=10),
    CosineDecay(rounds=10, least=0.1, warm_up=3),
    LinearDecay(rounds=10),
    LinearDecay(rounds=10, least=0.5, warm_up=0.5),
    StepDecay(every=4, by=0.5),
    ExponentialDecay(by=0.9),
]


@pytest.mark.parametrize("rule", [*SCHEDULES, LocalAdam(), LocalAdam(0.01, weight_decay=0.1, decoupled=True)], ids=str)
def test_a_rule_is_a_value_that_can_be_written_down(rule: object):
    assert pickle.loads(pickle.dumps(rule)) == rule
    assert hash(pickle.loads(pickle.dumps(rule))) == hash(rule)
    assert json.loads(json.dumps(describe(rule)))["part"].endswith(type(rule).__name__)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@given(at=st.floats(0, 1000))
def test_a_factor_lies_between_nothing_and_all(schedule: Schedule, at: float):
    assert isinstance(schedule, Schedule)
    assert 0 <= schedule.factor(at) <= 1


@pytest.mark.parametrize("kind", [CosineDecay, LinearDecay])
@pytest.mark.parametrize(("least", "warm_up"), [(0.0, 0.0), (0.2, 0.0), (0.0, 3.0), (0.1, 2.5)])
def test_a_factor_rises_to_one_and_then_falls_to_the_least(kind: type, least: float, warm_up: float):
    schedule = kind(rounds=10, least=least, warm_up=warm_up)
    moments = [place / 100 for place in range(1201)]
    factors = [schedule.factor(at) for at in moments]
    top = moments.index(warm_up)
    assert factors[top] == 1
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert factors[0] > 0
    assert factors[1000] == factors[-1] == pytest.approx(least)
    assert max(abs(one - next_one) for one, next_one in pairwise(factors)) < 0.02


def test_half_way_a_cosine_is_half_way():
    assert CosineDecay(rounds=8, warm_up=2).factor(5) == pytest.approx(0.5)
    assert CosineDecay(rounds=10, least=0.2).factor(2.5) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (LocalAdam, {"learning_rate": 0.0}), (LocalAdam, {"beta1": 1.0}), (LocalAdam, {"beta2": -0.1}),
        (LocalAdam, {"epsilon": 0.0}), (LocalAdam, {"weight_decay": -1.0}), (LocalAdam, {"learning_rate": math.nan}),
        (CosineDecay, {"rounds": 0}), (CosineDecay, {"rounds": 3, "warm_up": 3}),
        (LinearDecay, {"rounds": 3, "least": 1.5}),
        (LinearDecay, {"rounds": 3, "warm_up": -1}), (StepDecay, {"every": 0}), (StepDecay, {"every": 1, "by": 0.0}),
        (ExponentialDecay, {"by": 1.1}),
    ],
)  # fmt: skip
def test_settings_that_cannot_train_are_refused(kind: type, settings: dict[str, float]):
    with pytest.raises(AppError, match=kind.__name__):
        kind(**settings)
