"""Which updates count. A bad one is quarantined with its reason; it never ends a run, and never moves a sum."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lycia.core.layout import Layout
from lycia.core.messages import Updates
from lycia.core.parts import Extra
from lycia.core.plan import Plan
from lycia.core.space import blocks

_LARGEST_EXTRA = float(np.finfo(np.float32).max)  # so that no sum of extras leaves float64


@dataclass(frozen=True)
class Measured:
    """What the server learns of a block before it decides.

    Shapes: norms (nodes,) L2, infinite where a row is not finite; reach: extra → (nodes,) largest absolute value.
    """

    norms: np.ndarray
    reach: Mapping[str, np.ndarray]


def measure(updates: Updates) -> Measured:
    """Norms and reaches, in column blocks; the same for a row in whatever block it comes."""
    return Measured(row_norms(updates.delta), {name: row_reach(rows) for name, rows in updates.extra.items()})


def row_norms(rows: np.ndarray) -> np.ndarray:
    """L2 norm of each row, in float64; infinity where a row holds a NaN or an infinity.

    Shapes: rows (nodes, size); returns (nodes,).
    """
    squares = np.zeros(len(rows))
    with np.errstate(over="ignore", invalid="ignore"):
        for index in range(len(rows)):  # row by row: the sum of one must not depend on the others
            for block in blocks(rows.shape[1]):
                squares[index] += np.square(rows[index, block], dtype=np.float64).sum()
    return np.where(np.isfinite(squares), np.sqrt(squares), np.inf)


def row_reach(rows: np.ndarray) -> np.ndarray:
    """Largest absolute value of each row; infinity where a row is not finite."""
    if not rows.shape[1]:
        return np.zeros(len(rows))
    reach = np.abs(rows).max(axis=1).astype(np.float64)
    return np.where(np.isfinite(reach), reach, np.inf)


def misshapen(layout: Layout, plan: Plan, updates: Updates) -> str | None:
    """Why no row of the block can be an update of this model, or None."""
    wanted_dtype = plan.masking.words if plan.masking and plan.masking.words else "float32"
    if updates.delta.ndim != 2 or updates.delta.shape[1] != layout.size("trained"):
        return f"its delta has shape {updates.delta.shape[1:]} instead of ({layout.size('trained')},)"
    if updates.delta.dtype != wanted_dtype:
        return f"its delta has dtype {updates.delta.dtype} instead of {wanted_dtype}"
    if any(len(column) != len(updates.nodes) for column in (updates.delta, updates.weight, *updates.extra.values())):
        return "its arrays have different numbers of rows"
    for extra in extras(layout, plan):
        found = updates.extra.get(extra.name)
        if found is None:
            return f"it lacks the extra {extra.name!r}, which the plan's parts send"
        if found.shape[1:] != (extra.size,) or found.dtype != extra.dtype:
            wanted = f"{extra.dtype}[{extra.size}]"
            return f"its extra {extra.name!r} is {found.dtype}{list(found.shape[1:])} instead of {wanted}"
    unknown = updates.extra.keys() - {extra.name for extra in extras(layout, plan)}
    if unknown:
        return f"it carries extras that the plan does not know: {', '.join(sorted(unknown))}"
    return None


def extras(layout: Layout, plan: Plan) -> tuple[Extra, ...]:
    """Everything that an update of this plan carries beside its delta."""
    statistics = (
        (Extra("statistics", layout.size("statistics"), "float64", "weighted"),)
        if shares_statistics(layout, plan)
        else ()
    )
    return (*(extra for part in plan.parts for extra in part.extras(layout)), *statistics)


def shares_statistics(layout: Layout, plan: Plan) -> bool:
    """Whether running statistics travel."""
    return plan.statistics == "average" and layout.size("statistics") > 0


def objection(
    plan: Plan, norm_bound: float | None, weight: float, norm: float, reach: Mapping[str, float]
) -> str | None:
    """Why an update is not admitted, or None. `norm` is ignored where a stage hides it."""
    wrong = weight_objection(plan, weight)
    if wrong:
        return wrong
    for name, value in reach.items():
        if not math.isfinite(value):
            return f"its extra {name!r} holds a NaN or an infinity"
        if value > _LARGEST_EXTRA:
            return f"its extra {name!r} holds {value:.4g}, which no float32 can"
    if plan.masking:
        return None
    if not math.isfinite(norm):
        return "its delta holds a NaN or an infinity"
    if norm_bound is not None and norm > norm_bound:
        return f"its norm is {norm:.4g}, above the bound of {norm_bound:.4g} for this round"
    return None


def weight_objection(plan: Plan, weight: float) -> str | None:
    """Why what a node claims to count is not admitted, or None."""
    if not math.isfinite(weight):
        return f"it claims a weight of {weight}"
    if weight < 0:
        return f"it claims a negative weight, {weight:g}"
    if weight > plan.rules.weight_cap:
        return f"it claims a weight of {weight:g}, above the cap of {plan.rules.weight_cap:g}"
    return None


def next_norm_bound(plan: Plan, medians: tuple[float, ...]) -> float | None:
    """The bound for the next round: fixed by the plan, or a multiple of the median of the last rounds' median norms."""
    if plan.rules.norm_bound is not None:
        return plan.rules.norm_bound
    recent = [norm for norm in medians[-plan.rules.norm_history :] if norm > 0]
    return plan.rules.norm_factor * float(np.median(recent)) if recent else None
