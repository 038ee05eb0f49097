"""A plan whose parts do not fit is refused when it is made, with the remedy; one whose parts fit is a plan."""

import itertools
import json
import re
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from lycia.aggregators import ExampleWeightedMean, UniformMean
from lycia.algorithms import SGD, Adam, FedAvg, FedProx
from lycia.core.layout import Layout
from lycia.core.parts import ClientRule, Extra, Stage
from lycia.core.plan import App, Buffered, Evaluation, Plan, RoundRules, Stop, describe
from lycia.errors import AppError, PlanError
from lycia.selection import Everyone, Poisson, SizeWeighted, Uniform
from lycia.testing import QuadraticTrainer
from tests.laws import rooms


@dataclass(frozen=True)
class Noise(Stage):
    """Differential privacy, as far as a plan can see."""

    bounds_share: ClassVar[bool] = True


@dataclass(frozen=True)
class Masks(Stage):
    """Secure aggregation, as far as a plan can see."""

    before: ClassVar[tuple[str, ...]] = ("advertise",)
    undone: ClassVar[str] = "on_sum"
    hides_rows: ClassVar[bool] = True
    words: ClassVar[str] = "uint64"


class CoversAll(Masks):
    covers: ClassVar[str] = "all"


@dataclass(frozen=True)
class Squeeze(Stage):
    """Compression that the server undoes for each update."""

    undone: ClassVar[str] = "on_arrival"


@dataclass(frozen=True)
class Rotation(Stage):
    """Something that is undone once, on the sum."""

    undone: ClassVar[str] = "on_sum"


class Variates(ClientRule):
    def extras(self, layout: Layout) -> tuple[Extra, ...]:
        return (Extra("variate", layout.size("trained")),)


class Bits(Noise):
    covers: ClassVar[frozenset[str]] = frozenset({"bit"})

    def extras(self, layout: Layout) -> tuple[Extra, ...]:
        return (Extra("bit", 1),)


class Median(UniformMean):
    shape: ClassVar[str] = "coordinate"
    minimum: ClassVar[int] = 3


class Gram(UniformMean):
    shape: ClassVar[str] = "gram"


class Probing(Uniform):
    before: ClassVar[tuple[str, ...]] = ("advertise",)


class Renaming(Uniform):
    before: ClassVar[tuple[str, ...]] = ("close",)


@dataclass(frozen=True)
class NoRule:
    pass


BOUNDED = RoundRules(norm_bound=1.0)
DEFAULTS: dict[str, Any] = {
    "rounds": 3, "selector": Uniform(10), "client": FedAvg(), "aggregator": UniformMean(), "server": SGD(),
}  # fmt: skip


def named(value: object) -> str:
    """What a case is called: the same in every process, so that they can be divided among workers."""
    return re.sub(r"<(?:\w+\.)*(\w+) object at 0x[0-9a-f]+>", r"\1", repr(value))


def plan(**changes: Any) -> Plan:
    return Plan(**{**DEFAULTS, **changes})


MISFITS: list[tuple[dict[str, Any], str]] = [
    # what is not a part
    ({"selector": UniformMean()}, "selector is a UniformMean"),
    ({"client": SGD()}, "client is a SGD"),
    ({"aggregator": NoRule()}, "aggregator is a NoRule"),
    ({"server": FedAvg()}, "server is a FedAvg"),
    ({"stages": (UniformMean(),)}, "stages is a UniformMean"),
    ({"selector": Uniform}, "class Uniform itself"),
    ({"client": FedAvg}, "class FedAvg itself"),
    ({"aggregator": UniformMean}, "class UniformMean itself"),
    ({"server": SGD}, "class SGD itself"),
    ({"aggregator": Gram()}, "shape 'gram'"),
    # values
    ({"rounds": 0}, "rounds=0"),
    ({"rounds": 2.5}, "rounds=2.5"),
    ({"rounds": "3"}, "rounds='3'"),
    *[({"rules": RoundRules(**{name: value})}, f"{name}=") for name, value in [
        ("quorum", -0.1), ("quorum", 1.1), ("quorum", float("nan")), ("least_nodes", 0), ("deadline_s", 0.0),
        ("deadline_s", float("inf")), ("deadline_s", float("nan")), ("over_selection", 0.9),
        ("over_selection", float("inf")), ("retries", -1), ("weight_cap", 0.0),
        ("weight_cap", float("inf")), ("weight_cap", float("nan")),
        ("norm_factor", 0.0), ("norm_history", 0), ("norm_bound", 0.0), ("norm_bound", float("inf")),
    ]],
    *[({"evaluation": Evaluation(**{name: value})}, f"{name}=") for name, value in [
        ("every", 0), ("nodes", -1), ("baseline_rounds", -1),
    ]],
    ({"stop": Stop("loss")}, "stop without target"),
    ({"stop": Stop("loss", patience=0)}, "patience=0"),
    ({"stop": Stop("loss", target=1.0), "evaluation": Evaluation(nodes=0, evaluators=False)}, "without any evaluation"),
    # exchanges
    ({"selector": Probing(5), "stages": (Masks(),), "rules": BOUNDED}, "an exchange 'advertise'"),
    ({"stages": (Masks(), CoversAll()), "rules": BOUNDED}, "an exchange 'advertise'"),
    ({"selector": Renaming(5)}, "an exchange 'close'"),
    # sampling
    ({"selector": Poisson(5.0), "rules": RoundRules(over_selection=1.3)}, "over-selection"),
    ({"selector": Poisson(5.0), "rules": RoundRules(replacement=True)}, "replacement"),
    ({"selector": Poisson(5.0), "rules": RoundRules(quorum=0.5)}, "a quorum"),
    ({"selector": Poisson(5.0), "stages": (Noise(),)}, "divides by who was heard"),
    # stages
    ({"stages": (Noise(),), "aggregator": ExampleWeightedMean()}, "Noise cannot be used with ExampleWeightedMean"),
    ({"stages": (Noise(),), "statistics": "average"}, "statistics='average' cannot be used with Noise"),
    ({"stages": (Squeeze(), Masks()), "rules": BOUNDED}, "Squeeze cannot be used with Masks"),
    ({"stages": (Masks(), Squeeze()), "rules": BOUNDED}, "Squeeze cannot be used with Masks"),
    ({"stages": (Masks(),), "aggregator": Median(), "rules": BOUNDED}, "Masks cannot be used with Median"),
    ({"stages": (Rotation(),), "aggregator": Median()}, "Rotation cannot be used with Median"),
    ({"stages": (Masks(),), "aggregator": ExampleWeightedMean(), "rules": BOUNDED}, "Masks cannot be used with E"),
    ({"stages": (Masks(),)}, "fixed norm bound"),
    ({"stages": (Masks(),), "rules": BOUNDED, "client": Variates()}, "does not cover .*: variate"),
    ({"stages": (Noise(),), "client": Variates()}, "does not cover .*: variate"),
    ({"stages": (Masks(),), "rules": BOUNDED, "statistics": "average"}, "does not cover .*: statistics"),
    ({"stages": (Bits(), Bits())}, "extra called 'bit'"),
    # schedules
    ({"aggregator": Median(), "selector": Uniform(4)}, "needs 3 updates"),
    ({"aggregator": Median(), "schedule": Buffered(2, 4)}, "needs 3 updates"),
    ({"schedule": Buffered(0, 4)}, "cannot work"),
    ({"schedule": Buffered(5, 4)}, "cannot work"),
    ({"schedule": Buffered(5, 10, -1)}, "cannot work"),
    ({"schedule": Buffered(5, 10), "stages": (Masks(),), "rules": BOUNDED}, "Buffered cannot be used with masks"),
    ({"schedule": Buffered(5, 10), "selector": Poisson(5.0)}, "Buffered cannot be used with masks"),
    ({"schedule": Buffered(5, 10), "selector": Probing(5)}, "Buffered cannot be used with masks"),
]  # fmt: skip

FITS: list[dict[str, Any]] = [
    {},
    {"selector": Everyone(), "aggregator": ExampleWeightedMean(), "server": Adam()},
    {"selector": Poisson(5.0), "stages": (Noise(),), "aggregator": UniformMean(expected_cohort=5.0)},
    {"selector": Poisson(5.0), "rules": RoundRules(over_selection=1.0, replacement=False, quorum=0.0)},
    {"selector": Poisson(5.0)},
    {"stages": (Noise(), Masks()), "rules": BOUNDED},
    {"stages": (CoversAll(),), "rules": BOUNDED, "client": Variates(), "statistics": "average"},
    {"stages": (Squeeze(),), "aggregator": Median()},
    {"stages": (Bits(),)},
    {"schedule": Buffered(3, 30), "aggregator": Median()},
    {"client": Variates(), "statistics": "average"},
    {"client": FedProx(0.1), "selector": SizeWeighted(4)},
    {"stop": Stop("loss", patience=3, better="lower"), "evaluation": Evaluation(nodes=0)},
    {"stop": Stop("loss", target=0.1), "evaluation": Evaluation(evaluators=False)},
]


@pytest.mark.parametrize(("changes", "what"), MISFITS, ids=[what for _, what in MISFITS])
def test_a_misfit_is_refused_with_its_reason_and_remedy(changes: dict[str, Any], what: str):
    with pytest.raises(PlanError, match=what) as refused:
        plan(**changes)
    assert all(
        text.endswith(".") and len(text) > 10 for text in (refused.value.what, refused.value.why, refused.value.do)
    )


@pytest.mark.parametrize("changes", FITS, ids=named)
def test_what_fits_is_a_plan(changes: dict[str, Any]):
    made = plan(**changes)
    assert json.loads(made.to_json())["part"] == "Plan"
    assert made.digest == plan(**changes).digest


def test_all_parts_of_the_rooms_fit_together_unless_a_rule_above_says_why_not():
    choices = itertools.product(rooms.selectors(), rooms.client_rules(), rooms.aggregators(), rooms.server_optimizers())
    for selector, client, aggregator, server in choices:
        enough = Uniform(100) if isinstance(selector, Uniform) else selector  # for any aggregator's minimum
        if not (selector.exact and aggregator.minimum > 1):
            assert plan(selector=enough, client=client, aggregator=aggregator, server=server).digest


def test_exact_selection_turns_off_what_would_break_it():
    exact, chosen = plan(selector=Poisson(5.0)), plan()
    assert (exact.quorum, exact.over_selection, exact.replacement) == (0.0, 1.0, False)
    assert (chosen.quorum, chosen.over_selection, chosen.replacement) == (0.5, 1.3, True)


@pytest.mark.parametrize(
    "changes",
    [
        {"rounds": 4},
        {"seed": 1},
        {"server": SGD(0.5)},
        {"selector": Uniform(11)},
        {"rules": RoundRules(weight_cap=5.0)},
        {"stages": (Noise(),)},
        {"schedule": Buffered(3, 4)},
        {"statistics": "average"},
        {"server": SGD(float(np.float32(0.1)))},
    ],
    ids=named,
)
def test_plans_that_differ_have_different_digests(changes: dict[str, Any]):
    assert plan(**changes).digest != plan().digest


def test_numbers_of_numpy_count_as_the_numbers_they_are():
    assert describe(np.float64(0.5)) == describe(np.float32(0.5)) == 0.5
    assert describe(np.int64(3)) == 3
    assert plan(server=SGD(np.float32(0.25))).digest == plan(server=SGD(0.25)).digest
    assert plan(server=SGD(np.float32(0.25))).digest != plan(server=SGD(np.float32(0.5))).digest


def test_a_strangers_part_goes_by_its_module():
    assert describe(Noise())["part"] == f"{__name__}:Noise"


@pytest.mark.parametrize(
    ("changes", "needs_rows"),
    [
        ({}, False),
        ({"stages": (Noise(),)}, False),
        ({"stages": (Rotation(),)}, False),
        ({"aggregator": Median()}, True),
        ({"stages": (Squeeze(),)}, True),
        ({"stages": (Masks(),), "rules": BOUNDED}, True),
        ({"client": Variates()}, True),
        ({"stages": (Bits(),)}, True),
        ({"statistics": "average"}, True),
        ({"schedule": Buffered(3, 30)}, True),
    ],
    ids=named,
)
def test_a_plan_says_whether_the_server_needs_single_updates(changes: dict[str, Any], needs_rows: bool):
    assert plan(**changes).needs_rows is needs_rows


def test_an_app_whose_trainer_takes_no_terms_is_refused_a_rule_that_needs_them():
    trainer = QuadraticTrainer(2, takes_terms=False)
    assert App(trainer=trainer, plan=plan())
    with pytest.raises(PlanError, match="FedProx cannot be used with QuadraticTrainer"):
        App(trainer=trainer, plan=plan(client=FedProx(0.1)))


@pytest.mark.parametrize(("trainer", "made"), [(NoRule(), plan()), (QuadraticTrainer(2), {"rounds": 3})])
def test_what_is_not_an_app_is_refused(trainer: Any, made: Any):
    with pytest.raises(AppError):
        App(trainer=trainer, plan=made)


def test_a_plan_with_other_rules_is_checked_anew():
    with pytest.raises(PlanError):
        replace(plan(), rounds=-1)
