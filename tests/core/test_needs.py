"""What a round takes up on disks is known before anyone is asked, and is never less than what comes."""

import numpy as np
import pytest

from lycia.aggregators import UniformMean
from lycia.algorithms import SGD, Adam, FedAvg
from lycia.core.layout import Layout, Leaf, Model
from lycia.core.messages import Updates
from lycia.core.needs import needs_of, update_bytes
from lycia.core.plan import Buffered, Evaluation, Plan, RoundRules
from lycia.core.round import Run, first
from lycia.deployment import wire
from lycia.selection import Everyone, Uniform
from lycia.storage import carrying
from lycia.storage.blobs import BlobFolder

LAYOUTS = {
    "floats": Layout((Leaf("a", (50, 7)), Leaf("b", (7,)))),
    "narrow": Layout((Leaf("a", (50, 7), "bfloat16"), Leaf("b", (7,)), Leaf("n", (), "int64", "statistics"))),
    "local": Layout((Leaf("a", (9,), "float64"), Leaf("head", (3,), "float16", "local"))),
}


def plan_of(**changes) -> Plan:
    parts = {
        "rounds": 2, "selector": Everyone(), "client": FedAvg(), "aggregator": UniformMean(), "server": Adam(),
        "rules": RoundRules(over_selection=1.0), "evaluation": Evaluation(nodes=0),
    }  # fmt: skip
    return Plan(**{**parts, **changes})


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_no_file_is_larger_than_what_was_reckoned_with(layout: Layout, tmp_path):
    run, random = Run("run", plan_of(), layout), np.random.default_rng(0)
    size = layout.size("trained")
    model = Model(
        random.normal(size=size).astype(np.float32), np.zeros(layout.size("statistics")),
        random.normal(size=layout.size("local")).astype(np.float32),
    )  # fmt: skip
    carried, blobs = first(run, model), BlobFolder(tmp_path, fsync=False)
    needs = needs_of(run, carried, population=3)
    update = Updates(0, ("ada",), np.ones((1, size), np.float32), np.ones(1))
    file = b"".join(wire.update_file(layout, update, "run"))
    assert 3 * len(file) <= needs.updates_bytes == 3 * update_bytes(layout, run.plan)
    sent = sum(map(len, wire.model_file(layout, model, "run")))
    assert sent <= needs.sent_bytes or (needs.sent_bytes == 0 and layout is LAYOUTS["floats"])
    kept = carrying.keep(blobs, "run", layout, carried)
    assert sum(blobs.size(digest) for digest in (kept.model, kept.arrays) if digest) <= needs.kept_bytes
    assert needs.scratch_bytes >= 4 * size * 3  # the next model, and both of Adam's moments


@pytest.mark.parametrize(
    ("changes", "updates"),
    [
        ({"server": SGD()}, 10),
        ({"selector": Uniform(4)}, 4),
        ({"selector": Uniform(4), "rules": RoundRules(over_selection=1.5)}, 6),
        ({"selector": Uniform(40)}, 10),
        ({"selector": Uniform(4), "schedule": Buffered(size=3, concurrency=5, max_staleness=2)}, 8),
    ],
)
def test_there_is_room_for_everyone_who_may_be_asked(changes: dict, updates: int):
    layout, plan = LAYOUTS["floats"], plan_of(**changes)
    run = Run("run", plan, layout)
    carried = first(run, Model(np.zeros(layout.size("trained"), np.float32)))
    assert needs_of(run, carried, population=10).updates_bytes == updates * update_bytes(layout, plan)
