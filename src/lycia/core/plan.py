"""A plan: the parts of a federated algorithm, checked to fit together; and an app: a plan with something to train."""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from lycia.core.layout import Layout, Leaf
from lycia.core.messages import OWN_EXCHANGES
from lycia.core.parts import Aggregator, ClientRule, Part, Selector, ServerOptimizer, Stage
from lycia.core.training import DescribesFeatures, NodeData, Schema, Trainer
from lycia.errors import AppError, PlanError

CAPACITY = 1024  # the grid of a small cohort leaves room for this many updates, so that replacements never move it


@dataclass(frozen=True)
class RoundRules:
    """When a round counts, and which updates do. On by default.

    Attributes:
      quorum: the share of the goal that must be heard; below it the round is asked again. None: 0.5, or 0 where the
        plan relies on how the cohort was drawn.
      least_nodes: a round is opened only when so many nodes are there.
      deadline_s: seconds that an exchange may take.
      over_selection: how many more nodes are asked than are needed; the round closes when the goal is reached.
        None: 1.3, or 1 where the plan relies on how the cohort was drawn.
      replacement: whether another node is asked when one declines or vanishes. None: yes, with the same exception.
      retries: how often a round that missed its quorum is asked again before the run pauses.
      weight_cap: the largest weight (examples) that a node may claim.
      norm_factor, norm_history: an update is admitted up to `norm_factor` times the median norm of the last
        `norm_history` rounds; norms that only this bound refused are part of the median.
      norm_bound: a fixed bound instead; needed where masks hide norms from the server.
    """

    quorum: float | None = None
    least_nodes: int = 1
    deadline_s: float = 3600.0
    over_selection: float | None = None
    replacement: bool | None = None
    retries: int = 3
    weight_cap: float = 1e7
    norm_factor: float = 3.0
    norm_history: int = 10
    norm_bound: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """How the model is measured while it is trained.

    Attributes:
      every: rounds between two measurements; the last round is always measured.
      nodes: how many nodes measure on their own held-out data (all, if there are fewer); 0 for none.
      evaluators: whether evaluator nodes measure on the operator's data, where there are any.
      baseline_rounds: after the run, each measuring node also trains alone for so many rounds of local work, from the
        run's first model, and measures that: what it would have had without the federation. 0: not done.
    """

    every: int = 1
    nodes: int = 100
    evaluators: bool = True
    baseline_rounds: int = 0


@dataclass(frozen=True)
class Stop:
    """When to stop before the last round: by the evaluators' figure where there is one, else by the nodes' pooled one.

    Attributes:
      metric: its name, as the trainer reports it.
      target: stop when it is reached.
      patience, least_change: stop after so many measurements without an improvement of more than `least_change`.
      better: whether "higher" or "lower" values are better.
    """

    metric: str
    target: float | None = None
    patience: int | None = None
    better: Literal["higher", "lower"] = "higher"
    least_change: float = 0.0


@dataclass(frozen=True)
class Synchronous:
    """One cohort a round; the round closes when its goal is reached."""


@dataclass(frozen=True)
class Buffered:
    """Nodes train all the time; a round closes whenever `size` updates are in, whatever version they started from.

    Attributes:
      size: how many updates close a round.
      concurrency: how many nodes train at once.
      max_staleness: an update is refused when more rounds than this have closed since its version.
    Source: Nguyen et al. 2022, "Federated learning with buffered asynchronous aggregation", arXiv:2106.06639.
    """

    size: int
    concurrency: int
    max_staleness: int = 10


@dataclass(frozen=True)
class Normalisation:
    """Before the first round nodes tell the count, mean and variance of each feature, and all then scale by the pooled.

    It needs a trainer with `scaled=True`, whose bounds from the schema these take the place of. A model that brings
    its own scaling, from a run that was normalised, keeps it.

    What nodes tell leaves them in the clear, and is believed: the mean of a single example is that example, and one
    node that lies can spoil the scale for all. Bounds in the schema tell nothing, and depend on nobody.

    Attributes:
      nodes: how many are asked (all, if there are fewer).
    """

    nodes: int = 1000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A federated algorithm as a value.

    Attributes:
      rounds: how many, at most.
      selector: who takes part in a round.
      client: what is special about training on a node.
      aggregator: how many updates become one.
      server: how that one moves the model.
      stages: what is done to updates between the nodes and the sum, in this order.
      seed: names all randomness that need not be secret; two runs with equal records have equal models.
      rules: when a round counts, and which updates do.
      schedule: whether rounds have a cohort that starts and ends together, or nodes train all the time.
      evaluation: how the model is measured while it is trained.
      stop: when to stop before the last round.
      statistics: whether running statistics are averaged, or stay "local" at each node.
      normalisation: whether nodes describe their features first, so that all are on one scale.
    Raises: PlanError, if the parts do not fit together; its message says what to change.
    """

    rounds: int
    selector: Selector
    client: ClientRule
    aggregator: Aggregator
    server: ServerOptimizer
    stages: tuple[Stage, ...] = ()
    seed: int = 0
    rules: RoundRules = RoundRules()
    schedule: Synchronous | Buffered = Synchronous()
    evaluation: Evaluation = Evaluation()
    stop: Stop | None = None
    statistics: Literal["local", "average"] = "local"
    normalisation: Normalisation | None = None

    def __post_init__(self) -> None:
        for misfit in _misfits(self):
            raise misfit

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts that may add exchanges, in the order in which their exchanges are held before training."""
        return (self.selector, self.client, *self.stages)

    @property
    def masking(self) -> Stage | None:
        """The stage that hides single updates from the server, if there is one."""
        return next((stage for stage in self.stages if stage.hides_rows), None)

    @property
    def quorum(self) -> float:
        """The share of the goal that must be heard."""
        return self.rules.quorum if self.rules.quorum is not None else (0.0 if self.selector.exact else 0.5)

    @property
    def over_selection(self) -> float:
        """How many times the goal is asked."""
        return (
            self.rules.over_selection
            if self.rules.over_selection is not None
            else (1.0 if self.selector.exact else 1.3)
        )

    @property
    def replacement(self) -> bool:
        """Whether nodes that decline or vanish are replaced."""
        return self.rules.replacement if self.rules.replacement is not None else not self.selector.exact

    @property
    def largest_weight(self) -> float:
        """What one update can count at most."""
        return 1.0 if self.aggregator.equal_shares else self.rules.weight_cap

    @property
    def needs_rows(self) -> bool:
        """Whether the server works on single updates, so that a fleet may not hand up a sum of them."""
        return (
            self.aggregator.shape != "sum"
            or self.masking is not None
            or self.statistics == "average"
            or isinstance(self.schedule, Buffered)
            or any(stage.undone == "on_arrival" for stage in self.stages)
            or any(part.extras(_ANY_LAYOUT) for part in self.parts)
        )

    def part_of(self, exchange: str) -> Part:
        """The part that holds an exchange which is not the round's own."""
        return next(part for part in self.parts if exchange in (*part.before, *part.after))

    def to_json(self) -> str:
        """The plan as canonical JSON: every part by name, with its values."""
        return json.dumps(describe(self), sort_keys=True, separators=(",", ":"))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the plan's JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class App:
    """What a user writes: a model with its local training, a plan, and, for simulation, a population.

    Attributes:
      trainer: the model, and its training on one node.
      plan: the federated algorithm.
      population: the simulated nodes, as `lycia.data` has them; a deployed node brings its own data.
      evaluator: in simulation, the operator's own data, held by a node that never trains.
      schema: what the data of every node must look like.
      name: what runs of it are called.
    Raises:
      PlanError: if the trainer cannot do what the plan's client rule needs.
      AppError: if something is not what it is given as.
    """

    trainer: Trainer
    plan: Plan
    population: Any = None
    evaluator: NodeData | None = None
    schema: Schema | None = None
    name: str = "app"

    def __post_init__(self) -> None:
        if not isinstance(self.plan, Plan):
            raise AppError(
                f"the app's plan is a {type(self.plan).__name__}.",
                why="an app needs a Plan, which has been checked.",
                do="pass plan=Plan(rounds=…, selector=…, client=…, aggregator=…, server=…).",
            )
        missing = [
            name for name in ("takes_terms", "first_model", "train", "evaluate") if not hasattr(self.trainer, name)
        ]
        if missing:
            raise AppError(
                f"{type(self.trainer).__name__} is not a trainer: it has no {', '.join(missing)}.",
                why="the node calls these to make, train and measure a model.",
                do="use one of lycia.trainers, or give your own class these members (lycia.core.training.Trainer).",
            )
        describes = isinstance(self.trainer, DescribesFeatures) and self.trainer.scaled
        if self.plan.normalisation and not describes:
            raise PlanError(
                f"normalisation cannot be used with {type(self.trainer).__name__} as it is.",
                why="its model does not scale the features that it is given.",
                do="give the trainer scaled=True, or leave normalisation out of the plan.",
            )
        if self.plan.client.needs_term and not self.trainer.takes_terms:
            raise PlanError(
                f"{_name(self.plan.client)} cannot be used with {type(self.trainer).__name__}.",
                why="it adds a term to every local gradient, and this trainer's fitting gives no access to them.",
                do="use FedAvg(), or a trainer that takes terms, such as NumpyTrainer.",
            )


def describe(value: Any) -> Any:
    """A part or a plain value as JSON data; parts become {"part": name, field: value, …}."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            "part": part_name(type(value)),
            **{item.name: describe(getattr(value, item.name)) for item in fields(value)},
        }
    if isinstance(value, (tuple, list)):
        return [describe(item) for item in value]
    if isinstance(value, dict):
        return {str(key): describe(item) for key, item in value.items()}
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, (np.generic, np.ndarray)):
        return describe(value.tolist())
    return {"part": part_name(type(value))}


def share(part: float, whole: int) -> int:
    """How many make up a share of `whole`, rounded up; 0.55 of 100 is 55, though 0.55 · 100 is a little more."""
    return math.ceil(part * whole * (1 - 1e-12))


def part_name(kind: type) -> str:
    """The name under which a plan refers to a part: bare for ours, `module:Class` for a stranger's."""
    return kind.__name__ if kind.__module__.startswith("lycia.") else f"{kind.__module__}:{kind.__qualname__}"


def _misfits(plan: Plan) -> Iterator[PlanError]:
    yield from _not_parts(plan)
    yield from _bad_values(plan)
    yield from _exchange_clashes(plan)
    yield from _sampling_misfits(plan)
    yield from _stage_misfits(plan)
    yield from _schedule_misfits(plan)


def _not_parts(plan: Plan) -> Iterator[PlanError]:
    wanted: list[tuple[str, Any, bool]] = [
        ("selector", plan.selector, isinstance(plan.selector, Selector)),
        ("client", plan.client, isinstance(plan.client, ClientRule)),
        ("aggregator", plan.aggregator, all(hasattr(plan.aggregator, name) for name in _AGGREGATOR)),
        ("server", plan.server, all(hasattr(plan.server, name) for name in ("slots", "step"))),
        *(("stages", stage, isinstance(stage, Stage)) for stage in plan.stages),
    ]  # fmt: skip
    for place, part, fits in wanted:
        if not fits or isinstance(part, type):
            shown = f"the class {part.__name__} itself" if isinstance(part, type) else f"a {type(part).__name__}"
            yield PlanError(
                f"the plan's {place} is {shown}.",
                why=f"that is not something a plan can use as {place}.",
                do=f"pass an instance of one of the parts for {place}, as listed in the docs.",
            )


def _bad_values(plan: Plan) -> Iterator[PlanError]:
    rules, evaluation, stop = plan.rules, plan.evaluation, plan.stop
    bounds: list[tuple[bool, str, str]] = [
        (
            type(plan.rounds) is int and plan.rounds >= 1,
            f"rounds={plan.rounds!r}", "a run has a whole number of rounds, and at least one",
        ),
        (0 <= plan.quorum <= 1, f"quorum={plan.quorum}", "a quorum is a share of the goal, from 0 to 1"),
        (rules.least_nodes >= 1, f"least_nodes={rules.least_nodes}", "a round without nodes cannot train"),
        (0 < rules.deadline_s < math.inf, f"deadline_s={rules.deadline_s}", "an exchange needs some time, and an end"),
        (1 <= plan.over_selection < math.inf, f"over_selection={plan.over_selection}", "too few never reach the goal"),
        (rules.retries >= 0, f"retries={rules.retries}", "a round cannot be retried less than never"),
        (0 < rules.weight_cap < math.inf, f"weight_cap={rules.weight_cap}", "sums need a finite cap"),
        (rules.norm_factor > 0, f"norm_factor={rules.norm_factor}", "no update would ever be admitted"),
        (rules.norm_history >= 1, f"norm_history={rules.norm_history}", "the bound needs at least one round to go by"),
        (
            rules.norm_bound is None or 0 < rules.norm_bound < math.inf,
            f"norm_bound={rules.norm_bound}", "it is a positive length",
        ),
        (
            plan.aggregator.shape in ("sum", "coordinate"),
            f"an aggregator of shape {plan.aggregator.shape!r}", "a round closes by sum or by coordinate",
        ),
        (evaluation.every >= 1, f"every={evaluation.every}", "rounds are counted from one to the next"),
        (evaluation.nodes >= 0, f"nodes={evaluation.nodes}", "a number of nodes is not negative"),
        (
            evaluation.baseline_rounds >= 0,
            f"baseline_rounds={evaluation.baseline_rounds}", "a number of rounds is not negative",
        ),
        (
            plan.normalisation is None or plan.normalisation.nodes >= 1,
            "normalisation by no node", "somebody must describe the features",
        ),
        (
            stop is None or stop.target is not None or stop.patience is not None,
            "stop without target and patience", "it would never stop the run",
        ),
        (
            stop is None or stop.patience is None or stop.patience >= 1,
            f"patience={stop and stop.patience}", "it would stop at once",
        ),
        (
            stop is None or evaluation.nodes > 0 or evaluation.evaluators,
            "stop without any evaluation", "nothing would ever be measured to stop by",
        ),
    ]  # fmt: skip
    for holds, what, why in bounds:
        if not holds:
            yield PlanError(
                f"the plan has {what}.",
                why=f"{why}.",
                do="correct the value; the docstring gives its meaning and default.",
            )


def _exchange_clashes(plan: Plan) -> Iterator[PlanError]:
    taken = {*OWN_EXCHANGES, "close"}
    for part in plan.parts:
        for exchange in (*part.before, *part.after):
            if exchange in taken:
                yield PlanError(
                    f"{_name(part)} adds an exchange {exchange!r}, which there is already.",
                    why="answers are told apart by the exchange's name.",
                    do="drop one of the two parts, or rename the exchange.",
                )
            taken.add(exchange)


def _sampling_misfits(plan: Plan) -> Iterator[PlanError]:
    if not plan.selector.exact:
        return
    for wrong, setting in (
        (plan.over_selection != 1, "over-selection"),
        (plan.replacement, "replacement"),
        (plan.quorum > 0, "a quorum"),
    ):
        if wrong:
            yield PlanError(
                f"{_name(plan.selector)} cannot be used with {setting}.",
                why="it promises that nodes take part by chance alone; asking others, or not closing, breaks that.",
                do="leave that rule at its default, or select with Uniform(cohort_size=…).",
            )
    counts_heads = plan.aggregator.divisor(_ONE) != plan.aggregator.divisor(_TWO)
    for stage in plan.stages if counts_heads else ():
        if not stage.bounds_share:
            continue
        yield PlanError(
            f"{_name(plan.aggregator)} divides by who was heard, under {_name(plan.selector)} and {_name(stage)}.",
            why="how many took part would then be told exactly, which the guarantee does not cover.",
            do="use UniformMean(expected_cohort=…), which divides by a fixed number.",
        )


def _stage_misfits(plan: Plan) -> Iterator[PlanError]:
    names = [extra.name for part in plan.parts for extra in part.extras(_ANY_LAYOUT)]
    names += ["statistics"] if plan.statistics == "average" else []
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield PlanError(
            f"two parts of the plan send an extra called {name!r}.",
            why="what travels beside an update is told apart by its name.",
            do="drop one of the two parts, or rename its extra.",
        )
    for stage in plan.stages:
        if stage.bounds_share and not plan.aggregator.equal_shares:
            yield PlanError(
                f"{_name(stage)} cannot be used with {_name(plan.aggregator)}.",
                why="it is calibrated for equal shares; this aggregator weights nodes by their data.",
                do=f"use UniformMean(expected_cohort=…), or drop {_name(stage)}.",
            )
        if (stage.bounds_share or stage.hides_rows) and plan.normalisation:
            yield PlanError(
                f"normalisation cannot be used with {_name(stage)}.",
                why="the means and variances of a node's features would leave it without the protection of the plan.",
                do="scale features by the bounds in the schema: leave normalisation out.",
            )
        if stage.bounds_share and plan.statistics == "average":
            yield PlanError(
                f"statistics='average' cannot be used with {_name(stage)}.",
                why="running statistics would leave the nodes outside its guarantee.",
                do="use statistics='local'.",
            )
        if plan.masking and plan.masking is not stage and (stage.undone == "on_arrival" or stage.hides_rows):
            yield PlanError(
                f"{_name(stage)} cannot be used with {_name(plan.masking)}.",
                why="the server never sees single updates behind masks, so nothing can be undone for each of them.",
                do="use a stage that is undone on the sum, or drop one of the two.",
            )
        if (stage.hides_rows or stage.undone == "on_sum") and plan.aggregator.shape != "sum":
            yield PlanError(
                f"{_name(stage)} cannot be used with {_name(plan.aggregator)}.",
                why="the stage works on a sum, and this aggregator needs the updates one by one.",
                do=f"use UniformMean() or ExampleWeightedMean(), or drop {_name(stage)}.",
            )
        if stage.hides_rows and not plan.aggregator.equal_shares:
            yield PlanError(
                f"{_name(stage)} cannot be used with {_name(plan.aggregator)}.",
                why="what a node counts would leave it in the clear, and its masked update does not hold it.",
                do="use UniformMean(), where each node counts the same.",
            )
        if stage.hides_rows and plan.rules.norm_bound is None:
            yield PlanError(
                f"{_name(stage)} needs a fixed norm bound.",
                why="nodes must know the grid before they mask, and the server cannot learn norms from masked updates.",
                do="set rules=RoundRules(norm_bound=…).",
            )
        if stage.hides_rows or stage.bounds_share:
            bare = [name for name in names if stage.covers != "all" and name not in stage.covers]
            if bare:
                yield PlanError(
                    f"{_name(stage)} does not cover what is sent beside the update: {', '.join(bare)}.",
                    why="it would leave the node without the protection that the plan promises.",
                    do="use a client rule without extras, such as FedAvg(), or a stage that covers them.",
                )


def _schedule_misfits(plan: Plan) -> Iterator[PlanError]:
    schedule = plan.schedule
    if not isinstance(schedule, Buffered):
        goal = plan.selector.goal(10**9)
        least = max(1, share(plan.quorum, goal))
        if least < plan.aggregator.minimum:
            yield PlanError(
                f"{_name(plan.aggregator)} needs {plan.aggregator.minimum} updates; a round may close with {least}.",
                why=f"the quorum is {plan.quorum:g} of a goal of {goal}.",
                do="raise the quorum or the cohort size.",
            )
        return
    if not (schedule.size >= 1 and schedule.concurrency >= schedule.size and schedule.max_staleness >= 0):
        yield PlanError(
            f"Buffered(size={schedule.size}, concurrency={schedule.concurrency}, "
            f"max_staleness={schedule.max_staleness}) cannot work.",
            why="a buffer of at least one update must be filled by at least as many nodes at once.",
            do="use, for example, Buffered(size=10, concurrency=30).",
        )
    if schedule.size < plan.aggregator.minimum:
        yield PlanError(
            f"{_name(plan.aggregator)} needs {plan.aggregator.minimum} updates; Buffered closes with {schedule.size}.",
            why="it is not defined for fewer.",
            do="raise the buffer's size.",
        )
    if plan.masking or plan.selector.exact or any(part.before or part.after for part in plan.parts):
        yield PlanError(
            "Buffered cannot be used with masks, sampling assumptions, or parts that hold exchanges of their own.",
            why="in a buffered run there is no cohort that starts and ends together.",
            do="use schedule=Synchronous(), or drop that part.",
        )


def _name(part: object) -> str:
    return type(part).__name__


_AGGREGATOR = ("shape", "equal_shares", "minimum", "weights", "divisor", "reduce")
_ANY_LAYOUT = Layout((Leaf("any", (1,)),))
_ONE, _TWO = np.ones(1), np.ones(2)
