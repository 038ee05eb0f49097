"""Runs for the tests of reports: made of the events that a round is made of, so that their records are real ones."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lycia.aggregators.mean import ExampleWeightedMean
from lycia.algorithms.client_rules import FedAvg
from lycia.algorithms.server_optimizers import SGD
from lycia.core import round as rounds
from lycia.core.closing import round_record
from lycia.core.events import Asked, Closed, Dropped, Ended, Event, Heard, Opened, Settled
from lycia.core.layout import Layout, Leaf
from lycia.core.messages import BASELINE, EVALUATE, EVALUATE_BY_EVALUATOR, TRAIN
from lycia.core.plan import Evaluation, Plan, Stop
from lycia.core.round import Round, Run
from lycia.reports import RunFacts
from lycia.selection import Everyone

Metrics = Mapping[str, float]
LAYOUT = Layout((Leaf("hidden/weight", (64, 32)), Leaf("hidden/bias", (32,)), Leaf("out/weight", (32, 10))))


def a_plan(count: int, **changes: Any) -> Plan:
    parts: dict[str, Any] = {
        "selector": Everyone(), "client": FedAvg(), "aggregator": ExampleWeightedMean(), "server": SGD(),
        "evaluation": Evaluation(baseline_rounds=count), "stop": Stop("accuracy", target=0.97), "seed": 7,
    }  # fmt: skip
    return Plan(rounds=count, **{**parts, **changes})


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Told:
    """A round as a test tells it.

    Attributes:
      trained: node → (examples, norm, training loss) of each update that counts.
      dropped: node → (kind, reason); late: the same, but its reason only.
      nodes, evaluator, alone: node → what it measured; None where nothing was.
    """

    number: int
    asked: Sequence[str] = ()
    trained: Mapping[str, tuple[float, float | None, float]] = field(default_factory=dict)
    dropped: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    late: Mapping[str, str] = field(default_factory=dict)
    nodes: Mapping[str, Metrics] = field(default_factory=dict)
    evaluator: Metrics | None = None
    alone: Mapping[str, Metrics] = field(default_factory=dict)
    attempt: int = 0
    missed: str = ""
    bound: float | None = None
    population: int = 4


def record_of(plan: Plan, told: Told, began_s: float = 0.0) -> dict[str, Any]:
    """The record that the loop would write of it."""
    run = Run("run", plan, LAYOUT)
    purpose = "epilogue" if told.alone else "train"
    secret = bytes(32)
    opened = Opened(began_s, told.number, told.attempt, purpose, told.population, secret, told.bound)
    current = Round.begin(run, opened)
    for event in _events(told, began_s):
        current = rounds.take(current, event)
    evaluated = 1.2 if told.nodes else 0.0
    phases = {BASELINE: 20.0} if told.alone else {TRAIN: 3.0 + 0.1 * told.number, EVALUATE: evaluated, "close": 0.04}
    sent = 9_600 * len(told.trained)
    measured = {
        "phases_s": phases,
        "wall_s": 0.7,
        "bytes_up": sent,
        "bytes_down": 9_600 * len(told.asked),
        "verdict": "",
    }
    return {**round_record(run, current), **measured}


def _events(told: Told, at_s: float) -> Sequence[Event]:
    events: list[Event] = []
    if told.asked:
        events.append(Asked(at_s, 0, TRAIN, tuple(told.asked)))
    if told.trained:
        values = list(told.trained.values())
        events.append(
            Heard(
                at_s + 3, 0, tuple(told.trained), ("",) * len(values), tuple(v[0] for v in values),
                tuple(v[1] for v in values), {"loss": tuple(v[2] for v in values)},
            )
        )  # fmt: skip
    events += [Dropped(at_s + 3, 0, node, kind, reason) for node, (kind, reason) in told.dropped.items()]  # type: ignore[arg-type]
    events += [Dropped(at_s + 4, 0, node, "late", reason) for node, reason in told.late.items()]
    if told.missed:
        return [*events, Ended(at_s + 4, told.missed)]
    if told.alone:
        return [*events, *_scores(BASELINE, 0, told.alone, at_s), Ended(at_s + 20)]
    events += [Settled(at_s + 3, TRAIN, tuple(told.trained)), Closed(at_s + 3, digest(f"model {told.number + 1}"))]
    events += _scores(EVALUATE, 1, told.nodes, at_s) if told.nodes else []
    events += _scores(EVALUATE_BY_EVALUATOR, 2, {"judge": told.evaluator}, at_s) if told.evaluator else []
    return [*events, Ended(at_s + 4.2)]


def _scores(exchange: str, task: int, found: Mapping[str, Metrics], at_s: float) -> Sequence[Event]:
    names = {name for metrics in found.values() for name in metrics} - {"examples"}
    columns = {name: tuple(metrics.get(name) for metrics in found.values()) for name in sorted(names)}
    examples = tuple(metrics.get("examples", 100.0) for metrics in found.values())
    blank = ("",) * len(found)
    return [
        Asked(at_s + 3, task, exchange, tuple(found)),
        Heard(at_s + 4, task, tuple(found), blank, examples, (None,) * len(found), columns),
    ]


def facts_of(plan: Plan, told: Sequence[Told], **changes: Any) -> RunFacts:
    """The facts of a run that went as told."""
    given: dict[str, Any] = {
        "id": "digits-7f3a", "app": "digits", "world": "simulation", "state": "finished", "reason": "all rounds done",
        "plan": json.loads(plan.to_json()), "plan_digest": plan.digest, "layout": json.loads(LAYOUT.to_json()),
        "versions": {"lycia": "0.1.0", "numpy": "2.4.6", "python": "3.11.2"}, "first_model": digest("model 0"),
        "started": "2026-03-01T12:30:05+00:00", "ended": "2026-03-01T12:33:09+00:00",
        "records": [record_of(plan, item, 5.0 * place) for place, item in enumerate(told)],
    }  # fmt: skip
    return RunFacts(**{**given, **changes})


def an_eventful_run() -> RunFacts:
    """Four nodes, three rounds: one update is quarantined, one is late, one round is asked again, and one node loses.

    Round 1: all are heard. Round 2: first missed, then asked again, and east is quarantined. Round 3: west is late.
    """
    four = ("east", "north", "south", "west")
    good = {node: (100.0 * (place + 1), 1.0 + place, 0.5) for place, node in enumerate(four)}

    def scores(*values: float) -> dict[str, Metrics]:
        return {node: {"examples": 40.0, "accuracy": v, "loss": 1 - v} for node, v in zip(four, values, strict=True)}

    def but(node: str) -> dict[str, tuple[float, float | None, float]]:
        return {name: value for name, value in good.items() if name != node}

    return facts_of(
        a_plan(3),
        [
            Told(0, four, good, nodes=scores(0.5, 0.6, 0.7, 0.4), evaluator={"accuracy": 0.55}),
            Told(1, four, {"east": good["east"]}, dropped={
                "north": ("vanished", "it dropped out"), "south": ("declined", "it is night here"),
                "west": ("vanished", "it dropped out"),
            }, missed="1 of 4 nodes were heard in 'train', and the quorum is 2", bound=9.0),
            Told(1, four, but("east"), attempt=1, bound=9.0,
                 nodes=scores(0.7, 0.7, 0.8, 0.6), evaluator={"accuracy": 0.7},
                 dropped={"east": ("quarantined", "its norm is 12, above the bound of 9 for this round")}),
            Told(2, four, but("west"), late={"west": "it came when round 2 had gone on"}, bound=9.0,
                 nodes=scores(0.8, 0.9, 0.9, 0.7), evaluator={"accuracy": 0.8}),
            Told(3, alone=scores(0.5, 0.6, 0.7, 0.75)),
        ],
    )  # fmt: skip


def a_long_run(nodes: int, count: int, *, share: float = 1.0, every: int = 1, seed: int = 1) -> RunFacts:
    """A run as runs usually go, with chance in it."""
    random = np.random.default_rng(seed)
    names = [f"clinic-{place:03d}" for place in range(nodes)]
    level = dict(zip(names, random.normal(0, 0.05 if nodes < 10 else 0.035, nodes), strict=True))
    examples = dict(zip(names, np.round(random.lognormal(5.5, 0.8, nodes)), strict=True))
    told: list[Told] = []
    for number in range(count):
        cohort = sorted(random.choice(names, max(1, round(share * nodes)), replace=False))
        reach = 0.965 - 0.85 * np.exp(-3.2 * (number + 1) / max(count * 0.55, 1))
        norm = 0.4 + 2.2 * np.exp(-2.5 * number / count)
        trained, dropped, late = {}, {}, {}
        for node in cohort:
            luck = random.random()
            if luck < 0.02:
                dropped[node] = ("vanished", "it dropped out of the simulation")
            elif luck < 0.03:
                dropped[node] = (
                    "quarantined",
                    f"its norm is {norm * 4:.4g}, above the bound of {norm * 3:.4g} for this round",
                )
            elif luck < 0.035:
                dropped[node] = ("declined", "its policy allows two rounds a night")
            elif luck < 0.055:
                late[node] = f"it came when round {number} had gone on"
            else:
                trained[node] = (
                    float(examples[node]),
                    float(norm * random.lognormal(0, 0.2)),
                    float(2.3 * (1.02 - reach)),
                )
        measured = {}
        if (number + 1) % every == 0 or number + 1 == count:
            for node in sorted(random.choice(names, min(nodes, 100), replace=False)):
                value = float(np.clip(reach + level[node] + random.normal(0, 0.012), 0.02, 0.998))
                loss = float(2.4 * (1.02 - value) + 0.05 + random.normal(0, 0.01))
                measured[node] = {"examples": float(examples[node] // 4 + 5), "accuracy": value, "loss": loss}
        judge = (
            {"accuracy": float(reach - 0.012), "loss": float(2.5 * (1.03 - reach))}
            if nodes >= 10 and measured
            else None
        )
        told.append(
            Told(
                number,
                cohort,
                trained,
                dropped,
                late,
                measured,
                judge,
                bound=3 * norm if number else None,
                population=nodes,
            )
        )
    last = told[-1].nodes
    alone = {
        node: {
            "examples": values["examples"],
            "accuracy": float(np.clip(values["accuracy"] - random.gamma(1.8, 0.13) + 0.03, 0.1, 0.99)),
            "loss": values["loss"] + 0.4,
        }
        for node, values in last.items()
    }
    if alone:
        told.append(Told(count, alone=alone, population=nodes))
    return facts_of(a_plan(count), told)
