"""What it costs that nothing is lost: rounds of a 100 MB model with four nodes, over TLS, every byte on the disk.

A coordinator and four node processes on this machine. Each node adds a constant to the model; nothing is evaluated. A
round's time is that between its end and the end of the round before it, as the coordinator wrote both down. In the same
run, and turn by turn with it, a plain script (limit.py) moves and hashes the same bytes. Flower keeps its state in
SQLite, as a server must that is to outlive its process.

Memory is what a process cannot give back (RssAnon + RssShmem), read every fifty milliseconds; a node's is that of its
two processes together.
"""

import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import limit
import numpy as np
from constant_app import NODES, constant_app
from convention import Figure, tell, wanted
from memory import own_memory
from peers.flower import Flower
from round_overhead import app_file, between, ended_in_order

from lycia.deployment.local import Federation
from lycia.deployment.operator import follow
from lycia.deployment.starting import start_run

_SAMPLE_S = 0.05


@dataclass
class Watched:
    """When each round ended, and the most memory that anybody had meanwhile, in bytes."""

    ended: list[float]
    most: Mapping[str, int] = field(default_factory=dict)


def main() -> None:
    """Measure, and say so."""
    asked = wanted(__doc__)
    model_mb, turns, rounds = (10, 1, 3) if asked.quick else (100, 3, 6)
    size_bytes = model_mb * 1_000_000
    peer = Flower.installed(asked.peers) if asked.peers else None
    ours: list[Watched] = []
    limits: list[float] = []
    theirs: list[list[float]] = []
    with tempfile.TemporaryDirectory(prefix="lycia-bench-durable-") as scratch:
        for turn in range(turns):  # one after the other, so that a busy machine is busy for all
            home = Path(scratch) / str(turn)
            limits += limit.rounds_of(home / "limit", size_bytes, rounds + 1, len(NODES))[1:]
            ours.append(watched(home / "ours", size_bytes // 4, rounds + 1))
            if peer and turn == 0:
                theirs.append(
                    peer.rounds(home / "flower", nodes=len(NODES), floats=size_bytes // 4, rounds=5, durable=True)
                )
    round_s, limit_s = between([one.ended for one in ours], 1), float(np.median(limits))
    name = f"{model_mb}mb"
    figures = {
        f"round_{name}_over_limit": Figure(
            round_s / limit_s, "our seconds over the plain script's, in this run", "≤ 2"
        ),
        f"round_{name}_s": Figure(round_s, f"median of {turns} x {rounds} rounds after the first of each"),
        f"limit_{name}_s": Figure(limit_s, f"the plain script, median of {turns} x {rounds} rounds"),
        "coordinator_rss_models": Figure(
            max(one.most["coordinator"] for one in ours) / size_bytes, "the coordinator's most memory, in models"
        ),
        "node_rss_models": Figure(
            max(most for one in ours for who, most in one.most.items() if who != "coordinator") / size_bytes,
            "a node's most memory, agent and trainer together, in models; the trainer itself makes two",
        ),
    }
    if peer:
        their_s = between(theirs, 1)
        figures |= {
            "flower_over_lycia": Figure(their_s / round_s, "their seconds over ours, in this run", "≥ 5"),
            f"flower_round_{name}_s": Figure(their_s, "Flower with --database, median of 4 rounds after the first"),
        }
    tell(
        "durable_round", asked, figures, notes=[str(__doc__).strip()],
        peers={"flower": peer.version} if peer else {}, skipped=[] if peer else ["flower"],
    )  # fmt: skip


def watched(home: Path, floats: int, rounds: int) -> Watched:
    """A new federation's rounds, and its processes' memory."""
    most: dict[str, int] = {}
    over = threading.Event()
    file = app_file(home, floats, rounds)
    began_s = time.time()
    with Federation(home, file) as federation:
        for name in NODES:
            federation.add_node(name, name)
        sampler = threading.Thread(target=_sample, args=(federation, most, over))
        sampler.start()
        try:
            run = start_run(federation.client, constant_app(floats, rounds))
            follow(federation.client, run, ())
        finally:
            over.set()
            sampler.join()
        return Watched(ended_in_order(federation.client.get(f"/v1/runs/{run}"), rounds, began_s), most)


def _sample(federation: Federation, most: dict[str, int], over: threading.Event) -> None:
    while not over.wait(_SAMPLE_S):
        for name, pids in federation.processes().items():
            most[name] = max(most.get(name, 0), sum(own_memory(pid) for pid in pids))


if __name__ == "__main__":
    main()
