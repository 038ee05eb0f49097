"""The end of a round: many updates become one, and one becomes the next model."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from lycia.core import admission
from lycia.core.events import Heard
from lycia.core.grid import Grid, Room
from lycia.core.layout import Layout, Model
from lycia.core.messages import EVALUATE, EVALUATE_BY_EVALUATOR, TRAIN, Summed, Updates
from lycia.core.parts import Extra, Total
from lycia.core.plan import Buffered
from lycia.core.round import (
    MEASURING,
    Carried,
    Round,
    Run,
    arrive,
    grid_of,
    missed,
    model_of,
    slots_of,
    still_training,
    view,
)
from lycia.core.space import BLOCK, MEMORY, Space, blocks

_LARGEST_FIGURE = 1e200  # a metric up to here, and down to its inverse, can be multiplied by a weight and added up
_ANSWERED = 32  # tasks of which it is remembered who was heard: some rounds, each with a measurement

Kept = Callable[[str], Updates | Summed]
"""handle → what was kept under it: a block of one update, or a sum."""


@dataclass(frozen=True)
class Accepted:
    """One update that counts: its node, where it is, and how much it counts."""

    node: str
    handle: str
    weight: float
    norm: float
    reach: Mapping[str, float]


def accepted(run: Run, carried: Carried, current: Round) -> list[Accepted]:
    """The updates that count, in node order, whatever order they came in."""
    rows = sorted(current.heard.get(TRAIN, {}).items())
    claimed = np.array([event.weights[row] for _, (event, row) in rows])
    weights = run.plan.aggregator.weights(claimed) if rows else claimed
    if _is_buffered(run) and rows:
        weights = weights * participation_weights([carried.participation.get(node, 0) + 1 for node, _ in rows])
    return [
        Accepted(
            node, event.handles[row], float(weight), event.norms[row] or 0.0,
            {name: values[row] for name, values in event.reach.items()},
        )
        for (node, (event, row)), weight in zip(rows, weights, strict=True)
    ]  # fmt: skip


def participation_weights(counts: Sequence[int]) -> np.ndarray:
    """(nodes,) at most 1: those heard more often count less, so that fast nodes do not pull the model their way.

    Source: inverse participation rate, as for FedBuff's bias in Nguyen et al. 2022, section 6.
    """
    rates = np.asarray(counts, dtype=np.float64)
    return np.asarray(rates.min() / rates)


def close(run: Run, carried: Carried, current: Round, kept: Kept, space: Space = MEMORY) -> Carried:
    """The next model, and all that the next round needs. Whatever is as large as the model lies in `space`.

    A function of the record alone: the plan, the model, and the accepted updates. Not of the order in which they came,
    the blocks they came in, or who added them up.

    Raises: StorageError, if `space` has no room.
    """
    plan, layout, updates = run.plan, run.layout, accepted(run, carried, current)
    weights = np.array([update.weight for update in updates])
    divisor = plan.aggregator.divisor(weights)
    rows = _Rows(updates, lambda handle: _open(run, carried, current, kept(handle)))
    trained, server = _step(run, carried, _means(run, carried, current, rows, weights, divisor, space), space)
    combined = {extra.name: _combine(extra, rows, space) for extra in admission.extras(layout, plan)} if updates else {}
    statistics = carried.model.statistics
    if "statistics" in combined:
        statistics = _step_statistics(layout, statistics, combined.pop("statistics"))
    slots = {f"server/{name}": array for name, array in server.items()}
    for index, part in enumerate(plan.parts):
        own = slots_of(carried, str(index))
        if updates:
            sent = {extra.name: combined[extra.name] for extra in part.extras(layout)}
            own = part.close(own, sent, len(updates), current.opened.population)
        slots.update({f"{index}/{name}": array for name, array in own.items()})
    return replace(
        carried,
        round=carried.round + 1,
        model=Model(trained, statistics, carried.model.local, model_of(carried, current).frozen),
        slots=slots,
        norms=_norms(run, carried, current),
        inflight=still_training(carried, current) if _is_buffered(run) else {},
        participation=_count(carried.participation, updates) if _is_buffered(run) else {},
    )


def _norms(run: Run, carried: Carried, current: Round) -> tuple[float, ...]:
    """The medians that the next bound follows, with this round's.

    What the bound refused is part of it: otherwise a bound that has become too small would shut out honest nodes for
    good. Where more than half of a round's updates are honest, the median lies between two of their norms, whatever the
    others send; and the bound follows the median of several rounds, so that a few with a bad cohort do not move it.
    Where half of them or more are not, as with one node of two, they can raise it as far as they like over some rounds:
    `RoundRules(norm_bound=…)` cannot be moved.
    """
    heard = [event.norms[row] for event, row in current.heard.get(TRAIN, {}).values()]
    norms = [norm for norm in (*heard, *_refused_norms(current)) if norm is not None]
    if not norms or run.plan.masking:
        return carried.norms
    return (*carried.norms, float(np.median(norms)))[-run.plan.rules.norm_history :]


def _refused_norms(current: Round) -> list[float | None]:
    return [drop.norm for drop in current.dropped.get(TRAIN, {}).values() if drop.norm is not None]


def conclude(run: Run, carried: Carried, current: Round) -> Carried:
    """What is carried on after the round's measurements: task numbers, the best figure, and whether the run is over."""
    again = current.opened.attempt + 1 if missed(current) else carried.first_attempt
    carried = replace(
        carried, task=carried.task + len(current.tasks), attempt=again, answered=_answered(carried, current)
    )  # fmt: skip
    if current.opened.purpose == "epilogue":
        return replace(carried, over=True)
    if missed(current) and _refused_norms(current):
        carried = replace(carried, norms=_norms(run, carried, current))
    if missed(current) and current.opened.describes:  # the next attempt may scale features in another way
        return replace(carried, inflight={})
    if missed(current):  # what was in flight when the round was opened has had its time
        training = still_training(carried, current) if carried.inflight or _is_buffered(run) else {}
        return replace(carried, inflight={number: task for number, task in training.items() if number in current.tasks})
    carried = _judge(run, carried, current)
    evaluation = run.plan.evaluation
    if not carried.finished:
        return carried
    return replace(carried, inflight={}, over=not (evaluation.baseline_rounds and evaluation.nodes))


def _answered(carried: Carried, current: Round) -> dict[int, tuple[str, ...]]:
    """Who was heard, task by task, in this round and in some before it."""
    heard: dict[int, list[str]] = {}
    for answers in current.heard.values():
        for node, (event, _) in answers.items():
            heard.setdefault(event.task, []).append(node)
    now = {task: tuple(sorted(nodes)) for task, nodes in heard.items()}
    return dict(sorted({**carried.answered, **now}.items())[-_ANSWERED:])


def _judge(run: Run, carried: Carried, current: Round) -> Carried:
    verdict = "all rounds done" if carried.round >= run.plan.rounds else ""
    stop = run.plan.stop
    figure = decisive(current, stop.metric) if stop else None
    if stop is None or figure is None:
        return replace(carried, finished=verdict)
    higher = stop.better == "higher"
    change = math.inf if carried.best is None else (figure - carried.best) * (1 if higher else -1)
    better = change > stop.least_change
    carried = replace(
        carried, best=figure if better else carried.best, since_best=0 if better else carried.since_best + 1
    )
    if stop.target is not None and (figure >= stop.target if higher else figure <= stop.target):
        verdict = f"target reached: {stop.metric} {figure:.4g}"
    elif stop.patience is not None and carried.since_best >= stop.patience:
        verdict = f"no better {stop.metric} in {carried.since_best} measurements"
    return replace(carried, finished=verdict)


def decisive(current: Round, metric: str) -> float | None:
    """The figure that stops a run: the evaluators' where there is one, else the nodes' pooled one."""
    for exchange in (EVALUATE_BY_EVALUATOR, EVALUATE):
        value = pooled(current, exchange).get(metric)
        if value is not None:
            return value
    return None


def pooled(current: Round, exchange: str) -> dict[str, float]:
    """Each metric over all nodes of an exchange, weighted by their examples; exact, so that order does not matter."""
    answers = current.heard.get(exchange, {}).values()
    names = sorted({name for event, _ in answers for name in event.metrics})
    result = {}
    for name in names:
        known = [
            (event.weights[row], value)
            for event, row in answers
            if name in event.metrics and (value := event.metrics[name][row]) is not None
        ]
        if any(weight > 0 for weight, _ in known):
            result[name] = _mean_figure(known)
    return result


def _mean_figure(known: Sequence[tuple[float, float]]) -> float:
    if all(value == 0 or 1 / _LARGEST_FIGURE <= abs(value) <= _LARGEST_FIGURE for _, value in known):
        return math.fsum(weight * value for weight, value in known) / math.fsum(weight for weight, _ in known)
    exact = sum(Fraction(weight) * Fraction(value) for weight, value in known)  # slow, and never too large or too small
    return float(exact / sum(Fraction(weight) for weight, _ in known))


class _Rows:
    """The kept updates, each handle opened once and read in column blocks."""

    def __init__(self, updates: list[Accepted], kept: Kept) -> None:
        self.updates = updates
        opened = {handle: kept(handle) for handle in dict.fromkeys(update.handle for update in updates)}
        self.sums = [item for item in opened.values() if isinstance(item, Summed)]
        self.singles = [
            (update, item) for update in updates if isinstance(item := opened[update.handle], Updates)
        ]  # fmt: skip


def _open(run: Run, carried: Carried, current: Round, item: Updates | Summed) -> Updates | Summed:
    return arrive(run, carried, current, item) if isinstance(item, Updates) else item


def _step(
    run: Run, carried: Carried, means: Iterator[tuple[slice, np.ndarray]], space: Space
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The server's step, block by block: it works coordinate by coordinate, so no whole mean need ever be there."""
    slots = slots_of(carried, "server")
    before = carried.model.trained
    trained = space.empty(len(before), before.dtype)
    moved = {name: space.empty(len(array), array.dtype) for name, array in slots.items()}
    for block, mean in means:
        own = {name: array[block] for name, array in slots.items()}
        trained[block], stepped = run.plan.server.step(before[block], mean, own)
        for name, array in stepped.items():
            moved[name][block] = array
    return trained, moved


def _means(
    run: Run, carried: Carried, current: Round, rows: _Rows, weights: np.ndarray, divisor: float, space: Space
) -> Iterator[tuple[slice, np.ndarray]]:
    """The mean update in column blocks, as float32."""
    plan, size, grid = run.plan, run.layout.size("trained"), _grid(run, current, rows)
    whole = (
        _undo(run, carried, current, _total(run, grid, rows, space))
        if plan.stages and plan.aggregator.shape == "sum"
        else None
    )
    room = Room(BLOCK)
    for block in blocks(size):
        mean = np.zeros(block.stop - block.start, np.float32)
        if plan.aggregator.shape == "coordinate":
            if rows.updates:
                mean[:] = plan.aggregator.reduce(np.stack([item.delta[0, block] for _, item in rows.singles]), weights)
        elif divisor > 0:
            values, on = (whole.values[block], whole.grid) if whole else (_sum(grid, rows, block, room), grid)
            mean[:] = on.to_float(values) / divisor
        yield block, mean


def _grid(run: Run, current: Round, rows: _Rows) -> Grid:
    return grid_of(run, current) or Grid.covering(math.fsum(update.weight * update.norm for update in rows.updates))


def _sum(grid: Grid, rows: _Rows, block: slice, room: Room) -> np.ndarray:
    values = np.zeros(block.stop - block.start, np.int64)
    for update, item in rows.singles:
        grid.add(values, item.delta[0, block], update.weight, room)
    for partial in rows.sums:
        values += partial.total[block]
    return values


def _total(run: Run, grid: Grid, rows: _Rows, space: Space) -> Total:
    """The whole sum, for the stages that undo their work on it."""
    size, masking = run.layout.size("trained"), run.plan.masking
    weight, survivors = (
        math.fsum(update.weight for update in rows.updates),
        tuple(update.node for update in rows.updates),
    )
    if masking and masking.words:
        words = space.empty(size, masking.words)
        for block in blocks(size):
            words[block] = 0
            for _, item in rows.singles:
                words[block] += item.delta[0, block]  # unsigned: wraps, as masks are meant to
        return Total(words, grid, weight, survivors)
    values, room = space.empty(size, np.int64), Room(BLOCK)
    for block in blocks(size):
        values[block] = _sum(grid, rows, block, room)
    return Total(values, grid, weight, survivors)


def _undo(run: Run, carried: Carried, current: Round, total: Total) -> Total:
    for index, stage in reversed(list(enumerate(run.plan.stages, start=len(run.plan.parts) - len(run.plan.stages)))):
        total = stage.on_sum(total, view(run, carried, current, index))
    return total


def _combine(extra: Extra, rows: _Rows, space: Space) -> np.ndarray:
    weights = [update.weight if extra.combine == "weighted" else 1.0 for update in rows.updates]
    reach = math.fsum(weight * update.reach[extra.name] for weight, update in zip(weights, rows.updates, strict=True))
    grid, combined = Grid.covering(reach), space.empty(extra.size, extra.dtype)
    by = {"sum": 1.0, "mean": float(len(weights)), "weighted": math.fsum(weights)}[extra.combine]
    for block in blocks(extra.size):
        total = np.zeros(block.stop - block.start, np.int64)
        for weight, (_, item) in zip(weights, rows.singles, strict=True):
            total += grid.to_grid(item.extra[extra.name][0, block].astype(np.float64) * weight)
        combined[block] = grid.to_float(total) / by if by > 0 else 0.0
    return combined


def _step_statistics(layout: Layout, statistics: np.ndarray, change: np.ndarray) -> np.ndarray:
    moved = statistics.copy()
    for leaf, place in layout.places("statistics"):
        if leaf.rule == "mean":
            value = statistics[place] + change[place]
            moved[place] = value if "float" in leaf.dtype else np.rint(value)
    return moved


def _is_buffered(run: Run) -> bool:
    return isinstance(run.plan.schedule, Buffered)


def _count(before: Mapping[str, int], updates: list[Accepted]) -> dict[str, int]:
    return {**before, **{update.node: before.get(update.node, 0) + 1 for update in updates}}


def round_record(run: Run, current: Round) -> dict[str, object]:
    """What happened in a round, as plain data: for reports, observers and the record.

    Returns: the keys are round, attempt, purpose, population, asked, survivors, weights, norms, dropped, late,
      train_metrics, evaluation (exchange → pooled, nodes), norm_bound, grid, model, missed, opened_s, ended_s.
    """
    trained = current.heard.get(TRAIN, {})

    def per_node(exchange: str) -> dict[str, dict[str, object]]:
        return {
            node: {**{name: values[row] for name, values in event.metrics.items()}, "examples": event.weights[row]}
            for node, (event, row) in sorted(current.heard.get(exchange, {}).items())
        }

    def column(of: Callable[[Heard, int], object]) -> dict[str, object]:
        return {node: of(event, row) for node, (event, row) in sorted(trained.items())}

    grid = grid_of(run, current)
    measured = [name for name in current.heard if name in MEASURING]
    return {
        "round": current.opened.round,
        "attempt": current.opened.attempt,
        "purpose": current.opened.purpose,
        "population": current.opened.population,
        "asked": {
            exchange: sorted(current.asked(exchange))
            for exchange in dict.fromkeys(t.exchange for t in current.tasks.values())
        },
        "survivors": sorted(trained),
        "weights": column(lambda event, row: event.weights[row]),
        "norms": column(lambda event, row: event.norms[row]),
        "train_metrics": {"pooled": pooled(current, TRAIN), "nodes": per_node(TRAIN)},
        "evaluation": {name: {"pooled": pooled(current, name), "nodes": per_node(name)} for name in measured},
        "dropped": [
            {
                "node": drop.node,
                "exchange": exchange,
                "kind": drop.kind,
                "reason": drop.reason,
                **({} if drop.norm is None else {"norm": drop.norm}),
            }
            for exchange, drops in current.dropped.items()
            for drop in drops.values()
        ],
        "late": [{"node": drop.node, "reason": drop.reason} for drop in current.late],
        "norm_bound": current.opened.norm_bound,
        "grid_exponent": grid.exponent if grid else None,
        "model": current.model,
        "missed": missed(current),
        "opened_s": current.opened.at_s,
        "ended_s": current.ended.at_s if current.ended else None,
    }
