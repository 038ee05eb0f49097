"""How much memory a round takes whose model does not fit into it: 5 GB of random float32, to two nodes and back.

A coordinator and two node processes on this machine, over TLS. The nodes add random numbers to the model, block by
block. Anonymous and shared memory of every process is read every few milliseconds over the whole run; mapped file pages
do not count, since the system takes them back whenever it wants. The scratch folder must lie on a disk that has room
for some fourteen models, and not in memory, as a /tmp may: set TMPDIR.
"""

import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from convention import BENCH, Figure, tell, wanted
from large_app import NODES, large_app, layout_of
from memory import own_memory

from lycia.core.layout import Model
from lycia.core.space import blocks
from lycia.deployment.local import Federation
from lycia.deployment.operator import follow
from lycia.deployment.starting import start_run
from lycia.storage.space import Scratch

_APP = """import sys

sys.path.insert(0, {bench!r})
from large_app import large_app

app = large_app({floats}, {rounds}, {scratch!r})
"""
_ROUNDS = 2
_SAMPLE_S = 0.005


def main() -> None:
    """Measure, and say so."""
    asked = wanted(__doc__)
    size_bytes = 100_000_000 if asked.quick else 5_000_000_000
    with tempfile.TemporaryDirectory(prefix="lycia-bench-large-") as scratch:
        most, ended_s = run_of(Path(scratch), size_bytes // 4)
    round_s = ended_s[1] - ended_s[0]
    moved = 2 * len(NODES) * size_bytes / 1e9
    figures = {
        "coordinator_anon_gb": Figure(
            most["coordinator"] / 1e9, "the most memory of the coordinator that the system cannot take back", "≤ 1"
        ),
        "node_anon_gb": Figure(
            max(most[name] for name in NODES) / 1e9, "the same of a node, its agent and its trainer together"
        ),
        "round_s": Figure(round_s, f"the second of {_ROUNDS} rounds, from the end of the first to its own"),
        "gb_s": Figure(moved / round_s, "GB that went down and up in it, a second"),
        "model_gb": Figure(size_bytes / 1e9, f"the size of the model, and of each of the {len(NODES)} updates"),
    }
    tell("large_model", asked, figures, notes=[str(__doc__).strip()])


def run_of(home: Path, floats: int) -> tuple[Counter[str], list[float]]:
    """The most bytes that each process took, and when each round ended."""
    app_file, checkpoint = home / "app.py", home / "first.safetensors"
    app_file.write_text(_APP.format(bench=str(BENCH), floats=floats, rounds=_ROUNDS, scratch=str(home / "scratch")))
    write_first_model(checkpoint, floats)
    with Federation(home, app_file) as federation, watched(federation) as most:
        for name in NODES:
            federation.add_node(name, name)
        run = start_run(federation.client, large_app(floats, _ROUNDS, str(home / "scratch")), checkpoint)
        checkpoint.unlink()
        follow(federation.client, run, ())
        facts = federation.client.get(f"/v1/runs/{run}")
    ended = [record["ended_s"] for record in facts["records"]]
    if len(ended) != _ROUNDS or any(record["missed"] or record["dropped"] for record in facts["records"]):
        raise SystemExit(f"the run did not go as it should: {facts['state']}, {facts['reason']}.")
    return most, ended


def write_first_model(path: Path, floats: int) -> None:
    """A checkpoint of random numbers."""
    random, numbers = np.random.default_rng(1), Scratch(path.parent / "scratch").empty(floats, np.float32)
    for block in blocks(floats):
        numbers[block] = random.random(block.stop - block.start, np.float32)
    with path.open("wb") as file:
        file.writelines(layout_of(floats).file(Model(numbers)))


@contextmanager
def watched(federation: Federation) -> Iterator[Counter[str]]:
    """The most bytes of memory that each member of the federation took."""
    most: Counter[str] = Counter()
    done = threading.Event()

    def sample() -> None:
        while not done.wait(_SAMPLE_S):
            for name, pids in federation.processes().items():
                most[name] = max(most[name], sum(map(own_memory, pids)))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield most
    finally:
        done.set()
        sampler.join()


if __name__ == "__main__":
    main()
