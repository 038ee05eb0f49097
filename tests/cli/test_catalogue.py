"""Plans as data: every part of ours goes through JSON and back, and nothing else gets in."""

import json
import math
import sys
from dataclasses import dataclass, is_dataclass
from importlib.metadata import EntryPoint

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lycia
from lycia import (
    SGD,
    Adagrad,
    Adam,
    Buffered,
    Evaluation,
    Everyone,
    ExampleWeightedMean,
    FedAvg,
    FedProx,
    Normalisation,
    Plan,
    Poisson,
    RoundRules,
    SizeWeighted,
    Stop,
    Synchronous,
    Uniform,
    UniformMean,
    Yogi,
    catalogue,
)
from lycia.catalogue import check_sendable, part, plan_from_json
from lycia.core.parts import Selector
from lycia.errors import PlanError


def plan(**changes: object) -> Plan:
    """A plan with some of its parts changed."""
    parts = {
        "rounds": 2, "selector": Everyone(), "client": FedAvg(), "aggregator": ExampleWeightedMean(), "server": SGD(),
    }  # fmt: skip
    return Plan(**parts | changes)


PLANS = {
    "uniform": plan(selector=Uniform(cohort_size=3)),
    "poisson": plan(selector=Poisson(expected_cohort=2.5), aggregator=UniformMean()),
    "size-weighted": plan(selector=SizeWeighted(cohort_size=3), aggregator=UniformMean()),
    "proximal": plan(client=FedProx(mu=0.3)),
    "momentum": plan(server=SGD(momentum=0.3, weight_decay=0.01)),
    "adagrad": plan(server=Adagrad(learning_rate=0.1)),
    "adam": plan(server=Adam(learning_rate=0.1)),
    "yogi": plan(server=Yogi(learning_rate=0.1)),
    "normalised": plan(normalisation=Normalisation(nodes=7)),
    "rules": plan(rules=RoundRules(quorum=0.25, least_nodes=2, norm_bound=3.5, replacement=False)),
    "unbounded": plan(rules=RoundRules(norm_factor=math.inf)),
    "evaluation": plan(evaluation=Evaluation(every=3, nodes=0, baseline_rounds=2)),
    "stop": plan(stop=Stop("accuracy", target=0.9, patience=3, least_change=0.01)),
    "stop-by-a-metric-called-inf": plan(stop=Stop("inf", patience=1)),
    "buffered": plan(schedule=Buffered(size=2, concurrency=4)),
    "synchronous": plan(schedule=Synchronous(), statistics="average", seed=-7),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_comes_back_from_json_as_it_was(name: str):
    sent = PLANS[name]
    check_sendable(sent)
    found = plan_from_json(sent.to_json())
    assert found == sent
    assert found.digest == sent.digest


def test_the_plans_of_this_page_use_every_part_of_ours():
    used = {text for sent in PLANS.values() for text in sent.to_json().split('"')}
    assert set(catalogue._OURS) <= used


def test_every_part_that_a_user_can_import_is_in_the_catalogue():
    parts = {
        name
        for name in lycia.__all__
        if is_dataclass(kind := getattr(lycia, name))
        and kind.__module__.startswith(("lycia.selection", "lycia.algorithms", "lycia.aggregators", "lycia.core.plan"))
    }
    assert parts - {"App"} <= set(catalogue.names())


@dataclass(frozen=True)
class Mine(Selector):
    """A stranger's selector, which no installed package declares."""

    def goal(self, population: int) -> int:
        """All."""
        return population

    def draw(self, roster, count, without, random):
        """Nobody."""
        return ()


def test_a_part_that_no_installed_package_declares_cannot_be_sent_and_the_error_says_where_it_can_be_used():
    with pytest.raises(PlanError, match="Mine', which is not installed here") as refused:
        check_sendable(plan(selector=Mine()))
    assert "lycia.parts" in refused.value.do
    assert "simulation" in refused.value.do


def test_a_name_from_a_wire_never_imports_anything():
    for name in ("this:s", "antigravity:geohash", "os:system", "lycia.cli:main", "builtins:eval", "subprocess:Popen"):
        with pytest.raises(PlanError, match="not installed here"):
            part(name)
        with pytest.raises(PlanError, match="not installed here"):
            plan_from_json(json.dumps({"part": name, "command": "true"}))
    assert "this" not in sys.modules
    assert "antigravity" not in sys.modules


def test_a_part_of_an_installed_package_is_found_under_the_name_that_it_declares(monkeypatch: pytest.MonkeyPatch):
    declared = EntryPoint("mine", f"{__name__}:Mine", "lycia.parts")
    broken = EntryPoint("broken", "package_that_is_not_there:Part", "lycia.parts")
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or sys.modules[Mine.__module__])
    monkeypatch.setattr(catalogue, "entry_points", lambda group: [declared, broken] if group == "lycia.parts" else [])
    assert part(f"{__name__}:Mine") is Mine
    assert plan_from_json(plan(selector=Mine()).to_json()) == plan(selector=Mine())
    assert f"{__name__}:Mine" in catalogue.names()
    with pytest.raises(PlanError, match="cannot be imported") as refused:
        part("package_that_is_not_there:Part")
    assert "install that package again" in refused.value.do


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "cannot be read"),
        ("[]", "describes a tuple"),
        ('{"part": "RoundRules"}', "describes a RoundRules"),
        ('{"part": "Plan"}', "cannot be read"),
        ('{"part": 7}', "names the part 7"),
        ('{"part": ["Plan"]}', "cannot be read"),
        ('{"part": {}}', "cannot be read"),
        (plan().to_json().replace('"rounds":2', '"rounds":2,"surprise":1'), "Plan has no surprise"),
        (plan().to_json().replace('"rounds":2', '"rounds":0'), "rounds=0"),
        (plan().to_json().replace('"rounds":2', '"rounds":"many"'), "rounds='many'"),
        (plan().to_json().replace('{"part":"Everyone"}', "5"), "selector is a int"),
        (plan().to_json().replace('{"part":"Everyone"}', '{"part":"SGD"}'), "selector is a SGD"),
        (plan().to_json().replace('"part":"RoundRules"', '"part":"Stop"'), "cannot be read"),
        (plan().to_json().replace('"weight_cap":10000000.0', '"weight_cap":"nan"'), "weight_cap=nan"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_json_that_is_no_plan_is_refused_in_words(text: str, complaint: str):
    with pytest.raises(PlanError, match=complaint) as refused:
        plan_from_json(text)
    assert refused.value.why
    assert refused.value.do


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(sorted(catalogue._OURS)),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["part", "rounds", "x"]), inner),
    max_leaves=4,
)


@given(st.sampled_from(sorted(json.loads(plan().to_json()))), VALUES)
def test_a_plan_with_any_value_in_any_field_is_a_plan_or_refused(field: str, value: object):
    changed = json.dumps(json.loads(plan().to_json()) | {field: value})
    try:
        found = plan_from_json(changed)
    except PlanError:
        return
    assert isinstance(found, Plan)
