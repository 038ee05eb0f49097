"""What replies mean: each becomes events, which are written down before anyone is answered."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from lycia.core import admission, normalising
from lycia.core.events import DropKind, Dropped, Event, Heard
from lycia.core.messages import (
    DESCRIBE,
    TRAIN,
    Answer,
    Declined,
    Late,
    Malformed,
    Reply,
    Scores,
    Summed,
    Updates,
    Vanished,
)
from lycia.core.plan import Buffered
from lycia.core.round import MEASURING, Carried, Round, Run, arrive, grid_of, room, take
from lycia.errors import LayoutError


def hear(run: Run, carried: Carried, current: Round, reply: Reply, at_s: float) -> list[Event]:
    """The events that a reply means; none, if it was heard before.

    A node that vanished may come back while its exchange lasts. Whatever does not belong to the exchange is late, and
    so is what comes in one block with the last update that the round takes: a block means the same as its rows.
    """
    if is_early(run, carried, current, reply):
        return []
    nodes, exchange = senders(reply), _open_exchange(current)
    late = _lateness(run, carried, current, reply.task)
    if late:
        if isinstance(reply, (Declined, Vanished)):
            return []
        said = {drop.task for drop in current.late if drop.task == reply.task}
        if reply.task not in current.tasks:  # once for each node, whatever numbers it makes up
            said = {drop.task for drop in current.late if drop.task not in current.tasks}
        known = {drop.node for drop in current.late if drop.task in said} | _heard_of(carried, current, reply.task)
        return [_drop(reply, node, "late", late, at_s) for node in dict.fromkeys(nodes) if node not in known]
    task, dropped = current.tasks.get(reply.task), current.dropped.get(exchange, {})
    asked = set(task.nodes) if task else {carried.inflight[reply.task][0]}
    fresh = {
        node: row
        for row, node in reversed(list(enumerate(nodes)))  # of a node that comes twice in a block, the first counts
        if node in asked
        and node not in current.heard.get(exchange, {})
        and (node not in dropped or dropped[node].kind == "vanished")
    }
    misfit = _misfit(exchange, reply)
    if misfit:
        return [_drop(reply, node, "quarantined", misfit, at_s) for node in fresh]
    rows = sorted(fresh.values())
    match reply:
        case Declined():
            return [_drop(reply, node, "declined", reply.reason, at_s) for node in fresh]
        case Vanished():
            return [_drop(reply, node, "vanished", reply.reason, at_s) for node in fresh if node not in dropped]
        case Malformed():
            return [_drop(reply, node, "quarantined", reply.reason, at_s) for node in fresh]
        case Answer(body=body) if exchange == DESCRIBE and (
            wrong := normalising.objection(run.layout, run.plan.rules.weight_cap, body)
        ):
            return [_drop(reply, node, "quarantined", wrong, at_s) for node in fresh]
        case Answer():
            return [Heard(at_s, reply.task, (node,), ("",), (0.0,), (None,), bodies=(reply.body,)) for node in fresh]
        case Scores():
            return _hear_scores(run, reply, rows, at_s)
        case Summed():
            return _hear_summed(run, current, reply, fresh, at_s)
        case Late():
            return []  # its task is open after all: the node is offered it again
        case Updates():
            return _hear_updates(run, carried, current, reply, rows, at_s)


def is_early(run: Run, carried: Carried, current: Round, reply: Reply) -> bool:
    """Whether it is for the next round: in a buffered run, nodes train on while the model is measured."""
    buffered = isinstance(run.plan.schedule, Buffered)
    return buffered and reply.task in carried.inflight and _open_exchange(current) != TRAIN


def refusals(carried: Carried, current: Round, reply: Reply) -> dict[str, str]:
    """node → why what it sent was not taken; the same when it comes again, before a restart or after it.

    What was taken is not refused when it comes again rounds later, as from a node that was cut off meanwhile: it would
    undo what it remembers of work that counts.
    """
    if isinstance(reply, (Declined, Vanished)):
        return {}
    reasons = {drop.node: drop.reason for drop in current.late if drop.task == reply.task}
    task = current.tasks.get(reply.task)
    reasons |= {node: drop.reason for node, drop in current.dropped.get(task.exchange if task else TRAIN, {}).items()}
    taken = _heard_of(carried, current, reply.task)
    return {node: reasons.get(node, "it was not asked") for node in senders(reply) if node not in taken}


def senders(reply: Reply) -> tuple[str, ...]:
    """The nodes that a reply comes from."""
    match reply:
        case Summed():
            return (*reply.nodes, *reply.refused)
        case Updates() | Scores():
            return reply.nodes
        case _:
            return (reply.node,)


def _open_exchange(current: Round) -> str:
    return current.program[0] if current.program else ""


def _heard_of(carried: Carried, current: Round, task: int) -> set[str]:
    now = {node for heard in current.heard.values() for node, (event, _) in heard.items() if event.task == task}
    return now | set(carried.answered.get(task, ()))


def _lateness(run: Run, carried: Carried, current: Round, number: int) -> str:
    task, opened, schedule = current.tasks.get(number), current.opened, run.plan.schedule
    if task is None and number in carried.inflight and isinstance(schedule, Buffered):
        stale = carried.round - carried.inflight[number][1]
        return f"its base model is {stale} rounds old" if stale > schedule.max_staleness else ""
    if task is None:
        attempt = f"attempt {opened.attempt + 1} at " if opened.attempt else ""
        return f"what it answers was over before {attempt}round {opened.round + 1}"
    return "" if task.exchange == _open_exchange(current) else f"it came when round {opened.round + 1} had gone on"


def _misfit(exchange: str, reply: Reply) -> str:
    wanted: tuple[type, ...] = (Answer,)
    if exchange == TRAIN:
        wanted = (Updates, Summed)
    elif exchange in MEASURING:
        wanted = (Scores,)
    fits = isinstance(reply, (*wanted, Declined, Vanished, Malformed, Late))
    return "" if fits else f"it sent {type(reply).__name__} in the exchange {exchange!r}"


def _drop(reply: Reply, node: str, kind: DropKind, reason: str, at_s: float) -> Dropped:
    return Dropped(at_s, reply.task, node, kind, reason)


def _hear_scores(run: Run, reply: Scores, rows: list[int], at_s: float) -> list[Event]:
    objections = {row: admission.weight_objection(run.plan, float(reply.weight[row])) for row in rows}
    bad: list[Event] = [
        _drop(reply, reply.nodes[row], "quarantined", reason, at_s) for row, reason in objections.items() if reason
    ]
    good = [row for row, reason in objections.items() if not reason]
    if not good:
        return bad
    none, nodes = (None,) * len(good), tuple(reply.nodes[row] for row in good)
    weights = tuple(float(reply.weight[row]) for row in good)
    return [
        *bad,
        Heard(at_s, reply.task, nodes, ("",) * len(good), weights, none, _columns(reply.metrics, good)),
    ]


def _hear_summed(run: Run, current: Round, reply: Summed, fresh: Mapping[str, int], at_s: float) -> list[Event]:
    events: list[Event] = [
        _drop(reply, node, "quarantined", reason, at_s) for node, reason in reply.refused.items() if node in fresh
    ]
    added = [node for node in dict.fromkeys(reply.nodes) if node in fresh]
    wrong = _sum_objection(run, current, reply, whole=len(added) == len(reply.nodes))
    if wrong:  # a sum cannot be taken apart, so it counts as a whole or not at all
        return [*events, *(_drop(reply, node, "quarantined", wrong, at_s) for node in added)]
    if not added:
        return events
    rows = range(len(reply.nodes))
    return [
        *events,
        Heard(
            at_s, reply.task, reply.nodes, (reply.handle,) * len(rows), tuple(map(float, reply.weight)),
            tuple(map(float, reply.norm)), _columns(reply.metrics, rows),
        ),
    ]  # fmt: skip


def _sum_objection(run: Run, current: Round, reply: Summed, *, whole: bool) -> str | None:
    if run.plan.needs_rows:
        return "it came as part of a sum, and this plan needs single updates"
    if reply.grid != grid_of(run, current):
        return "it came as part of a sum on another grid than the round's"
    if reply.total.shape != (run.layout.size("trained"),) or reply.total.dtype != np.int64:
        return f"it came as part of a sum of {reply.total.dtype}{list(reply.total.shape)}"
    if not whole:
        return "it came as part of a sum with updates that do not count, or not again"
    bound = current.opened.norm_bound
    for weight, norm in zip(reply.weight, reply.norm, strict=True):
        reason = admission.objection(run.plan, bound, float(weight), float(norm), {})
        if reason:
            return f"it came as part of a sum with an update of which this is true: {reason}"
    return None


def _hear_updates(
    run: Run, carried: Carried, current: Round, sent: Updates, rows: list[int], at_s: float
) -> list[Event]:
    if not rows:
        return []
    try:
        reply = arrive(run, carried, current, sent)
    except LayoutError as error:  # by a stage that cannot undo what the node did; which row it was, a second look tells
        if len(sent.nodes) == 1:
            return [_drop(sent, sent.nodes[0], "quarantined", error.what, at_s)]
        return _one_by_one(run, carried, current, [sent.row(row) for row in rows], at_s)
    misshapen = admission.misshapen(run.layout, run.plan, reply)
    if misshapen:
        return [_drop(reply, reply.nodes[row], "quarantined", misshapen, at_s) for row in rows]
    measured, bound = admission.measure(reply), current.opened.norm_bound
    events: list[Event] = []
    good: list[int] = []
    for row in rows:
        reach = {name: float(values[row]) for name, values in measured.reach.items()}
        weight, norm = float(reply.weight[row]), float(measured.norms[row])
        reason = admission.objection(run.plan, bound, weight, norm, reach)
        if reason:
            only_long = admission.objection(run.plan, None, weight, norm, reach) is None
            drop = _drop(reply, reply.nodes[row], "quarantined", reason, at_s)
            events.append(replace(drop, norm=norm) if only_long else drop)
        else:
            good.append(row)
    hidden, taken = run.plan.masking is not None, good[: int(max(0, min(room(run, current), len(good))))]
    if taken:
        events.append(
            Heard(
                at_s, reply.task, tuple(reply.nodes[row] for row in taken), tuple(reply.handles[row] for row in taken),
                tuple(float(reply.weight[row]) for row in taken),
                tuple(None if hidden else float(measured.norms[row]) for row in taken), _columns(reply.metrics, taken),
                {name: tuple(float(values[row]) for row in taken) for name, values in measured.reach.items()},
            )
        )  # fmt: skip
    reason = f"it came when round {current.opened.round + 1} had gone on"
    return [*events, *(_drop(reply, reply.nodes[row], "late", reason, at_s) for row in good[len(taken) :])]


def _one_by_one(run: Run, carried: Carried, current: Round, updates: list[Updates], at_s: float) -> list[Event]:
    events: list[Event] = []
    for update in updates:
        for event in _hear_updates(run, carried, current, update, [0], at_s):
            current = take(current, event)
            events.append(event)
    return events


def _columns(values: Mapping[str, np.ndarray], rows: Sequence[int]) -> dict[str, tuple[float | None, ...]]:
    return {name: tuple(_finite(float(column[row])) for row in rows) for name, column in values.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
