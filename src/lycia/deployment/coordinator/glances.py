"""What a watcher sees at a glance of a run, a round, and a step inside one: small, however many nodes there are."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lycia.core.events import Asked, Closed, Dropped, Ended, Event, Heard, Opened, Settled
from lycia.core.messages import EVALUATE, EVALUATE_BY_EVALUATOR, TRAIN
from lycia.runtime.facts import RoundMoved
from lycia.storage.facts import StoredRun
from lycia.storage.rollback import spans

LOOKED_BACK = 10
"""How many of a run's last records are looked at for its figure, and for the time that a round takes."""

MOST_NODES = 16  # in one exchange, of which each one's figures are told; of more, only those of the picked ones
_MOST_DROPS = 40
_PREFERRED = ("accuracy", "r2", "loss")
_SPREAD = (0.0, 0.25, 0.5, 0.75, 1.0)


def about(run: StoredRun, now_s: float) -> dict[str, Any]:
    """What does not change in a run, and what time it is here."""
    return {
        "id": run.id, "app": run.app, "plan": json.loads(run.plan), "plan_digest": run.plan_digest,
        "layout": json.loads(run.layout), "versions": dict(run.versions), "now_s": now_s,
    }  # fmt: skip


@dataclass(frozen=True)
class Lately:
    """What a run's last records say of it: its figure, and how long a round takes.

    Attributes:
      changes: how often something was added to its records, or one of them undone.
    """

    changes: int
    figure: Mapping[str, Any] | None = None
    round_s: float | None = None

    @classmethod
    def of(cls, run: StoredRun, changes: int, last: Sequence[Mapping[str, Any]]) -> "Lately":
        """What the last records say, after so many changes."""
        figures = [found for record in last if (found := _headline(record, _metric(run)))]
        took_s = [record["ended_s"] - record["opened_s"] for record in last if record["ended_s"] is not None]
        return cls(changes, figures[-1] if figures else None, sum(took_s) / len(took_s) if took_s else None)


def run_glance(
    run: StoredRun, rounds_done: int, lately: Lately, paused_s: float, moved: RoundMoved | None,
    undone: Sequence[int] = (),
) -> dict[str, Any]:  # fmt: skip
    """How a run stands. `moved`: what happened last inside a round; `undone`: which of its records do not count."""
    return {
        "id": run.id, "app": run.app, "state": run.state, "reason": run.reason, "created_s": run.created_s,
        "ended_s": run.ended_s, "paused_s": paused_s, "rounds": json.loads(run.plan)["rounds"], "round": rounds_done,
        "metric": _metric(run), "figure": lately.figure, "moved": asdict(moved) if moved else None,
        "round_s": lately.round_s, "undone": spans(undone),
    }  # fmt: skip


def round_glance(number: int, record: Mapping[str, Any], picked: Collection[str]) -> dict[str, Any]:
    """A record without what grows with the cohort: spreads instead of each node's figures, and the first drops."""
    scopes = {TRAIN: record["train_metrics"], **record["evaluation"]}
    drops = [*record["dropped"], *({**late, "exchange": TRAIN, "kind": "late"} for late in record["late"])]
    kinds = [drop["kind"] for drop in drops]
    same = (
        "round", "attempt", "purpose", "population", "norm_bound", "missed", "opened_s", "ended_s", "phases_s",
        "wall_s", "bytes_up", "bytes_down", "undone",
    )  # fmt: skip
    return {
        "record": number,
        **{name: record.get(name) for name in same},
        "asked": {exchange: len(nodes) for exchange, nodes in record["asked"].items()},
        "heard": len(record["survivors"]),
        "scopes": {exchange: _scope(scope, picked) for exchange, scope in scopes.items()},
        "norms": _figures(record["norms"], picked),
        "dropped": drops[:_MOST_DROPS],
        "drops": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
    }


def step_glance(event: Event) -> dict[str, Any]:
    """What happened inside a round, as a watcher may know it: no secret, and nothing that a node sent to its round."""
    said: dict[str, Any] = {"step": type(event).__name__, "at_s": event.at_s}
    match event:
        case Opened():
            names: Iterable[str] = ("round", "attempt", "purpose", "population", "norm_bound")
        case Asked():
            names = ("task", "exchange", "nodes")
        case Heard():
            names = ("task", "nodes")
        case Dropped():
            names = ("task", "node", "kind", "reason")
        case Settled():
            names = ("exchange", "nodes")
        case Closed():
            names = ()
        case Ended():
            names = ("missed",)
    return said | {name: getattr(event, name) for name in names}


def _metric(run: StoredRun) -> str:
    """What the plan stops by, if it does."""
    return str((json.loads(run.plan).get("stop") or {}).get("metric", ""))


def _headline(record: Mapping[str, Any], metric: str) -> dict[str, Any] | None:
    """The figure that stands for a round: the metric that the plan stops by, or the first that people look for."""
    for exchange in (EVALUATE_BY_EVALUATOR, EVALUATE):
        pooled = record["evaluation"].get(exchange, {}).get("pooled", {})
        for name in (metric, *_PREFERRED, *sorted(pooled)):
            if pooled.get(name) is not None:
                return {"metric": name, "exchange": exchange, "value": pooled[name], "round": record["round"] + 1}
    return None


def _scope(scope: Mapping[str, Any], picked: Collection[str]) -> dict[str, Any]:
    pooled, nodes = scope["pooled"], scope["nodes"]
    names = dict.fromkeys([*pooled, *(name for figures in nodes.values() for name in figures if name != "examples")])
    return {
        name: {"pooled": pooled.get(name)}
        | _figures({node: figures[name] for node, figures in nodes.items() if name in figures}, picked)
        for name in names
    }


def _figures(figures: Mapping[str, float | None], picked: Collection[str]) -> dict[str, Any]:
    known = sorted(value for value in figures.values() if value is not None)
    told = figures if len(figures) <= MOST_NODES else {node: figures[node] for node in picked if node in figures}
    return {"spread": [known[round(share * (len(known) - 1))] for share in _SPREAD] if known else None, "nodes": told}
