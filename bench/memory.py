"""How much memory, and how long, it takes to close a round: 50 updates of a 100 MB model become the next one.

The updates lie on disk as a coordinator keeps them. A fresh process (memory_close.py) maps them and closes the round;
this one reads its anonymous and shared memory every two milliseconds. Mapped file pages do not count: they are the
system's cache of the disk, and it takes them back whenever it wants. (On a /tmp that is memory they would: set TMPDIR.)
"""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from convention import BENCH, Figure, tell, wanted
from peers.flower import Flower

from lycia.core.admission import row_norms
from lycia.core.layout import Layout
from lycia.core.messages import Updates
from lycia.deployment import wire
from lycia.storage.blobs import BlobFolder

RUN = "bench"
UPDATES = 50
LEAVES = 10
_SAMPLE_S = 0.002
_PEER_NEEDS = 2.0  # how many times the updates' size must be free for a peer that holds them all in memory


@dataclass(frozen=True)
class Taken:
    """What a process needed: bytes beyond those that it had before it opened the updates, and seconds."""

    peak_bytes: int
    seconds: float


def main() -> None:
    """Measure, and say so."""
    asked = wanted(__doc__)
    model_mb, repeats = (10, 2) if asked.quick else (100, 3)
    peer = Flower.installed(asked.peers) if asked.peers else None
    ours: list[Taken] = []
    theirs: list[Taken] = []
    with tempfile.TemporaryDirectory(prefix="lycia-bench-memory-") as scratch:
        manifest = write_updates(Path(scratch), model_mb * 1_000_000 // 4)
        for _ in range(repeats):  # one after the other, so that a busy machine is busy for both
            ours.append(watched([sys.executable, str(BENCH / "memory_close.py"), str(manifest)]))
            if peer:
                script = [str(peer.python), str(BENCH / "peers" / "flower_aggregate.py"), str(manifest)]
                theirs.append(watched([*script, str(peers_share(model_mb))], peer.environment))
    figures = {
        "aggregate_50x100mb_models": Figure(
            models(ours, model_mb), f"the most memory that closing the round took, in models; {repeats} runs", "≤ 4"
        ),
        "aggregate_gb_s": Figure(
            gb_s(ours, UPDATES, model_mb),
            f"GB of updates a second, from opening them to the next model; median of {repeats}",
        ),
        "model_mb": Figure(model_mb, f"the size of the model, and of each of the {UPDATES} updates"),
    }
    if theirs:
        count = peers_share(model_mb)
        figures |= {
            f"flower_aggregate_{count}x{model_mb}mb_models": Figure(
                models(theirs, model_mb), "the same of Flower's FedAvg, whose server holds all replies in memory"
            ),
            "flower_aggregate_gb_s": Figure(
                gb_s(theirs, count, model_mb), "the same of `aggregate_arrayrecords`, its replies in memory already"
            ),
            "flower_over_lycia_memory": Figure(
                models(theirs, model_mb) / models(ours, model_mb), "their memory over ours"
            ),
            "flower_over_lycia_speed": Figure(
                gb_s(theirs, count, model_mb) / gb_s(ours, UPDATES, model_mb), "their GB a second over ours"
            ),
        }
    tell(
        "memory",
        asked,
        figures,
        notes=[str(__doc__).strip()],
        peers={"flower": peer.version} if peer else {},
        skipped=[] if peer else ["flower"],
    )


def write_updates(folder: Path, size: int) -> Path:
    """Put the updates where a coordinator would keep them; returns the file that names them."""
    layout = Layout.of({f"layer {index}": np.zeros(size // LEAVES, np.float32) for index in range(LEAVES)})
    blobs = BlobFolder(folder / "blobs", fsync=False)
    step = np.random.default_rng(1).normal(0, 1e-3, layout.size("trained")).astype(np.float32)
    updates = []
    for index in range(UPDATES):
        delta = (step * np.float32((index + 1) / UPDATES))[np.newaxis]
        node = f"node {index:02}"
        handle = blobs.put(wire.update_file(layout, Updates(0, (node,), delta, np.ones(1)), RUN))
        updates.append({"node": node, "handle": handle, "norm": float(row_norms(delta)[0])})
    manifest = folder / "updates.json"
    manifest.write_text(
        json.dumps({"run": RUN, "layout": layout.to_json(), "blobs": str(blobs.root), "updates": updates})
    )
    return manifest


def watched(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Taken:
    """What a process needed between the two lines that it prints: "ready", and how long it took."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdin is not None
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        raise SystemExit(f"{command[1]} ended with status {process.wait()} before it was ready.")
    before, peak, done = own_memory(process.pid), 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.wait(_SAMPLE_S):
            peak = max(peak, own_memory(process.pid))

    sampler = threading.Thread(target=sample)
    sampler.start()
    process.stdin.write("go\n")
    process.stdin.flush()
    said = process.stdout.readline()
    done.set()
    sampler.join()
    if not said:
        raise SystemExit(f"{command[1]} ended with status {process.wait()} at its work.")
    process.communicate()
    return Taken(peak - before, float(json.loads(said)["seconds"]))


def own_memory(pid: int) -> int:
    """Bytes of memory that the process cannot give back: anonymous and shared."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        if not Path("/proc/self/status").exists():
            raise SystemExit("memory.py reads /proc, which only Linux has.") from None
        return 0
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return sum(int(fields.get(name, "0 kB").split()[0]) for name in ("RssAnon", "RssShmem")) * 1024


def peers_share(model_mb: int) -> int:
    """How many updates a peer is given that needs memory for all of them at once."""
    available = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return UPDATES if int(available.split()[1]) * 1024 > _PEER_NEEDS * UPDATES * model_mb * 1_000_000 else 20


def models(runs: Sequence[Taken], model_mb: int) -> float:
    """The most memory of several runs, in models."""
    return max(run.peak_bytes for run in runs) / (model_mb * 1_000_000)


def gb_s(runs: Sequence[Taken], updates: int, model_mb: int) -> float:
    """The median speed of several runs."""
    return updates * model_mb / 1000 / float(np.median([run.seconds for run in runs]))


if __name__ == "__main__":
    main()
