"""How much room a round takes up, which is known before anyone is asked."""

from dataclasses import dataclass

from lycia.core import admission
from lycia.core.layout import Layout
from lycia.core.plan import Plan
from lycia.core.round import Carried, Run, most_asked
from lycia.core.tensorfile import ITEM_BYTES

_HEADER_BYTES = 1 << 16  # of a file with a few hundred tensors


@dataclass(frozen=True)
class Needs:
    """The most bytes that a round puts on disks, by when and where they come.

    Attributes:
      updates_bytes: what its nodes send, all together.
      sent_bytes: the model as they are sent it; nothing, where that is the very file that is kept.
      kept_bytes: the next model, with what is kept beside it.
      scratch_bytes: what lies on disk only while the round is closed.
    """

    updates_bytes: int
    sent_bytes: int
    kept_bytes: int
    scratch_bytes: int


def needs_of(run: Run, carried: Carried, population: int) -> Needs:
    """What the next round takes up, with so many nodes to choose from."""
    layout, plan = run.layout, run.plan
    trained, slots = 4 * layout.size("trained"), sum(array.nbytes for array in carried.slots.values())
    narrow = any(leaf.dtype not in ("float32", "float64") for leaf, _ in layout.places("trained"))
    apart = trained if narrow else 0  # once as it is computed with, beside its file; once rounded, as it is sent
    as_kept = not narrow and all(leaf.segment in ("trained", "statistics") for leaf in layout.leaves)
    whole_sum = 2 * trained if plan.stages else 0
    return Needs(
        most_asked(plan, population) * update_bytes(layout, plan),
        0 if as_kept else _file_bytes(layout, ("trained", "statistics")),
        _file_bytes(layout, ("trained", "statistics", "local")) + slots + apart,
        trained + slots + whole_sum + apart,
    )


def update_bytes(layout: Layout, plan: Plan) -> int:
    """How large the file of one update is."""
    words = plan.masking.words if plan.masking else None
    trained = sum(leaf.size * ITEM_BYTES[words or leaf.sent_dtype] for leaf, _ in layout.places("trained"))
    extras = sum(extra.size * ITEM_BYTES[extra.dtype] for extra in admission.extras(layout, plan))
    return trained + extras + _HEADER_BYTES


def _file_bytes(layout: Layout, segments: tuple[str, ...]) -> int:
    leaves = (leaf for leaf in layout.leaves if leaf.segment in segments)
    return sum(leaf.size * ITEM_BYTES[leaf.dtype] for leaf in leaves) + _HEADER_BYTES
