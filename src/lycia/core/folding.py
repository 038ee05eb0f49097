"""Many small updates become one block, and where the plan needs no more, one sum: which is all that is kept of them."""

import hashlib
from collections.abc import Sequence

import numpy as np

from lycia.core.grid import Grid
from lycia.core.messages import Summed, Updates
from lycia.core.plan import Plan


def is_alike(one: Updates, other: Updates) -> bool:
    """Whether both can be rows of one block: for one task, of one shape, and with the same things beside it."""
    return _form(one) == _form(other)


def block(updates: Sequence[Updates]) -> Updates:
    """The rows of all these, which are alike, as one block."""
    if len(updates) == 1:
        return updates[0]
    first = updates[0]
    return Updates(
        first.task, tuple(node for one in updates for node in one.nodes),
        np.concatenate([one.delta for one in updates]), np.concatenate([one.weight for one in updates]),
        {name: np.concatenate([one.extra[name] for one in updates]) for name in first.extra},
        {name: np.concatenate([one.metrics[name] for one in updates]) for name in first.metrics},
        tuple(handle for one in updates for handle in one.handles),
    )  # fmt: skip


def fold(plan: Plan, grid: Grid, updates: Updates, rows: Sequence[int], norms: Sequence[float]) -> Summed:
    """The sum of some rows of a block, on the round's grid, in place of the rows.

    Only for plans of which the server's parts need no rows. The rows have been admitted, and have these norms.

    Guarantees: a round that adds up sums has the bits of one that adds up their rows.
    """
    chosen = list(rows)
    nodes, claimed = tuple(updates.nodes[row] for row in chosen), updates.weight[chosen]
    total = grid.total(updates.delta[chosen], plan.aggregator.weights(claimed))
    handle = hashlib.sha256("".join(f"{updates.handles[row]}\n" for row in chosen).encode()).hexdigest()
    metrics = {name: column[chosen] for name, column in updates.metrics.items()}
    return Summed(updates.task, nodes, total, grid, claimed, np.asarray(norms), metrics, handle=handle)


def _form(updates: Updates) -> object:
    arrays = {"": updates.delta, " ": updates.weight, **updates.extra, **updates.metrics}
    return updates.task, {name: (array.shape, array.dtype) for name, array in arrays.items()}
