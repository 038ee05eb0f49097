"""A round's record as named numbers, and a run as named parameters: the same names in every tracking service."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lycia.core.layout import SEGMENTS
from lycia.core.messages import BASELINE, EVALUATE, EVALUATE_BY_EVALUATOR, TRAIN
from lycia.reports.facts import RoundFacts, RunFacts, Scope
from lycia.reports.numbers import quantile

ATTEMPTS = "round/attempts"
"""A number that every round has, so that one can see which rounds are there."""

_GROUPS = {TRAIN: "train", EVALUATE: "evaluate", EVALUATE_BY_EVALUATOR: "evaluator", BASELINE: "alone"}
_KINDS = ("declined", "vanished", "quarantined", "late")


def scalars_of(done: RoundFacts, missed: Sequence[RoundFacts] = (), *, per_node: bool = False) -> dict[str, float]:
    """The numbers of a round that made a model, by names such as "evaluate/accuracy" and "nodes/heard".

    Args:
      missed: earlier attempts at this round; what they cost, and whom they lost, counts for it.
      per_node: also each node's metrics, weight and norm, as "evaluate_by_node/accuracy/NODE".
    """
    attempts = (*missed, done)
    lost = Counter(drop.kind for attempt in attempts for drop in (*attempt.dropped, *attempt.late))
    seconds: dict[str, float] = {}
    for attempt in attempts:
        for phase, spent_s in attempt.phases_s.items():
            seconds[_group(phase)] = seconds.get(_group(phase), 0.0) + spent_s
    norms = list(done.norms.values())
    named = {
        ATTEMPTS: done.attempt + 1,
        "round/seconds": math.fsum(attempt.wall_s for attempt in attempts),
        **{f"seconds/{phase}": spent_s for phase, spent_s in seconds.items()},
        "nodes/there": done.population,
        "nodes/asked": len(done.cohort),
        "nodes/heard": len(done.survivors),
        **{f"nodes/{kind}": lost[kind] for kind in _KINDS},
        "train/examples": math.fsum(done.weights.values()),
        **({"norm/median": quantile(norms, 0.5), "norm/max": max(norms)} if norms else {}),
        **({"norm/bound": done.norm_bound} if done.norm_bound is not None else {}),
        "bytes/up": sum(attempt.bytes_up for attempt in attempts),
        "bytes/down": sum(attempt.bytes_down for attempt in attempts),
        **dict(_measured(TRAIN, done.training, per_node)),
        **{name: value for scope in done.evaluation.items() for name, value in _measured(*scope, per_node)},
    }
    if per_node:
        named |= {f"train_by_node/examples/{node}": weight for node, weight in done.weights.items()}
        named |= {f"norm_by_node/{node}": norm for node, norm in done.norms.items()}
    return {name: float(value) for name, value in named.items()}


def alone_scalars(epilogue: RoundFacts, *, per_node: bool = False) -> dict[str, float]:
    """What models reach that nodes train alone: "alone/accuracy" and so on."""
    return {name: value for scope in epilogue.evaluation.items() for name, value in _measured(*scope, per_node)}


def parameters_of(run: RunFacts) -> dict[str, str | int | float | bool]:
    """What the run is: its plan with one name for each value, its model's size, and the versions it depends on."""
    layout = run.model_layout
    sizes = {segment: layout.size(segment) for segment in SEGMENTS}
    return {
        "run": run.id, "app": run.app, "world": run.world, "plan_digest": run.plan_digest,
        **dict(_flat("plan", {name: value for name, value in run.plan.items() if name != "part"})),
        "model.tensors": len(layout.leaves),
        **{f"model.{segment}": size for segment, size in sizes.items() if size},
        **{f"versions.{name}": version for name, version in run.versions.items()},
    }  # fmt: skip


def _measured(exchange: str, scope: Scope, per_node: bool) -> Iterator[tuple[str, float]]:
    group = _group(exchange)
    yield from ((f"{group}/{metric}", value) for metric, value in scope.pooled.items())
    if per_node:
        for node, values in scope.nodes.items():
            yield from ((f"{group}_by_node/{metric}/{node}", value) for metric, value in values.items())


def _group(exchange: str) -> str:
    return _GROUPS.get(exchange, exchange.replace(" ", "_"))


def _flat(name: str, value: Any) -> Iterator[tuple[str, str | int | float | bool]]:
    """(name, value) of everything in a plan's data that is set; a part's own name stands for the part."""
    if isinstance(value, Mapping):
        if "part" in value:
            yield name, str(value["part"])
        for key, item in value.items():
            if key != "part":
                yield from _flat(f"{name}.{key}", item)
    elif isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
        for place, item in enumerate(value):
            yield from _flat(f"{name}.{place}", item)
    elif isinstance(value, (list, tuple)):
        if value:
            yield name, json.dumps(value)
    elif value is not None:
        yield name, value if isinstance(value, (bool, int, float)) else str(value)
