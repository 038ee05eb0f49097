"""What a report shows, worked out of the facts: pure functions, one for each figure."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lycia.core.messages import BASELINE, EVALUATE, EVALUATE_BY_EVALUATOR, TRAIN
from lycia.core.round import ASIDE
from lycia.reports.facts import RoundFacts, RunFacts, Scope

State = Literal["heard", "quarantined", "declined", "vanished", "late", "unheard"]
"""What became of a node that was asked to train; "unheard": the round went on without its answer."""

STATES: tuple[State, ...] = ("heard", "quarantined", "declined", "vanished", "late", "unheard")
Points = tuple[tuple[int, float], ...]
"""(round, value), rounds counted from 1."""

_LOWER_IS_BETTER = ("loss", "error", "err", "mse", "rmse", "mae", "perplexity", "nll", "brier", "wer")


def metric_names(facts: RunFacts) -> tuple[str, ...]:
    """Every metric that was measured on held-out data, the one to show first at the front."""
    scopes = [scope for current in facts.rounds for scope in current.evaluation.values()]
    names = sorted({name for scope in scopes for name in scope.pooled})
    first = shown_metric(facts)
    return tuple(sorted(names, key=lambda name: (name != first, name)))


def shown_metric(facts: RunFacts) -> str:
    """The metric to show first: the one that the plan stops by, else accuracy, else the first; "" if there is none."""
    known = {name for current in facts.rounds for scope in current.evaluation.values() for name in scope.pooled}
    stop = (facts.plan.get("stop") or {}).get("metric", "")
    return next((name for name in (stop, "accuracy", *sorted(known)) if name in known), "")


def is_higher_better(facts: RunFacts, metric: str) -> bool:
    """Whether more of it is good: as the plan says, else by its name."""
    stop = facts.plan.get("stop") or {}
    if stop.get("metric") == metric:
        return bool(stop.get("better", "higher") == "higher")
    return not any(part in _LOWER_IS_BETTER for part in metric.lower().replace("-", "_").replace(" ", "_").split("_"))


def target(facts: RunFacts, metric: str) -> float | None:
    """The value at which the plan stops, if it names one for this metric."""
    stop = facts.plan.get("stop") or {}
    return stop.get("target") if stop.get("metric") == metric else None


@dataclass(frozen=True)
class Series:
    """A metric by round: over all measuring nodes, at each, at the evaluators, and while nodes trained."""

    metric: str
    pooled: Points
    evaluator: Points
    training: Points
    nodes: Mapping[str, Points]

    @property
    def points(self) -> Points:
        """The line that decides: the nodes' pooled one, or the evaluators' where nodes do not measure."""
        return self.pooled or self.evaluator


def series(facts: RunFacts, metric: str) -> Series:
    """How a metric went, from round to round."""

    def line(scope_of: str) -> Points:
        found = ((current.number, _scope(current, scope_of).pooled.get(metric)) for current in facts.closed)
        return tuple((number, value) for number, value in found if value is not None)

    nodes: dict[str, list[tuple[int, float]]] = {}
    for current in facts.closed:
        for node, values in _scope(current, EVALUATE).nodes.items():
            if metric in values:
                nodes.setdefault(node, []).append((current.number, values[metric]))
    return Series(
        metric, line(EVALUATE), line(EVALUATE_BY_EVALUATOR), line(TRAIN),
        {node: tuple(points) for node, points in sorted(nodes.items())},
    )  # fmt: skip


def thinned(line: Series, most: int) -> Series:
    """The same at fewer rounds: of each stretch of them those with the lowest and the highest value, and both ends."""
    points = line.points or line.training
    stretch = -(-len(points) // max(most // 2, 1))
    if stretch < 3:
        return line
    kept = {points[0][0], points[-1][0]}
    for start in range(0, len(points), stretch):
        ordered = sorted(points[start : start + stretch], key=lambda point: point[1])
        kept |= {ordered[0][0], ordered[-1][0]}

    def some(points: Points) -> Points:
        return tuple(point for point in points if point[0] in kept)

    nodes = {node: few for node, all_of_it in line.nodes.items() if (few := some(all_of_it))}
    return Series(line.metric, some(line.pooled), some(line.evaluator), some(line.training), nodes)


@dataclass(frozen=True)
class NodeFigure:
    """What one node has of the run.

    Attributes:
      examples: trained on, as the node last claimed; held_out: measured on.
      states: how often each thing became of it.
      together: the federation's model on the node's held-out data; measured: the round of that model.
      alone: a model trained on the node's data only, on the same held-out data.
      benefit: what the node gains by joining, in the metric's unit; negative if it loses.
    """

    node: str
    examples: float | None = None
    held_out: float | None = None
    states: Mapping[State, int] = field(default_factory=dict)
    together: float | None = None
    measured: int = 0
    alone: float | None = None
    benefit: float | None = None

    @property
    def asked(self) -> int:
        """In how many rounds it was asked."""
        return sum(self.states.values())


def node_figures(facts: RunFacts, metric: str) -> tuple[NodeFigure, ...]:
    """Every node that the run knows, by name."""
    sign = 1 if is_higher_better(facts, metric) else -1
    examples = {node: weight for current in facts.rounds for node, weight in current.weights.items()}
    together: dict[str, tuple[int, float]] = {}
    held_out: dict[str, float] = {}
    for current in facts.closed:
        for node, values in _scope(current, EVALUATE).nodes.items():
            if metric in values:
                together[node] = current.number, values[metric]
                held_out[node] = values.get("examples", 0.0)
    baseline = facts.epilogue.evaluation.get(BASELINE, Scope()) if facts.epilogue else Scope()
    alone = {node: values[metric] for node, values in baseline.nodes.items() if metric in values}
    became = {node: Counter(by_round.values()) for node, by_round in states(facts).items()}
    return tuple(
        NodeFigure(
            node, examples.get(node), held_out.get(node), became.get(node, {}),
            together[node][1] if node in together else None, together[node][0] if node in together else 0,
            alone.get(node),
            sign * (together[node][1] - alone[node]) if node in together and node in alone else None,
        )
        for node in sorted(examples.keys() | together.keys() | alone.keys() | became.keys())
    )  # fmt: skip


def losers(figures: Sequence[NodeFigure]) -> tuple[NodeFigure, ...]:
    """The nodes that would do better alone, the greatest loss first."""
    lost = [figure for figure in figures if figure.benefit is not None and figure.benefit < 0]
    return tuple(sorted(lost, key=lambda figure: (figure.benefit, figure.node)))


def states(facts: RunFacts) -> Mapping[str, Mapping[int, State]]:
    """node → round → what became of it, in the last attempt at each round; a round not asked in is not there.

    A late update that was asked for in an earlier round is told of there.
    """
    last = {current.number: current for current in facts.rounds}
    became: dict[str, dict[int, State]] = {}
    for current in last.values():
        for node in current.cohort | frozenset(current.survivors):
            became.setdefault(node, {})[current.number] = "unheard"
        for drop in current.dropped:
            if drop.exchange not in ASIDE and drop.kind in STATES:
                became[drop.node][current.number] = _state(drop.kind)
        for node in current.survivors:
            became[node][current.number] = "heard"
    for current in facts.rounds:
        for drop in current.late:
            silent = [n for n, state in became.get(drop.node, {}).items() if state == "unheard" and n <= current.number]
            if silent:
                became[drop.node][max(silent)] = "late"
    return dict(sorted(became.items()))


@dataclass(frozen=True)
class Turnout:
    """How many nodes a round asked, and what became of them.

    Attributes:
      attempts: how often the round was asked; missed: why its last attempt did not count, "" if it did.
    """

    round: int
    attempts: int
    missed: str
    counts: Mapping[State, int]

    @property
    def asked(self) -> int:
        """The cohort's size."""
        return sum(self.counts.values())

    @property
    def heard(self) -> int:
        """How many counted."""
        return self.counts.get("heard", 0)


def turnouts(facts: RunFacts) -> tuple[Turnout, ...]:
    """One for each round that was opened."""
    counts: dict[int, Counter[State]] = {}
    for by_round in states(facts).values():
        for number, state in by_round.items():
            counts.setdefault(number, Counter())[state] += 1
    last, times = {current.number: current for current in facts.rounds}, Counter(one.number for one in facts.rounds)
    return tuple(
        Turnout(number, times[number], current.missed, counts.get(number, {})) for number, current in last.items()
    )


@dataclass(frozen=True)
class Incident:
    """Something that kept a node from counting. `kind`: quarantined, declined, vanished or late."""

    round: int
    attempt: int
    node: str
    exchange: str
    kind: str
    reason: str


def incidents(facts: RunFacts) -> tuple[Incident, ...]:
    """Everything that kept a node from counting, in order, the epilogue included."""
    attempts = (*facts.rounds, *((facts.epilogue,) if facts.epilogue else ()))
    return tuple(
        Incident(current.number, current.attempt, drop.node, drop.exchange, drop.kind, drop.reason)
        for current in attempts
        for drop in (*current.dropped, *current.late)
    )


def quarantines(facts: RunFacts) -> tuple[Incident, ...]:
    """Every update that was not admitted, with the reason."""
    return tuple(incident for incident in incidents(facts) if incident.kind == "quarantined")


def retries(facts: RunFacts) -> tuple[tuple[int, int, str], ...]:
    """(round, attempt, why it did not count) of every attempt that missed; attempts counted from 1."""
    return tuple((current.number, current.attempt + 1, current.missed) for current in facts.rounds if current.missed)


def traffic(facts: RunFacts) -> tuple[tuple[int, int, int], ...]:
    """(round, bytes up, bytes down), all attempts of a round together."""
    up, down = Counter[int](), Counter[int]()
    for current in facts.rounds:
        up[current.number] += current.bytes_up
        down[current.number] += current.bytes_down
    return tuple((number, up[number], down[number]) for number in up)


def phases(facts: RunFacts) -> Mapping[str, Points]:
    """Phase → seconds by round, all attempts together, in the order in which phases come."""
    by_phase: dict[str, Counter[int]] = {}
    for current in facts.rounds:
        for phase, spent_s in current.phases_s.items():
            counter: Counter[Any] = by_phase.setdefault(phase, Counter())
            counter[current.number] += spent_s  # type: ignore[assignment]  # a Counter adds up floats as well
    return {phase: tuple(spent.items()) for phase, spent in by_phase.items()}


@dataclass(frozen=True)
class Norms:
    """The norms of a round's updates.

    Attributes:
      refused: how many updates were quarantined beside these.
      above: the norms of those among them that were refused for their norm.
    """

    round: int
    bound: float | None
    nodes: Mapping[str, float]
    refused: int
    above: Sequence[float] = ()


def norms(facts: RunFacts) -> tuple[Norms, ...]:
    """One for each round that is done; none where norms are hidden."""
    found = [
        Norms(
            current.number, current.norm_bound, current.norms,
            len({drop.node for drop in current.dropped if drop.exchange == TRAIN and drop.kind == "quarantined"}),
            [drop.norm for drop in current.dropped if drop.norm is not None],
        )
        for current in facts.closed
    ]  # fmt: skip
    return tuple(found) if any(item.nodes for item in found) else ()


def digests(facts: RunFacts) -> tuple[tuple[int, str], ...]:
    """(round, digest) of every model, that of the first one under round 0."""
    first = [(0, facts.first_model)] if facts.first_model else []
    return (*first, *((current.number, current.model) for current in facts.closed if current.model))


def summary(facts: RunFacts) -> dict[str, Any]:
    """The figures that stand for the run, as plain data.

    Returns: the keys are id, app, state, reason, rounds (done), bytes_up, bytes_down (epilogue included), and final:
      metric → the evaluators' figure where there is one, else the nodes' pooled one, as the plan's stop rule has it.
    """
    lines = {name: series(facts, name) for name in metric_names(facts)}
    everything = (*facts.rounds, *((facts.epilogue,) if facts.epilogue else ()))
    return {
        "id": facts.id,
        "app": facts.app,
        "state": facts.state,
        "reason": facts.reason,
        "rounds": len(facts.closed),
        "bytes_up": sum(current.bytes_up for current in everything),
        "bytes_down": sum(current.bytes_down for current in everything),
        "final": {name: (line.evaluator or line.pooled)[-1][1] for name, line in lines.items()},
    }


def metric_lines(facts: RunFacts) -> Iterator[dict[str, Any]]:
    """One line for each round, scope and metric, as plain data.

    Returns: the keys are round, exchange, scope ("pooled", "evaluator" or the name of a node), metric, value; and
      node where the scope is one, so that a node called "pooled" is told apart.
    """
    for current in (*facts.closed, *((facts.epilogue,) if facts.epilogue else ())):
        for exchange, scope in ((TRAIN, current.training), *current.evaluation.items()):
            whole = "evaluator" if exchange == EVALUATE_BY_EVALUATOR else "pooled"
            common = {"round": current.number, "exchange": exchange}
            for metric, value in scope.pooled.items():
                yield {**common, "scope": whole, "metric": metric, "value": value}
            for node, values in scope.nodes.items():
                for metric, value in values.items():
                    yield {**common, "scope": node, "node": node, "metric": metric, "value": value}


def _scope(current: RoundFacts, exchange: str) -> Scope:
    return current.training if exchange == TRAIN else current.evaluation.get(exchange, Scope())


def _state(kind: str) -> State:
    return next(state for state in STATES if state == kind)
