"""The process that memory.py watches: it closes one round over updates that lie on disk."""

import json
import sys
import time
from pathlib import Path

import numpy as np

from lycia import SGD, Everyone, FedAvg, Plan, UniformMean
from lycia.core import closing
from lycia.core.events import Asked, Heard, Opened
from lycia.core.layout import Layout, Model
from lycia.core.messages import Updates
from lycia.core.round import Round, Run, first, take
from lycia.deployment import wire
from lycia.storage.blobs import BlobFolder

_CHECKED = 1000  # coordinates of the result that are compared with what it should be


def main(manifest: Path) -> None:
    """Make ready, wait for the word, close the round, and say how long it took."""
    told = json.loads(manifest.read_text())
    layout, blobs, heard = (
        Layout.from_json(told["layout"]),
        BlobFolder(Path(told["blobs"]), read_only=True),
        told["updates"],
    )
    plan = Plan(rounds=1, selector=Everyone(), client=FedAvg(), aggregator=UniformMean(), server=SGD())
    run = Run(told["run"], plan, layout)
    start = first(run, Model(np.full(layout.size("trained"), 0.5, np.float32)))
    nodes, handles = tuple(item["node"] for item in heard), tuple(item["handle"] for item in heard)
    ones, norms = (1.0,) * len(heard), tuple(item["norm"] for item in heard)
    current = Round.begin(run, Opened(0.0, 0, 0, "train", len(heard), bytes(32), None))
    for event in (Asked(0.0, 0, "train", nodes), Heard(1.0, 0, nodes, handles, ones, norms)):
        current = take(current, event)

    def kept(handle: str) -> Updates:
        node = nodes[handles.index(handle)]
        update = wire.decode_update(layout, blobs.open(handle), told["run"], 0, node, handle)
        assert isinstance(update, Updates)
        return update

    print("ready", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    closed = closing.close(run, start, current, kept)
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds}), flush=True)
    places = np.linspace(0, layout.size("trained") - 1, _CHECKED).astype(int)
    mean = np.mean([kept(handle).delta[0, places].astype(np.float64) for handle in handles], axis=0)
    assert np.allclose(closed.model.trained[places], 0.5 + mean, atol=1e-6, rtol=0), "the round closed to a wrong model"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
